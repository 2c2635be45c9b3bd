"""Compile the programs of whole solves for a GPU that need not be there: see `compile_ahead`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

sys.path.insert(0, str(Path(__file__).parent))

from compile_ahead import Absent, facts

import ode_core
from ode_core.planning import Asked, make_plan
from ode_core.problem import Given
from ode_core.samples import build_samples
from ode_solvers.fields import ElementwiseField, MLPField
from ode_solvers.whole.kernel import Whole


@dataclass(frozen=True)
class Compiling(Whole):
    """The kernel, which compiles each program in place of starting it."""

    found: tuple = ()

    def launch(self, kernel, programs, arguments, constants):
        made = kernel.warmup(*arguments, **constants, enable_fp_fusion=True, grid=(programs,))
        self.found[0].append((kernel.__name__, made))


def lorenz(t, y, sigma, rho, beta):
    a, b, c = y
    return sigma * (b - a), a * (rho - c) - b, a * b - beta * c


def field(kind, size):
    if kind == "perceptron":
        return MLPField(size, 32, time=True)
    rho = torch.nn.Parameter(torch.linspace(20.0, 28.0, 1000))
    return ElementwiseField(lorenz, size=3, sigma=torch.nn.Parameter(torch.tensor(10.0)), rho=rho,
                            beta=8 / 3)  # fmt: skip


def compiled(kind, size, dtype, recorded):
    found = []
    kernel, f = Compiling(found=(found,)), field(kind, size).to(dtype)
    y0 = torch.zeros(1000, size, dtype=dtype)
    problem = build_samples(f, y0, [0.0, 0.5, 1.0], given=Given())
    solver = ode_core.solvers.create("dopri5")
    plan = make_plan(solver, problem, Asked(None, None, None, None, 1000, False, False, None))
    program = f.program(y0.shape)
    kept = kernel._solve(solver.tableau, program, problem, plan, 64 if recorded else 0)
    if recorded:
        grad = torch.zeros(3, 1000, size, dtype=dtype)
        kernel.pull(solver.tableau, program, problem, kept, grad)
    return found


CASES = [("system", 3, "float32", True), ("system", 3, "float64", True),
         ("perceptron", 16, "float32", True), ("system", 3, "float64", False)]  # fmt: skip


def main():
    capability, *chosen = [int(word) for word in sys.argv[1:]]
    triton.runtime.driver.set_active(Absent(capability))
    report = {}
    for kind, size, dtype, recorded in (CASES[i] for i in chosen):
        for name, kernel in compiled(kind, size, getattr(torch, dtype), recorded):
            found = facts(kernel)
            ttir = kernel.asm["ttir"]
            # Rows begin at a multiple of the row's number, in 64 bits.
            found["row_64"] = bool(re.search(r"arith\.extsi .* : i32 to i64", ttir))
            report[f"{kind}, {dtype}, sm_{capability}: {name}"] = found
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
