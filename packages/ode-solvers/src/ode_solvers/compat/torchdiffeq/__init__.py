"""torchdiffeq's functions on this suite's solvers: programs change one import and go on.

Signatures, method names, options and callbacks are those of torchdiffeq 0.2.5 and of its main
branch; torchdiffeq itself is not needed.
"""

from ode_solvers.compat.torchdiffeq.adjoint import odeint_adjoint
from ode_solvers.compat.torchdiffeq.errors import IntegrationError
from ode_solvers.compat.torchdiffeq.events import odeint_event
from ode_solvers.compat.torchdiffeq.odeint import odeint, odeint_dense

__all__ = ["IntegrationError", "odeint", "odeint_adjoint", "odeint_dense", "odeint_event"]
