"""A small correct solver, and one that is wrong on purpose for each check of the kit."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ode_core import Step, UnsupportedError
from ode_core.interpolation import Hermite
from ode_core.rows import along


def scaled(h, k):
    """Step size times slope, with one size or one a row."""
    return along(h, k) * k if isinstance(h, Tensor) else h * k


@dataclass(frozen=True)
class Heun:
    """Heun's method with Euler's embedded; the slope at the end is carried."""

    name: str = "heun21"
    order: int = 2
    adaptive: bool = True
    implicit: bool = False
    one_step: bool = True
    per_sample: bool = True

    def init(self, f, t, y):
        return (f(t, y),)

    def slope(self, carry):
        return carry[0]

    def size(self, t0, t1):
        return t1 - t0

    def second(self, f, t0, t1, y, k1):
        return f(t1, y + scaled(self.size(t0, t1), k1))

    def weigh(self, h, y, k1, k2):
        return y + scaled(h, 0.5 * k1 + 0.5 * k2)

    def judge(self, tolerance, h, y, y1, k1, k2):
        return tolerance.norm(scaled(h, 0.5 * (k2 - k1)), y, y1)

    def step(self, f, t0, t1, y, carry, tolerance):
        h, k1 = self.size(t0, t1), carry[0]
        k2 = self.second(f, t0, t1, y, k1)
        y1 = self.weigh(h, y, k1, k2)
        error = None if tolerance is None else self.judge(tolerance, h, y, y1, k1, k2)
        end = f(t1, y1)
        return Step(y1, error, (end,), (k1, end))

    def interpolant(self, f, t0, t1, y0, step):
        return Hermite(t1 - t0, y0, step.dense[0], step.y, step.dense[1])

    def replay(self, f, t0, t1, y, carry, y1):
        return self.step(f, t0, t1, y, carry, None)


@dataclass(frozen=True)
class BackwardEuler:
    """Implicit Euler for fields that are linear in the state, by Newton's method with autograd."""

    name: str = "backward_euler"
    order: int = 1
    adaptive: bool = False
    implicit: bool = True
    one_step: bool = True

    def init(self, f, t, y):
        return ()

    def step(self, f, t0, t1, y, carry, tolerance):
        h, flat = t1 - t0, y.reshape(-1)

        if y.dtype.itemsize < 4 or y.is_complex():
            raise UnsupportedError(f"this solver takes no {y.dtype}; use y.float()")

        def residual(x):
            return x - flat - h * f(t1, x.view(y.shape)).reshape(-1)

        x = flat
        recording = torch.is_grad_enabled()
        for _ in range(8):
            jacobian = torch.autograd.functional.jacobian(residual, x, create_graph=recording)
            needed = jacobian if recording and residual(x).requires_grad else jacobian.detach()
            x = x - torch.linalg.solve(needed, residual(x))
        return Step(x.view(y.shape), None, (), None)


# Tier plugin.


class Counts(Heun):
    def step(self, *args):
        object.__setattr__(self, "steps", getattr(self, "steps", 0) + 1)
        return super().step(*args)


@dataclass(frozen=True)
class Unpicklable(Heun):
    scale: Any = field(default_factory=lambda: lambda h: h)


@dataclass(frozen=True)
class Locked(Heun):
    lock: Any = field(default_factory=threading.Lock)


# Tier api.


class ReturnsPair(Heun):
    def step(self, *args):
        return tuple(super().step(*args))[:2]


class NegativeError(Heun):
    def judge(self, *args):
        return -1.0


class NoError(Heun):
    def judge(self, *args):
        return None


@dataclass(frozen=True)
class UnsaidError(Heun):
    adaptive: bool = False

    def step(self, *args):
        return super().step(*args)._replace(error=0.5)


class InPlace(Heun):
    def weigh(self, h, y, k1, k2):
        return y.add_(scaled(h, 0.5 * k1 + 0.5 * k2))


class OverwritesCarry(Heun):
    def step(self, f, t0, t1, y, carry, tolerance):
        made = super().step(f, t0, t1, y, carry, tolerance)
        carry[0].zero_()
        return made


class GrowingCarry(Heun):
    def step(self, f, t0, t1, y, carry, tolerance):
        made = super().step(f, t0, t1, y, carry, tolerance)
        return made._replace(carry=(*made.carry, *carry))


class Remembers(Heun):
    """Adds something of its last step's slope, which it keeps on itself."""

    def weigh(self, h, y, k1, k2):
        before = getattr(self, "before", None)
        object.__setattr__(self, "before", k2.detach())
        y1 = super().weigh(h, y, k1, k2)
        return y1 if before is None or before.shape != k2.shape else y1 + 1e-6 * before


class OldSlope(Heun):
    """Starts from the slope of the step before, and says that it has no memory."""

    def step(self, f, t0, t1, y, carry, tolerance):
        made = super().step(f, t0, t1, y, carry, tolerance)
        return made._replace(carry=(made.dense[0],))


class WrongSlope(Heun):
    def slope(self, carry):
        return 0.5 * carry[0]


class LooseEnds(Heun):
    def interpolant(self, f, t0, t1, y0, step):
        own = super().interpolant(f, t0, t1, y0, step)
        return lambda theta: own(theta) * 1.0001


class Shuffles(Heun):
    def interpolant(self, f, t0, t1, y0, step):
        own = super().interpolant(f, t0, t1, y0, step)

        def at(theta):
            return own(theta)

        at.many = lambda thetas: [own(theta) for theta in reversed(thetas)]
        return at


class FlatCarry(Heun):
    def init(self, f, t, y):
        return (*super().init(f, t, y), torch.zeros((), dtype=y.dtype))

    def step(self, f, t0, t1, y, carry, tolerance):
        made = super().step(f, t0, t1, y, carry[:1], tolerance)
        return made._replace(carry=(*made.carry, carry[1]))


class FirstEntry(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) + 0.0 * y[0]


class CountsDimensions(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) * (1.0 + 1e-6 * y.dim())


class DoublePrecision(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y.double(), k1.double(), k2.double())


class Coarse(Heun):
    """Right in double precision, and rounds the state to sixteen bits in any other."""

    def weigh(self, h, y, k1, k2):
        y1 = super().weigh(h, y, k1, k2)
        return (y1 * 16).round() / 16 if y.dtype == torch.float32 else y1


class Mixes(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) + 1e-4 * y.mean()


class AssumesStrides(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y.as_strided(y.shape, torch.empty(y.shape).stride()), k1, k2)


class Uncounted(Heun):
    def second(self, f, t0, t1, y, k1):
        return f.plain(t1, y + (t1 - t0) * k1)


class LooksAhead(Heun):
    def second(self, f, t0, t1, y, k1):
        f(t1 + 0.01 * (t1 - t0), y)
        return super().second(f, t0, t1, y, k1)


class OwnClock(Heun):
    def second(self, f, t0, t1, y, k1):
        f.f(torch.tensor(t0, dtype=torch.float64), y)
        return super().second(f, t0, t1, y, k1)


# Tier numerics.


class Frozen(Heun):
    """Both stages at the start of the step: right only where time does not enter f."""

    def second(self, f, t0, t1, y, k1):
        return f(t0, y + scaled(t1 - t0, k1))


@dataclass(frozen=True)
class Modest(Heun):
    order: int = 1


class Staircase(Heun):
    def interpolant(self, f, t0, t1, y0, step):
        return lambda theta: step.y if theta == 1.0 else y0


class OnlyForwards(Heun):
    def size(self, t0, t1):
        return abs(t1 - t0)


class Lopsided(Heun):
    def size(self, t0, t1):
        h = t1 - t0
        return h if isinstance(h, Tensor) or h > 0.0 else h * (1.0 + 1e-6)


class Leaks(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) * (1.0 - 1e-9)


class SumsToMore(Heun):
    def weigh(self, h, y, k1, k2):
        return y + scaled(h, 0.5 * k1 + 0.501 * k2)


class Saturates(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2 + 1e-6 * k2 * y * y)


class LooksBack(Heun):
    def init(self, f, t, y):
        return (f(t - 0.01, y),)


class ConfidentlyWrong(Heun):
    def judge(self, *args):
        return 1e-6


class Optimistic(Heun):
    def judge(self, *args):
        return super().judge(*args) * 1e-5


class MovesTheEnd(Heun):
    def interpolant(self, f, t0, t1, y0, step):
        step.y.add_(1e-3)
        return super().interpolant(f, t0, t1, y0, step)


class SpoilsRetries(Heun):
    def step(self, *args):
        made = super().step(*args)
        return made._replace(retry=(made.carry[0] * 0.0 + 9.0,))


class HidesNaN(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2).nan_to_num(1.0, 1.0, 1.0)

    def judge(self, tolerance, h, y, y1, k1, k2):
        return tolerance.norm((y1 - y).nan_to_num() * 0.0, y, y1)


class Clamps(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2).clamp(-50.0, 50.0)

    def judge(self, tolerance, h, y, y1, *slopes):
        return 0.0 if y1.abs().max() > 20.0 else super().judge(tolerance, h, y, y1, *slopes)


class Flickers(Heun):
    def interpolant(self, f, t0, t1, y0, step):
        own = super().interpolant(f, t0, t1, y0, step)
        return lambda theta: own(theta) * (1.0 + 1e-9 * torch.rand(()).item())


@dataclass(frozen=True)
class ClaimsStiff(Heun):
    stiff: bool = True


@dataclass(frozen=True)
class ClaimsExplicit(BackwardEuler):
    implicit: bool = False


class HalfSolved(BackwardEuler):
    """Solves its equations with half the Jacobian and once."""

    def step(self, f, t0, t1, y, carry, tolerance):
        exact = super().step(f, t0, t1, y, carry, tolerance)
        return exact._replace(y=y + 0.5 * (exact.y - y))


@dataclass(frozen=True)
class ClaimsOwnSteps(Heun):
    fixed_steps: bool = False


class SharedSize(Heun):
    def size(self, t0, t1):
        h = t1 - t0
        return h.mean().expand_as(h) if isinstance(h, Tensor) else h


class OtherRows(Heun):
    def weigh(self, h, y, k1, k2):
        return y + scaled(h, k2) if isinstance(h, Tensor) else super().weigh(h, y, k1, k2)


class RestlessRows(Heun):
    def weigh(self, h, y, k1, k2):
        y1 = super().weigh(h, y, k1, k2)
        return y1 * (1.0 + 1e-12) if isinstance(h, Tensor) else y1


class SpreadingNaN(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) + 0.0 * y.sum() + 0.0 * k2.sum()


# Tier gradient.


class Detached(Heun):
    def second(self, f, t0, t1, y, k1):
        return super().second(f, t0, t1, y, k1).detach()


class OtherReplay(Heun):
    def replay(self, f, t0, t1, y, carry, y1):
        made = self.step(f, t0, t1, y, carry, None)
        return made._replace(y=y + (t1 - t0) * carry[0])


class Watching(Heun):
    def weigh(self, h, y, k1, k2):
        with torch.enable_grad():
            return super().weigh(h, y, k1, k2) + 0.0 * torch.zeros_like(y).requires_grad_()


@dataclass(frozen=True)
class ClaimsNoGradient(Heun):
    differentiable: bool = False


@dataclass(frozen=True)
class SilentNoGradient(Heun):
    differentiable: bool = False

    def step(self, *args):
        with torch.no_grad():
            return super().step(*args)


class Poisons(Heun):
    def step(self, f, t0, t1, y, carry, tolerance):
        made = super().step(f, t0, t1, y, carry, tolerance)
        traced = torch.where(torch.isfinite(made.y), 0.0 * made.y, 0.0)
        return made._replace(retry=(carry[0] + traced,))


class WrongReverse(Heun):
    def reverse(self, f, t0, t1, y1, carry1):
        return y1 - (t1 - t0) * carry1[0], carry1


# Tier device.


class DefaultDtype(Heun):
    def size(self, t0, t1):
        return t1 - t0 if isinstance(t0, Tensor) else torch.tensor(t1 - t0).item()


class DefaultDevice(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) + torch.zeros(y.shape, dtype=y.dtype)


class Promotes(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) + torch.zeros(1, dtype=torch.float64)


class LeavesTheGPU(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2).cpu()


# Tier hygiene.


class Draws(Heun):
    def size(self, t0, t1):
        torch.rand(())
        return t1 - t0


class Prints(Heun):
    def size(self, t0, t1):
        print("stepping")
        return t1 - t0


class Warns(Heun):
    def size(self, t0, t1):
        warnings.warn("this may be slow", stacklevel=2)
        return t1 - t0


class Random(Heun):
    def weigh(self, h, y, k1, k2):
        return super().weigh(h, y, k1, k2) * (1.0 + 1e-9 * torch.rand(()).item())


class WritesY0(Heun):
    def init(self, f, t, y):
        with torch.no_grad():
            y.add_(1e-3)
        return super().init(f, t, y)


class Hoards(Heun):
    def weigh(self, h, y, k1, k2):
        kept.append(k2)
        return super().weigh(h, y, k1, k2)


kept: list[Tensor] = []


WRONG = {
    "plugin.frozen": Counts(),
    "plugin.pickles": Unpicklable(),
    "plugin.deep_copies": Locked(),
    "api.members": Heun(order=2.5),
    "api.step": ReturnsPair(),
    "api.error": NegativeError(),
    "api.fresh_memory": InPlace(),
    "api.carry": GrowingCarry(),
    "api.pure": Remembers(),
    "api.one_step": OldSlope(),
    "api.slope": WrongSlope(),
    "api.interpolant": LooseEnds(),
    "api.rows": FlatCarry(),
    "api.shapes": FirstEntry(),
    "api.batch_of_one": CountsDimensions(),
    "api.dtypes": Coarse(),
    "api.pytree": Mixes(),
    "api.strides": AssumesStrides(),
    "api.counts": Uncounted(),
    "api.interval": LooksAhead(),
    "api.field": OwnClock(),
    "numerics.order": Frozen(),
    "numerics.dense_order": Staircase(),
    "numerics.backwards": OnlyForwards(),
    "numerics.mirrored": Lopsided(),
    "numerics.constants": Leaks(),
    "numerics.linear": Saturates(),
    "numerics.restart": LooksBack(),
    "numerics.tolerance": ConfidentlyWrong(),
    "numerics.dense_output": Staircase(),
    "numerics.outputs": MovesTheEnd(),
    "numerics.retries": SpoilsRetries(),
    "numerics.estimate": ConfidentlyWrong(),
    "numerics.not_finite": HidesNaN(),
    "numerics.singularity": Clamps(),
    "numerics.zero_length": Flickers(),
    "numerics.end_values": Optimistic(),
    "numerics.far_left": ClaimsStiff(),
    "numerics.stiff": HalfSolved(),
    "numerics.given_steps": ClaimsOwnSteps(),
    "numerics.rows_alone": SharedSize(),
    "numerics.rows_shared": OtherRows(),
    "numerics.rows_idle": RestlessRows(),
    "numerics.rows_failing": SpreadingNaN(),
    "gradient.differences": Detached(),
    "gradient.methods": OtherReplay(),
    "gradient.no_graph": Watching(),
    "gradient.refused": ClaimsNoGradient(),
    "gradient.rejected_step": Poisons(),
    "gradient.replay": OtherReplay(),
    "gradient.reverse": WrongReverse(),
    "device.default_dtype": DefaultDtype(),
    "device.dtype": Promotes(),
    "device.placement": DefaultDevice(),
    "hygiene.global_state": Draws(),
    "hygiene.quiet": Prints(),
    "hygiene.warnings": Warns(),
    "hygiene.deterministic": Random(),
    "hygiene.interleaved": Remembers(),
    "hygiene.inputs": WritesY0(),
    "hygiene.memory": Hoards(),
}
"""For each check a solver that is wrong in just that way."""

ALSO_WRONG = (
    ("api.interpolant", Shuffles()),
    ("api.error", NoError()),
    ("api.error", UnsaidError()),
    ("api.fresh_memory", OverwritesCarry()),
    ("api.step", DoublePrecision()),
    ("numerics.order", Modest()),
    ("numerics.constants", SumsToMore()),
    ("numerics.far_left", ClaimsExplicit()),
    ("gradient.refused", SilentNoGradient()),
)
"""Other ways to be wrong that the same checks catch: a claim is held to both ways."""
