"""Back-propagation through the solver: the loop itself, with gradients recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ode_core.attach import lying_as
from ode_core.errors import UnsupportedError
from ode_core.loops.outputs import forward
from ode_core.transforms import transformed

if TYPE_CHECKING:
    from ode_core.problem import Problem
    from ode_core.protocols import Plan
    from ode_core.solution import Trajectory


@dataclass(frozen=True)
class Direct:
    """Gradients by autograd through every accepted step: exact for the discrete solve.

    It keeps what each stage needs: memory grows with steps times stages. Accepted step sizes are
    constants of the differentiation.
    """

    name: str = "direct"
    exact: bool = True
    per_sample: bool = True
    discrete_times: bool = True

    def check(self, problem: Problem, plan: Plan) -> None:
        """Refuse a solver that does not go through the transforms of torch.func, within one."""
        del problem
        if transformed() and not getattr(plan.solver, "transforms", True):
            raise UnsupportedError(
                f"{plan.solver.name} does not go through the transforms of torch.func; take "
                "torch.autograd.grad, or another solver such as an explicit one"
            )

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve with whatever gradient mode is set."""
        try:
            made = forward(problem, plan)
        except RuntimeError as error:
            if transformed() and str(error).startswith("vmap"):
                raise UnsupportedError(
                    f"{plan.solver.name} looks at values to choose what to do next, and vmap has "
                    "none to look at; take fixed steps of an explicit method (dt=...), or, in "
                    "place of vmap, solve the batch with stepping='per_sample'"
                ) from error
            raise
        y0 = problem.y0
        if made.ys.requires_grad and not (y0.is_contiguous() or transformed()):
            made.ys.register_hook(lambda grad: lying_as(y0, grad))
        return made
