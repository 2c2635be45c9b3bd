"""Prints the tables of docs/accuracy.md that compare with other implementations, in Markdown.

python -m tests.solvers.peers_table
"""

from __future__ import annotations

from ode_core.testing.problems import DETEST
from tests.solvers.reference_counts import DOPRI5, TOLERANCES, TORCHDIFFEQ, TOTALS
from tests.solvers.test_detest import LINE, evaluations_for, geometric_mean, line_of, measured


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def total(solver, tolerance):
    """All evaluations over DETEST, and the geometric mean of the root mean square errors."""
    cells = [measured(name, solver, tolerance) for name in DETEST]
    return sum(cell[0] for cell in cells), geometric_mean(cell[2] for cell in cells)


def beside_peers():
    row("solver", "peer", "at its 1e-3", "at its 1e-6", "at its 1e-9")
    row(*["---"] * 5)
    each = [
        geometric_mean(
            evaluations_for(line_of(name, "dopri5"), cells[k][1]) / cells[k][0]
            for name, cells in TORCHDIFFEQ.items()
        )
        for k in range(3)
    ]
    row("`dopri5`", "torchdiffeq, each problem", *(f"{ratio:.2f}" for ratio in each))
    for (peer, solver), cells in TOTALS.items():
        line = [total(solver, tolerance) for tolerance in LINE[1:]]
        ratios = (evaluations_for(line, error) / calls for calls, error in cells)
        row(f"`{solver}`", f"{peer}, totals", *(f"{ratio:.2f}" for ratio in ratios))


def beside_the_reference():
    row("tolerance", "geometric mean", "largest", "evaluations on DETEST, ours / its own")
    row(*["---"] * 4)
    for k, tolerance in enumerate(TOLERANCES):
        ratios = [measured(name, "dopri5", tolerance)[1] / c[k][1] for name, c in DOPRI5.items()]
        own = sum(DOPRI5[name][k][0] for name in DETEST)
        counts = f"{total('dopri5', tolerance)[0]} / {own}"
        row(f"{tolerance:g}", f"{geometric_mean(ratios):.2f}", f"{max(ratios):.1f}", counts)


if __name__ == "__main__":
    beside_peers()
    print()
    beside_the_reference()
