"""Replays under DistributedDataParallel: every process gets the mean of all gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from tests.solvers.distributed_worker import Model, samples

WORKER = Path(__file__).with_name("distributed_worker.py")


def test_two_processes_get_the_mean_of_their_gradients(tmp_path):
    names = ["direct", "checkpoint", "symplectic"]
    workers = [
        subprocess.Popen([sys.executable, str(WORKER), str(rank), str(tmp_path), *names])
        for rank in range(2)
    ]
    try:
        assert [worker.wait(120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = Model("direct")
    sum(0.5 * model(samples(rank)).square().sum() for rank in range(2)).backward()
    for name in names:
        for process in found:
            for grad, p in zip(process[name], model.parameters(), strict=True):
                assert torch.allclose(grad, p.grad, rtol=1e-4, atol=1e-6)
