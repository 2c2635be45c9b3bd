"""The suite itself, in the ways that a user might solve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ode_core import registry
from ode_core.api import solve
from ode_core.control import PIDController
from ode_tasks.peers.contest import BACKWARD, CONTINUOUS, EXACT, SUITE, Variant
from ode_tasks.peers.in_torch import prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from ode_core.solution import Stats
    from ode_tasks.peers.contest import Prepared
    from ode_tasks.peers.works import Posed, Work

_GRADIENTS = ("direct", "checkpoint", "symplectic", "adjoint", "interpolated")
_BASES = ("direct", "adjoint")

# The peers' controller, with which all take the same steps.
_INTEGRAL = ", I controller"


class Suite:
    """`ode_core.solve`."""

    name = SUITE
    estimate = 1.0
    missing = ""

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return steppings forwards, gradient methods backwards; the first also by I control."""
        if direction == BACKWARD:
            exact = {name: registry.gradients[name].exact for name in _GRADIENTS}
            variants = [
                Variant(name, EXACT if exact[name] else CONTINUOUS, base=name in _BASES)
                for name in _GRADIENTS
            ]
        else:
            names = ("per_sample", "shared") if work.per_sample else ("shared",)
            variants = [Variant(name, base=name == names[0]) for name in names]
        if work.dt is None and not work.grows:
            variants.insert(1, Variant(variants[0].name + _INTEGRAL))
        return variants

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve with the suite's defaults but for tolerance and step size."""
        del threads
        work, taken = posed.work, _Taken()
        options: dict[str, Any] = (
            {"dt": work.dt} if work.dt else {"rtol": work.rtol, "atol": work.atol}
        )
        if variant.name.endswith(_INTEGRAL):
            options["controller"] = PIDController(pcoeff=0.0, icoeff=1.0)
        way = "gradient" if direction == BACKWARD else "stepping"
        options[way] = variant.name.removesuffix(_INTEGRAL)

        def states(field: nn.Module, y0: Tensor) -> Tensor:
            solution = solve(field, y0, posed.t, solver=work.solver, **options)
            taken.stats = solution.stats
            ys: Tensor = solution.ys
            return ys

        return prepared(posed, direction, states, lambda calls: taken.steps)


class _Taken:
    """The counts of the last solve."""

    stats: Stats

    @property
    def steps(self) -> int:
        attempted: Any = self.stats.accepted + self.stats.rejected
        return int(attempted.max()) if isinstance(attempted, Tensor) else attempted
