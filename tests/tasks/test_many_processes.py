"""One run of two processes: the gradients of one, one voice, and a worker that may die."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ode_core import ArgumentError
from ode_core.cli import main
from ode_tasks import record
from ode_tasks.train import loader

DIGITS = [
    "run", "digits", "--solver", "euler", "--set", "train_images=32", "--set", "test_images=40",
    "--set", "width=4", "--set", "epochs=1", "--set", "batch=32",
]  # fmt: skip
LINEAR = ["run", "linear", "--quiet", "--set", "epochs=8", "--set", "width=8"]


def worker(rank, port, folder, arguments):
    """One of two processes as torchrun starts them."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    for name in ("out", "err"):
        stream = (Path(folder) / f"{rank}.{name}").open("w", buffering=1)
        setattr(sys, f"std{name}", stream)
    sys.exit(main(arguments))


@pytest.fixture
def together(tmp_path):
    """Run a command line in two processes; return their exit statuses."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ode_tasks.commands", "ode_tasks.digits"])

    def run(arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [
            context.Process(target=worker, args=(rank, port, tmp_path, arguments))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
            process.kill()
        return [process.exitcode for process in processes]

    return run


def gradients(out):
    """The buffers of momentum after the first step, which are the gradients (and the decay's)."""
    state = record.read(out / record.CHECKPOINT)["optimizer"]["state"]
    return [state[number]["momentum_buffer"] for number in sorted(state)]


def test_gradients_are_those_of_one_process_and_one_process_speaks(together, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*DIGITS, "--quiet", "--out", str(one)]) == 0
    assert together([*DIGITS, "--out", str(two)]) == [0, 0]
    assert len(gradients(one)) > 5
    for single, shared in zip(gradients(one), gradients(two), strict=True):
        assert torch.allclose(single, shared, rtol=1e-4, atol=1e-6)
    losses = [json.loads((out / "metrics.json").read_text())["train_loss"] for out in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert "accuracy" in (tmp_path / "0.out").read_text()
    assert (tmp_path / "0.err").read_text() == f"written to {two}\n"
    assert (tmp_path / "1.out").read_text() == (tmp_path / "1.err").read_text() == ""
    steps = [json.loads(line) for line in (two / record.LOG).read_text().splitlines()]
    assert [row["kind"] for row in steps] == ["step", "epoch"]
    assert len(record.read(two / record.CHECKPOINT)["random"]) == 2


def test_training_that_diverges_ends_both_processes_with_a_sentence(together, tmp_path):
    assert together([*DIGITS, "--set", "learning_rate=1e30", "--set", "epochs=3"]) == [1, 1]
    for rank in range(2):
        sentence = (tmp_path / f"{rank}.err").read_text()
        assert "y0 holds NaN or infinite values" in sentence
        assert "from there in epoch 1, batch 2; lower the learning rate" in sentence
        assert sentence.count("\n") == 1


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(ArgumentError, match="a batch of 32 is in no equal parts for 3 processes"):
        loader((torch.arange(100),), 32, seed=0).part(0, 3)


def test_parts_are_the_whole_batch():
    def batches(rank, processes):
        return [b[0] for b in loader((torch.arange(10),), 4, seed=0).part(rank, processes)]

    whole = batches(0, 1)
    for batch, *parts in zip(whole, batches(0, 2), batches(1, 2), strict=True):
        assert torch.equal(batch, torch.cat(parts))


def children(process):
    return [int(p) for p in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def log(out):
    path = out / record.LOG
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def test_a_killed_worker_starts_again_from_the_last_checkpoint(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*LINEAR, "--out", str(one)]) == 0
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += ["--max-restarts", "1", "-m", "ode_tasks", *LINEAR, "--out", str(two)]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *launch], env=environment) as agent:
        try:
            end = time.monotonic() + 90
            while len(log(two)) < 30:
                assert agent.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            os.kill(children(agent.pid)[-1], signal.SIGKILL)
            assert agent.wait(120) == 0
        finally:
            agent.terminate()
    history = [json.loads((out / "metrics.json").read_text())["history"] for out in (one, two)]
    assert len(history[1]) == 8
    for alone, shared in zip(*history, strict=True):
        assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=0.02)
    resumed = [row for row in log(two) if row["kind"] == "resume"]
    assert len(resumed) == 1
    assert resumed[0]["step"] >= 13, "it began from the beginning"
    steps = [row["step"] for row in log(two) if row["kind"] == "step"]
    assert len(steps) - len(set(steps)) <= 13, "more than an epoch was made again"
