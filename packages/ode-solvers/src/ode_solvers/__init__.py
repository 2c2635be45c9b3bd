"""Solvers and gradient methods.

Names are imported when they are first used, so that listing plugins never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_core import Direct, solve
    from ode_solvers.explicit import RungeKutta
    from ode_solvers.gradients.adjoint import Adjoint
    from ode_solvers.gradients.checkpoint import Checkpoint
    from ode_solvers.gradients.forward import Forward
    from ode_solvers.gradients.interpolated import Interpolated
    from ode_solvers.gradients.reversible import Reversible
    from ode_solvers.gradients.symplectic import Symplectic
    from ode_solvers.implicit.linear import LU, Krylov
    from ode_solvers.implicit.stepper import ImplicitRungeKutta
    from ode_solvers.implicit.table import ImplicitTableau
    from ode_solvers.tableau import Dense, Tableau

_EXPORTS = {
    "solve": "ode_core.api",
    "Direct": "ode_core.direct",
    "Reversible": "ode_solvers.gradients.reversible",
    "RungeKutta": "ode_solvers.explicit",
    "Adjoint": "ode_solvers.gradients.adjoint",
    "Checkpoint": "ode_solvers.gradients.checkpoint",
    "Forward": "ode_solvers.gradients.forward",
    "ImplicitRungeKutta": "ode_solvers.implicit.stepper",
    "ImplicitTableau": "ode_solvers.implicit.table",
    "Krylov": "ode_solvers.implicit.linear",
    "LU": "ode_solvers.implicit.linear",
    "Dense": "ode_solvers.tableau",
    "Symplectic": "ode_solvers.gradients.symplectic",
    "Interpolated": "ode_solvers.gradients.interpolated",
    "Tableau": "ode_solvers.tableau",
}

__all__ = [
    "LU",
    "Adjoint",
    "Checkpoint",
    "Dense",
    "Direct",
    "Forward",
    "ImplicitRungeKutta",
    "ImplicitTableau",
    "Interpolated",
    "Krylov",
    "Reversible",
    "RungeKutta",
    "Symplectic",
    "Tableau",
    "solve",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
