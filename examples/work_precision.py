"""A plot of work against precision: evaluations of f over the mean error on the DETEST problems.

Every registered adaptive solver is a line, every tolerance a point. Lower and further left is
better.

    python examples/work_precision.py --tightest 11 --seconds 8 --out docs/images/work_precision.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from accuracy_table import adaptive, line
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

# Told apart by people who see colours differently (Okabe and Ito 2008), then by markers.
COLOURS = [
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#7a5195",
    "#8c510a",
    "#7f7f7f",
    "#66a61e",
    "#b2182b",
]
MARKERS = "osD^v<>PhXpd"


def draw(lines):
    """Return a figure of (evaluations, mean error, worst error) by tolerance, by solver."""
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, (solver, found) in enumerate(lines.items()):
        points = [cell for cell in found.values() if cell]
        if points:
            calls, means, _ = zip(*points, strict=True)
            style = {"color": COLOURS[number % 12], "marker": MARKERS[(number + number // 12) % 12]}
            axes.plot(means, calls, ms=5, lw=1.6, label=solver, **style)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="geometric mean of the error at the end",
        ylabel="evaluations of f",
        title="Work and precision over the 25 DETEST problems",
    )
    axes.xaxis.set_major_locator(LogLocator(numticks=20))
    axes.invert_xaxis()
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tightest", type=int, default=3, help="10 to the minus this")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    tolerances = [10.0**-k for k in range(3, options.tightest + 1)]
    lines = {solver: line(solver, tolerances, options.seconds) for solver in adaptive()}
    figure = draw({solver: found for solver, found in lines.items() if any(found.values())})
    for solver, found in lines.items():
        print(f"{solver:16} {sum(cell is not None for cell in found.values())} points")
    if options.out is not None:
        figure.savefig(options.out, dpi=140, metadata={"Software": None})


if __name__ == "__main__":
    main()
