"""Every registered solver that chooses its steps and is for stiff problems on some, in Markdown.

A cell holds the evaluations of f / the largest |y - truth| / (1 + |truth|) at the end, or why there
is none. atol is a thousandth of rtol: Robertson's second species stays below 1e-4.

    python examples/stiff_table.py --rtol 1e-6 --max-steps 3000 --problems robertson hires
"""

from __future__ import annotations

import argparse

from accuracy_table import adaptive, markdown, measure, short

from ode_core import SolveError, solvers

STIFF = ("prothero_robinson", "robertson", "hires", "orego", "van_der_pol_1e-6")


def cell(name, solver, rtol, max_steps):
    try:
        calls, error = measure(
            name, solver=solver, rtol=rtol, atol=rtol / 1000, max_steps=max_steps
        )
    except SolveError as failure:
        return failure.solution.status.name.lower().replace("_", " ")
    return f"{calls} / {short(error)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rtol", type=float, default=1e-3)
    parser.add_argument("--max-steps", type=int, default=500)
    parser.add_argument("--problems", nargs="+", choices=STIFF, default=STIFF[:2])
    options = parser.parse_args()
    names = options.problems
    markdown(
        ["solver", *names],
        [
            (solver, *(cell(n, solver, options.rtol, options.max_steps) for n in names))
            for solver in adaptive()
            if solvers[solver].implicit or hasattr(solvers.create(solver), "active")
        ],
    )


if __name__ == "__main__":
    main()
