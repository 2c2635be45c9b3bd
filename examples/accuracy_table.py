"""Work and precision of every registered adaptive solver over the 25 DETEST problems, in Markdown.

rtol = atol. A cell holds the evaluations of f in all / the geometric mean of the errors / the worst
one, an error being the largest |y - truth| / (1 + |truth|) at t = 20. A tolerance that would keep a
solver busy for more than --seconds of CPU time is left out.

    python examples/accuracy_table.py --tolerances 1e-3 1e-5 1e-7 1e-9 --seconds 10
"""

from __future__ import annotations

import argparse
import math
from time import process_time

from ode_core import SolveError, solve, solvers
from ode_core.testing.problems import DETEST, PROBLEMS


def adaptive():
    return [name for name, record in solvers.items() if record.adaptive and not record.missing]


def measure(name, **options):
    """Return the evaluations that a problem takes and the error at its end."""
    problem = PROBLEMS[name]
    solution = solve(problem.f, problem.y0, [0.0, problem.t1], **options)
    return solution.stats.f_calls, problem.error(solution.ys[-1])


def line(solver, tolerances, seconds):
    """Return (evaluations, mean error, worst error) by tolerance, None where a solve fails."""
    found, took, order = {}, 0.0, solvers[solver].order
    for before, tolerance in zip([tolerances[0], *tolerances], tolerances, strict=False):
        if took * (before / tolerance) ** (1 / order) > seconds:
            break
        start = process_time()
        try:
            options = {"solver": solver, "rtol": tolerance, "atol": tolerance}
            calls, errors = zip(*(measure(name, **options) for name in DETEST), strict=True)
            # An error of zero is one below rounding.
            mean = math.exp(sum(math.log(max(error, 1e-17)) for error in errors) / len(errors))
            found[tolerance] = sum(calls), mean, max(errors)
        except SolveError:
            found[tolerance] = None
        took = process_time() - start
    return found


def markdown(heads, rows):
    """Print a table, the first column being code."""
    print("| " + " | ".join(heads) + " |\n|" + " --- |" * len(heads))
    for name, *cells in rows:
        print("| " + " | ".join([f"`{name}`", *cells]) + " |")


def short(number):
    return f"{number:.1e}".replace("e-0", "e-").replace("e+0", "e").replace(".0e", "e")


def shown(cell):
    return " / ".join([str(cell[0]), *map(short, cell[1:])]) if cell else "fails"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tolerances", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    tolerances = sorted(options.tolerances, reverse=True)
    rows = []
    for solver in adaptive():
        cells = line(solver, tolerances, options.seconds)
        texts = [shown(cells[tolerance]) if tolerance in cells else "" for tolerance in tolerances]
        rows.append((solver, *texts))
    markdown(["solver", *map(short, tolerances)], rows)


if __name__ == "__main__":
    main()
