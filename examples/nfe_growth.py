"""Evaluations of a neural ODE's field over training, without and with RNODE's regularisers.

The mean over seeds and its range, each after some epochs, for the task `annuli` in the plane with
one further dimension; both end at the accuracy in the last column.

    python examples/nfe_growth.py --preset quick --epochs 20 --seeds 3
"""

from __future__ import annotations

import argparse

from ode_core.protocols import RunConfig
from ode_tasks.run import Silent, execute


def history(preset, epochs, seed, **weights):
    """Return the rows of a run's epochs."""
    settings = {"augment": "1", "epochs": str(epochs)} | weights
    config = RunConfig(
        "annuli", "anode", "dopri5", "direct", preset=preset, seed=seed, settings=settings
    )
    return execute(config, Silent())["history"]


def band(values, digits):
    mean, low, high = (
        f"{x:.{digits}f}" for x in (sum(values) / len(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weight", default="0.02", help="of both regularisers")
    options = parser.parse_args()
    shown = sorted({1, *(max(1, options.epochs * part // 4) for part in (1, 2, 4))})
    print("| regularised | " + " | ".join(f"epoch {epoch}" for epoch in shown) + " | accuracy |")
    print("|" + " --- |" * (len(shown) + 2))
    for name, weights in (
        ("no", {}),
        ("yes", {"kinetic": options.weight, "jacobian": options.weight}),
    ):
        runs = [history(options.preset, options.epochs, s, **weights) for s in range(options.seeds)]
        cells = [band([rows[epoch - 1]["f_forward"] for rows in runs], 0) for epoch in shown]
        score = band([100 * rows[-1]["test_score"] for rows in runs], 1)
        print(f"| {name} | {' | '.join(cells)} | {score} % |")


if __name__ == "__main__":
    main()
