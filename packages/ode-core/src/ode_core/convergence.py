"""Is the tolerance good enough: solve again with a tighter one and see what changes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core import registry
from ode_core.api import DEFAULT_GRADIENT, DEFAULT_SOLVER, solve
from ode_core.control import FixedSteps
from ode_core.errors import ArgumentError
from ode_core.planning import DEFAULT_ATOL, DEFAULT_RTOL
from ode_core.solution import Solution

Gradients = dict[int, tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Convergence:
    """How much a finer solve changes the result, the loss and its gradient; each is relative.

    `result` is the largest change of the state at a requested time, over the largest state, in
    Euclidean norm; `gradient` is over the gradients of the start and of every leaf tensor that
    takes part, together. `loss` and `gradient` are None without a loss, `gradient` also where
    the loss depends on nothing that has one. `f_calls` are the evaluations of f in the solve as it
    was asked for and in the finer one. `refinement` says what was finer, `allowed` is the change
    up to which `converged` is true, `exact` whether the gradient method is exact for its solve.
    """

    result: float
    loss: float | None
    gradient: float | None
    f_calls: tuple[int, int]
    refinement: str
    allowed: float
    exact: bool

    @property
    def converged(self) -> bool:
        """Whether no change exceeds `allowed`."""
        changes = (self.result, self.loss, self.gradient)
        return all(change is None or change <= self.allowed for change in changes)

    def __str__(self) -> str:
        """Return the changes, and whether the tolerance is good enough."""
        named = {"result": self.result, "loss": self.loss, "gradient": self.gradient}
        changes = [f"the {name} by {x:.1e}" for name, x in named.items() if x is not None]
        listed = " and ".join(filter(None, [", ".join(changes[:-1]), changes[-1]]))
        calls = f"{self.f_calls[1]} calls of f for {self.f_calls[0]}"
        return f"With {self.refinement} ({calls}), {listed} of its size: {self._verdict()}"

    def _verdict(self) -> str:
        limit = f"{self.allowed:.1e}"
        if self.converged:
            return f"no change exceeds {limit}, which is good enough."
        fine = all(x is None or x <= self.allowed for x in (self.result, self.loss))
        if fine and not self.exact:
            return (
                f"only the gradient changes by more than {limit}: tighten the gradient method's "
                "tolerance, or take one that is exact, such as gradient='direct'."
            )
        return f"more than {limit}, so it is not good enough: solve with {self.refinement}."


def check_convergence(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    *,
    loss: Callable[[Solution], Tensor] | None = None,
    factor: float = 10.0,
    allowed: float = 1e-3,
    **options: Any,
) -> Convergence:
    """Solve twice, the second time more finely, and return what changes.

    Finer is: `rtol` and `atol` divided by `factor`, those of the gradient method too where it has
    its own; half of every step where steps are given. `options` are those of `solve`,
    `loss(solution)` is a real 0-d tensor. No tensor's `.grad` is touched.

    Raises ArgumentError for a factor up to 1 or a loss that is no real number, and whatever
    `solve` raises.
    """
    if not factor > 1.0:
        raise ArgumentError(f"factor is larger than 1, such as 10; got {factor}")
    finer, refinement = _finer(options, factor)
    method = options.get("gradient", DEFAULT_GRADIENT)
    exact = (registry.gradients.create(method) if isinstance(method, str) else method).exact
    coarse, coarse_loss, coarse_grads = _solved(f, y0, t, loss, options)
    fine, fine_loss, fine_grads = _solved(f, y0, t, loss, finer)
    return Convergence(
        result=_change_of_states(coarse, fine),
        loss=None
        if fine_loss is None or coarse_loss is None
        else _relative(abs(coarse_loss - fine_loss), abs(fine_loss)),
        gradient=_change_of_gradients(coarse_grads, fine_grads),
        f_calls=(_total(coarse.stats.f_calls), _total(fine.stats.f_calls)),
        refinement=refinement,
        allowed=allowed,
        exact=exact,
    )


def _finer(options: dict[str, Any], factor: float) -> tuple[dict[str, Any], str]:
    """Return the options of the finer solve, and in words what is finer."""
    solver = options.get("solver", DEFAULT_SOLVER)
    stepper = registry.solvers.create(solver) if isinstance(solver, str) else solver
    controller, dt = options.get("controller"), options.get("dt")
    if isinstance(controller, FixedSteps) or (controller is None and not stepper.adaptive):
        if isinstance(controller, FixedSteps) and controller.grid is not None:
            halves = [t for a, b in pairwise(controller.grid) for t in (a, (a + b) / 2)]
            grid = FixedSteps([*halves, controller.grid[-1]])
            return {**options, "controller": grid}, "every step halved"
        # Without dt, solve says what is missing.
        return {**options, "dt": None if dt is None else dt / 2}, "dt / 2"
    finer = dict(options)
    for name, default in (("rtol", DEFAULT_RTOL), ("atol", DEFAULT_ATOL)):
        given = options.get(name)
        finer[name] = _divided(default if given is None else given, factor)
    method = options.get("gradient")
    own = {
        name: _divided(getattr(method, name), factor)
        for name in ("rtol", "atol")
        if getattr(method, name, None) is not None
    }
    if own and dataclasses.is_dataclass(method) and not isinstance(method, type):
        finer["gradient"] = dataclasses.replace(method, **own)
    return finer, f"rtol and atol / {factor:g}"


def _divided(tolerance: Any, factor: float) -> Any:
    return pytree.tree_map(lambda x: x / factor, tolerance)


def _solved(
    f: Callable[..., Any],
    y0: Any,
    t: Any,
    loss: Callable[[Solution], Tensor] | None,
    options: dict[str, Any],
) -> tuple[Solution, float | None, Gradients | None]:
    if loss is None:
        with torch.no_grad():
            return solve(f, y0, t, **options), None, None
    with torch.enable_grad():
        start = pytree.tree_map_only(Tensor, _started, y0)
        solution = solve(f, start, t, **options)
        value = loss(solution)
        if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
            raise ArgumentError(
                "loss takes a solution and returns a real 0-d tensor; got "
                + (f"shape {list(value.shape)}" if isinstance(value, Tensor) else repr(value)[:60])
            )
        if not value.requires_grad:
            return solution, float(value), None
        starts = {
            -1 - i: leaf
            for i, leaf in enumerate(pytree.tree_leaves(start))
            if isinstance(leaf, Tensor)
        }
        own = {id(leaf) for leaf in starts.values()}
        # The starts of both solves go by their places, all others by what they are.
        leaves = starts | {id(x): x for x in _leaves(value) if id(x) not in own}
        grads = torch.autograd.grad(
            value, list(leaves.values()), retain_graph=True, allow_unused=True
        )
    found = zip(leaves.items(), grads, strict=True)
    return solution, float(value.detach()), {key: (leaf, grad) for (key, leaf), grad in found}


def _started(leaf: Tensor) -> Tensor:
    # What else a user gives is for solve to refuse.
    differentiable = leaf.is_floating_point() or leaf.is_complex()
    return leaf.detach().requires_grad_(differentiable)


def _leaves(value: Tensor) -> list[Tensor]:
    """Return the leaf tensors that a value depends on."""
    leaves, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.append(leaf)
        waiting += [following for following, _ in node.next_functions]
    return leaves


def _change_of_states(coarse: Solution, fine: Solution) -> float:
    change: Tensor | float = 0.0
    size: Tensor | float = 0.0
    for pair in zip(pytree.tree_leaves(coarse.ys), pytree.tree_leaves(fine.ys), strict=True):
        a, b = (_rows(x) for x in pair)
        # Beyond the padded end of a sample's times both are NaN.
        known = ~(a.isnan() & b.isnan())
        change = change + torch.where(known, a - b, 0.0).abs().square().sum(1)
        size = size + torch.where(known, b, 0.0).abs().square().sum(1)
    changes, sizes = torch.as_tensor(change), torch.as_tensor(size)
    return _relative(math.sqrt(float(changes.max())), math.sqrt(float(sizes.max())))


def _rows(states: Tensor) -> Tensor:
    """Return states `[T, ...]` as `[T, n]` in double precision."""
    wide = states.detach().to(torch.promote_types(states.dtype, torch.float64))
    return wide.unsqueeze(-1).flatten(1)


def _change_of_gradients(coarse: Gradients | None, fine: Gradients | None) -> float | None:
    if coarse is None or fine is None:
        return None
    change = size = 0.0
    for key in coarse.keys() | fine.keys():
        leaf = (fine.get(key) or coarse[key])[0]
        a, b = (
            torch.zeros_like(leaf) if grad is None else grad
            for grad in (found.get(key, (leaf, None))[1] for found in (coarse, fine))
        )
        change += float((a - b).abs().double().square().sum())
        size += float(b.abs().double().square().sum())
    return _relative(math.sqrt(change), math.sqrt(size))


def _relative(change: float, size: float) -> float:
    if change == 0.0:
        return 0.0
    return change / size if size else math.inf


def _total(count: int | Tensor) -> int:
    return int(torch.as_tensor(count).sum())
