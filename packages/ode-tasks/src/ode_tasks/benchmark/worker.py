"""What a worker process does: run a cell and store its row, whatever the cell does."""

from __future__ import annotations

import contextlib
import gc
import math
import traceback
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any

import torch

from ode_core import registry
from ode_core.api import solve
from ode_core.containment import Attempt
from ode_core.discovery import SUITE, describe
from ode_core.errors import OdeError
from ode_core.protocols import RunConfig
from ode_tasks.benchmark.cell import FAILED, OK, OOM
from ode_tasks.benchmark.conditions import conditions
from ode_tasks.benchmark.limits import GIB, confined, forget_peak, peak
from ode_tasks.benchmark.timing import affordable, timed_step
from ode_tasks.run import Silent, execute

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.catalogue import Catalogue
    from ode_tasks.benchmark.cell import Cell, Row
    from ode_tasks.benchmark.limits import Limits
    from ode_tasks.benchmark.store import Store

_LONGEST_REASON = 500
_LONGEST_TIMING, _LONGEST_TIMING_ALONE = 2.0, 20.0
# Of a calculation that takes milliseconds.
_SLOWEST_CHECK, _CHECK_ERROR = 2.0, 1e-4
_NO_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc", "out of memory")


class Work:
    """Runs cells one after the other in this process, with one thread each.

    `parts` are the kinds and names that will be needed. The suite's own are imported now, before
    any clock runs; a guest's are imported in its own cell, where a mistake costs that cell only.
    """

    def __init__(self, parts: Sequence[tuple[str, str]], limits: Limits) -> None:
        self._limits = limits
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

    def check(self) -> str:
        """Return why a small calculation did not go as it should; empty where it did."""
        start, used = perf_counter(), process_time()
        state = float(solve(lambda t, y: -y, torch.ones(8), [0.0, 1.0]).ys[-1, 0])
        taken, used = perf_counter() - start, process_time() - used
        if abs(state - math.exp(-1)) > _CHECK_ERROR:
            return f"exp(-1) came out as {state:.6f}"
        if taken > _SLOWEST_CHECK:
            return f"it took {taken:.3g} s, {used:.2g} s of them on a core"
        return ""

    def run(self, cell: Cell, store: Store) -> None:
        """Run a cell and store its row; raises DataError where it cannot be stored."""
        # What another cell's code may have changed.
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        start = perf_counter()
        forget_peak()
        row = cell.row("") | conditions()
        on_host = self._limits.memory if cell.device == "cpu" else 0
        try:
            with confined(on_host):
                row = self._measured(cell, store, start) | row | {"status": OK}
        except BaseException as error:  # noqa: BLE001 - a cell's failure is its result
            traceback.print_exc()
            row |= {"status": _status(error), "reason": _sentence(error, on_host)}
        row |= {
            "seconds": perf_counter() - start,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "peak_bytes": peak() or None,
        }
        store.write(cell, row)
        gc.collect()

    def _measured(self, cell: Cell, store: Store, start: float) -> Row:
        config = _config(cell, store)
        row = execute(config, Silent())
        left = self._limits.seconds - (perf_counter() - start)
        most = _LONGEST_TIMING_ALONE if cell.machine else _LONGEST_TIMING
        budget = min(most, affordable(row, left))
        # What was trained is a result, whether or not its step can be timed.
        with Attempt() as attempt:
            row |= timed_step(config, budget, alone=bool(cell.machine)) if budget else {}
        if attempt.error is not None:
            traceback.print_exception(attempt.error)
            row["untimed"] = _sentence(attempt.error, 0)
        return row


def _config(cell: Cell, store: Store) -> RunConfig:
    return RunConfig(
        task=cell.task,
        model=cell.model,
        solver=cell.solver,
        gradient=cell.gradient,
        rtol=cell.rtol,
        atol=cell.atol,
        dt=cell.dt,
        preset=cell.preset,
        seed=cell.seed,
        device=cell.device,
        data=Path(cell.data) if cell.data else None,
        out=store.artefacts(cell),
    )


def _status(error: BaseException) -> str:
    short = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )
    return OOM if short else FAILED


def _sentence(error: BaseException, memory: int) -> str:
    text = " ".join(str(error).split()) if isinstance(error, OdeError) else describe(error)
    if memory and _status(error) == OOM:
        text = f"more than {memory / GIB:.3g} GiB; {text}"
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…"
