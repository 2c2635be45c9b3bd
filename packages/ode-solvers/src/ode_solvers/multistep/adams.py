"""Adams methods of variable order on variable steps, in modified divided differences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ode_core import ArgumentError, Step
from ode_core.rows import where
from ode_solvers.explicit import RungeKutta
from ode_solvers.multistep.differences import Numbers
from ode_solvers.multistep.order import choose
from ode_solvers.multistep.transposed import past_of, pull_back
from ode_solvers.multistep.window import Output, Window, window_of
from ode_solvers.polynomial import Polynomial
from ode_solvers.reversible import size
from ode_solvers.tables.dopri5 import DOPRI5

if TYPE_CHECKING:
    from ode_core import Tolerance
    from ode_core.protocols import Interpolant, VectorField
    from ode_solvers.reversible import Pull

Carry = tuple[Tensor, Tensor]
_START = RungeKutta(DOPRI5)
# Its steps are longer than those that an Adams method can go on with.
_SHORTER = 2.0


class _Made(NamedTuple):
    """A step before it is remembered: its end, the slope there, and the number of terms to come.

    `slope` is None where the step is rejected before it is evaluated, `term` is the difference that
    a corrector adds, `error` is as the controller takes it.
    """

    y: Tensor
    slope: Tensor | None
    term: Tensor
    error: Any
    terms: Numbers


@dataclass(frozen=True)
class Adams:
    """Adams-Bashforth, or Adams-Bashforth-Moulton as predict, evaluate, correct, evaluate.

    Adams-Bashforth of order k integrates the polynomial through the last k slopes, with one
    evaluation a step; its error estimate is the next term, with the slope at the end. With
    `corrects` that term is added, which makes the order k + 1, the estimate is what the last term
    adds to the one before, and the slope is evaluated again: two evaluations a step.

    Given steps are taken with `order`. Chosen ones go on from that order with k from 1 to `most`,
    whichever allows the longest step. Dormand and Prince's method takes the first steps, until
    there are slopes enough.

    The carry is `(phi, past)`: the differences of past slopes, `[most, ...]`, and float64
    `[most]`, k and then the signed sizes of the last steps, 0 where there are none; with per-sample
    steps both have a leading `[B]`.

    Source: Shampine and Gordon, Computer Solution of Ordinary Differential Equations, 1975;
    Hairer, Nørsett, Wanner I, sections III.5 and III.7.
    """

    name: str
    corrects: bool
    order: int = 5
    most: int = 12
    adaptive: bool = field(default=True, init=False)
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=False, init=False)
    per_sample: bool = field(default=True, init=False)
    compiles: bool = field(default=False, init=False)
    moving_times: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        low = 1 + self.corrects
        if not low <= self.order <= 5:
            raise ArgumentError(
                f"{self.name} takes given steps with an order from {low} to 5, that of its first "
                f"steps; got order={self.order}"
            )
        if not max(2, self._terms) <= self.most <= 12:
            raise ArgumentError(
                f"{self.name} takes up to `most` terms, from {max(2, self._terms)} to 12; got "
                f"most={self.most}"
            )

    @property
    def error_estimate(self) -> str:
        """Which error estimate decides on the steps."""
        return f"difference between neighbouring orders of {self.name}"

    @property
    def _terms(self) -> int:
        return self.order - self.corrects

    def init(self, field: VectorField, t: Any, y: Tensor) -> Carry:
        """Return the carry without a past: the slope at the start and no step before."""
        lead = t.dim() if isinstance(t, Tensor) else 0
        slope = field(t, y)
        others = slope.new_zeros((*slope.shape[:lead], self.most - 1, *slope.shape[lead:]))
        device = t.device if isinstance(t, Tensor) else "cpu"
        past = torch.zeros((*y.shape[:lead], self.most), dtype=torch.float64, device=device)
        past[..., 0] = self._terms
        return torch.cat((slope.unsqueeze(lead), others), lead), past

    def slope(self, carry: Carry) -> Tensor:
        """Return the slope at the start."""
        phi, past = carry
        return phi.select(past.dim() - 1, 0)

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1."""
        window = window_of(t0, t1, y, carry)
        young = window.moves & (window.known < self._terms)
        old = window.moves & ~young
        made = None
        if bool(old.any()):
            made = self._go_on(field, *_for(old, t0, t1, y, window), tolerance)
        slopes: tuple[Tensor, ...] = ()
        if made is None or bool(young.any()):
            end = torch.where(young, t1, t0) if window.lead else t1
            first = _START.step(field, t0, end, y, (self.slope(carry),), tolerance)
            slopes = first.dense
            begun = self._begun(first, window)
            made = begun if made is None else _merged(young, begun, made)
        assert made is not None
        dense = (*carry, made.term, slopes)
        retry = window.again(made.terms)
        if made.slope is None:
            return Step(made.y, made.error, carry, dense, retry)
        after = window.moved(made.slope, made.terms)
        if window.lead:
            after = where(window.moves, after, carry)
        return Step(made.y, made.error, after, dense, retry)

    def interpolant(
        self, field: VectorField, t0: Any, t1: Any, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the integral of the step's own polynomial, without another evaluation."""
        del field
        phi, past, term, slopes = step.dense
        window = window_of(t0, t1, y0, (phi, past))
        young = window.moves & (window.known < self._terms)
        begun = Polynomial(DOPRI5, t1 - t0, y0, step.y, slopes) if slopes else None
        return Output(window, y0, step.y, term if self.corrects else None, begun, young)

    def pull_step(
        self,
        field: VectorField,
        span: tuple[float, float],
        start: tuple[Tensor, Carry],
        y1: Tensor,
        grads: tuple[Tensor, Carry],
        pull: Pull,
    ) -> tuple[Tensor, Carry] | None:
        """Return the gradients of the state and the carry at t0 from those at t1.

        None for one of the first steps, which are another method's.
        """
        past = past_of(span, start[1])
        if past.known < self._terms:
            return None
        return pull_back(past, field, span[1], (start[0], y1), grads, pull, corrects=self.corrects)

    def _begun(self, first: Step, window: Window) -> _Made:
        slope = first.carry[0]
        error = None
        if first.error is not None:
            error = (_SHORTER * first.error ** (1 / _START.order)) ** self.order
        return _Made(first.y, slope, torch.zeros_like(slope), error, window.terms)

    def _go_on(
        self, field: VectorField, t1: Any, y: Tensor, window: Window, tolerance: Tolerance | None
    ) -> _Made:
        y1 = window.advance(y, window.sums.select(window.lead, -1))
        slope = ahead = field(t1, y1)
        term = ahead - window.sum_of(window.terms)
        if self.corrects:
            y1 = window.advance(y1, window.term(term, window.terms))
        if tolerance is None:
            if self.corrects:
                slope = field(t1, y1)
            return _Made(y1, slope, term, None, window.terms)
        errors = self._errors(ahead, y, y1, window, tolerance)
        error, terms = choose(errors, window.terms, window.known, self.most, self.order)
        if not window.lead:
            error = float(error)
            if error > 1.0:
                # Rejected: the slope at an end that nobody will start from is not worth a call.
                return _Made(y1, None, term, error, terms)
        if self.corrects:
            slope = field(t1, y1)
        return _Made(y1, slope, term, error, terms)

    def _errors(
        self, ahead: Tensor, y: Tensor, y1: Tensor, window: Window, tolerance: Tolerance
    ) -> Numbers:
        """Return the scaled norms of the error estimates with a term less, as many and one more."""
        found: list[Any] = []
        with torch.no_grad():
            for offset in (-1.0, 0.0, 1.0):
                terms = window.terms + offset
                terms = terms.clip(1.0, float(self.most))
                term = window.term(ahead - window.sum_of(terms), terms, whole=not self.corrects)
                found.append(tolerance.norm(window.size * term, y, y1))
        return torch.stack(found, -1) if window.lead else np.array(found)


def _merged(young: Numbers, begun: _Made, made: _Made) -> _Made:
    error = None if made.error is None else where(young, begun.error, made.error)
    ours = where(young, begun._replace(error=()), made._replace(error=()))
    return _Made(*ours)._replace(error=error)


def _for(old: Numbers, t0: Any, t1: Any, y: Tensor, window: Window) -> tuple[Any, Tensor, Window]:
    """Return an end, the state and a window for which other rows stand still.

    What f would be asked for them is nowhere near the solution, and may have no value there.
    """
    if not window.lead:
        return t1, y, window
    end = torch.where(old, t1, t0)
    return end, y, window._replace(size=size(t0, end, y))


def adams_bashforth(order: int = 5, most: int = 12) -> Adams:
    """Return the explicit Adams methods, one evaluation a step."""
    return Adams("adams_bashforth", False, order, most)


def adams_moulton(order: int = 5, most: int = 12) -> Adams:
    """Return the implicit Adams methods as predictor and corrector, two evaluations a step."""
    return Adams("adams_moulton", True, order, most)
