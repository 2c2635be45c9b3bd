"""Tiers api and numerics for a solver that says per_sample = True: one clock for each row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.problem import Given
from ode_core.protocols import Step
from ode_core.rows import along
from ode_core.samples import build_samples
from ode_core.testing.cases import F64, distance, vector
from ode_core.testing.results import check, demand
from ode_core.testing.subject import Subject, one_tensor, rows
from ode_core.tolerance import SampleTolerance

_STARTS = vector(0.0, 0.2, 1.0)
_SIZES = vector(0.1, 0.0, -0.3)
_RATES = (0.5, 1.0, 3.0)


class Rows:
    """y' = -rate cos(t) y with a rate for each row; takes one time, or one for each row."""

    def __init__(self, rates: Tensor) -> None:
        self.rates = rates

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the slope `[B, ...]`."""
        turn = along(torch.cos(t), y) if t.dim() else torch.cos(t)
        return -along(self.rates, y) * turn * y


def _walk(subject: Subject, f: Any, y: Tensor, t: Tensor, sizes: Tensor) -> Iterator[Step]:
    """Yield three steps of the given `[B]` sizes from the `[B]` times, by the protocol alone."""
    solver: Any = subject.solver
    carry = solver.init(f, t, y)
    for _ in range(3):
        end = t + sizes
        step = solver.step(f, t, end, y, carry, None)
        yield step
        t, y, carry = end, step.y, step.carry


def _errors(subject: Subject, f: Any, y: Tensor) -> Any:
    """Return the error of a step of each row with a tolerance."""
    solver: Any = subject.solver
    carry = solver.init(f, _STARTS, y)
    tolerance = SampleTolerance(subject.tol, subject.tol)
    return solver.step(f, _STARTS, _STARTS + 0.01, y, carry, tolerance).error


def _states() -> Tensor:
    return torch.linspace(0.5, 1.5, 6, dtype=F64).reshape(3, 2)


def _field(f: Any, y: Tensor) -> Any:
    return build_samples(f, y, [0.0, 1.0], given=Given()).field


@check("api.rows", rows, one_tensor)
def form(subject: Subject) -> str | None:
    """Per sample, states keep their shape and errors and carries have a leading entry a sample."""
    y = _states()
    for step in _walk(subject, _field(Rows(vector(*_RATES)), y), y, _STARTS, _SIZES):
        demand(
            step.y.shape == y.shape and step.y.dtype == y.dtype,
            f"per sample, a state of shape {tuple(y.shape)} became {tuple(step.y.shape)}, "
            f"{step.y.dtype}; scale rows by ode_core.rows.along(t1 - t0, y)",
        )
        leaves = [x for x in pytree.tree_leaves(step.carry) if isinstance(x, Tensor)]
        odd = [tuple(x.shape) for x in leaves if x.dim() == 0 or len(x) != 3]
        demand(
            not odd,
            f"per sample, the carry holds a tensor of shape {odd[:1]} for three samples; give each "
            "a leading entry a sample, so that samples can be dropped",
        )
    if subject.solver.adaptive:
        error = _errors(subject, _field(Rows(vector(*_RATES)), y), y)
        shape = tuple(error.shape) if isinstance(error, Tensor) else "one number"
        demand(
            shape == (3,),
            f"per sample, the error of three samples is {shape}; return one for each, which "
            "tolerance.norm does",
        )
    return None


@check("numerics.rows_alone", rows, one_tensor)
def alone(subject: Subject) -> str | None:
    """Per sample, what a sample becomes does not depend on the others in the batch."""
    y, rates = _states(), vector(*_RATES)
    sizes = vector(0.1, 0.2, -0.3)
    together = list(_walk(subject, _field(Rows(rates), y), y, _STARTS, sizes))
    for i in range(3):
        own = slice(i, i + 1)
        field = _field(Rows(rates[own]), y[own])
        single = list(_walk(subject, field, y[own], _STARTS[own], sizes[own]))
        off = max(distance(a.y[own], b.y) for a, b in zip(together, single, strict=True))
        demand(
            off <= subject.slack,
            f"per sample, sample {i} alone differs by {off:.1e} from itself in a batch of three; "
            "take every step size and every norm row by row",
        )
    solved = _solved(subject, y, rates)
    for i in range(3):
        own = slice(i, i + 1)
        off = distance(solved[:, own], _solved(subject, y[own], rates[own]))
        demand(
            off <= subject.slack,
            f"in a whole solve, per sample, sample {i} alone differs by {off:.1e} from itself in a "
            "batch of three; take every step size and every norm row by row",
        )
    return None


def _solved(subject: Subject, y: Tensor, rates: Tensor) -> Tensor:
    options: dict[str, Any] = {"stepping": "per_sample"}
    ys: Tensor = subject.solve(Rows(rates), y, [0.0, 0.3, 1.0], **options).ys
    return ys


@check("numerics.rows_shared", rows, one_tensor)
def shared(subject: Subject) -> str | None:
    """Per sample, equal times and steps give what one clock for the whole batch gives."""
    y, rates = _states(), vector(*_RATES)
    field = _field(Rows(rates), y)
    sizes = torch.full((3,), 0.125, dtype=F64)
    separate = list(_walk(subject, field, y, torch.zeros(3, dtype=F64), sizes))
    if not subject.steps_fixed:
        return None
    together = list(subject.walk(Rows(rates), y, [0.0, 0.125, 0.25, 0.375]))
    off = max(distance(a.y, b.step.y) for a, b in zip(separate, together, strict=True))
    demand(
        off <= subject.slack,
        f"per sample, equal steps differ by {off:.1e} from the shared step; take the same formula "
        "with times [B]",
    )
    return None


@check("numerics.rows_idle", rows, one_tensor)
def idle(subject: Subject) -> str | None:
    """Per sample, a sample whose step has no length comes out unchanged, to the bit."""
    y = _states()
    for step in _walk(subject, _field(Rows(vector(*_RATES)), y), y, _STARTS, _SIZES):
        off = distance(step.y[1], y[1])
        demand(
            off == 0.0,
            f"per sample, a sample whose t1 is its t0 moved by {off:.1e}; finished and rejected "
            "samples wait like that, so add (t1 - t0) times slopes and nothing else",
        )
    return None


@check("numerics.rows_failing", rows, one_tensor)
def failing(subject: Subject) -> str | None:
    """Per sample, one that meets NaN leaves the others as they are without it."""
    y = _states()
    sizes = vector(0.1, 0.2, -0.3)
    well = list(_walk(subject, _field(Rows(vector(*_RATES)), y), y, _STARTS, sizes))
    ill_rates = vector(_RATES[0], math.nan, _RATES[2])
    ill = list(_walk(subject, _field(Rows(ill_rates), y), y, _STARTS, sizes))
    kept = torch.tensor([0, 2])
    off = max(distance(a.y[kept], b.y[kept]) for a, b in zip(well, ill, strict=True))
    demand(
        off <= subject.slack,
        f"per sample, a sample with NaN changed the others by {off:.1e}; let no sum, norm or "
        "linear system run over samples",
    )
    shown = bool(torch.isnan(ill[0].y[1]).any())
    if subject.solver.adaptive:
        error = _errors(subject, _field(Rows(ill_rates), y), y)
        shown = shown or not bool(error[1] <= 1.0)
        demand(
            bool(torch.isfinite(error[kept]).all()),
            "per sample, a sample with NaN spoils the errors of the others; take norms row by row",
        )
    demand(shown, "per sample, a sample with NaN is neither NaN nor of infinite error; show it")
    return None


CHECKS = (form, alone, shared, idle, failing)
