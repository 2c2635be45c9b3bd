"""Short names that tell results apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_tasks.report.rows import scientific

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.groups import Group
    from ode_tasks.report.rows import Result


def labels(results: Sequence[Result]) -> list[str]:
    """Return the shortest text for each result that tells it from the others.

    That is the name of a study's cell; else the solver, or the model where it solves nothing, and
    whatever else differs.
    """
    solving = [r for r in results if r.get("solver")]
    several = [n for n in ("gradient", "device") if len({r.get(n) for r in solving}) > 1]
    one_solver = len({r.get("solver") for r in solving}) == 1 and len(solving) < len(results)
    named = len({r.get("model") for r in solving}) > 1 or one_solver
    steps: dict[object, set[str]] = {}
    for result in solving:
        steps.setdefault(result.get("solver"), set()).add(step(result))
    texts = []
    for result in results:
        if result.get("study_cell"):
            texts.append(str(result.get("study_cell")))
            continue
        solver = result.get("solver")
        words = [str(result.get("model"))] if not solver or named else []
        if solver:
            words.append(str(solver))
            words += [step(result)] if len(steps[solver]) > 1 else []
            words += [str(result.get(name)) for name in several]
        texts.append(" ".join(words))
    return texts


def step(result: Result) -> str:
    """Return the tolerance or the step of a result, as short as it can be said."""
    rtol, dt = result.number("rtol"), result.number("dt")
    if rtol is not None:
        return scientific(rtol)
    return "" if dt is None else f"dt={dt:g}"


def labelled(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    """Return groups under their labels."""
    return list(zip(labels([group.runs[0] for group in groups]), groups, strict=True))
