"""What a worker process does: run a cell and store its row, whatever the cell does."""

from __future__ import annotations

import contextlib
import gc
import traceback
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from ode_core import registry
from ode_core.discovery import SUITE, describe
from ode_core.errors import OdeError
from ode_core.protocols import RunConfig
from ode_tasks.benchmark.cell import FAILED, OK
from ode_tasks.run import Silent, execute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.registry import Catalogue
    from ode_tasks.benchmark.cell import Cell
    from ode_tasks.benchmark.store import Store

_LONGEST_REASON = 500


class Work:
    """Runs cells one after the other in this process, with one thread each.

    `parts` are the kinds and names that will be needed. The suite's own are imported now, before
    any clock runs; a guest's are imported in its own cell, where a mistake costs that cell only.
    """

    def __init__(self, parts: Sequence[tuple[str, str]]) -> None:
        catalogues: dict[str, Catalogue[Any]] = {
            catalogue.kind: catalogue
            for catalogue in (
                registry.tasks,
                registry.models,
                registry.solvers,
                registry.gradients,
            )
        }
        for kind, name in parts:
            with contextlib.suppress(OdeError):  # the cells that need it will say so
                record = catalogues[kind][name]
                if record.package in SUITE:
                    registry.load_target(record)

    def run(self, cell: Cell, store: Store) -> None:
        """Run a cell and store its row; raises DataError where it cannot be stored."""
        # What another cell's code may have changed.
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        start = perf_counter()
        row = cell.row("")
        try:
            row = execute(_config(cell, store), Silent()) | row | {"status": OK}
        except BaseException as error:  # noqa: BLE001 - a cell's failure is its result
            traceback.print_exc()
            row |= {"status": FAILED, "reason": _sentence(error)}
        row |= {
            "seconds": perf_counter() - start,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        store.write(cell, row)
        gc.collect()


def _config(cell: Cell, store: Store) -> RunConfig:
    return RunConfig(
        task=cell.task,
        model=cell.model,
        solver=cell.solver,
        gradient=cell.gradient,
        preset=cell.preset,
        seed=cell.seed,
        device=cell.device,
        data=Path(cell.data) if cell.data else None,
        out=store.artefacts(cell),
    )


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split()) if isinstance(error, OdeError) else describe(error)
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
