"""A plugin file: a small task that really trains, and ten solvers that misbehave in ten ways."""

import ctypes
import dataclasses
import itertools
import os
import signal
import sys
import time

from ode_core import SolverRecord, TaskRecord, hookimpl

TASK = "small"


def hungry():
    kept = []
    while True:
        kept.append(bytearray(10**8))


def deaf():
    os.closerange(3, 1000)
    time.sleep(600)


BAD = {
    "bad_raises": lambda: 1 / 0,
    "bad_leaves": lambda: sys.exit(3),
    "bad_exits": lambda: os._exit(0),
    "bad_killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "bad_segfault": lambda: ctypes.string_at(0),
    "bad_aborts": os.abort,
    "bad_c_loop": lambda: sum(itertools.repeat(0)),
    "bad_stops": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "bad_hungry": hungry,
    "bad_deaf": deaf,
}
STATUS = {
    "bad_raises": "failed",
    "bad_leaves": "failed",
    "bad_exits": "crashed",
    "bad_killed": "crashed",
    "bad_segfault": "crashed",
    "bad_aborts": "crashed",
    "bad_c_loop": "timeout",
    "bad_stops": "timeout",
    "bad_hungry": "oom",
    "bad_deaf": "crashed",
}


class Small:
    """The task `linear`, trained for a moment."""

    def __init__(self):
        from ode_core.registry import tasks

        self._task = tasks.create("linear")

    def _config(self, config):
        settings = {"epochs": "2", "trajectories": "4", "test_trajectories": "2"}
        return dataclasses.replace(config, task="linear", settings=settings, out=None)

    def run(self, config, progress):
        print("computing", flush=True)
        return self._task.run(self._config(config), progress)

    def probe(self, config):
        return self._task.probe(self._config(config))


def make_bad(name):
    def make():
        BAD[name]()

    return make


globals().update({name: make_bad(name) for name in BAD})


@hookimpl
def ode_tasks():
    yield TaskRecord(
        TASK, "planted:Small", "linear, small", fits="dynamics", default_model="neural_ode",
        state_size=2,
    )  # fmt: skip


@hookimpl
def ode_solvers():
    for name in BAD:
        yield SolverRecord(name, f"planted:{name}", "misbehaves", order=1, adaptive=False)
