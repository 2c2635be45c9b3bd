"""What the page shows of each task beside its runs. A new table or plot is one more function here.

Each function takes all results of a folder and returns the sections that they have something for.
A section's plot takes the place of a common one of the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_tasks.report import exactness, forecasts, glucose, methods, networks, scores, take, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_tasks.report.rows import Result
    from ode_tasks.report.section import Section

MAKERS: tuple[Callable[[Sequence[Result]], list[Section]], ...] = (
    take.sections,
    verdict.sections,
    networks.sections,
    methods.sections,
    exactness.sections,
    forecasts.sections,
    glucose.sections,
    scores.sections,
)


def sections(results: Sequence[Result]) -> list[Section]:
    """Return the sections of all functions, in their order."""
    return [section for make in MAKERS for section in make(results)]
