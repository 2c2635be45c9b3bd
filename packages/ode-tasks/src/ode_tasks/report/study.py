"""The study's table: what its five methods cost and reach here, beside the figures it printed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ode_tasks.report.rows import scientific

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.report.rows import Result


class Method(NamedTuple):
    """A method of the study with the memory (MB) and evaluations that it printed."""

    solver: str
    rtol: float | None
    memory: int
    forward: int
    backward: int

    @property
    def name(self) -> str:
        """Return the method's name in the table."""
        return self.solver if self.rtol is None else f"{self.solver} ({scientific(self.rtol)})"


METHODS = (
    Method("dopri5", 1e-3, 3060, 21, 24),
    Method("dopri5", 1e-1, 2534, 17, 15),
    Method("rk4", None, 1701, 4, 5),
    Method("midpoint", None, 1598, 2, 3),
    Method("euler", None, 1367, 1, 2),
)

COLUMNS = (
    "method",
    "memory here",
    "memory by direct",
    "memory, study",
    "forward here",
    "forward, study",
    "backward here",
    "backward, study",
    "loss",
    "accuracy",
    "note",
)

_ONE_STEP = 1.0
_MODEL, _CONTROL = "odenet", "resnet"
_SHARED = ("task", "gradient", "preset", "device", "data", "seed")


@dataclass(frozen=True)
class Study:
    """The table: a title, rows under `COLUMNS`, and sentences on how to read it."""

    title: str
    rows: tuple[dict[str, str], ...]
    notes: tuple[str, ...]
    columns: tuple[str, ...] = COLUMNS

    def markdown(self) -> str:
        """Return the table as a page of Markdown."""
        lines = [f"# {self.title}", "", "| " + " | ".join(COLUMNS) + " |"]
        lines.append("|" + " --- |" * len(COLUMNS))
        lines += [
            "| " + " | ".join(row[column].replace("|", "\\|") for column in COLUMNS) + " |"
            for row in self.rows
        ]
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes), ""])


def study(results: Sequence[Result]) -> Study | None:
    """Return the table of the runs that cover most of the methods; None where there is none.

    The runs of one table share task, gradient, preset, data, device and seed. Of several sets that
    cover as many methods, the one trained by the adjoint is taken, then the newest.
    """
    sets: dict[tuple[object, ...], dict[Method, Result]] = {}
    for result in results:  # in order of date, so that the newest run of a method is kept
        method = _method(result)
        if method is not None:
            sets.setdefault(_shared(result), {})[method] = result
    if not sets:
        return None
    runs = max(sets.values(), key=_worth)
    example = next(iter(runs.values()))
    control = next((r for r in reversed(results) if _is_control(r, example)), None)
    rows = [_row(method.name, runs.get(method), method) for method in METHODS]
    if control is not None:
        rows.append(_row("ResNet", control, None))
    kept = [*runs.values(), *([control] if control else [])]
    return Study(f"The study's methods on {example.get('task')}", tuple(rows), _notes(kept))


def _method(result: Result) -> Method | None:
    if result.get("model") != _MODEL or (result.ok and result.get("train_images") is None):
        return None
    for method in METHODS:
        if result.get("solver") != method.solver:
            continue
        rtol, dt = result.number("rtol"), result.number("dt")
        if method.rtol is None and dt in (None, _ONE_STEP):
            return method
        if method.rtol is not None and rtol is not None and math.isclose(rtol, method.rtol):
            return method
    return None


def _shared(result: Result) -> tuple[object, ...]:
    return tuple(result.get(name) for name in _SHARED)


def _worth(runs: dict[Method, Result]) -> tuple[int, bool, str]:
    finished = [result for result in runs.values() if result.ok]
    by_adjoint = all(result.get("gradient") == "adjoint" for result in runs.values())
    return len(finished), by_adjoint, max(str(r.get("date") or "") for r in runs.values())


def _is_control(result: Result, example: Result) -> bool:
    same = (name for name in _SHARED if name != "gradient")
    return result.get("model") == _CONTROL and all(result.get(n) == example.get(n) for n in same)


def _row(name: str, result: Result | None, method: Method | None) -> dict[str, str]:
    note = "" if result is not None and result.ok else "not run here"
    if result is not None and not result.ok:
        note = f"{result.get('status')}: {result.get('reason')}"
    return dict(
        zip(
            COLUMNS,
            (
                name,
                _mebibytes(result, "memory_bytes"),
                _mebibytes(result, "memory_bytes_direct"),
                f"{method.memory} MB" if method else "",
                _number(result, "f_forward", ".4g"),
                str(method.forward) if method else "",
                _number(result, "f_backward", ".4g"),
                str(method.backward) if method else "",
                _number(result, "loss", ".3f"),
                _number(result, "score", ".1%"),
                note,
            ),
            strict=True,
        )
    )


def _number(result: Result | None, name: str, form: str) -> str:
    value = result.number(name) if result is not None else None
    return "" if value is None else format(value, form)


def _mebibytes(result: Result | None, name: str) -> str:
    value = result.number(name) if result is not None else None
    if value is None:
        return ""
    value /= 2**20
    return f"{value:,.0f} MiB" if value >= 100 else f"{value:.3g} MiB"


def _notes(runs: Sequence[Result]) -> tuple[str, ...]:
    gradients = sorted({str(r.get("gradient")) for r in runs if r.get("gradient")})
    kinds = sorted({str(r.get("memory_kind")) for r in runs if r.get("memory_kind")})
    notes = [
        f"{_counted(runs, 'train_images')} images to train on, "
        f"{_counted(runs, 'test_images')} to test on, {_epochs(runs)}, preset "
        f"{runs[0].get('preset')}, seed {runs[0].get('seed')}, trained by "
        f"{' and '.join(gradients)}; last run {_day(runs)} on "
        f"{next((r.get('machine') for r in runs if r.get('machine')), 'an unknown machine')}.",
        "Evaluations are means over the batches of the last epoch. So are the study's: no single "
        "solve by dopri5 takes 21 or 17.",
        "Backward evaluations are counted here with times that need no gradient: 4, 2 and 1 for a "
        "step of rk4, midpoint and euler by the adjoint. Times that need one cost one more, 5, 3 "
        "and 2, and that is what the study printed."
        + (" By direct, nothing is evaluated again on the way back." * ("direct" in gradients)),
    ]
    if "held for backward" in kinds:
        notes.append(
            "Memory here is what one training step holds for its backward pass on the CPU, "
            "parameters and inputs not counted: first by the gradient used in training, then by "
            "direct. The study's is all that its GPU had allocated, so compare the order."
        )
    if "peak allocated" in kinds:
        notes.append(
            "Memory here is the peak that PyTorch allocated on the GPU in one training step: first "
            "by the gradient used in training, then by direct."
        )
    return tuple(notes)


def _day(runs: Sequence[Result]) -> str:
    return max(str(r.get("date") or "") for r in runs)[:10] or "at an unknown date"


def _counted(runs: Sequence[Result], name: str) -> str:
    counts = sorted({int(value) for r in runs if (value := r.number(name)) is not None})
    return " or ".join(f"{count:,}" for count in counts) or "an unknown number of"


def _epochs(runs: Sequence[Result]) -> str:
    counts = sorted({len(r.get("history") or ()) for r in runs if r.ok})
    return " or ".join(map(str, counts)) + (" epoch" if counts == [1] else " epochs")
