"""ODE networks beside a residual network and the controls, and how they fare when solved finer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ode_tasks.report.groups import Group, Set, sets, spread
from ode_tasks.report.methods import mebibytes
from ode_tasks.report.plots import BANDS, COLOURS, curve, finish_curves, png
from ode_tasks.report.section import Plot, Section, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result

_FITS = ("odenet", "resnet", "no_block")
_NETWORKS = (
    "network",
    "epochs",
    "parameters",
    "in ODE blocks",
    "MFLOP an image",
    "memory",
    "s / epoch",
    "training loss",
    "accuracy",
    "by dopri5 at 1e-5",
)
_EXACT = "dopri5_1e-5"
_WAYS = {"euler_1": "euler, 1 step", "euler_4": "euler, 4 steps", _EXACT: "dopri5 at 1e-5"}


def sections(results: Sequence[Result]) -> list[Section]:
    """Return, for each set of image runs, its networks side by side and their finer solves."""
    made = []
    for of_set in sets(results):
        groups = [g for g in of_set.groups if g.get("model") in _FITS and g.finished]
        compared = [g for g in groups if g.get("gradient") in (None, "", "direct")]
        tables, plots = [], []
        solving = [group for group in compared if group.get("solver")]
        controls = [group for group in compared if not group.get("solver")]
        if solving and controls:
            tables.append(_networks(of_set, compared))
            plots.append(_curves(of_set, [solving[0], *controls]))
        # By checkpoint they are the same networks as by direct.
        solved = [g for g in groups if g.get("finer") and g.get("gradient") != "checkpoint"]
        if solved:
            tables.append(_finer(of_set, solved))
        if tables:
            made.append(Section(of_set.task, tuple(tables), tuple(plots)))
    return made


def _networks(of_set: Set, groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        cells = (
            f"ODENet, {group.name}" if group.get("solver") else group.name,
            spread([float(len(run.get("history") or ())) for run in group.finished], ".0f"),
            group.text("parameters", ",.0f"),
            group.text("ode_share", ".0f", factor=100, unit=" %") if group.get("solver") else "",
            group.text("flops", ",.4g", factor=1e-6),
            mebibytes(group),
            group.text("epoch_seconds", ".3g"),
            group.text("train_loss", ".3g"),
            group.text("score", ".1f", factor=100, unit=" %"),
            spread([100 * value for value in finer(group, _EXACT)], ".1f", " %"),
        )
        rows.append(dict(zip(_NETWORKS, cells, strict=True)))
    return Table(
        f"{of_set.name}: networks of the same stem, width and head",
        _NETWORKS,
        tuple(rows),
        (
            "All are trained on the same images, augmented and normalised alike, by the same "
            "optimiser and schedule; the ODE networks by direct. Accuracy is that on the test part "
            "at the last epoch, never the best.",
            "FLOPs are those of the products and convolutions of one forward pass, a "
            "multiplication and an addition counted as two; the time of an epoch is wall time.",
        ),
    )


def _finer(of_set: Set, groups: Sequence[Group]) -> Table:
    columns = ("trained by", "gradient", "as trained", *_WAYS.values())
    rows = []
    for group in groups:
        ways = [spread([100 * v for v in finer(group, way)], ".1f", " %") for way in _WAYS]
        score = group.text("score", ".1f", factor=100, unit=" %")
        cells = (group.name, str(group.get("gradient")), score, *ways)
        rows.append(dict(zip(columns, cells, strict=True)))
    return Table(
        f"{of_set.name}: accuracy when the trained network is solved otherwise",
        columns,
        tuple(rows),
        (
            "A network that answers worse when its ODE is solved more exactly has learned the "
            "steps of its solver and not an ODE (Ott et al. 2021). One step of Euler's method is a "
            "residual block, so that row is expected to lose.",
        ),
    )


def finer(group: Group, way: str) -> list[float]:
    """Return the scores of the finished runs with their blocks solved in another way."""
    found = ((run.get("finer") or {}).get(way) for run in group.finished)
    return [float(value) for value in found if isinstance(value, int | float)]


def _curves(of_set: Set, groups: Sequence[Group]) -> Plot:
    figure = Figure((8.0, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    axes = figure.subplots()
    values: list[float] = []
    for number, group in enumerate(groups):
        label = f"ODENet, {group.name}" if group.get("solver") else group.name
        style = {"color": COLOURS[number % len(COLOURS)], "marker": "o"}
        style["ls"] = "-" if group.get("solver") else "--"
        values += curve(axes, group.finished, "test_score", label=label, **style)
    axes.set(ylabel="accuracy", title=f"{of_set.name}: accuracy after each epoch")
    finish_curves(axes, values)
    caption = f"Accuracy on the test part, networks trained by exact gradients.{BANDS}"
    name = f"{of_set.task}-{of_set.preset}-test-score.png"
    return Plot(name, of_set.task, caption, png(figure), broad=True)
