"""What a gradient costs by method and solver: error, time, evaluations, bytes held.

An MLP 64-128-64 on a batch of 256. Error and time are relative to `direct` with the same solver,
whose steps all methods share; times are medians over interleaved rounds of a forward and a
backward pass, processor time on one thread; bytes are those that the forward pass leaves. Steps are
given, those of `chosen` are dopri5's own at 1e-5.

    python examples/gradient_cost.py --rounds 15
"""

import argparse
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from ode_core import FixedSteps, solve
from ode_solvers import Checkpoint

STEPS = 32
REVERSED = {name: name for name in ("direct", "checkpoint", "reversible")}
REPLAYED = {"direct": "direct", "checkpoint": "checkpoint",
            "checkpoint, states=8": Checkpoint(states=8), "symplectic": "symplectic"}  # fmt: skip
STORED = ("dopri5, chosen", "dopri5", "rk4", "adams_bashforth", "adams_moulton")
CASES = dict.fromkeys(STORED, REPLAYED)
CASES |= dict.fromkeys(("alf", "reversible_heun", "reversible_dopri5"), REVERSED)


def forward(net, y0, case, method):
    solver, *chosen = case.split(", ")
    given = {"controller": FixedSteps(), "dt": 1.0 / STEPS}
    options = {"rtol": 1e-5, "atol": 1e-5} if chosen else given
    options |= {"solver": solver, "gradient": method}
    solution = solve(lambda t, y: net(y), y0, [0.0, 1.0], **options)
    return solution, solution.ys[-1].square().mean()


def run(net, y0, case, method):
    """Return the flat gradient, the seconds of both passes, and the evaluations in each."""
    start = time.process_time()
    solution, loss = forward(net, y0, case, method)
    parts = torch.autograd.grad(loss, list(net.parameters()))
    seconds, stats = time.process_time() - start, solution.stats
    return torch.cat([p.flatten() for p in parts]), seconds, (stats.f_calls, stats.backward_f_calls)


def held(net, y0, case, method):
    """Return the bytes that are still there after the forward pass."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        _kept = forward(net, y0, case, method)
    return sum(event.self_cpu_memory_usage for event in record.key_averages())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    rounds = range(parser.parse_args().rounds)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64))
    y0 = torch.randn(256, 64)
    print(f"{'solver':18}{'gradient':21} {'error':>8} {'time':>6} {'f there, back':>16}     MiB")
    # All times before the first profile, which leaves the program slower than it was.
    timed = {case: [{name: run(net, y0, case, method) for name, method in methods.items()}
                    for _ in rounds] for case, methods in CASES.items()}  # fmt: skip
    for case, runs in timed.items():
        # The first of several rounds finds no memory yet.
        seconds = {name: statistics.median(each[name][1] for each in runs[1:] or runs)
                   for name in CASES[case]}  # fmt: skip
        exact, base = runs[0]["direct"][0], seconds["direct"]
        for name, (grad, _, calls) in runs[0].items():
            error = ((grad - exact).norm() / exact.norm()).item()
            memory = held(net, y0, case, CASES[case][name]) / 2**20
            print(f"{case:18}{name:21} {error:8.1e} {seconds[name] / base:6.2f} "
                  f"{calls[0]:>8} {calls[1]:>7} {memory:7.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
