"""A tableau as the constants of a program: rows, nodes, error weights, continuous output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ode_solvers.tableau import Tableau

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Constants:
    """What `step_programs` calls A, C, E, D, X and N, and whether a step's end starts the next."""

    rows: Rows
    nodes: tuple[float, ...]
    errors: Rows
    dense: Rows
    more_rows: Rows
    more_nodes: tuple[float, ...]
    starts: bool

    @property
    def calls(self) -> int:
        """The evaluations of a step."""
        return len(self.rows) + self.starts


@lru_cache(maxsize=64)
def constants(table: Tableau) -> Constants | None:
    """Return the constants of a table; None where its error asks for more than its stages."""
    stages = table.stages - table.last_is_solution
    rows = tuple(table.a[1:stages])
    b = table.b[:stages]
    errors = [e for e in (table.b_error, table.b_error_low) if e is not None]
    most = table.stages
    if any(any(e[most:]) for e in errors):
        return None
    if table.dense is not None:
        polynomials = tuple(c if any(c) else () for c in table.dense.coefficients)
        more: Rows = table.dense.a
        nodes = table.dense.c
    else:
        polynomials, more, nodes = _cubic(b), (), ()
    return Constants(
        (*rows, b), table.c[1:stages], tuple(e[:most] for e in errors), polynomials, more, nodes,
        table.b_error is not None,
    )  # fmt: skip


def _cubic(b: tuple[float, ...]) -> Rows:
    """Return the cubic through both ends with both slopes, as weights of a step's slopes.

    Source: Hairer, Nørsett, Wanner I, eq. II.6.7, with y1 - y0 = dt sum b_i k_i put in.
    """
    found = []
    for index, weight in enumerate((*b, 0.0)):
        first, last = float(index == 0), float(index == len(b))
        row = (first, 3.0 * weight - 2.0 * first - last, first + last - 2.0 * weight)
        found.append(row if any(row) else ())
    return tuple(found)
