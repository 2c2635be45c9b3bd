"""The one list of checks, in the order in which they run."""

from __future__ import annotations

from ode_core.testing.results import TIERS, Check
from ode_core.testing.tiers import (
    accuracy,
    control,
    device,
    gradient,
    hygiene,
    interface,
    packaging,
    per_sample,
    stability,
    stepping,
)

_MODULES = (
    packaging,
    stepping,
    interface,
    accuracy,
    control,
    stability,
    per_sample,
    gradient,
    device,
    hygiene,
)

CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (check for module in _MODULES for check in module.CHECKS),
        key=lambda check: TIERS.index(check.tier),
    )
)
