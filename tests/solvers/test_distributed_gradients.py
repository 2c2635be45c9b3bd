"""Replays under DistributedDataParallel: every process gets the mean of all gradients."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ode_core import solve


class Model(nn.Module):
    def __init__(self, gradient):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.field = nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.gradient = gradient

    def forward(self, x):
        f = lambda t, y: self.field(y)
        return solve(f, self.first(x), [0.0, 1.0], solver="rk4", dt=0.5, gradient=self.gradient).ys[
            -1
        ]


def samples(rank):
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(rank))


def work(rank, folder, gradients):
    torch.set_num_threads(1)
    # Both processes are on this machine, whatever its name and its interfaces are.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    found = {}
    for gradient in gradients:
        model = nn.parallel.DistributedDataParallel(Model(gradient))
        model(samples(rank)).square().sum().backward()
        found[gradient] = [p.grad for p in model.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_get_the_mean_of_their_gradients(tmp_path):
    names = ["direct", "checkpoint", "symplectic"]
    context = mp.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, tmp_path, names)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        if worker.is_alive():
            worker.kill()
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    model = Model("direct")
    sum(0.5 * model(samples(rank)).square().sum() for rank in range(2)).backward()
    for name in names:
        for process in found:
            for grad, p in zip(process[name], model.parameters(), strict=True):
                assert torch.allclose(grad, p.grad, rtol=1e-4, atol=1e-6)
