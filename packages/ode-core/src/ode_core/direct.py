"""Back-propagation through the solver: the loop itself, with gradients recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ode_core.loops.outputs import forward

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

    def check(self, problem: Problem, plan: Plan) -> None:
        """Accept every combination."""

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve with whatever gradient mode is set."""
        return forward(problem, plan)
