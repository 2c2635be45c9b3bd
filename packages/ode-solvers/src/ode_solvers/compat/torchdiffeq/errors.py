"""The error of a solve that could not be finished."""

from __future__ import annotations

from ode_core import SolveError


class IntegrationError(SolveError, AssertionError):
    """A solve that could not be finished; torchdiffeq fails an assertion there, and so does this.

    `solution` is the partial solution, NaN after the failure.
    """
