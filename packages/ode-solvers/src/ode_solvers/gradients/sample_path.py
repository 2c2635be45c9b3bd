"""The solutions of samples with their own steps, kept to be read at other times of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ode_core.interpolation import interpolant
from ode_core.rows import by_row
from ode_solvers.gradients.sample_nodes import Nodes

if TYPE_CHECKING:
    from ode_core import Solver
    from ode_core.loops.sample_march import SampleStep
    from ode_core.protocols import VectorField
    from ode_core.samples import SampleProblem

# A continuous output is a cubic at least.
_LEAST = 3


class Recorded:
    """Every accepted step's continuous output, by its values at Chebyshev's points with both ends.

    They are one more than the solver's order: whatever the output is made of, the polynomial
    through them is as good as the steps are.
    """

    def __init__(self, solver: Solver, f: VectorField, problem: SampleProblem) -> None:
        self._solver, self._f, self._problem = solver, f, problem
        degree = max(solver.order, _LEAST)
        self._angles = [math.pi * k / degree for k in range(degree, -1, -1)]
        self._nodes = Nodes(problem.start)
        self._spans = [(problem.start[:0], problem.start[:0])]
        shape = (0, degree + 1, math.prod(problem.y0.shape[1:]))
        self._values = [problem.y0.detach().new_empty(shape)]

    def see(self, step: SampleStep) -> None:
        """Keep the rows of a step that were accepted."""
        which = step.accepted.nonzero()[:, 0]
        if not len(which):
            return
        span = step.t0, step.t1
        at = interpolant(self._solver, self._f, span, step.y0, step.step)
        thetas = [0.5 + 0.5 * math.cos(angle) for angle in self._angles[1:-1]]
        inner = [at(torch.full_like(step.t0, theta)) for theta in thetas]
        values = [step.y0, *inner, step.step.y]
        self._values.append(torch.stack([by_row(x[which]) for x in values], 1))
        self._spans.append((step.t0[which], step.t1[which]))
        self._nodes.see(step)

    def path(self) -> SamplePath:
        """Return the solutions as functions of time; what was kept goes over to them."""
        problem = self._problem
        t0, t1 = (torch.cat(x) for x in zip(*self._spans, strict=True))
        nodes, entries = self._nodes.times(), self._nodes.order()
        degrees = torch.arange(len(self._angles), dtype=t0.dtype, device=t0.device)
        angles = torch.tensor(self._angles, dtype=t0.dtype, device=t0.device)
        weights = torch.linalg.inv(torch.outer(angles, degrees).cos())
        values = torch.cat(self._values)
        self._values.clear()
        inner = problem.y0.shape[1:]
        ahead = (nodes * problem.direction[:, None]).nan_to_num(math.inf)
        return SamplePath(
            nodes, ahead, problem.direction, entries, (t0, t1), values, weights, inner
        )


@dataclass(frozen=True, eq=False)
class SamplePath:
    """The solutions of B samples with a direction each; `nodes`, `[B, N]`, are their steps' ends.

    `ahead` are the same, rising and with infinity for padding. `entries`, `[B, N]`, says where in
    `spans`, two `[M]`, and in `values`, `[M, n, F]`, a step is found. `weights`, `[n, n]`, turn
    values into coefficients of Chebyshev's polynomials.
    """

    nodes: Tensor
    ahead: Tensor
    direction: Tensor
    entries: Tensor
    spans: tuple[Tensor, Tensor]
    values: Tensor
    weights: Tensor
    shape: torch.Size

    def __call__(self, t: Tensor) -> Tensor:
        """Return the states `[B, ...]` at the times `[B]`.

        Raises ValueError for a part of the samples, which times alone do not tell apart.
        """
        if len(t) != len(self.nodes):
            raise ValueError(f"a path of {len(self.nodes)} samples takes as many times")
        place = torch.searchsorted(self.ahead, (t * self.direction)[:, None])
        entry = self.entries.gather(1, place.clamp(max=self.ahead.shape[1] - 1))[:, 0]
        t0, t1 = (x[entry] for x in self.spans)
        angle = (2.0 * (t - t0) / (t1 - t0) - 1.0).clamp(-1.0, 1.0).acos()
        degrees = torch.arange(len(self.weights), dtype=t.dtype, device=t.device)
        weights = torch.outer(angle, degrees).cos() @ self.weights
        values = self.values[entry]
        state = weights.to(values.dtype).unsqueeze(1) @ values
        return state.view(len(t), *self.shape)
