"""The continuous adjoint: state, adjoint and parameter gradient solved backwards as one system."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ode_core import (
    ArgumentError,
    FixedSteps,
    PIDController,
    Tolerance,
    UnsupportedError,
    solvers,
)
from ode_core.attach import attach, refuse_transforms
from ode_core.capture import Watched
from ode_core.loops.outputs import forward
from ode_core.planning import DEFAULT_ATOL, DEFAULT_RTOL
from ode_core.replay import Replay
from ode_core.samples import SampleProblem
from ode_solvers.gradients.anchors import Anchors, Belt, loosest
from ode_solvers.gradients.augmented import Augmented
from ode_solvers.gradients.backward import Backward, following, packed_plan, pulled, system, until
from ode_solvers.gradients.sample_adjoint import solve_samples_adjoint
from ode_solvers.gradients.sample_forward import refuse_what_has_no_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ode_core import Plan, Solver
    from ode_core.loops.march import Accepted
    from ode_core.problem import Problem
    from ode_core.replay import Again


@dataclass(frozen=True)
class Adjoint:
    """Gradients from the adjoint ODE: memory does not grow with the steps, exactness does not hold.

    Backwards from t1, [y, a] obeys y' = f, a' = -a df/dy; a jumps by the loss's gradient at every
    output, where y is set to the stored state. The parameters' gradient is the integral of
    -a df/dtheta, summed up step by step. The gradient is that of the continuous problem: it
    converges with the tolerance and can be far off with few, large steps. `solver`, `rtol` and
    `atol` default to those of the forward solve, whose last step size is then the first; fixed
    steps, and a solver without an error estimate, go back over the nodes of the forward solve.

    `norm="semi"` leaves the parameters' gradient out of the error control: fewer steps. With
    per-sample steps, none of which is its own, its sums are refined within them, or not.

    At most `anchors` accepted states, of every sample where steps are its own, are stored beside
    the outputs, never more than every fourth.
    Where the backward solve's state has left one of them, or the start, by more than a tolerance,
    within a shared step by more than five, it is set to it; beyond 100 tolerances SolveError is
    raised, or with `drift="warn"`, and always with fixed steps, a warning is given. `anchors=0` is
    the plain algorithm, which looks at nothing.

    `parameters` are the tensors that get gradients beside y0 and the times; by default they are
    found by watching f. `backward(adjoint, plan, times)` may replace the plan of the backward solve
    from the last of the forward `times` to the first, whose state `adjoint` packs; the parameters'
    gradient is then a part of that state.

    Source: Chen et al., Neural ordinary differential equations, NeurIPS 2018, algorithm 1; Kidger,
    Chen, Lyons, "Hey, that's not an ODE", ICML 2021, for the seminorm; Gholami, Keutzer, Biros,
    ANODE, IJCAI 2019, for what goes wrong without anchors.
    """

    solver: Solver | str | None = None
    rtol: float | Tensor | None = None
    atol: float | Tensor | None = None
    norm: str = "full"
    anchors: int = 16
    drift: str = "raise"
    parameters: tuple[Tensor, ...] | None = field(default=None, compare=False)
    backward: Callable[[Augmented, Plan, tuple[float, ...]], Plan] | None = None
    name: str = "adjoint"
    exact: bool = False
    differentiates_time: bool = True
    per_sample: bool = True

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("norm", self.norm, ("full", "semi")),
            ("drift", self.drift, ("raise", "warn")),
        ):
            if value not in allowed:
                raise ArgumentError(
                    f"Adjoint takes {what}={allowed[0]!r} or {what}={allowed[1]!r}; "
                    f"got {value!r:.60}"
                )
        if not isinstance(self.anchors, int) or self.anchors < 0:
            raise ArgumentError(
                f"anchors is a number of states to store, from 0; got {self.anchors!r:.60}"
            )
        if self.anchors == 0 and self.drift != "raise":
            raise ArgumentError(
                "drift has no effect with anchors=0, the plain algorithm; drop one of them"
            )

    def check(self, problem: Problem | SampleProblem, plan: Plan) -> None:
        """Refuse tolerances for a backward solve with fixed steps, pairs, and what has no row."""
        solver = self._plan(plan).solver
        if getattr(solver, "takes_pairs", False) and torch.is_grad_enabled():
            raise UnsupportedError(
                f"the adjoint of a pair (q, v) is none that {solver.name} could solve backwards; "
                "give Adjoint another solver, such as Adjoint('dopri5'), or take 'checkpoint'"
            )
        if isinstance(problem, SampleProblem):
            self._check_samples(problem, plan)
        given = self.rtol is not None or self.atol is not None
        if given and self._plan(plan).tolerance is None:
            raise ArgumentError(
                "Adjoint(rtol=..., atol=...) have no effect on a backward solve with fixed steps; "
                "drop them, or give Adjoint an adaptive solver"
            )

    def _check_samples(self, problem: SampleProblem, plan: Plan) -> None:
        refuse_what_has_no_row(problem, self.name)
        solver = self._plan(plan).solver
        if not getattr(solver, "per_sample", False):
            raise UnsupportedError(
                f"the backward solver {solver.name} takes shared steps only; give Adjoint another "
                "solver, or drop stepping='per_sample'"
            )
        if self.backward is not None:
            raise UnsupportedError(
                "Adjoint(backward=...) replaces a backward solve with shared steps; drop it, or "
                "stepping='per_sample'"
            )

    def solve(self, problem: Problem | SampleProblem, plan: Plan) -> Any:
        """Solve without a graph and attach the backward solve."""
        if isinstance(problem, SampleProblem):
            return solve_samples_adjoint(problem, plan, self._plan(plan), self)
        if not torch.is_grad_enabled():
            return forward(problem, plan)
        refuse_transforms(self.name, problem.y0)
        replay = Replay(problem.field, problem.y0.device)
        watched = Watched(problem.field)
        nodes, anchors = [problem.times[0]], Anchors(self.anchors)
        back = self._plan(plan)
        fixed = back.tolerance is None

        def keep(accepted: Accepted, outputs: list[int]) -> None:
            del outputs
            if fixed:
                nodes.append(accepted.t1)
            anchors.see(accepted.t1, accepted.step.y)

        detached = replace(problem, y0=problem.y0.detach())
        with torch.no_grad():
            trajectory = forward(detached, plan, on_step=keep, watched=watched)
        replay.settle()
        if trajectory.status.failed:
            return trajectory
        back = following(back, plan, trajectory)
        problem = problem.at(trajectory.times, trajectory.wanted)
        ends = until(nodes, problem.times[-1])
        tensors = watched.tensors if self.parameters is None else self.parameters
        given = {id(x) for x in tensors}
        others = tuple(x for x in watched.tensors if id(x) not in given)
        kept = _Kept(ends, anchors.states, others, plan.tolerance)
        pull = _Pull(problem, back, kept, self, replay)
        if problem.ts.requires_grad:
            tensors = (*tensors, problem.ts)
        trajectory.ys = attach(self.name, pull, trajectory.ys, problem.y0, tensors)
        return trajectory

    def _plan(self, plan: Plan) -> Plan:
        """Return the plan of the backward solve, without a first step."""
        own = solvers.create(self.solver) if isinstance(self.solver, str) else self.solver
        solver = plan.solver if own is None else own
        given = self.rtol is not None or self.atol is not None
        tolerance, controller = plan.tolerance, plan.controller
        if not solver.adaptive:
            tolerance = None
        elif given:
            rtol, atol = (
                (DEFAULT_RTOL, DEFAULT_ATOL)
                if tolerance is None
                else (tolerance.rtol, tolerance.atol)
            )
            tolerance = Tolerance(
                rtol if self.rtol is None else self.rtol, atol if self.atol is None else self.atol
            )
            controller = PIDController() if isinstance(controller, FixedSteps) else controller
        return replace(
            plan,
            solver=solver,
            controller=controller,
            tolerance=tolerance,
            dt=None,
            dense=False,
            record_steps=False,
            start=None,
        )


@dataclass(frozen=True)
class _Kept:
    """What the forward solve leaves: its nodes, anchors and tolerance.

    `others` are the tensors that take part and get no gradient.
    """

    nodes: tuple[float, ...]
    anchors: dict[float, Tensor]
    others: tuple[Tensor, ...]
    tolerance: Tolerance | None


@dataclass(frozen=True)
class _Pull:
    """The backward pass of one solve."""

    problem: Problem
    plan: Plan
    kept: _Kept
    method: Adjoint
    replay: Replay

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The stored states."""
        return tuple(self.kept.anchors.values())

    def __call__(
        self, grad_ys: Tensor, ys: Tensor, y0: Tensor, tensors: tuple[Tensor, ...]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        timed = self.problem.ts.requires_grad
        known = grad_ys, ys, y0
        parameters = tensors[:-1] if timed else tensors
        with self.replay.again((*parameters, *self.kept.others)) as again:
            return self._pulled(again, again.tensors[: len(parameters)], known, timed=timed)

    def _pulled(
        self,
        again: Again,
        parameters: tuple[Tensor, ...],
        known: tuple[Tensor, Tensor, Tensor],
        *,
        timed: bool,
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        problem, method, y0 = self.problem, self.method, known[-1]
        # SciPy's steps, and a plan of one's own, see the parameters' gradient in the state.
        inside = method.backward is not None or getattr(self.plan.solver, "chooses_steps", False)
        semi = method.norm == "semi"
        adjoint, totals = system(
            again, y0, parameters, self.plan, inside=inside, semi=semi, timed=timed
        )
        plan = packed_plan(self.plan, adjoint, self.kept.nodes, semi=semi)
        if method.backward is not None and isinstance(adjoint, Augmented):
            plan = method.backward(adjoint, plan, problem.times)
        belt = self._belt(y0, fixed=plan.tolerance is None)
        back = Backward(problem, plan, method.name, belt)
        return pulled(back, adjoint, totals, known, timed=timed)

    def _belt(self, y0: Tensor, *, fixed: bool) -> Belt | None:
        if self.method.anchors == 0:
            return None
        times = self.problem.times
        inside = {t: y for t, y in self.kept.anchors.items() if t not in times}
        given = self.plan.tolerance, self.kept.tolerance
        return Belt(
            inside | {times[0]: y0},
            loosest([x or Tolerance(DEFAULT_RTOL, DEFAULT_ATOL) for x in given], y0.dtype),
            "take gradient='checkpoint', a tighter tolerance, smaller steps or more anchors",
            strict=self.method.drift == "raise" and not fixed and None not in given,
        )
