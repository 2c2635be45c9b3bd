"""A plugin file for tests: a task that logs each of its runs, and solvers that misbehave."""

import ctypes
import itertools
import os
import signal
import sys
import time
from pathlib import Path

from ode_core import ModelRecord, SolverRecord, TaskRecord, hookimpl

GOOD = ("fake_a", "fake_b")
BAD = {
    "fake_raises": lambda: 1 / 0,
    "fake_leaves": lambda: sys.exit(3),
    "fake_exits": lambda: os._exit(0),
    "fake_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "fake_segfault": lambda: ctypes.string_at(0),
    "fake_sleeps": lambda: time.sleep(600),
    "fake_c_loop": lambda: sum(itertools.repeat(0)),  # never lets go of the interpreter's lock
}


def _hungry():
    kept = []
    while True:
        kept.append(bytearray(10**8))


BAD["fake_hungry"] = _hungry


class FakeTask:
    def run(self, config, progress):
        with Path(os.environ["FAKE_LOG"]).open("a") as log:
            log.write(f"{config.task} {config.solver} {os.getpid()}\n")
        print("computing", flush=True)
        BAD.get(config.solver, lambda: None)()
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        return {
            "loss": 0.5,
            "score": float("nan") if config.solver == "fake_b" else 0.75,
            "score_name": "accuracy",
            "higher_is_better": True,
            "solver_error": 1e-3,
            "f_forward": 4.0,
            "f_backward": 4.0,
            "history": [{"epoch": 1, "train_loss": 0.5, "test_score": 0.75}],
        }


@hookimpl
def ode_tasks():
    for name in ("fake_task", "fake_other"):
        yield TaskRecord(
            name, "fake_experiments:FakeTask", "fake", fits="fake", default_model="fake_model"
        )
    yield TaskRecord(
        "fake_data",
        "fake_experiments:FakeTask",
        "fake",
        fits="fake",
        default_model="fake_model",
        needs_data=True,
    )
    yield TaskRecord(
        "fake_large",
        "fake_experiments:FakeTask",
        "fake",
        fits="fake",
        default_model="fake_model",
        state_size=100_000,
    )


@hookimpl
def ode_models():
    yield ModelRecord("fake_model", "fake_experiments:FakeTask", "fake", fits="fake", solves=True)
    yield ModelRecord("fake_plain", "fake_experiments:FakeTask", "fake", fits="fake", solves=False)
    yield ModelRecord("fake_misfit", "fake_experiments:FakeTask", "fake", fits="no", solves=True)


@hookimpl
def ode_solvers():
    for name in (*GOOD, *BAD):
        yield SolverRecord(name, "fake_experiments:FakeTask", "fake", order=1, adaptive=False)
    yield SolverRecord(
        "fake_implicit", "fake_experiments:FakeTask", "fake", order=1, adaptive=True, implicit=True
    )
    yield SolverRecord(
        "fake_absent",
        "fake_experiments:FakeTask",
        "fake",
        order=1,
        adaptive=True,
        requires=(("no_such_module", "no-such-package[extra]>=2"),),
    )
    yield SolverRecord(
        "fake_external",
        "fake_experiments:FakeTask",
        "fake",
        order=1,
        adaptive=True,
        differentiable=False,
    )
    yield SolverRecord(
        "fake_pairs", "fake_experiments:FakeTask", "fake", order=1, adaptive=False, takes_pairs=True
    )
