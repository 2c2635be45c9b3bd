"""Initial value problems with their end values to 18 digits, by name.

`DETEST` are the 25 names of the smooth DETEST problems, `JUMPING` the five with discontinuities.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

from ode_core.testing.problems.detest import detest_abde
from ode_core.testing.problems.detest_c import detest_c
from ode_core.testing.problems.discontinuous import discontinuous
from ode_core.testing.problems.reference import ReferenceProblem
from ode_core.testing.problems.smooth import celestial, smooth
from ode_core.testing.problems.stiff import stiff

PROBLEMS: Mapping[str, ReferenceProblem] = MappingProxyType(
    {
        problem.name: problem
        for problem in (
            *sorted(chain(detest_abde(), detest_c(), discontinuous()), key=lambda p: p.name),
            *smooth(),
            *celestial(),
            *stiff(),
        )
    }
)

DETEST = tuple(f"{family}{number}" for family in "ABCDE" for number in range(1, 6))
JUMPING = tuple(f"F{number}" for number in range(1, 6))

__all__ = ["DETEST", "JUMPING", "PROBLEMS", "ReferenceProblem"]
