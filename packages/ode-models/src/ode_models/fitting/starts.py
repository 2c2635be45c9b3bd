"""The states that a fit begins with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ode_core import ArgumentError
from ode_models.fitting.readings import Readings
from ode_models.fitting.sensitivities import Equations
from ode_models.gaps import across

_F64 = torch.float64


def first_states(
    equations: Equations, readings: Readings, parameters: Tensor, y0: Any, guess: Any
) -> Tensor:
    """Return states `[N, T, n]`: the guess, or the readings, or the solution from `y0`.

    The first of them is `y0` where that is given. Raises ArgumentError where they cannot be had.
    """
    rows, length, read = readings.values.shape
    start = None if y0 is None else _shaped("y0", y0, (rows,), readings.single)
    if guess is not None:
        states = _shaped("guess", guess, (rows, length), readings.single).clone()
    elif equations.observe is None:
        states = _read(readings)
    elif start is not None:
        states = _solved(equations, readings, parameters, start)
    else:
        raise ArgumentError("with observe the readings are no states: give y0, or guess")
    if equations.observe is None and states.shape[-1] != read:
        raise ArgumentError(
            f"data holds {read} readings of a state of {states.shape[-1]} numbers; say with "
            "observe what is read"
        )
    if start is not None:
        if start.shape[-1] != states.shape[-1]:
            raise ArgumentError(
                f"y0 has {start.shape[-1]} numbers, and a state of guess or data has "
                f"{states.shape[-1]}"
            )
        states[:, 0] = start
    return states


def _read(readings: Readings) -> Tensor:
    """Return the readings with straight lines across what is missing."""
    if not bool(readings.present.any(1).all()):
        raise ArgumentError(
            "an entry of the state was never read, so there is nothing to begin with; give guess"
        )
    return across(readings.times, readings.values)


def _shaped(name: str, value: Any, leading: tuple[int, ...], single: bool) -> Tensor:
    """Return `[*leading, n]` in float64; raises ArgumentError for other shapes."""
    tensor = torch.as_tensor(value, dtype=_F64).detach().cpu()
    tensor = tensor[None] if single else tensor
    if tensor.shape[:-1] != torch.Size(leading) or not bool(tensor.isfinite().all()):
        letters = ("N", "T")[: len(leading)]
        shape = ", ".join((*(letters[1:] if single else letters), "n"))
        raise ArgumentError(
            f"{name} is [{shape}], finite; got {list(torch.as_tensor(value).shape)}"
        )
    return tensor


def _solved(equations: Equations, readings: Readings, parameters: Tensor, start: Tensor) -> Tensor:
    solution = equations.solved(start, parameters, readings.times)
    states: Tensor = solution.ys[0]
    if len(states) < readings.times.shape[1] or not bool(states.isfinite().all()):
        raise ArgumentError(
            "the equations cannot be solved from y0 with the parameters to begin with; give "
            "others, or guess, the states to begin with"
        )
    return states.transpose(0, 1).contiguous()
