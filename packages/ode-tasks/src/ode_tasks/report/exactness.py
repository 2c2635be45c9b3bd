"""The adjoint beside exact gradients, method by method: what it reaches, and where it breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ode_tasks.report.groups import Group, Set, sets
from ode_tasks.report.plots import BANDS, curve, finish_curves, png
from ode_tasks.report.section import Plot, Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result

_COLUMNS = (
    "method",
    "training loss, direct",
    "training loss, adjoint",
    "accuracy, direct",
    "accuracy, adjoint",
    "adjoint's gradient error",
    "cosine",
    "checkpoint's gradient error",
    "note",
)
_STYLES = {
    "direct": {"color": "#0072b2", "marker": "o"},
    "checkpoint": {"color": "#009e73", "marker": "", "ls": ":"},
    "adjoint": {"color": "#d55e00", "marker": "s"},
}
_IMAGES = ("cifar10", "digits")
_MOST_PANELS = 9


def sections(results: Sequence[Result]) -> list[Section]:
    """Return one table and plot for each set of image runs by the adjoint and by direct."""
    made = []
    for of_set in sets(results):
        methods = _methods(of_set) if of_set.task in _IMAGES else {}
        if methods:
            plots = (_plot(of_set, methods),) if len(methods) <= _MOST_PANELS else ()
            made.append(Section(of_set.task, (_table(of_set, methods),), plots))
    return made


def _methods(of_set: Set) -> dict[str, dict[str, Group]]:
    """Return the groups by method and gradient, of methods that have both kinds of gradient."""
    found: dict[str, dict[str, Group]] = {}
    for group in of_set.groups:
        if group.get("gradient") in _STYLES:
            found.setdefault(group.name, {})[str(group.get("gradient"))] = group
    return {name: by for name, by in found.items() if {"direct", "adjoint"} <= by.keys()}


def _table(of_set: Set, methods: dict[str, dict[str, Group]]) -> Table:
    rows = []
    for name, by in methods.items():
        direct, adjoint, checkpoint = (by.get(g) for g in ("direct", "adjoint", "checkpoint"))
        assert direct is not None
        assert adjoint is not None
        cells = (
            name,
            direct.text("train_loss", ".3g"),
            adjoint.text("train_loss", ".3g"),
            direct.text("score", ".1f", factor=100, unit=" %"),
            adjoint.text("score", ".1f", factor=100, unit=" %"),
            adjoint.text("gradient_error", ".2g"),
            adjoint.text("gradient_cosine", ".3f"),
            checkpoint.text("gradient_error", ".1g") if checkpoint is not None else "",
            adjoint.note,
        )
        rows.append(dict(zip(_COLUMNS, cells, strict=True)))
    return Table(
        f"{of_set.name}: the adjoint against exact gradients",
        _COLUMNS,
        tuple(rows),
        (
            "The error is that of the gradient of all parameters on one batch of the trained "
            "network, relative to the gradient by direct of the same network; the cosine is that "
            "between the two.",
            "The adjoint's is the gradient of the continuous problem. With one large step it is "
            "not that of the network that is trained, and the worse the coarser the method is.",
        ),
    )


def _plot(of_set: Set, methods: dict[str, dict[str, Group]]) -> Plot:
    lines = 1 if len(methods) <= 3 else 2
    columns = -(-len(methods) // lines)
    size = (3.4 * columns + 1.4, 2.6 * lines + 0.3)
    figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    values: list[float] = []
    for axes, (name, by) in zip(panels, methods.items(), strict=False):
        for gradient, style in _STYLES.items():
            if gradient in by:
                runs = by[gradient].runs  # those that broke down as far as they came
                values += curve(axes, runs, "train_loss", label=gradient, **style)
        axes.set_title(name)
    for number, axes in enumerate(panels):
        if number >= len(methods):
            axes.set_visible(False)
            continue
        finish_curves(axes, values)
        if number != columns - 1:
            axes.get_legend().remove()
        axes.set_ylabel("training loss")
        axes.label_outer()
    caption = f"The training loss by each gradient, a panel for each method.{BANDS}"
    name = f"{of_set.task}-{of_set.preset}-training-loss.png"
    return Plot(name, of_set.task, caption, png(figure), broad=True)
