"""In-place chains with host scalars: no stacking, no copies, one scalar read for each error norm.

It runs on every device; on the CPU it is the fastest that torch operations allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ode_core import Tolerance
from ode_solvers.kernels.reference import wide
from ode_solvers.tableau import Row


@dataclass(frozen=True)
class Chain:
    """y + h sum w k as one fresh tensor to which every further term is added in place.

    A weight is a host number, so autograd keeps nothing for the backward pass.
    """

    name: str = "cpu"

    def prepare(self, dt: float, y: Tensor) -> float:
        """Return the step size as it is."""
        del y
        return dt

    def combine(self, y: Tensor, h: float, row: Row, ks: Sequence[Tensor]) -> Tensor:
        """Return y + h sum w k."""
        (index, weight), *rest = row
        total = torch.add(wide(y), wide(ks[index]), alpha=h * weight)
        for index, weight in rest:
            total.add_(ks[index], alpha=h * weight)
        return total if total.dtype == y.dtype else total.to(y.dtype)

    def finish(
        self,
        y0: Tensor,
        y1: Tensor | None,
        h: float,
        solution: Row,
        errors: Sequence[Row],
        ks: Sequence[Tensor],
        tolerance: Tolerance,
    ) -> tuple[Tensor, tuple[float, ...]]:
        """Return the new state and the norm of each error estimate."""
        y = self.combine(y0, h, solution, ks) if y1 is None else y1
        if y0.numel() == 0:
            return y, (0.0,) * len(errors)
        with torch.no_grad():
            allowed = tolerance.scale(y0, y)
            norms = []
            for row in errors:
                (index, weight), *rest = row
                ratio = torch.mul(wide(ks[index]), h * weight)
                for index, weight in rest:
                    ratio.add_(ks[index], alpha=h * weight)
                # An infinite state has an infinite allowance; 0 times it is NaN, and refused.
                ratio.add_(y, alpha=0.0)
                ratio = ratio.abs() if ratio.is_complex() else ratio
                norms.append(tolerance.root_mean_square(ratio.div_(allowed)))
        return y, tuple(norms)
