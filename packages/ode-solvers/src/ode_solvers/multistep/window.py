"""The past of a step as it is seen from the step's end, and the step's polynomial."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ode_core.rows import where
from ode_core.transforms import transformed
from ode_solvers.multistep.differences import Numbers, growth, integrals, library
from ode_solvers.reversible import size

if TYPE_CHECKING:
    from ode_core.protocols import Interpolant


class Window(NamedTuple):
    """What a step sees of the past; K differences, `lead` 1 with per-sample steps, else 0.

    `phi` `[K, ...]` are the differences, `beta` `[K]` continues them to the end of the step, `h` is
    the step's size for weights, never 0, `size` is what scales slopes, `moves` whether that is not
    0. `terms` of the `known` differences take part. `sums` `[K + 1, ...]` are the slopes at the
    end of the step extrapolated with 1 to K terms, and last the step's mean slope with `terms`;
    `integrals` is `[K + 1]`.
    """

    lead: int
    phi: Tensor
    beta: Numbers
    h: Numbers
    size: Any
    moves: Numbers
    gaps: Numbers
    terms: Numbers
    known: Numbers
    integrals: Numbers
    sums: Tensor

    def sum_of(self, terms: Numbers) -> Tensor:
        """Return the slope at the end of the step, extrapolated with so many terms."""
        if not self.lead:
            return self.sums[int(terms) - 1]
        rows = torch.arange(len(terms), device=terms.device)
        return self.sums[rows, terms.long() - 1]

    def term(self, x: Tensor, terms: Numbers, *, whole: bool = True) -> Tensor:
        """Return the term after so many, whose difference is `x`; if not `whole`, less the last."""
        weight = _at(self.integrals, terms)
        if not whole:
            weight = weight - _at(self.integrals, terms - 1)
        return scaled(weight, x)

    def advance(self, y: Tensor, slope: Tensor) -> Tensor:
        """Return y + h slope."""
        y1: Tensor = y + self.size * slope
        return y1

    def moved(self, slope: Tensor, terms: Numbers) -> tuple[Tensor, Tensor]:
        """Return the carry after the step, from the slope at its end."""
        latest = slope.unsqueeze(self.lead)
        count = self.phi.shape[self.lead] - 1
        phi = torch.cat((latest, latest - self.sums.narrow(self.lead, 0, count)), self.lead)
        return phi, _past(terms, self.h[..., None], self.gaps[..., :-1])

    def again(self, terms: Numbers) -> tuple[Tensor, Tensor]:
        """Return the carry for another attempt, with so many terms."""
        return self.phi, _past(terms, self.gaps)


def scaled(weight: Numbers, x: Tensor) -> Tensor:
    """Return `x` times a weight, or one weight a sample."""
    if isinstance(weight, Tensor):
        weight = weight.to(x.dtype).view(-1, *(1,) * (x.dim() - 1))
    product: Tensor = x * weight
    return product


def _at(values: Numbers, index: Numbers) -> Numbers:
    if isinstance(values, Tensor):
        return values.gather(-1, index.long()[..., None])[..., 0]
    return float(values[int(index)])


def _past(terms: Numbers, *gaps: Numbers) -> Tensor:
    past = library(gaps[0]).concatenate((terms[..., None], *gaps), -1)
    return past if isinstance(past, Tensor) else torch.from_numpy(past)


def on_host(past: Tensor) -> Numbers:
    """Return the numbers of the carry of a shared step as NumPy's."""
    # Within a transform of torch.func a tensor has no memory that NumPy could share.
    return np.array(past.tolist()) if transformed() else past.numpy()


def window_of(t0: Any, t1: Any, y: Tensor, carry: tuple[Tensor, Tensor]) -> Window:
    """Return the past of a step from t0 to t1, of the state `y`, from the solver's carry."""
    phi, past, length = *carry, t1 - t0
    lead = past.dim() - 1
    moving = isinstance(length, Tensor) and not lead
    numbers: Numbers = past if moving else past.detach() if lead else on_host(past.detach())
    terms, gaps = numbers[..., 0], numbers[..., 1:]
    h: Numbers = length if lead or moving else np.asarray(length)
    moves = h != 0.0
    if lead:
        # A step without length has weights as any other, and is multiplied by its own 0.
        h = torch.where(moves, h, torch.where(gaps[..., 0] == 0.0, 1.0, gaps[..., 0]))
    if isinstance(numbers, Tensor):
        beta, means, rows = _rows(h, gaps, terms)
    else:
        beta, means, rows = rows_of(float(h), numbers.tobytes())
    sums = _applied(rows, phi, lead)
    known = 1.0 + (gaps != 0.0).sum(-1)
    return Window(lead, phi, beta, h, size(t0, t1, y), moves, gaps, terms, known, means, sums)


# A backward pass asks again for what the forward solve asked for last.
@lru_cache(maxsize=512)
def rows_of(h: float, past: bytes) -> tuple[Numbers, Numbers, Numbers]:
    """Return the weights of a shared step of size h: beta, the integrals, and those of `sums`.

    `past` is the second part of the carry, as it lies in memory.
    """
    numbers = np.frombuffer(past)
    return _rows(np.asarray(h), numbers[1:], numbers[0])


def _rows(h: Numbers, gaps: Numbers, terms: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    lib, beta = library(gaps), growth(h, gaps)
    means = integrals(h, gaps, lib.ones_like(h))
    triangle = beta[..., None, :] * _triangle(beta.shape[-1], None if lib is np else beta.device)
    return beta, means, lib.concatenate((triangle, weights(means, beta, terms)[..., None, :]), -2)


def weights(means: Numbers, beta: Numbers, terms: Numbers) -> Numbers:
    """Return what weighs the differences, `[..., K]`, in the mean slope with so many terms."""
    count = beta.shape[-1]
    place = _triangle(count, beta.device if isinstance(beta, Tensor) else None).sum(-1)
    return (place <= terms[..., None]) * (means[..., :-1] * beta)


def _applied(rows: Numbers, phi: Tensor, lead: int) -> Tensor:
    """Return sums of differences, `[..., n, state]`, with weights `[..., n, K]`."""
    flat = phi.reshape(*phi.shape[: lead + 1], -1)
    sums = torch.matmul(torch.as_tensor(rows, device=flat.device).to(flat), flat)
    return sums.view(*phi.shape[:lead], rows.shape[-2], *phi.shape[lead + 1 :])


@cache
def _triangle(count: int, device: torch.device | None) -> Numbers:
    ones = np.tri(count)
    return ones if device is None else torch.from_numpy(ones).to(device)


@dataclass(frozen=True, eq=False)
class Output:
    """The solution within one step: the integral of the polynomial that the step went along.

    `term` is what a corrector added. `begun` is the polynomial of a Runge-Kutta step, which the
    samples went along that are `young`.
    """

    window: Window
    y0: Tensor
    y1: Tensor
    term: Tensor | None
    begun: Interpolant | None
    young: Numbers

    def __call__(self, theta: Any) -> Tensor:
        """Return the state at t0 + theta (t1 - t0), like `y0`."""
        if not isinstance(theta, Tensor) and theta in (0.0, 1.0):
            return self.y1 if theta else self.y0
        seen = self.window
        if self.begun is not None and not seen.lead:
            return self.begun(theta)
        given = isinstance(seen.h, Tensor)
        means = integrals(seen.h, seen.gaps, theta if given else np.asarray(theta))
        row = weights(means, seen.beta, seen.terms)
        slope = _applied(row[..., None, :], seen.phi, seen.lead).view(self.y0.shape)
        if self.term is not None:
            slope = slope + scaled(_at(means, seen.terms), self.term)
        y = seen.advance(self.y0, slope)
        return y if self.begun is None else where(self.young, self.begun(theta), y)
