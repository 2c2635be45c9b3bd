"""What ode-models registers: records only, torch is imported when a model is first made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.hooks import hookimpl
from ode_core.records import ModelRecord
from ode_models.sources import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator


@hookimpl
def ode_models() -> Iterator[ModelRecord]:
    """Yield the models of the study and their controls."""
    yield ModelRecord(
        "odenet",
        "ode_models.odenet:ODENet",
        "convolutional stem, one ODE block, linear head",
        fits="classification",
        solves=True,
        source=MODELS["odenet"],
    )
    yield ModelRecord(
        "resnet",
        "ode_models.resnet:ResNet",
        "the same stem and head around residual blocks",
        fits="classification",
        solves=False,
        source=MODELS["resnet"],
    )
    yield ModelRecord(
        "no_block",
        "ode_models.resnet:NoBlock",
        "the same stem and head with nothing between them, a control",
        fits="classification",
        solves=False,
    )
    yield from _forecasters()
    yield from _beyond_the_study()
    yield ModelRecord(
        "neural_ode",
        "ode_models.neural_ode:NeuralODE",
        "a multilayer perceptron as a vector field",
        fits="dynamics",
        solves=True,
        source=MODELS["neural_ode"],
    )


def _forecasters() -> Iterator[ModelRecord]:
    yield ModelRecord(
        "gru",
        "ode_models.gru:GRU",
        "gated recurrent unit over readings and the gaps between them",
        fits="forecasting",
        solves=False,
        source=MODELS["gru"],
    )
    yield ModelRecord(
        "latent_ode",
        "ode_models.latent_ode:LatentODE",
        "recognition network run backwards in time, latent ODE, decoder",
        fits="forecasting",
        solves=True,
        source=MODELS["latent_ode"],
    )
    yield ModelRecord(
        "latent_still",
        "ode_models.latent_still:LatentStill",
        "the latent ODE's networks without its ODE, the decoder told the time, a control",
        fits="forecasting",
        solves=False,
    )
    yield ModelRecord(
        "ode_rnn",
        "ode_models.ode_rnn:ODERNN",
        "recurrent state that follows an ODE between readings and jumps at each",
        fits="forecasting",
        solves=True,
        source=MODELS["ode_rnn"],
    )


def _beyond_the_study() -> Iterator[ModelRecord]:
    yield ModelRecord(
        "neural_cde",
        "ode_models.neural_cde:NeuralCDE",
        "a controlled differential equation driven by a path through the readings",
        fits="series",
        solves=True,
        source=MODELS["neural_cde"],
    )
    yield ModelRecord(
        "gap_gru",
        "ode_models.gap_gru:GapGRU",
        "gated recurrent unit over values, which of them were read, and gaps",
        fits="series",
        solves=False,
        source=MODELS["gap_gru"],
    )
    yield ModelRecord(
        "anode",
        "ode_models.anode:ANODE",
        "an ODE on points, in further dimensions if asked, and a linear read-out",
        fits="points",
        solves=True,
        source=MODELS["anode"],
    )
    yield ModelRecord(
        "cnf",
        "ode_models.cnf:CNF",
        "a continuous normalising flow to a standard normal distribution",
        fits="density",
        solves=True,
        source=MODELS["cnf"],
    )
