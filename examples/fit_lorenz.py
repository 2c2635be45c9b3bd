"""Parameters of the Lorenz system from noisy readings, by single and by multiple shooting, a table.

All three start at (5, 20, 1) instead of (10, 28, 8/3); the noise has a standard deviation of 0.5.

    python examples/fit_lorenz.py --duration 10 --stretches 1 20 40 --iterations 200
"""

from __future__ import annotations

import argparse
import math

import torch

from ode_core import solve
from ode_models import fit

NAMES = {"sigma": 10.0, "rho": 28.0, "beta": 8.0 / 3.0}
START = {"sigma": 5.0, "rho": 20.0, "beta": 1.0}


def lorenz(t, y, p):
    x, y, z = y
    return torch.stack([p["sigma"] * (y - x), x * (p["rho"] - z) - y, x * y - p["beta"] * z])


def readings(duration, noise, seed):
    """Return times, 20 in a unit, and what was read of the state at each."""
    times = torch.linspace(0.0, duration, round(20 * duration) + 1, dtype=torch.float64)
    y0 = torch.tensor([-5.0, -6.0, 22.0], dtype=torch.float64)
    true = solve(lambda t, y: lorenz(t, y, NAMES), y0, times, rtol=1e-10, atol=1e-10).ys
    chance = torch.Generator().manual_seed(seed)
    return times, true + noise * torch.randn(true.shape, generator=chance, dtype=torch.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=float, default=3.0)
    parser.add_argument("--stretches", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    times, data = readings(options.duration, 0.5, options.seed)
    print("| stretches | " + " | ".join(NAMES) + " | noise that is left | iterations | ended |")
    print("|" + " --- |" * (len(NAMES) + 4))
    for stretches in options.stretches:
        got = fit(lorenz, START, times, data, stretches=stretches, solver="rk4", dt=0.025,
                  max_iterations=options.iterations)  # fmt: skip
        cells = [f"{got.parameters[n]:.3f} ± {got.standard_errors[n]:.3f}" for n in NAMES]
        left = math.sqrt(2.0 * got.cost / got.freedom)
        ended = "converged" if got.converged else "not"
        print(f"| {stretches} | {' | '.join(cells)} | {left:.2f} | {got.iterations} | {ended} |")


if __name__ == "__main__":
    main()
