"""Writes the counts of every solver, and the page of the docs that shows them.

python -m tests.budgets.write
"""

from __future__ import annotations

import json

from tests.budgets.budgets import COUNTS, PAGE, measured, solvers, stored

HEAD = """\
# What a step costs beside `f`

Counted, not timed, so that the same numbers come out on every machine: what one accepted step of
each solver does besides evaluating `f`, and what one state between steps adds. A cell holds

*operations / words / allocations / synchronisations*:

calls of torch operations other than views; what they read and write, in entries of the state (each
tensor of a call counted once); fresh tensors; and values that the host reads, for which it would
have to wait for a GPU. An adaptive solver estimates its error and its controller judges it. The
state is `[4, 64]` in float32, on the CPU, without gradients; what has one number a sample therefore
adds 1/64 word, or 1/32 in float64. A native kernel is left aside: the counts are those of the torch
operations that stand in for it.

The floor of `dopri5` is 7 operations and 40 words, one kernel for each stage and one for the error.
[What a step of other packages costs](performance.md) was counted in the same way.

`tests/budgets` holds every number in place: a change that raises one fails there. After one that
lowers some, `python -m tests.budgets.write` writes them and this page anew. `ode cost SOLVER` shows
the same counts of any solver, a plugin's too.
"""

TITLES = {"step": "a step", "output": "a state within it", "further output": "each further one"}


def cell(counts):
    words = counts["read"] + counts["written"]
    numbers = (counts["operations"], words, counts["allocations"], counts["synchronisations"])
    return " / ".join(f"{number:.4g}" for number in numbers)


def page(counts):
    parts = [HEAD]
    for stepping, title in (("shared", "One step size for all"), ("per_sample", "Per sample")):
        lines = [["solver", *TITLES.values()], ["---"] * 4]
        for name, cells in counts.items():
            if f"{stepping} step" in cells:
                texts = [cell(cells[f"{stepping} {of}"]) for of in TITLES]
                lines.append([f"`{name}`", *texts])
        parts.append(f"## {title}\n")
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    return "\n".join(parts)


def main():
    COUNTS.write_text(json.dumps({name: measured(name) for name in solvers()}, indent=1) + "\n")
    PAGE.write_text(page(stored()))


if __name__ == "__main__":
    main()
