"""Holding a gradient method against back-propagation through the same solve."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_core import registry
from ode_core.capture import Watched
from ode_core.direct import Direct
from ode_core.errors import ArgumentError, GradientWarning, UnsupportedError
from ode_core.graph import name_of, outside
from ode_core.replay import Replay
from ode_core.samples import SampleProblem
from ode_core.solution import Stats
from ode_core.transforms import transformed

if TYPE_CHECKING:
    from ode_core.problem import Problem
    from ode_core.protocols import GradientMethod, Plan


@dataclass
class Count:
    """How many backward passes were verified so far, by all solves that share one `Verified`.

    `busy` while one of them is: what it goes through further back is not another one.
    """

    done: int = 0
    busy: bool = False


@dataclass(frozen=True, eq=False)
class Verified:
    """A gradient method whose first backward passes are compared with those by `direct`.

    In each of the first `calls` backward passes the problem is solved once more by `direct`, in its
    memory, and the same gradients of the states are pulled back through both: to y0 and to every
    tensor that takes part. Where one differs by more than `limit`, relative to its exact gradient
    or to `limit` times the gradient of all where that is larger, GradientWarning says by how much.
    The result is that of `method`, which is not changed; a hook on a tensor sees the comparison,
    too. Gradients of the times, and second derivatives, are not compared.

    `count` is the only thing that changes: a solver or a problem is never marked. One object may
    serve many solves, which count together.

    Raises ArgumentError for `direct`, with which there is nothing to compare, and for numbers that
    are not positive.
    """

    method: GradientMethod | str
    calls: int = 1
    limit: float = 1e-2
    count: Count = field(default_factory=Count, repr=False)

    def __post_init__(self) -> None:
        inner: Any = self.method
        if isinstance(inner, str):
            inner = registry.gradients.create(inner)
            object.__setattr__(self, "method", inner)
        if isinstance(inner, Direct | Verified):
            raise ArgumentError(
                f"a gradient method is verified against 'direct'; gradient={inner.name!r} "
                f"{'is that itself' if isinstance(inner, Direct) else 'is verified already'}, so "
                "verifying it has no effect: drop it, or take another gradient method"
            )
        if not isinstance(self.calls, int) or self.calls < 1:
            raise ArgumentError(
                f"calls is how many backward passes are verified, from 1; got {self.calls!r:.60}"
            )
        if not self.limit > 0.0:
            raise ArgumentError(f"limit is a relative error above 0; got {self.limit!r:.60}")

    @property
    def _inner(self) -> Any:
        return self.method

    @property
    def name(self) -> str:
        """The name of the method that is verified."""
        name: str = self._inner.name
        return name

    @property
    def exact(self) -> bool:
        """Whether the method that is verified is exact."""
        return bool(self._inner.exact)

    @property
    def per_sample(self) -> bool:
        """Whether the method takes per-sample steps."""
        return bool(getattr(self._inner, "per_sample", False))

    @property
    def differentiates_time(self) -> bool:
        """Whether the method gives gradients of the times itself."""
        return bool(getattr(self._inner, "differentiates_time", False))

    @property
    def discrete_times(self) -> bool:
        """Whether the method differentiates the discrete solve in time, too."""
        return bool(getattr(self._inner, "discrete_times", False))

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse what the method refuses, and a solver that `direct` cannot differentiate."""
        self._inner.check(problem, plan)
        if not getattr(plan.solver, "differentiable", True):
            raise UnsupportedError(
                f"{plan.solver.name} takes its steps outside of torch, so there is no gradient by "
                "'direct' to verify with; drop the verification, or take another solver"
            )

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve by the method and, while there are calls left, attach the comparison."""
        watching = torch.is_grad_enabled() and self.count.done < self.calls and not transformed()
        replay = Replay(problem.field, problem.y0.device) if watching else None
        trajectory = self._inner.solve(problem, plan)
        if replay is not None and trajectory.ys.requires_grad:
            replay.settle()
            comparison = _Comparison(self, problem, plan, replay, trajectory.ys)
            trajectory.ys = _Seen.apply(trajectory.ys, comparison)
        return trajectory


class _Seen(torch.autograd.Function):
    """The identity, which shows the gradient that passes."""

    @staticmethod
    def forward(ctx: Any, ys: Tensor, comparison: _Comparison) -> Tensor:
        ctx.comparison = comparison
        # The caller may write into what it gets; the comparison starts from what was there.
        return ys.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.comparison(grad.detach())
        return grad, None


class Difference(NamedTuple):
    """How far one tensor's gradient is off: relative error and cosine."""

    error: float
    cosine: float


@dataclass(frozen=True, eq=False)
class _Comparison:
    """The backward pass of one solve, by the method and by `direct`."""

    verified: Verified
    problem: Problem | SampleProblem
    plan: Plan
    replay: Replay
    ys: Tensor

    def __call__(self, grad: Tensor) -> None:
        count = self.verified.count
        if count.busy or count.done >= self.verified.calls:
            return
        count.done += 1
        count.busy = True
        try:
            self._compare(grad)
        finally:
            count.busy = False

    def _compare(self, grad: Tensor) -> None:
        problem = self.problem
        fresh: Any = replace(problem, stats=Stats())
        with self.replay.again(()):
            tensors = self._tensors()
            with torch.enable_grad():
                exact_ys = Direct().solve(fresh, self.plan).ys
        problem.field.forget()
        if exact_ys.shape != self.ys.shape or not exact_ys.requires_grad:
            self._warn(
                "cannot be verified: solved again by 'direct', f gave other steps or depends on "
                "nothing; let f be the same function in both passes"
            )
            return
        calls = problem.stats.backward_f_calls
        # Further back lies the caller's graph, which is still to be gone through.
        options: Any = {"retain_graph": True, "allow_unused": True}
        found = torch.autograd.grad(self.ys, tensors, grad, **options)
        problem.stats.backward_f_calls = calls
        exact = torch.autograd.grad(exact_ys, tensors, grad, **options)
        self._judge(tensors, found, exact)

    def _tensors(self) -> list[Tensor]:
        """Return the start, all that the states depend on, and all that f is seen to depend on.

        Both graphs lead to the very same tensors, so that one on which another, or the start,
        depends counts alike in both.
        """
        problem = self.problem
        watched = Watched(problem.field)
        begin = problem.start if isinstance(problem, SampleProblem) else problem.times[0]
        with torch.no_grad():
            watched(begin, problem.y0.detach())
        tensors = [problem.y0] if problem.y0.requires_grad else []
        tensors += [*watched.tensors, *outside(self.ys, (problem.y0, problem.ts))]
        return list({id(x): x for x in tensors}.values())

    def _judge(self, tensors: list[Tensor], found: Any, exact: Any) -> None:
        limit, zeros = self.verified.limit, [torch.zeros_like(x) for x in tensors]
        pairs = [
            tuple(zero if x is None else x for x in pair)
            for zero, *pair in zip(zeros, found, exact, strict=True)
        ]
        total = torch.stack([_flat(right).norm() for _, right in pairs]).norm()
        apart = [_difference(left, right, limit * total) for left, right in pairs]
        # NaN is the worst of all.
        ranked = [d.error if d.error == d.error else float("inf") for d in apart]
        worst = max(range(len(apart)), key=ranked.__getitem__)
        if ranked[worst] <= limit:
            return
        x, (error, cosine) = tensors[worst], apart[worst]
        is_start = x is self.problem.y0
        what = "y0" if is_start else name_of(x, self.problem.field.f).rstrip(",")
        self._warn(
            f"differs from that by 'direct' on the same steps by {error:.3g} (relative error; "
            f"cosine {cosine:.3g}) for {what}, more than {limit:.3g}; take gradient='checkpoint', "
            "which is exact, or smaller steps or a tighter tolerance"
        )

    def _warn(self, text: str) -> None:
        solver = self.plan.solver.name
        message = f"the gradient by {self.verified.name!r} through {solver} {text}"
        warnings.warn(message, GradientWarning, stacklevel=2)


def _flat(x: Tensor) -> Tensor:
    dense = x.to_dense() if x.is_sparse else x
    return dense.flatten().to(torch.complex128 if x.is_complex() else torch.float64)


def _difference(found: Tensor, exact: Tensor, least: Tensor) -> Difference:
    left, right = _flat(found), _flat(exact)
    apart = float((left - right).norm())
    size = float(torch.maximum(right.norm(), least))
    lengths = float(left.norm() * right.norm())
    inner = float((left.conj() * right).real.sum())
    return Difference(
        0.0 if apart == 0.0 else apart / size if size else float("inf"),
        inner / lengths if lengths else float("nan"),
    )
