"""Step-size control in one launch: the reduced norm goes in, the next step comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ode_core import PIDController
from ode_core.loops.pace import MADE, TorchPace
from ode_solvers.kernels.pace_programs import pace_kernel


@dataclass(frozen=True)
class FusedPace:
    """What `TorchPace` does for a PIDController, as one program of one warp."""

    plain: TorchPace
    launch: Callable[..., None]

    def judge(self, clock: Tensor, error: Tensor, record: Tensor) -> Tensor:
        """Fill in the record of a step with this 0-d error; return 0-d whether it is accepted."""
        plain, controller = self.plain, self.plain.controller
        assert isinstance(controller, PIDController)  # asked for before
        accept = torch.empty((), dtype=torch.bool, device=clock.device)
        limits = (controller.safety, controller.factor_min, controller.factor_max)
        floor = controller.floor * controller.safety
        constants = {
            "EXPONENTS": (*controller.exponents(plain.order), -1.0 / plain.order),
            "LIMITS": (*limits, plain.least, min(plain.most, 1e300), floor),
            "SIGN": plain.direction,
            "MADE": MADE,
            "num_warps": 1,
        }
        self.launch(pace_kernel, 1, (clock, error, record, accept), constants)
        return accept


def fused(plain: TorchPace, launch: Callable[..., None]) -> Any:
    """Return a pace in one launch where there is one for this controller, or the plain one."""
    return FusedPace(plain, launch) if type(plain.controller) is PIDController else plain
