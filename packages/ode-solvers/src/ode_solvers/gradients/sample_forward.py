"""What every backward pass of per-sample steps begins with: a solve without a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from ode_core import UnsupportedError
from ode_core.attach import refuse_transforms
from ode_core.capture import Watched
from ode_core.loops.sample_outputs import forward_samples
from ode_core.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from ode_core import Plan
    from ode_core.loops.sample_march import SampleStep
    from ode_core.loops.sample_outputs import Due, SampleTrajectory
    from ode_core.samples import SampleProblem


class Solved(NamedTuple):
    """A solve without a graph, what evaluations in it went by, and the tensors seen in them."""

    made: SampleTrajectory
    replay: Replay
    tensors: tuple[Tensor, ...]


def solved_samples(
    problem: SampleProblem,
    plan: Plan,
    name: str,
    on_step: Callable[[SampleStep, list[Due]], None],
) -> Solved:
    """Solve without a graph for the gradient method `name`; `on_step` sees every attempted step."""
    refuse_transforms(name, problem.y0)
    replay, watched = Replay(problem.field, problem.y0.device), Watched(problem.field)
    detached = replace(problem, y0=problem.y0.detach())
    with torch.no_grad():
        made = forward_samples(detached, plan, on_step=on_step, watched=watched)
    replay.settle()
    return Solved(made, replay, watched.tensors)


def refuse_what_has_no_row(problem: SampleProblem, name: str) -> None:
    """Raise UnsupportedError for events and integrals, whose states are none of the outputs."""
    if problem.given.asks:
        raise UnsupportedError(
            f"gradient={name!r} knows neither events nor integrands with stepping='per_sample'; "
            "take gradient='direct', or shared steps"
        )
