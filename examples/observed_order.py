"""The observed order of every registered solver beside the declared one, in Markdown.

All run with fixed steps on a turning, breathing circle, y' = (cos(t)/2 + i (1 + t/2)) y; those that
take a pair (q, v) on a forced spring. The order is the error's last slope before rounding shows.

    python examples/observed_order.py --finest 512
"""

from __future__ import annotations

import argparse
import math

import torch
from accuracy_table import markdown

from ode_core import FixedSteps, UnsupportedError, solve, solvers

T1 = 3.0


def circle(t, y):
    growth, speed = torch.cos(t) / 2, 1 + t / 2
    return torch.stack([growth * y[0] - speed * y[1], speed * y[0] + growth * y[1]])


def circle_end():
    radius, angle = math.exp(math.sin(T1) / 2), T1 + T1 * T1 / 4
    return radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def spring(t, state):
    q, v = state
    return v, -q + torch.sin(2 * t)


def spring_end():
    # q = (5/3) sin t - (1/3) sin 2t from q = 0, v = 1.
    return torch.tensor([5 / 3 * math.sin(T1) - math.sin(2 * T1) / 3], dtype=torch.float64)


def error(name, steps):
    """Return the error at T1 with this many equal steps."""
    options = {"solver": name, "dt": T1 / steps, "controller": FixedSteps()}
    if getattr(solvers[name], "takes_pairs", False):
        start = (torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
        end, truth = solve(spring, start, [0.0, T1], **options).ys[0][-1], spring_end()
    else:
        start = torch.tensor([1.0, 0.0], dtype=torch.float64)
        end, truth = solve(circle, start, [0.0, T1], **options).ys[-1], circle_end()
    return (end - truth).norm().item()


def observed(name, finest):
    """Return the slope between the last two of 8, 16, 32, ... steps before rounding."""
    before, slope, steps = None, "", 4
    while (steps := 2 * steps) <= finest:
        try:
            now = error(name, steps)
        except UnsupportedError:
            return "no fixed steps"
        if now < 2e-13:
            break
        if before is not None:
            slope = f"{math.log2(before / now):.2f}"
        before = now
    return slope


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--finest", type=int, default=64)
    finest = parser.parse_args().finest
    names = [name for name, record in solvers.items() if not record.missing]
    rows = [(name, str(solvers[name].order), observed(name, finest)) for name in names]
    markdown(["solver", "declared", "observed"], rows)


if __name__ == "__main__":
    main()
