"""ODE blocks and the models of the study.

Names are imported when they are first used, so that listing plugins never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ode_models.anode import ANODE
    from ode_models.block import ODEBlock
    from ode_models.cnf import CNF
    from ode_models.fitting.fit import fit
    from ode_models.fitting.result import Fit
    from ode_models.forecast import Forecast
    from ode_models.gap_gru import GapGRU
    from ode_models.gru import GRU
    from ode_models.latent_ode import LatentODE
    from ode_models.latent_still import LatentStill
    from ode_models.neural_cde import NeuralCDE
    from ode_models.neural_ode import NeuralODE
    from ode_models.ode_rnn import ODERNN
    from ode_models.odenet import ODENet
    from ode_models.resnet import NoBlock, ResNet
    from ode_models.rnode import RNODE

_EXPORTS = {
    "ANODE": "anode",
    "ODEBlock": "block",
    "CNF": "cnf",
    "fit": "fitting.fit",
    "Fit": "fitting.result",
    "Forecast": "forecast",
    "GapGRU": "gap_gru",
    "GRU": "gru",
    "LatentODE": "latent_ode",
    "LatentStill": "latent_still",
    "NeuralCDE": "neural_cde",
    "NeuralODE": "neural_ode",
    "ODENet": "odenet",
    "ODERNN": "ode_rnn",
    "NoBlock": "resnet",
    "ResNet": "resnet",
    "RNODE": "rnode",
}

__all__ = [
    "ANODE",
    "CNF",
    "GRU",
    "ODERNN",
    "RNODE",
    "Fit",
    "Forecast",
    "GapGRU",
    "LatentODE",
    "LatentStill",
    "NeuralCDE",
    "NeuralODE",
    "NoBlock",
    "ODEBlock",
    "ODENet",
    "ResNet",
    "fit",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
