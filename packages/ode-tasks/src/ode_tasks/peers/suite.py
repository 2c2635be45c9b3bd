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
_COMPILED = ", compiled"


class Suite:
    """`ode_core.solve`."""

    name = SUITE
    estimate = 1.0
    missing = ""

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return steppings forwards, gradient methods backwards; the first in more ways."""
        if direction == BACKWARD:
            exact = {name: registry.gradients[name].exact for name in _GRADIENTS}
            variants = [
                Variant(name, EXACT if exact[name] else CONTINUOUS, base=name in _BASES)
                for name in _GRADIENTS
            ]
        else:
            names = ("per_sample", "shared") if work.per_sample else ("shared", "per_sample")
            kept = names[:1] if work.dt or work.grows else names
            variants = [Variant(name, base=name == names[0]) for name in kept]
        if work.dt is None and not work.grows:
            variants.insert(1, Variant(variants[0].name + _INTEGRAL))
        if not work.per_sample and not work.grows:
            variants.insert(1, Variant(variants[0].name + _COMPILED))
        return variants

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve with the suite's defaults but for tolerance and step size."""
        del threads
        work, taken = posed.work, _Taken()
        options: dict[str, Any] = (
            {"dt": work.dt} if work.dt else {"rtol": work.rtol, "atol": work.atol}
        )
        way, _, manner = variant.name.partition(", ")
        options["gradient" if direction == BACKWARD else "stepping"] = way
        compiled = f", {manner}" == _COMPILED
        if compiled:
            options["compile"] = True
        elif manner:
            options["controller"] = PIDController(pcoeff=0.0, icoeff=1.0)

        def states(field: nn.Module, y0: Tensor) -> Tensor:
            solution = solve(field, y0, posed.t, solver=work.solver, **options)
            taken.stats = solution.stats
            ys: Tensor = solution.ys
            return ys

        calls = (lambda: taken.calls) if compiled else None
        return prepared(posed, direction, states, lambda _: taken.steps, calls=calls)


class _Taken:
    """The counts of the last solve."""

    stats: Stats

    @property
    def calls(self) -> tuple[int, int]:
        """Calls of f in both passes of a solve with one step size for all."""
        forward: Any = self.stats.f_calls
        backward: Any = self.stats.backward_f_calls
        return forward, backward

    @property
    def steps(self) -> int:
        """Attempted steps, of the slowest sample where each has its own."""
        attempted: Any = self.stats.accepted + self.stats.rejected
        return int(attempted.max()) if isinstance(attempted, Tensor) else attempted
