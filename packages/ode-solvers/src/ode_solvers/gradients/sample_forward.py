"""What every backward pass of per-sample steps begins with: a solve without a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ode_core import UnsupportedError
from ode_core.attach import refuse_transforms
from ode_core.loops.sample_outputs import forward_samples
from ode_core.replay import Replay

if TYPE_CHECKING:
    from collections.abc import Callable

    from ode_core import Plan
    from ode_core.capture import Watched
    from ode_core.loops.sample_march import SampleStep
    from ode_core.loops.sample_outputs import Due, SampleTrajectory
    from ode_core.samples import SampleProblem


def solved_samples(
    problem: SampleProblem,
    plan: Plan,
    name: str,
    watched: Watched,
    on_step: Callable[[SampleStep, list[Due]], None],
) -> tuple[SampleTrajectory, Replay]:
    """Solve without a graph for the gradient method `name`; `on_step` sees every attempted step.

    Beside the solution there is what the evaluations of f went by.
    """
    refuse_transforms(name, problem.y0)
    replay = Replay(problem.field, problem.y0.device)
    detached = replace(problem, y0=problem.y0.detach())
    with torch.no_grad():
        made = forward_samples(detached, plan, on_step=on_step, watched=watched)
    replay.settle()
    return made, replay


def refuse_what_has_no_row(problem: SampleProblem, name: str) -> None:
    """Raise UnsupportedError for events and integrals, whose states are none of the outputs."""
    if problem.given.asks:
        raise UnsupportedError(
            f"gradient={name!r} knows neither events nor integrands with stepping='per_sample'; "
            "take gradient='direct', or shared steps"
        )
