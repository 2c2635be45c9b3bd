"""The past of a step as it is seen from the step's end, and the step's polynomial."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_core.rows import where
from ode_solvers.multistep.differences import growth, integrals
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
    beta: Tensor
    h: Tensor
    size: Any
    moves: Tensor
    gaps: Tensor
    terms: Tensor
    known: Tensor
    integrals: Tensor
    sums: Tensor

    def sum_of(self, terms: Tensor) -> Tensor:
        """Return the slope at the end of the step, extrapolated with so many terms."""
        if not self.lead:
            return self.sums[int(terms) - 1]
        rows = torch.arange(len(terms), device=terms.device)
        return self.sums[rows, terms.long() - 1]

    def integral(self, terms: Tensor) -> Tensor:
        """Return the weight of the term after so many."""
        return self.integrals.gather(-1, terms.long()[..., None])[..., 0]

    def scaled(self, weight: Tensor, x: Tensor) -> Tensor:
        """Return `x` times weights, one a sample with per-sample steps."""
        if not self.lead:
            return x * weight.item()
        return x * weight.to(x.dtype).view(-1, *(1,) * (x.dim() - 1))

    def advance(self, y: Tensor, slope: Tensor) -> Tensor:
        """Return y + h slope."""
        y1: Tensor = y + self.size * slope
        return y1

    def moved(self, slope: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the carry after the step, from the slope at its end."""
        latest = slope.unsqueeze(self.lead)
        count = self.phi.shape[self.lead] - 1
        phi = torch.cat((latest, latest - self.sums.narrow(self.lead, 0, count)), self.lead)
        past = torch.cat((terms[..., None], self.h[..., None], self.gaps[..., :-1]), -1)
        return phi, past


def window_of(t0: Any, t1: Any, y: Tensor, carry: tuple[Tensor, Tensor]) -> Window:
    """Return the past of a step from t0 to t1, of the state `y`, from the solver's carry."""
    phi, past = carry[0], carry[1].detach()
    lead = past.dim() - 1
    terms, gaps = past[..., 0], past[..., 1:]
    h = torch.as_tensor(t1 - t0, dtype=torch.float64)
    moves = h != 0.0
    if lead:
        # A step without length has weights as any other, and is multiplied by its own 0.
        last = torch.where(gaps[..., 0] == 0.0, 1.0, gaps[..., 0])
        h = torch.where(moves, h, last)
    beta = growth(h, gaps)
    means = integrals(h, gaps, torch.ones_like(h))
    flat = phi.reshape(*phi.shape[: lead + 1], -1)
    rows = torch.cat((beta[..., None, :].expand(*beta.shape, beta.shape[-1]).tril(),
                      weights(means, beta, terms)[..., None, :]), -2)  # fmt: skip
    sums = torch.matmul(rows.to(flat), flat)
    sums = sums.view(*phi.shape[:lead], rows.shape[-2], *phi.shape[lead + 1 :])
    known = 1.0 + (gaps != 0.0).sum(-1)
    return Window(lead, phi, beta, h, size(t0, t1, y), moves, gaps, terms, known, means, sums)


def weights(means: Tensor, beta: Tensor, terms: Tensor) -> Tensor:
    """Return what weighs the differences, `[..., K]`, in the mean slope with so many terms."""
    index = torch.arange(beta.shape[-1], device=beta.device)
    return torch.where(index < terms[..., None], means[..., :-1] * beta, 0.0)


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
    young: Tensor

    def __call__(self, theta: Any) -> Tensor:
        """Return the state at t0 + theta (t1 - t0), like `y0`."""
        if not isinstance(theta, Tensor) and theta in (0.0, 1.0):
            return self.y1 if theta else self.y0
        seen = self.window
        if self.begun is not None and not seen.lead:
            return self.begun(theta)
        part = torch.as_tensor(theta, dtype=torch.float64, device=seen.h.device)
        means = integrals(seen.h, seen.gaps, part)
        row = weights(means, seen.beta, seen.terms)
        flat = seen.phi.reshape(*seen.phi.shape[: seen.lead + 1], -1)
        slope = torch.matmul(row[..., None, :].to(flat), flat).view(self.y0.shape)
        if self.term is not None:
            weight = means.gather(-1, seen.terms.long()[..., None])[..., 0]
            slope = slope + seen.scaled(weight, self.term)
        y = seen.advance(self.y0, slope)
        return y if self.begun is None else where(self.young, self.begun(theta), y)
