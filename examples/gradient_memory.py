"""What each gradient method holds for the backward pass, by the number of steps.

Counted are the bytes of all tensors that a solve leaves alive until its backward pass, wherever
they hang: in the graph or in what the method keeps, the result included.

    python examples/gradient_memory.py --steps 10 100 1000 10000 --plot gradient_memory.png
"""

from __future__ import annotations

import argparse
import gc
import warnings

import torch
from matplotlib.figure import Figure

import ode_core
from ode_core import solve
from ode_solvers import Adjoint

SIZE = 1000
SOLVERS = {"reversible": "reversible_heun"}
METHODS = {name: name for name in ode_core.gradients} | {"adjoint, plain": Adjoint(anchors=0)}


class Turn(torch.nn.Module):
    """Motion that goes on, whatever the number of steps."""

    def __init__(self):
        super().__init__()
        self.speed = torch.nn.Parameter(torch.ones(()))

    def forward(self, t, y):
        return self.speed * torch.stack([y[1], -y[0]])


def storages():
    """Return the bytes of every storage that a Python tensor holds, by its place."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}


def held(method, solver, steps):
    """Return the bytes held after a solve of `steps` steps."""
    f, y0 = Turn(), torch.ones(2, SIZE)
    before = storages()
    # What autograd saves comes to light as Python's own tensors.
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (x.detach(),), lambda x: x[0]):
        ys = solve(f, y0, [0.0, 1.0], solver=solver, gradient=method, dt=1.0 / steps).ys
    after = storages()
    del ys
    return sum(size for place, size in after.items() if place not in before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40])
    parser.add_argument("--plot", help="file to draw the table to")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)
    axes = Figure((8, 4), layout="constrained").subplots()
    state = 4 * 2 * SIZE
    print("states held   " + "".join(f"{n:>8} steps" for n in options.steps))
    # Lines that lie one on the other are told apart by the sizes of their marks.
    for place, (name, method) in enumerate(METHODS.items()):
        solver = SOLVERS.get(name, "rk4")
        row = [held(method, solver, n) / state for n in options.steps]
        print(f"{name:14}" + "".join(f"{x:14.0f}" for x in row))
        size = 13 - 1.5 * place
        axes.loglog(options.steps, row, "o-", markersize=size, label=f"{name} ({solver})")
    axes.set(xlabel="steps", ylabel="states held for the backward pass")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if options.plot:
        axes.figure.savefig(options.plot, dpi=120)


if __name__ == "__main__":
    main()
