"""The continuous output of a Runge-Kutta step: polynomials of its slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ode_core.rows import along
from ode_core.transforms import transformed
from ode_solvers.kernels.choose import CHAIN, for_rows, for_state
from ode_solvers.kernels.contract import Kernel
from ode_solvers.kernels.native import SUFFIX, Native
from ode_solvers.tableau import Tableau, row_of


@dataclass(frozen=True, eq=False)
class Polynomial:
    """A step's continuous output from its slopes."""

    tableau: Tableau
    dt: Any
    y0: Tensor
    y1: Tensor
    ks: tuple[Tensor, ...]
    kernel: Kernel | None = None

    def __call__(self, theta: Any) -> Tensor:
        """Return the state at t0 + theta dt, like `y0`; the ends are the step's own, to the bit."""
        if isinstance(theta, Tensor):
            return self._rows(theta)
        if theta == 0.0:
            return self.y0
        if theta == 1.0 or self.tableau.dense is None:
            return self.y1
        dense, kernel = self.tableau.dense, self.kernel or for_state(self.y0)
        fused = getattr(kernel, "interpolate", None)
        if fused is not None:
            y: Tensor = fused(self.y0, kernel.prepare(self.dt, self.y0), theta, dense, self.ks)
            return y
        return CHAIN.combine(self.y0, self.dt, row_of(dense.weights(theta)), self.ks)

    def many(self, thetas: Sequence[float]) -> Sequence[Tensor]:
        """Return the states at so many thetas within the step, like `y0` each.

        On the CPU, where C is and no gradient is recorded, they are made in one pass over the
        slopes: as rows of a step whose only sample is the whole state.
        """
        y0 = self.y0
        watched = torch.is_grad_enabled() and any(x.requires_grad for x in (y0, *self.ks))
        alone = type(self.dt) is float and y0.is_contiguous() and y0.dtype in SUFFIX
        if self.tableau.dense is None or not alone or watched or not _in_c(self.kernel, y0):
            return [self(theta) for theta in thetas]
        whole = replace(
            self,
            dt=torch.tensor([self.dt], dtype=torch.float64),
            y0=y0.reshape(1, -1),
            ks=tuple(k.reshape(1, -1) for k in self.ks),
        )
        rows = torch.zeros(len(thetas), dtype=torch.int64)
        states = whole.rows(rows, torch.tensor(thetas, dtype=torch.float64))
        return states.view(-1, *y0.shape).unbind(0)

    def rows(self, rows: Tensor, theta: Tensor) -> Tensor:
        """Return the states of rows, `[n]` indices of a per-sample step, at their `[n]` thetas."""
        dense = self.tableau.dense
        assert dense is not None  # `interpolant` gives a cubic without it
        given = (self.y0, self.dt, dense, self.ks)
        own = getattr(self.kernel, "outputs", None) or for_rows(self.y0).outputs
        y: Tensor = own(*given, rows, theta)
        return y

    def _rows(self, theta: Tensor) -> Tensor:
        if theta.dim():
            return self.rows(torch.arange(len(theta), device=theta.device), theta)
        dense = self.tableau.dense
        assert dense is not None  # `interpolant` gives a cubic without it
        weights, state = dense.weights_at(theta)[:, 0] * self.dt, self.y0
        for (index, _), weight in zip(dense.used, weights.unbind(0), strict=True):
            state = torch.addcmul(state, along(weight, state), self.ks[index])
        return state


def _in_c(kernel: Kernel | None, y: Tensor) -> bool:
    return isinstance(kernel or for_state(y), Native) and y.is_cpu and not transformed()
