"""What a continuous adjoint costs where tolerances choose the steps: time, evaluations, error.

CPU time of both passes on one thread, medians over interleaved rounds; errors relative to float64
at 1e-8. Where torchdiffeq is installed its `odeint_adjoint` is compared, too.

    python examples/adjoint_cost.py --fields mlp large conv --rounds 9
"""

import argparse
import copy
import importlib.util
import statistics
import time

import torch
from torch.nn import Conv2d, Linear, Sequential, Tanh

from ode_solvers import Adjoint, solve


class Field(Sequential):
    def forward(self, t, y):
        self.calls += 1
        return super().forward(y)


T = torch.tensor([0.0, 1.0])
FIELDS = {
    "small": (lambda: Field(Linear(2, 16), Tanh(), Linear(16, 2)), (64, 2)),
    "mlp": (lambda: Field(Linear(64, 128), Tanh(), Linear(128, 64)), (256, 64)),
    "large": (lambda: Field(Linear(512, 512), Tanh(), Linear(512, 512)), (512, 512)),
    "conv": (lambda: Field(Conv2d(64, 64, 3, padding=1), Tanh()), (64, 64, 16, 16)),
}


def ours(method):
    return lambda f, y0, **tolerances: solve(f, y0, T, gradient=method, **tolerances).ys


METHODS = {name: ours(name) for name in ("direct", "adjoint", "interpolated")}
METHODS["adjoint, semi"] = ours(Adjoint(norm="semi"))
if importlib.util.find_spec("torchdiffeq"):
    import torchdiffeq

    METHODS["odeint_adjoint"] = lambda f, y0, **o: torchdiffeq.odeint_adjoint(f, y0, T, **o)


def measure(run, f, y0, loss, tolerances):
    f.calls, y0, start = 0, y0.clone().requires_grad_(), time.process_time()
    value = getattr(run(f, y0, **tolerances)[-1].square(), loss)()
    there = f.calls
    found = [x.flatten() for x in torch.autograd.grad(value, [y0, *f.parameters()])]
    return torch.cat(found), time.process_time() - start, (there, f.calls - there)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fields", nargs="+", default=["small"], choices=FIELDS)
    parser.add_argument("--loss", choices=["mean", "sum"], default="mean")
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("field  gradient          time       ms   f there, back    error")
    for name in asked.fields:
        torch.manual_seed(0)
        net, y0 = FIELDS[name][0](), torch.randn(FIELDS[name][1])
        fine = copy.deepcopy(net).double(), y0.double(), asked.loss, {"rtol": 1e-8, "atol": 1e-8}
        exact = measure(ours("checkpoint"), *fine)[0]
        case = net, y0, asked.loss, {"rtol": 1e-5, "atol": 1e-6}
        rounds = [{k: measure(METHODS[k], *case) for k in METHODS} for _ in range(asked.rounds + 1)]
        times = {k: statistics.median(each[k][1] for each in rounds[1:]) for k in METHODS}
        for k, (found, _, (there, back)) in rounds[0].items():
            error = ((found - exact).norm() / exact.norm()).item()
            cost = f"{times[k] / times['direct']:6.2f} {times[k] * 1e3:8.1f}"
            print(f"{name:6} {k:15} {cost} {there:>7} {back:>6} {error:8.1e}")


if __name__ == "__main__":
    main()
