"""Regularisers under which a neural ODE stays easy to solve: kinetic energy and Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_models.products import pulled


@dataclass(frozen=True)
class RNODE:
    """Weights of the two regularisers of a field f over the time of its solve.

    `kinetic` weighs the integral of `|f|^2`, which makes ways straight and even, `jacobian` that
    of the squared Frobenius norm of df/dy, estimated by `|e^T df/dy|^2` for one Gaussian e a solve.
    Both are means over samples and over the entries of a state, so that a weight means the same for
    states of all sizes.

    Source: Finlay, Jacobsen, Nurbekyan, Oberman, How to train your neural ODE: the world of
    Jacobian and kinetic regularization, ICML 2020, section 3.

    Raises ArgumentError for weights that are negative.
    """

    kinetic: float = 0.0
    jacobian: float = 0.0

    def __post_init__(self) -> None:
        if not (self.kinetic >= 0.0 and self.jacobian >= 0.0):
            raise ArgumentError(
                "kinetic and jacobian are weights of at least 0; got "
                f"{self.kinetic} and {self.jacobian}"
            )

    def __bool__(self) -> bool:
        return self.kinetic > 0.0 or self.jacobian > 0.0

    def integrand(self, field: Callable[..., Any], y0: Any) -> Callable[..., Tensor]:
        """Return `g(t, y, *args)`, 0-d, whose integral along a solution is the penalty.

        It evaluates the field once more at each of its nodes. Raises ArgumentError for a state that
        is no tensor.
        """
        if not isinstance(y0, Tensor):
            raise ArgumentError(
                f"the regularisers take a state that is one tensor; got {type(y0).__name__}"
            )
        noise = torch.randn_like(y0) if self.jacobian else None

        def energy(t: Tensor, y: Tensor, *args: Any) -> Tensor:
            if noise is None:
                slope: Tensor = field(t, y, *args)
                return self.kinetic * slope.square().mean()
            slope, (product,) = pulled(lambda y: field(t, y, *args), y, [noise])
            return self.kinetic * slope.square().mean() + self.jacobian * product.square().mean()

        return energy
