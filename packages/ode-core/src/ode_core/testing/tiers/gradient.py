"""Tier gradient: derivatives against differences, and one method of taking them against another."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ode_core import registry
from ode_core.api import DEFAULT_GRADIENT
from ode_core.errors import OdeError
from ode_core.testing.cases import distance, vector
from ode_core.testing.results import check, demand
from ode_core.testing.subject import (
    Subject,
    adaptive,
    differentiable,
    not_differentiable,
    offers,
)

_STEP = 1e-6


class Damped:
    """A field with a parameter: y' = sin(theta y) - t y, entry by entry, or a pair's likewise."""

    def __init__(self, theta: Tensor) -> None:
        self.theta = theta

    def __call__(self, t: Tensor, y: Any) -> Any:
        """Return the slope, like the state."""
        if isinstance(y, tuple):
            return y[1], torch.sin(self.theta * y[0]) - t * y[0]
        return torch.sin(self.theta * y) - t * y


def _leaves(subject: Subject) -> tuple[Tensor, Tensor]:
    y0 = vector(0.5, -0.3, 0.8, 0.1)
    theta = vector(1.2, 0.7) if subject.pair else vector(1.2, 0.7, 0.4, 0.9)
    return y0.requires_grad_(), theta.requires_grad_()


def _end(subject: Subject, y0: Tensor, theta: Tensor, **options: Any) -> Tensor:
    start: Any = tuple(y0.chunk(2)) if subject.pair else y0
    times = [0.0, 0.3, 1.0]
    if subject.steps_fixed:
        ys = subject.fixed(Damped(theta), start, times, 5, **options).ys
    else:
        ys = subject.controlled(Damped(theta), start, times, 1e-9, **options).ys
    parts = ys if isinstance(ys, tuple) else (ys,)
    # Outputs between steps count too.
    return torch.cat([(part[1] + 2.0 * part[-1]).reshape(-1) for part in parts])


def _gradients(subject: Subject, **options: Any) -> list[Tensor]:
    leaves = _leaves(subject)
    value = _end(subject, *leaves, **options).square().sum()
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    for name, gradient in zip(("the start", "a parameter that f closes over"), found, strict=True):
        demand(
            gradient is not None,
            f"no gradient reaches {name}; build every state and slope from those given, with "
            "nothing detached",
        )
    return [gradient for gradient in found if gradient is not None]


@check("gradient.differences", differentiable)
def differences(subject: Subject) -> str | None:
    """Gradients in the start and in a parameter equal differences of the solve itself."""
    found = torch.cat(_gradients(subject))
    leaves = [leaf.detach() for leaf in _leaves(subject)]
    wanted = []
    for index, leaf in enumerate(leaves):
        for entry in range(leaf.numel()):
            ends = []
            for sign in (1.0, -1.0):
                moved = [x.clone() for x in leaves]
                moved[index][entry] += sign * _STEP
                with torch.no_grad():
                    ends.append(float(_end(subject, *moved).square().sum()))
            wanted.append((ends[0] - ends[1]) / (2 * _STEP))
    off = float((found - vector(*wanted)).abs().max())
    demand(
        off <= (1e-6 if subject.steps_fixed else 1e-4),
        f"a gradient differs by {off:.1e} from differences of the solve; keep every operation "
        "between y and the new state differentiable, and nothing detached",
    )
    return f"off by {off:.0e}"


@check("gradient.methods", differentiable)
def methods(subject: Subject) -> str | None:
    """Every exact gradient method gives what back-propagation through the loop gives."""
    wanted = _gradients(subject, gradient=DEFAULT_GRADIENT)
    told = []
    for name, record in registry.gradients.items():
        if not record.exact or name == DEFAULT_GRADIENT or record.missing:
            continue
        try:
            found = _gradients(subject, gradient=name)
        except OdeError as error:
            told.append(f"{name} refused: {error}")
            continue
        off = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        told.append(f"{name} {off:.0e}")
        demand(
            off <= max(1e-10, subject.slack),
            f"gradient={name!r} differs by {off:.1e} from back-propagation through the loop; let "
            "init, step and replay from a state give the same step again",
        )
    return "; ".join(told) or "no other exact method is installed"


@check("gradient.no_graph")
def no_graph(subject: Subject) -> str | None:
    """Without gradients nothing is recorded: not under no_grad, not where nothing needs one."""
    y0, theta = (leaf.detach() for leaf in _leaves(subject))
    plain = _end(subject, y0, theta)
    demand(
        not plain.requires_grad,
        "the result requires a gradient where neither the state nor f does; create no tensor that "
        "requires one",
    )
    with torch.no_grad():
        silent = _end(subject, y0.clone().requires_grad_(), theta.clone().requires_grad_())
    demand(
        not silent.requires_grad,
        "the result requires a gradient under torch.no_grad(); do not enable gradients in a step",
    )
    return None


@check("gradient.refused", not_differentiable)
def refused(subject: Subject) -> str | None:
    """A solver through which no gradient flows says so where one is asked for."""
    y0, theta = _leaves(subject)
    for what, leaves in (("y0", (y0, theta.detach())), ("a parameter", (y0.detach(), theta))):
        try:
            value = _end(subject, *leaves)
        except OdeError:
            continue
        demand(
            value.requires_grad,
            f"differentiable is False and {what} requires a gradient, yet the solve went "
            "through and its result carries none; raise ode_core.UnsupportedError, or a user "
            "trains in vain",
        )
        demand(
            False,
            f"differentiable is False, yet a result with a gradient in {what} came back; say "
            "differentiable = True, or refuse",
        )
    return None


@check("gradient.rejected_step", differentiable, adaptive)
def rejected_step(subject: Subject) -> str | None:
    """A rejected attempt that met NaN leaves no NaN in the gradient."""
    y0 = vector(1.0, 0.5).requires_grad_()
    start: Any = (y0, -y0.detach()) if subject.pair else y0
    solution = subject.controlled(_Walled(), start, [0.0, 1.0], 1e-6, dt=40.0)
    parts = solution.ys if isinstance(solution.ys, tuple) else (solution.ys,)
    (gradient,) = torch.autograd.grad(parts[0][-1].sum(), y0)
    demand(
        bool(torch.isfinite(gradient).all()),
        "the gradient is not finite although only a rejected attempt met NaN; let nothing of a "
        "rejected attempt enter the next one",
    )
    return f"{solution.stats.rejected} rejected"


class _Walled:
    """y' = -20 y; where y is beyond 5 both f and its derivative are NaN."""

    def __call__(self, t: Tensor, y: Any) -> Any:
        first = y[0] if isinstance(y, tuple) else y
        slope = -20.0 * first + 0.0 * torch.sqrt(5.0 - first.abs())
        return (y[1], slope) if isinstance(y, tuple) else slope


@check("gradient.replay", differentiable, offers("replay"))
def replay(subject: Subject) -> str | None:
    """`replay` gives the state, and the gradient, of the step that it replays."""
    own: Any = subject.solver
    y0, theta = _leaves(subject)
    start: Any = tuple(y0.chunk(2)) if subject.pair else y0
    taken = next(iter(subject.walk(Damped(theta), start, [0.0, 0.2])))
    again = own.replay(
        taken.field, taken.t0, taken.t1, taken.y0, taken.carry, taken.step.y.detach()
    )
    off = distance(again.y, taken.step.y)
    demand(
        off <= subject.slack,
        f"replay's state differs by {off:.1e} from the step's; take the same step again",
    )
    pairs = zip(*(_pulled(x, y0, theta) for x in (again.y, taken.step.y)), strict=True)
    off = max(float((a - b).abs().max()) for a, b in pairs)
    demand(
        off <= subject.slack,
        f"replay's gradient differs by {off:.1e} from the step's; differentiate the same step",
    )
    return None


def _pulled(y: Tensor, *leaves: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(y.square().sum(), leaves, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]


@check("gradient.reverse", offers("reverse"))
def reverse(subject: Subject) -> str | None:
    """`reverse` rebuilds the state and the carry at the start of a step from those at its end."""
    own: Any = subject.solver
    y0, theta = (leaf.detach() for leaf in _leaves(subject))
    start: Any = tuple(y0.chunk(2)) if subject.pair else y0
    for taken in subject.walk(Damped(theta), start, [0.0, 0.1, 0.25, 0.3]):
        y, carry = own.reverse(taken.field, taken.t0, taken.t1, taken.step.y, taken.step.carry)
        off = max(distance(y, taken.y0), _apart(carry, taken.carry))
        demand(
            off <= 1e-12,
            f"reverse misses the start of its step by {off:.1e}; invert the step's formulas, or "
            "leave reverse out",
        )
    return None


def _apart(a: Any, b: Any) -> float:
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    return max((distance(x, y) for x, y in pairs), default=0.0)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(tree) if isinstance(x, Tensor)]


CHECKS = (differences, methods, no_graph, refused, rejected_step, replay, reverse)
