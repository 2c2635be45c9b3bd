"""How exact each fast path is beside plain torch operations, in Markdown.

Every path solves the same problem as `RungeKutta(..., kernel="reference")`, a matrix product over
stacked slopes: 64 samples of a two-layer perceptron with 16 inputs, and of Lotka-Volterra. A cell
holds the largest difference of the states from that reference in float32 and in float64, relative
to the largest state; the last column is the error of all of them against dopri8 at 1e-11.

    python examples/fast_paths.py --compile
"""

import argparse

import torch

from ode_core import solve
from ode_solvers import RungeKutta
from ode_solvers.tables.dopri5 import DOPRI5

TIMES = [0.0, 0.7, 1.3, 2.0]
PATHS = {
    "torch, in place (`cpu`)": {"solver": RungeKutta(DOPRI5, kernel="cpu")},
    "C (the default)": {},
    "per sample, C": {"stepping": "per_sample"},
    "steps on the device, `graph=True`": {"graph": True},
    "gradients recorded, `direct`": {},
}
COMPILED = {
    "steps compiled": {"compile": True},
}


def lotka_volterra(t, y):
    prey, hunters = y.unbind(-1)
    return torch.stack((1.5 * prey - prey * hunters, prey * hunters - 3.0 * hunters), -1)


def problems(dtype):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16))
    net, start = net.to(dtype), torch.randn(64, 16).to(dtype)
    yield "perceptron", lambda t, y: net(y), start, net
    yield "Lotka-Volterra", lotka_volterra, torch.rand(64, 2).to(dtype) + 1.0, None


def states(f, y0, options, *, recorded=False):
    with torch.set_grad_enabled(recorded):
        return solve(f, y0.requires_grad_(recorded), TIMES, **options).ys.detach().double()


def apart(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="compile, too (a minute)")
    paths = PATHS | (COMPILED if parser.parse_args().compile else {})
    torch.set_num_threads(1)
    print("| path | problem | from the reference, float32 | float64 | error, float32 | float64 |")
    print("| --- | --- | --- | --- | --- | --- |")
    reference = {"solver": RungeKutta(DOPRI5, kernel="reference")}
    single, double = list(problems(torch.float32)), list(problems(torch.float64))
    both = list(zip(single, double, strict=True))
    for path, options in paths.items():
        for single, double in both:
            cells, errors = [], []
            truth = states(*double[1:3], {"solver": "dopri8", "rtol": 1e-11, "atol": 1e-11})
            for _, f, y0, _ in (single, double):
                like = reference | {k: v for k, v in options.items() if k == "stepping"}
                got = states(f, y0, options, recorded="recorded" in path)
                cells.append(f"{apart(got, states(f, y0, like)):.1e}")
                errors.append(f"{apart(got, truth):.1e}")
            print(f"| {path} | {single[0]} | " + " | ".join((*cells, *errors)) + " |", flush=True)


if __name__ == "__main__":
    main()
