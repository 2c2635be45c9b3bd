"""torchode: every sample with a step size of its own, always."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ode_tasks.peers.contest import BACKWARD, Variant, missing, refuse, tolerances
from ode_tasks.peers.in_torch import prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from ode_tasks.peers.contest import Prepared
    from ode_tasks.peers.works import Posed, Work

_CONSTANT = "AutoDiffAdjoint, step sizes constant"


class Torchode:
    """torchode: states `[B, F]`, an integral controller."""

    name = "torchode"
    estimate = 2.0 / 3.0

    @property
    def missing(self) -> str:
        """The pip requirement, "" where it is installed."""
        return missing("torchode", "torchode")

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return its differentiated loop, and that without the gradient of its step sizes."""
        if work.solver != "dopri5":
            raise refuse(self.name, work.solver)
        if direction == BACKWARD:
            return Variant("AutoDiffAdjoint"), Variant(_CONSTANT)
        return (Variant("AutoDiffAdjoint"),)

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve, without the counts that it can keep at some cost."""
        del threads
        torchode: Any = importlib.import_module("torchode")
        shape = posed.y0.shape
        rtol, atol = tolerances(posed.work, self.estimate)
        times = posed.t.expand(len(posed.y0), -1)
        taken: list[Tensor] = []

        def states(field: nn.Module, y0: Tensor) -> Tensor:
            def flat(t: Tensor, y: Tensor) -> Tensor:
                out: Tensor = field(t, y.view(y.shape[0], *shape[1:]))
                return out.flatten(1)

            term = torchode.ODETerm(flat, with_stats=False)
            controller = torchode.IntegralController(atol=atol, rtol=rtol, term=term)
            loop = torchode.AutoDiffAdjoint(
                torchode.Dopri5(term=term),
                controller.to(y0.device),
                backprop_through_step_size_control=variant.name != _CONSTANT,
            )
            start = torchode.InitialValueProblem(y0=y0.flatten(1), t_eval=times)
            solution = loop.to(y0.device).solve(start)
            taken[:] = [solution.stats["n_steps"]]
            ys: Tensor = solution.ys
            return ys.transpose(0, 1).reshape(-1, *shape)

        return prepared(posed, direction, states, lambda calls: int(taken[0].max()))
