"""All charts of a report. A new one is one more function here."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ode_tasks.report import curves, pareto, precision
from ode_tasks.report.chart import Chart, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ode_tasks.report.groups import Set

OF_A_SET: tuple[Callable[[Set], list[Chart]], ...] = (
    pareto.charts,
    curves.charts,
)
OF_ALL: tuple[Callable[[Sequence[Set]], list[Chart]], ...] = (precision.charts,)


def charts(all_sets: Sequence[Set]) -> list[Chart]:
    """Return every chart for which the runs hold at least one point."""
    found = [chart for make in OF_ALL for chart in make(all_sets)]
    found += [chart for of_set in all_sets for make in OF_A_SET for chart in make(of_set)]
    return styled(_apart(found))


def _apart(found: Sequence[Chart]) -> list[Chart]:
    """Return the charts with a number where two are called alike: on other data or devices."""
    counted: dict[str, int] = {}
    named = []
    for chart in found:
        number = counted[chart.name] = counted.get(chart.name, 0) + 1
        end = "" if number == 1 else f"-{number}"
        named.append(replace(chart, name=chart.name + end))
    return named
