"""The picture of the gradients' errors: one group of points a solver, one mark a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ode_tasks.benchmark.cell import OK
from ode_tasks.gradients.compare import EXACT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ode_tasks.gradients.compare import Row

PICTURE = "gradients.png"

# Told apart by people who see colours differently (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vPX"
_LEAST = 1e-8  # below the rounding of float32: an error of nought has no logarithm
_SPREAD = 0.5
_LEVEL_NAMES = 5


def draw(path: Path, rows: Sequence[Row], title: str) -> bool:
    """Write a PNG of the errors by solver on a logarithmic axis; False where there are none."""
    shown = [row for row in rows if row["status"] == OK and row["gradient"] != EXACT]
    if not shown:
        return False
    solvers = list(dict.fromkeys(row["solver"] for row in shown))
    methods = list(dict.fromkeys(row["gradient"] for row in shown))
    figure = Figure(figsize=(max(6.0, 1.6 + 0.55 * len(solvers)), 4.2), layout="constrained")
    axes = figure.subplots()
    for k, method in enumerate(methods):
        shift = _SPREAD * (k / max(len(methods) - 1, 1) - 0.5)
        points = [
            (solvers.index(r["solver"]), r["error"]) for r in shown if r["gradient"] == method
        ]
        axes.plot(
            [place + shift for place, _ in points],
            [max(error, _LEAST) for _, error in points],
            _MARKERS[k % len(_MARKERS)],
            color=_COLOURS[k % len(_COLOURS)],
            label=method,
            ms=6,
        )
    axes.set_yscale("log")
    axes.set_xticks(range(len(solvers)), solvers)
    if len(solvers) > _LEVEL_NAMES:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(solvers) - 0.4)
    axes.axhline(1.0, color="#b0b0b0", lw=1, zorder=0)
    axes.grid(axis="y", color="#e6e6e6")
    axes.set_ylabel(f"relative error against {EXACT} (0 at {_LEAST:.0e})")
    axes.set_title(title, fontsize="medium")
    figure.legend(loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    return True
