"""What a gradient costs by method and solver: error, time, evaluations, bytes held.

An MLP 64-128-64 on a batch of 256. Error and time are relative to `direct` with the same solver,
whose steps all methods share; times are medians over interleaved rounds of a forward and a
backward pass, processor time on one thread; bytes are those that the forward pass leaves for the
backward one. Steps are given, those of `chosen` are dopri5's own at 1e-5.

    python examples/gradient_cost.py --rounds 15
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from ode_core import FixedSteps, solve
from ode_solvers import Checkpoint

STEPS = 32
REPLAYED = ("direct", "checkpoint", Checkpoint(states=8), "symplectic")
REVERSED = ("direct", "checkpoint", "reversible")
CASES = {
    "dopri5, chosen": REPLAYED,
    "dopri5": REPLAYED,
    "rk4": REPLAYED,
    "adams_bashforth": REPLAYED,
    "adams_moulton": REPLAYED,
    "alf": REVERSED,
    "reversible_heun": REVERSED,
    "reversible_dopri5": REVERSED,
}


def label(method):
    if isinstance(method, str):
        return method
    options = {k: v for k, v in vars(method).items() if k in ("states", "bytes") and v}
    return f"{method.name}, " + ", ".join(f"{k}={v}" for k, v in options.items())


def forward(net, y0, case, method):
    solver, *chosen = case.split(", ")
    options = {"controller": FixedSteps(), "dt": 1.0 / STEPS}
    options = {"rtol": 1e-5, "atol": 1e-5} if chosen else options
    solution = solve(lambda t, y: net(y), y0, [0.0, 1.0], solver=solver, gradient=method, **options)
    return solution, solution.ys[-1].square().mean()


def run(net, y0, case, method):
    """Return the flat gradient, the seconds of both passes, and the evaluations in each."""
    start = time.process_time()
    solution, loss = forward(net, y0, case, method)
    parts = torch.autograd.grad(loss, list(net.parameters()))
    seconds = time.process_time() - start
    stats = solution.stats
    return torch.cat([p.flatten() for p in parts]), seconds, (stats.f_calls, stats.backward_f_calls)


def held(net, y0, case, method):
    """Return the bytes that are still there after the forward pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        kept = forward(net, y0, case, method)
    del kept
    return sum(event.self_cpu_memory_usage for event in record.key_averages())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64))
    y0 = torch.randn(256, 64)
    print(f"{'solver':18}{'gradient':21} {'error':>8} {'time':>6} {'f there, back':>16}     MiB")
    # All times before the first profile, which leaves the program slower than it was.
    timed = {
        case: [[run(net, y0, case, method) for method in methods] for _ in range(rounds)]
        for case, methods in CASES.items()
    }
    for case, methods in CASES.items():
        # The first round finds no memory yet, and is left out where there are more.
        runs = timed[case][1:] or timed[case]
        exact, base = runs[0][0][0], statistics.median(each[0][1] for each in runs)
        for k, method in enumerate(methods):
            grad, _, calls = runs[0][k]
            error = ((grad - exact).norm() / exact.norm()).item()
            ratio = statistics.median(each[k][1] for each in runs) / base
            memory = held(net, y0, case, method) / 2**20
            print(f"{case:18}{label(method):21} {error:8.1e} {ratio:6.2f} "
                  f"{calls[0]:>8} {calls[1]:>7} {memory:7.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
