"""The study's experiments: which runs of a task stand side by side in its table."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_core.errors import ArgumentError, SolveError
from ode_core.registry import tasks
from ode_tasks.run import METRICS, describe, execute, write
from ode_tasks.train import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from ode_core.protocols import Progress, RunConfig


class Cell(NamedTuple):
    """One run of the study; its name is the folder that it writes to."""

    name: str
    model: str
    solver: str = ""
    gradient: str = ""
    tolerance: float | None = None


# The study trains its image models by the adjoint. Fixed steps are one step over the block, which
# is what the presets of the image tasks hold.
_IMAGES = (
    Cell("dopri5_1e-3", "odenet", "dopri5", "adjoint", 1e-3),
    Cell("dopri5_1e-1", "odenet", "dopri5", "adjoint", 1e-1),
    Cell("rk4", "odenet", "rk4", "adjoint"),
    Cell("midpoint", "odenet", "midpoint", "adjoint"),
    Cell("euler", "odenet", "euler", "adjoint"),
    Cell("resnet", "resnet"),
)
_FORECASTS = (Cell("latent_ode", "latent_ode", "dopri5", "direct"), Cell("gru", "gru"))
_DYNAMICS = (Cell("neural_ode", "neural_ode", "dopri5", "direct"),)
CELLS = {
    "cifar10": _IMAGES,
    "digits": _IMAGES,
    "glucose": _FORECASTS,
    "linear": _DYNAMICS,
    "spiral": _DYNAMICS,
}


def cells(task: str) -> tuple[Cell, ...]:
    """Return the study's runs of a task.

    Raises UnknownNameError for a task that nobody registers, ArgumentError for one without a study.
    """
    record = tasks[task]
    if record.name not in CELLS:
        raise ArgumentError(
            f"the study has no experiment on {task!r}; it has those on {', '.join(CELLS)}"
        )
    return CELLS[record.name]


def run_cell(
    cell: Cell,
    base: RunConfig,
    out: Path,
    *,
    progress: Callable[[str], AbstractContextManager[Progress]],
) -> dict[str, Any] | None:
    """Run one cell into `out/<its name>` and return its row, None where it was there already.

    `base` holds what all cells share; a solve or a training that cannot go on is a row of status
    "failed" with the reason, because that too is a result of the study.
    """
    folder = out / cell.name
    if (folder / METRICS).exists():
        return None
    config = dataclasses.replace(
        base,
        model=cell.model,
        solver=cell.solver,
        gradient=cell.gradient,
        rtol=cell.tolerance,
        atol=cell.tolerance,
        out=folder,
    )
    try:
        with progress(cell.name) as bar:
            return execute(config, bar)
    except (SolveError, TrainingError) as error:
        row = {**describe(config), "status": "failed", "reason": str(error)}
        write(folder / METRICS, row)
        return row
