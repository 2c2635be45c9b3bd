"""A sweep of many cells that need no torch: `python -m tests.tasks.light_sweep OUT COUNT`."""

import os
import sys
import time
from pathlib import Path

from ode_core.records import ExecutorRecord
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.executor import LocalExecutor
from ode_tasks.benchmark.store import Store

SECONDS = 0.03


def cells(count):
    return [Cell("a_task", "a_model", "a_solver", "direct", seed=seed) for seed in range(count)]


class LightWork:
    """Logs that a cell is begun, takes a moment, and stores its row."""

    def __init__(self, parts, limits):
        pass

    def run(self, cell, store):
        with Path(os.environ["LIGHT_LOG"]).open("a") as log:
            log.write(f"{cell.key} {time.time()} {os.getpid()}\n")
        time.sleep(SECONDS)
        store.write(cell, cell.row("ok", score=float(cell.seed), seconds=SECONDS))


class LightExecutor(LocalExecutor):
    work = ExecutorRecord("light", "tests.tasks.light_sweep:LightWork", "x", package="ode-tasks")


class DyingWork(LightWork):
    """Every cell costs its worker; a small calculation goes well, or not."""

    answer = ""

    def check(self):
        return self.answer

    def run(self, cell, store):
        os._exit(1)


class DeafWork(LightWork):
    """The first cell closes all that its process has open, and stays."""

    def run(self, cell, store):
        if cell.seed == 0:
            os.closerange(3, 1000)
            time.sleep(600)
        super().run(cell, store)


class DeafExecutor(LocalExecutor):
    work = ExecutorRecord("deaf", "tests.tasks.light_sweep:DeafWork", "x", package="ode-tasks")


class BrokenWork(DyingWork):
    answer = "it took 9 s"


class DyingExecutor(LocalExecutor):
    work = ExecutorRecord("dying", "tests.tasks.light_sweep:DyingWork", "x", package="ode-tasks")


class BrokenExecutor(LocalExecutor):
    work = ExecutorRecord("broken", "tests.tasks.light_sweep:BrokenWork", "x", package="ode-tasks")


def main(out, count):
    store = Store(Path(out))
    store.prepare()
    todo = [cell for cell in cells(count) if not store.has(cell)]
    for _ in LightExecutor(workers=2, seconds=30.0).run(todo, store):
        pass


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
