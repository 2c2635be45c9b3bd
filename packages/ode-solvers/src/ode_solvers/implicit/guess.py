"""Where Newton's method starts: stages extrapolated from what is known."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ode_solvers.implicit.table import Block, ImplicitTableau


def predicted(
    table: ImplicitTableau, block: Block, slopes: list[Tensor], h: Any, rows: Tensor
) -> Tensor:
    """Return h a k, `[1, B, n]`, for a stage whose slope is extrapolated from the earlier ones."""
    total = torch.zeros_like(rows)
    assert block.a is not None  # an implicit stage
    gamma = float(block.a[0, 0])
    for index, weight in table.predictors[block.start]:
        total = total + slopes[index].detach() * (weight * gamma * h)
    return total.unsqueeze(0)


def extrapolated(stages: Tensor, nodes: tuple[float, ...], ratio: NDArray[np.float64]) -> Tensor:
    """Return Z, `[m, B, n]`, on the polynomial through the last step's stages, `[B, m, n]`.

    `ratio` is this step's size over the last one's, `[B]`; 0 gives zeros. Source: Hairer and
    Wanner II, section IV.8, starting values for the Newton iteration.
    """
    if not ratio.any():
        return torch.zeros_like(stages).transpose(0, 1)
    bases = _bases(nodes)
    places = 1.0 + np.outer(ratio, nodes)
    weights = np.stack([base(places) - base(1.0) for base in bases], 2)
    tensor = torch.from_numpy(weights).to(stages.device, stages.dtype)
    return torch.einsum("bij,bjn->ibn", tensor, stages)


@cache
def _bases(nodes: tuple[float, ...]) -> tuple[Polynomial, ...]:
    """Return the polynomials that are 1 at one node and 0 at the others and at 0."""
    found = []
    for node in nodes:
        others = [0.0, *(x for x in nodes if x != node)]
        found.append(Polynomial.fromroots(others) / np.prod([node - x for x in others]))
    return tuple(found)
