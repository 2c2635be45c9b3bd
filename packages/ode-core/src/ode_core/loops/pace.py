"""Step-size control on the device: every number of the loop lies in one small tensor there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.control import PIDController, reach
from ode_core.tolerance import Tolerance

if TYPE_CHECKING:
    from ode_core.protocols import Controller

T, T1, DT, CUT, CODE, LEFT, STOP, MEMORY = range(8)
"""Places in a clock, a float64 `[7 + m]` tensor: the time, the end of the step that is to be made,
the size it would have without a stop, whether it ends at the stop, how the solve stands, how many
attempts are left, the stop, and from `MEMORY` on what the controller keeps."""

RUNNING, REACHED, MAX_STEPS, TOO_SMALL, NOT_FINITE = range(5)
"""How a solve stands."""

MADE = 5
"""A record of an attempt, float64 `[5 + 7 + m]`, begins with its t0, t1, error, whether it was
accepted and whether it was one at all; then comes the clock after it."""


class Pace(Protocol):
    """Judges an attempted step, and says which one comes next."""

    def judge(self, clock: Tensor, error: Tensor, record: Tensor) -> Tensor:
        """Fill in the record of a step with this 0-d error; return 0-d whether it is accepted."""


@dataclass(frozen=True, eq=False)
class DeviceTolerance(Tolerance):
    """The same norm as a float64 0-d tensor: nothing is read from the device."""

    def root_mean_square(self, ratio: Tensor) -> Any:
        """Return the root mean square of scaled errors, or the largest of the segments."""
        parts = ratio.split(self.segments) if self.segments else (ratio,)
        means = [
            part.to(torch.float64).square().sum() / part.numel() for part in parts if part.numel()
        ]
        mean = means[0] if len(means) == 1 else torch.stack(means).max()
        return torch.where(mean >= 0.0, mean.sqrt(), math.inf)


@dataclass(frozen=True)
class TorchPace:
    """The host loop's decisions, made by torch operations on 0-d tensors.

    `order` is that of the error estimate, `direction` 1.0 or -1.0 in time, `memory` the
    controller's at the start, which tells what its parts are.
    """

    controller: Controller
    order: int
    direction: float
    memory: Any

    @property
    def least(self) -> float:
        """The least size of a step."""
        least: float = getattr(self.controller, "dt_min", 0.0)
        return least

    @property
    def most(self) -> float:
        """The largest size of a step."""
        most: float = getattr(self.controller, "dt_max", math.inf)
        return most

    def judge(self, clock: Tensor, error: Tensor, record: Tensor) -> Tensor:
        """Fill in the record of a step with this 0-d error; return 0-d whether it is accepted."""
        t, t1, dt, cut, code, left, stop, *kept = clock.unbind()
        running, at_stop = code == RUNNING, cut != 0.0
        error = torch.where(error.isnan(), math.inf, error)
        # A stretch is no size that a controller has asked for.
        taken = torch.minimum(dt, (t1 - t).abs())
        if self.least:
            # The least step is taken whatever its error is, unless that is none at all.
            allowed = (dt <= self.least) & error.isfinite()
            error = torch.where(allowed, error.clamp(max=1.0), error)
        memory = self._unpacked(kept)
        # What a PID controller does with numbers is done here without looking at one.
        if isinstance(self.controller, PIDController):
            verdict, factor, memory = _judged(self.controller, error, self.order, memory)
        else:
            verdict, factor, memory = self.controller.judge(error, self.order, memory)
        accept: Tensor = verdict & running
        sized = taken * factor
        # A step cut short at a stop says little about the size that the next one can have.
        long = accept & at_stop & (factor >= 1.0)
        after = torch.where(accept, t1, t)
        size = torch.where(running, torch.where(long, torch.maximum(dt, sized), sized), dt)
        reached = accept & at_stop
        small = ~reached & (size < self._smallest(after))
        small = small | (~accept & error.isinf() & (taken <= self.least))
        left = left - running.to(left.dtype)
        state = torch.where(left > 0.0, float(RUNNING), float(MAX_STEPS))
        bad = torch.where(error.isinf() & ~accept, float(NOT_FINITE), float(TOO_SMALL))
        state = torch.where(reached, float(REACHED), torch.where(small, bad, state))
        state = torch.where(running, state, code)
        kept = [torch.where(running, a, b) for a, b in zip(_packed(memory), kept, strict=True)]
        ahead, size, ends = self.proposed(after, size, stop)
        ahead = torch.where(state == RUNNING, ahead, after)
        numbers = (t, t1, error, accept, running, after, ahead, size, ends, state, left, stop)
        torch.stack([x.to(torch.float64) for x in (*numbers, *kept)], out=record)
        return accept

    def proposed(self, t: Any, dt: Any, stop: Any) -> tuple[Any, Any, Any]:
        """Return the end of the next step, its size within limits, and whether a stop cuts it."""
        if not isinstance(t, Tensor):
            dt = min(max(dt, self.least), self.most)
            t1 = t + self.direction * dt
            cut = (t1 - stop) * self.direction > -reach(dt, self.most)
            return (stop if cut else t1), dt, cut
        dt = dt.clamp(self.least, self.most)
        t1 = t + self.direction * dt
        cut = (t1 - stop) * self.direction > -reach(dt, self.most)
        return torch.where(cut, stop, t1), dt, cut

    def begun(self, t: float, dt: float, left: int, stop: float, memory: Any) -> list[float]:
        """Return the numbers of a clock at a start."""
        code = RUNNING if left > 0 else MAX_STEPS
        ahead, dt, cut = self.proposed(t, dt, stop)
        kept = [float(x) for x in pytree.tree_leaves(memory)]
        return [t, ahead, dt, float(cut), float(code), float(left), stop, *kept]

    def remembered(self, numbers: list[float]) -> Any:
        """Return the controller's memory from the numbers of a clock, as it was given."""
        leaves, structure = pytree.tree_flatten(self.memory)
        made = [type(x)(y) for x, y in zip(leaves, numbers[MEMORY:], strict=True)]
        return pytree.tree_unflatten(made, structure)

    def _unpacked(self, kept: list[Tensor]) -> Any:
        leaves, structure = pytree.tree_flatten(self.memory)
        made = [y != 0.0 if isinstance(x, bool) else y for x, y in zip(leaves, kept, strict=True)]
        return pytree.tree_unflatten(made, structure)

    def _smallest(self, t: Tensor) -> Tensor:
        # Below some units in the last place a stage cannot tell its time from another's.
        beyond = torch.full_like(t, self.direction * math.inf)
        return 10.0 * (torch.nextafter(t, beyond) - t).abs()


def _packed(memory: Any) -> list[Tensor]:
    return [x.to(torch.float64) for x in pytree.tree_leaves(memory)]


def _judged(
    controller: PIDController, error: Tensor, order: int, memory: Any
) -> tuple[Tensor, Tensor, Any]:
    before, earlier, rejected = memory
    b1, b2, b3 = controller.exponents(order)
    accept = error <= 1.0
    # A zero has no power; the least positive number asks for the largest factor all the same.
    positive = error.clamp(min=1e-300)
    history = positive**b1
    if b2:
        history = history * before**b2
    if b3:
        history = history * earlier**b3
    factor = torch.maximum(controller.safety / history, controller.integral(positive, order))
    factor = factor.clamp(controller.factor_min, controller.factor_max)
    factor = torch.where(accept, factor, factor.clamp(max=controller.safety))
    factor = torch.where(accept & rejected, factor.clamp(max=1.0), factor)
    kept = torch.where(accept, error.clamp(min=1e-4), before)
    return accept, factor, (kept, torch.where(accept, before, earlier), ~accept)
