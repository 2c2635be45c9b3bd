"""Plots of results as PNG: figures without a window and without pyplot's global state."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from ode_tasks.report.rows import Result, scientific
from ode_tasks.report.section import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE, _DOTS_PER_INCH = (6.0, 4.0), 140
_MARKED_EPOCHS = 15
_LEGEND_LINES = 16
BANDS = " A line is the mean of its seeds, its band their range."

# Told apart by people who see colours differently (Okabe and Ito 2008), then some more.
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
    "#7a5195",
    "#8c510a",
    "#7f7f7f",
    "#66a61e",
    "#b2182b",
)
_MARKERS = "osD^v<>PhXpd"

Styles = dict[str, dict[str, Any]]


def plots(results: Sequence[Result]) -> list[Plot]:
    """Return every plot for which the results hold at least one point."""
    sets: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        if result.ok:
            sets.setdefault((str(result.get("task")), str(result.get("preset"))), []).append(result)
    lines = {key: list(zip(labels(runs), runs, strict=True)) for key, runs in sets.items()}
    styles = _styles([line for of_set in lines.values() for line in of_set])
    drawn = []
    for (task, preset), of_set in lines.items():
        for name, draw in _KINDS.items():
            figure = Figure(figsize=_SIZE, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
            caption = draw(figure.subplots(), of_set, styles)
            if caption:
                drawn.append(Plot(f"{task}-{preset}-{name}.png", task, caption, png(figure)))
    return drawn


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
        steps.setdefault(result.get("solver"), set()).add(_step(result))
    texts = []
    for result in results:
        if result.get("study_cell"):
            texts.append(str(result.get("study_cell")))
            continue
        solver = result.get("solver")
        words = [str(result.get("model"))] if not solver or named else []
        if solver:
            words.append(str(solver))
            words += [_step(result)] if len(steps[solver]) > 1 else []
            words += [str(result.get(name)) for name in several]
        texts.append(" ".join(words))
    return texts


def png(figure: Figure) -> bytes:
    """Return the figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _step(result: Result) -> str:
    rtol, dt = result.number("rtol"), result.number("dt")
    if rtol is not None:
        return scientific(rtol)
    return "" if dt is None else f"dt={dt:g}"


_Lines = Sequence[tuple[str, Result]]


def _styles(lines: _Lines) -> Styles:
    """Return a colour and a marker for each label, the same in every plot."""
    texts = sorted({text for text, _ in lines})
    return {
        # Once around the colours, markers go on by one, so that no pair comes twice too soon.
        text: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": _MARKERS[(i + i // len(COLOURS)) % len(_MARKERS)],
        }
        for i, text in enumerate(texts)
    }


def _error_against_evaluations(axes: Axes, lines: _Lines, styles: Styles) -> str:
    drawn = False
    for text, result in lines:
        cost, error = result.number("f_forward"), result.number("solver_error")
        if cost and error and cost > 0 and error > 0:
            axes.plot(cost, error, ls="", ms=9, mec="white", mew=0.5, label=text, **styles[text])
            drawn = True
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations in a forward pass",
        ylabel="relative error of the solve",
        title=f"{_of(lines)}: error against cost",
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 4.0, 6.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _widen(axes)
    finish(axes)
    caption = "Lower and further left is better. Evaluations are means over the last epoch."
    return caption * drawn


def _widen(axes: Axes) -> None:
    """Show at least two decades of error and a factor of four in cost, so that ticks stay round."""
    for limits, change, factor in (
        (axes.get_ylim(), axes.set_ylim, 100.0),
        (axes.get_xlim(), axes.set_xlim, 4.0),
    ):
        low, high = limits
        if high < factor * low:
            middle = math.sqrt(low * high)
            change(middle / math.sqrt(factor), middle * math.sqrt(factor))


def _training_loss(axes: Axes, lines: _Lines, styles: Styles) -> str:
    drawn = _curves(axes, lines, styles, "train_loss")
    axes.set(ylabel="training loss", title=f"{_of(lines)}: training loss")
    return f"The loss on the training part after each epoch.{BANDS}" * drawn


def _test_score(axes: Axes, lines: _Lines, styles: Styles) -> str:
    drawn = _curves(axes, lines, styles, "test_score")
    score = next((str(r.get("score_name")) for _, r in lines if r.get("score_name")), "score")
    score = score.replace("_", " ")
    higher = next((r.get("higher_is_better") for _, r in lines), None)
    axes.set(ylabel=score, title=f"{_of(lines)}: {score} after each epoch")
    better = "higher" if higher else "lower"
    return f"The {score} after each epoch; {better} is better.{BANDS}" * drawn


_KINDS: dict[str, Callable[[Axes, _Lines, Styles], str]] = {
    "error-evaluations": _error_against_evaluations,
    "training-loss": _training_loss,
    "test-score": _test_score,
}


def _of(lines: _Lines) -> str:
    result = lines[0][1]
    return f"{result.get('task')} ({result.get('preset')})"


def _curves(axes: Axes, lines: _Lines, styles: Styles, column: str) -> bool:
    """Draw a column of the histories over epochs; return whether there was anything to draw."""
    of_label: dict[str, list[Result]] = {}
    for text, result in lines:
        of_label.setdefault(text, []).append(result)
    drawn = [curve(axes, runs, column, label=t, **styles[t]) for t, runs in of_label.items()]
    finish_curves(axes, [value for values in drawn for value in values])
    return any(drawn)


def curve(
    axes: Axes, runs: Sequence[Result], column: str, *, label: str, **style: Any
) -> list[float]:
    """Draw the mean over runs of a column of their histories, and their range as a band.

    Return the values that were drawn. An epoch that not all runs have reached is a mean of those
    that have.
    """
    values: dict[int, list[float]] = {}
    for run in runs:
        for row in run.get("history") or ():
            if row.get(column) is not None:
                values.setdefault(int(row["epoch"]), []).append(row[column])
    if not values:
        return []
    epochs = sorted(values)
    if len(epochs) > _MARKED_EPOCHS:
        style["marker"] = ""
    means = [fmean(values[epoch]) for epoch in epochs]
    axes.plot(epochs, means, ms=5, lw=1.6, label=label, **style)
    low, high = ([choose(values[epoch]) for epoch in epochs] for choose in (min, max))
    if low != high:
        axes.fill_between(epochs, low, high, color=style.get("color"), alpha=0.18, lw=0)
    return [*low, *high]


def finish_curves(axes: Axes, values: Sequence[float]) -> None:
    """Give axes of curves their scale, their ticks and their legend."""
    if values and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
    axes.set(xlabel="epoch")
    axes.set_xlim(0.5, axes.dataLim.x1 + 0.5 if axes.has_data() else 1.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    finish(axes)


def finish(axes: Axes) -> None:
    """Give axes their legend, beside them, and their grid."""
    handles, texts = axes.get_legend_handles_labels()
    unique = dict(zip(texts, handles, strict=True))  # several seeds are one entry
    if unique:
        axes.legend(
            unique.values(),
            unique.keys(),
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            frameon=False,
            fontsize=8 if len(unique) <= _LEGEND_LINES else 6,
            ncols=1 + (len(unique) - 1) // (2 * _LEGEND_LINES),
        )
    axes.title.set_fontsize(11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
