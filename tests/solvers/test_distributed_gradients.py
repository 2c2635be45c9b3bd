"""Replays under DistributedDataParallel: every process gets the mean of all gradients."""

from __future__ import annotations

import os
import socket

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


def work(rank, port, gradients, queue):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {}
    for gradient in gradients:
        model = nn.parallel.DistributedDataParallel(Model(gradient))
        model(samples(rank)).square().sum().backward()
        found[gradient] = [p.grad.tolist() for p in model.parameters()]
    dist.destroy_process_group()
    queue.put(found)


def test_two_processes_get_the_mean_of_their_gradients():
    names = ["direct", "checkpoint", "symplectic"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.SimpleQueue()
    workers = [context.Process(target=work, args=(rank, port, names, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    model = Model("direct")
    sum(0.5 * model(samples(rank)).square().sum() for rank in range(2)).backward()
    for name in names:
        for process in found:
            for grad, p in zip(process[name], model.parameters(), strict=True):
                assert torch.allclose(torch.tensor(grad), p.grad, rtol=1e-4, atol=1e-6)
