"""The time of one training step, beside that of a yardstick, in turn, and what the step does."""

from __future__ import annotations

import dataclasses
import gc
import math
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ode_core.api import DEFAULT_SOLVER
from ode_core.registry import models, tasks
from ode_tasks import measure
from ode_tasks.devices import seeded
from ode_tasks.peers.rounds import Clock
from ode_tasks.settings import build

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

    from ode_core.protocols import RunConfig
    from ode_tasks.gradients.probe import Probe

# Of a cell that is run for its times, and of others.
_ROUNDS_ALONE, _ROUNDS = 25, 7
_LEAST_ROUNDS = 3
# A measurement shorter than this is lost in the clock.
_SHORTEST = 0.01
_RESAMPLES = 2000
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")

Columns = dict[str, Any]


def timed_step(config: RunConfig, budget: float, *, alone: bool = False) -> Columns:
    """Return columns on one training step of the config's model on a batch of its task.

    `step_seconds` and `forward_seconds` are medians over rounds, with `_low` and `_high` of a 95 %
    bootstrap interval; `step_ratio` is the median of the step's time over the yardstick's in the
    same round. The yardstick is the step of the task's default model by the default solver and
    `direct`: rows of one task can be compared through it whatever the machine did meanwhile.
    `first_seconds` is the very first step, which no other figure has in it. All of it takes about
    `budget` seconds; where a step is so slow that no round fits, its one time stands without an
    interval. There are more rounds where the cell is `alone` on the machine for its times. A task
    without `probe` gives no columns.
    """
    task = tasks.create(config.task)
    if not hasattr(task, "probe"):
        return {}
    start = perf_counter()
    clock = Clock(config.device, torch.get_num_threads())
    with seeded(config.seed):
        probe: Probe = task.probe(config)
        steps = {"step": _Step(config, probe)}
    first = clock.seconds(steps["step"])
    columns = {"first_seconds": first, "step_clock": clock.name, **steps["step"].columns()}
    if perf_counter() - start + 2 * first > budget:
        return columns | {"step_seconds": first, "step_rounds": 1}
    with seeded(config.seed):
        steps["yardstick"] = _Step(_yardstick(config), probe)
    calls: dict[str, Callable[[], Any]] = {**steps, "forward": steps["step"].forward}
    with seeded(config.seed):
        most = _ROUNDS_ALONE if alone else _ROUNDS
        rounds = _rounds(calls, clock, most, start + budget)
        cuda = _cuda(steps["step"]) if config.device.startswith("cuda") else {}
    return columns | _summary(rounds) | cuda


class _Step:
    """One training step of a model on one batch: the loss, forwards and backwards."""

    def __init__(self, config: RunConfig, probe: Probe) -> None:
        self._model: nn.Module = build(config, probe.settings, **probe.size).to(config.device)
        self._trained = [p for p in self._model.parameters() if p.requires_grad]
        self._probe = probe

    def __call__(self) -> None:
        torch.autograd.grad(self._probe.loss(self._model), self._trained, allow_unused=True)

    def forward(self) -> None:
        with torch.no_grad():
            self._probe.loss(self._model)

    def columns(self) -> Columns:
        """Return what the blocks counted in the last step."""
        found: list[Any] = [block.stats for block in measure.blocks(self._model)]
        if not found:
            return {}
        named = {
            "step_f_forward": "f_calls",
            "step_f_backward": "backward_f_calls",
            "step_accepted": "accepted",
            "step_rejected": "rejected",
        }
        return {
            column: sum(_mean(getattr(stats, name)) for stats in found)
            for column, name in named.items()
        }


def _mean(count: Any) -> float:
    return float(count.double().mean()) if isinstance(count, torch.Tensor) else float(count)


def _yardstick(config: RunConfig) -> RunConfig:
    model = tasks[config.task].default_model
    solves = models[model].solves
    return dataclasses.replace(
        config,
        model=model,
        solver=DEFAULT_SOLVER if solves else "",
        gradient="direct" if solves else "",
        rtol=None,
        atol=None,
        dt=None,
    )


def _rounds(
    calls: dict[str, Callable[[], Any]], clock: Clock, most: int, end: float
) -> dict[str, list[float]]:
    """Return the times of all calls, taken in turn; whoever begins a round ends the next."""
    warm = {name: clock.seconds(call) for name, call in calls.items()}
    repeats = {name: max(1, math.ceil(_SHORTEST / max(warm[name], 1e-7))) for name in calls}
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    running = gc.isenabled()
    gc.disable()
    try:
        for number in range(most):
            if number >= _LEAST_ROUNDS and perf_counter() > end:
                break
            for name in names:
                found[name].append(clock.seconds(calls[name], repeats[name]))
            names.reverse()
    finally:
        if running:
            gc.enable()
    return found


def _summary(rounds: dict[str, list[float]]) -> Columns:
    own, yardstick, forward = (np.array(rounds[n]) for n in ("step", "yardstick", "forward"))
    return {
        **interval("step_seconds", own),
        **interval("forward_seconds", forward),
        **interval("step_ratio", own / yardstick),
        "yardstick_seconds": float(np.median(yardstick)),
        "step_rounds": len(own),
        "rounds": [list(times) for times in zip(own, yardstick, forward, strict=True)],
    }


def interval(name: str, values: Sequence[float] | np.ndarray[Any, Any]) -> Columns:
    """Return the median of a sample and the ends of its 95 % bootstrap interval (percentiles).

    Efron and Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    sample = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).choice(sample, (_RESAMPLES, len(sample)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {name: float(np.median(sample)), f"{name}_low": float(low), f"{name}_high": float(high)}


def _cuda(step: _Step) -> Columns:
    """Return what the host asks of the GPU in one step, and how often it waits for it."""
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
    counts = {event.key: event.count for event in seen.key_averages()}

    def total(names: tuple[str, ...]) -> int:
        return sum(count for key, count in counts.items() if key.startswith(names))

    return {
        "step_launches": total(_LAUNCHES),
        "step_synchronisations": total(_WAITS),
        "step_peak_bytes": int(torch.cuda.max_memory_allocated()),
    }


def affordable(row: Columns, left: float) -> float:
    """Return how long timing may take where so many seconds are left; 0 where it may not.

    An epoch has at least one step, so that its time is a limit to that of the first.
    """
    longest = row.get("epoch_seconds")
    if not isinstance(longest, float) or not math.isfinite(longest):
        longest = 0.0
    return 0.0 if 3 * longest > left else left / 3
