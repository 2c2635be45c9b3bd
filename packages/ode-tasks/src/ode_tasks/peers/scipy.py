"""SciPy: `solve_ivp` with RK45 on NumPy arrays, forwards."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ode_tasks.peers.contest import BACKWARD, Outcome, Prepared, Variant, missing, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_tasks.peers.works import Posed, Work


class NumPy:
    """The operations that fields need, in NumPy."""

    def tanh(self, x: Any) -> Any:
        """Return the hyperbolic tangent of every entry."""
        return np.tanh(x)

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Return the parts joined along an axis."""
        return np.concatenate(parts, axis)

    def convolution(self, x: Any, weight: Any) -> Any:
        """Raise UnsupportedError."""
        raise refuse("NumPy", "convolution of images")


class SciPy:
    """scipy.integrate.solve_ivp: dopri5 as RK45, with Hairer's error estimate.

    It solves in float64 whatever the state is. A work whose samples want steps of their own is
    solved sample by sample.
    """

    name = "scipy"
    estimate = 1.0

    @property
    def missing(self) -> str:
        """The pip requirement, "" where it is installed."""
        return missing("scipy", "scipy")

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return RK45 for dopri5 forwards."""
        if direction == BACKWARD:
            raise refuse(self.name, "gradients")
        if work.solver != "dopri5":
            raise refuse(self.name, work.solver)
        return (Variant("RK45"),)

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve; raises UnsupportedError off the CPU."""
        del direction, threads
        if posed.y0.device.type != "cpu":
            raise refuse(self.name, "GPU")
        work = posed.work
        integrate: Any = importlib.import_module("scipy.integrate").solve_ivp
        f = posed.field.written_in(NumPy())
        weights = [parameter.detach().numpy() for parameter in posed.field.parameters()]
        rows = [row.numpy() for row in posed.field.rows]
        y0 = posed.y0.numpy()
        f(0.0, y0[:1], [*weights, *(row[:1] for row in rows)])  # what it lacks, it says here
        size = 1 if work.per_sample else len(y0)
        parts = [slice(i, i + size) for i in range(0, len(y0), size)]

        def run() -> list[Any]:
            return [_solved(integrate, f, y0[p], [*weights, *(r[p] for r in rows)], work, variant)
                    for p in parts]  # fmt: skip

        def outcome() -> Outcome:
            found = run()
            ys = [one.y.T.reshape(len(work.times), -1, *y0.shape[1:]) for one in found]
            calls = [int(one.nfev) for one in found]
            # RK45 calls f twice to choose its first step and six times a step.
            steps = (max(calls) - 2) // 6
            return Outcome(torch.from_numpy(np.concatenate(ys, 1)), None, max(calls), 0, steps)

        return Prepared(run, outcome)


def _solved(
    integrate: Any, f: Any, y0: Any, weights: Sequence[Any], work: Work, variant: Variant
) -> Any:
    shape = y0.shape

    def flat(t: float, y: Any) -> Any:
        return f(t, y.reshape(shape), weights).reshape(-1)

    return integrate(
        flat,
        (work.times[0], work.times[-1]),
        y0.reshape(-1),
        method=variant.name,
        t_eval=work.times,
        rtol=work.rtol,
        atol=work.atol,
    )
