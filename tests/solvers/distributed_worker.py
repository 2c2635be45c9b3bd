"""One of two processes that train a model: distributed_worker.py RANK FOLDER GRADIENT..."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
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
        options = dict(solver="rk4", dt=0.5, gradient=self.gradient)
        return solve(f, self.first(x), [0.0, 1.0], **options).ys[-1]


def samples(rank):
    return torch.randn(4, 2, generator=torch.Generator().manual_seed(rank))


def main(rank, folder, *gradients):
    torch.set_num_threads(1)
    # Both processes are on this machine, whatever its name and its interfaces are.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = {"init_method": f"file://{folder}/meeting", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=int(rank), world_size=2, **meeting)
    found = {}
    for gradient in gradients:
        model = nn.parallel.DistributedDataParallel(Model(gradient))
        model(samples(int(rank))).square().sum().backward()
        found[gradient] = [p.grad for p in model.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
