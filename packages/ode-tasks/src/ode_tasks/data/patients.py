"""Virtual patients: the embedded glucose data, simulated by the suite's own solver.

Each patient has parameters of the model of Hovorka et al. 2004 (`hovorka.py`), eats three meals and
at times a snack a day, takes a bolus of insulin for most of them, more or less well judged and more
or less late, and wears a sensor that lags, errs, rounds and at times falls silent. No patient is
real, and nothing here is meant for treatment.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from ode_core import solve
from ode_core.errors import ArgumentError
from ode_tasks.data.glucose import Cohort, Series, Taken
from ode_tasks.data.glucose_rows import MG_DL_PER_MMOL_L
from ode_tasks.data.hovorka import MMOL_PER_GRAM, Body, Hovorka, Intake, dose, steady

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

MINUTES = 5
"""Between readings, as usual for sensors."""

RANGE = (40, 400)
"""What the sensor can report, mg/dL."""

_DAY = 1440
_START = np.datetime64("2024-01-01T00:00:00", "ms")
# Hour of the day, its spread, grams of carbohydrate, their spread, how often there is such a meal.
_MEALS = (
    (7.5, 0.6, 45, 15, 1.0),
    (12.5, 0.6, 65, 20, 1.0),
    (16.0, 0.7, 20, 8, 0.6),
    (19.0, 0.8, 70, 20, 1.0),
)
_MISSED_BOLUS = 0.06
_MISSED_READING = 0.01
_GAPS_A_DAY = 0.4


@lru_cache(maxsize=4)
def cohort(patients: int = 8, days: int = 4, seed: int = 0) -> Cohort:
    """Return the readings of so many virtual patients over so many days; kept in memory.

    The same arguments give the same readings, and a patient is the same whoever else there is.
    Solved in float64 by `rk4` with steps of 5 minutes, all patients at once.
    """
    if patients < 1 or days < 1:
        raise ArgumentError(
            f"a cohort has at least 1 patient and 1 day; got {patients} patients and {days} days"
        )
    chances = [np.random.default_rng([seed, number]) for number in range(patients)]
    body, weights, target = _people(chances)
    state, basal = steady(body, target)
    meals, boluses = _intake(chances, days, weights, dose(body, target, state[:, 2]))
    times = torch.arange(0, days * _DAY + 1, MINUTES, dtype=torch.float64)
    field = Hovorka(body, meals, boluses, basal)
    with torch.no_grad():
        states = solve(field, state, times, solver="rk4", dt=float(MINUTES)).ys
    glucose = MG_DL_PER_MMOL_L * states[:, :, -1].T.numpy()
    series = [
        _wear(f"virtual-{number + 1:02d}", glucose[number], chance)
        for number, chance in enumerate(chances)
    ]
    record = _record(meals, boluses, weights, ends=days * _DAY)
    return Cohort(tuple(_kept(*both) for both in zip(series, record, strict=True)))


def _people(chances: list[Generator]) -> tuple[Body, Tensor, Tensor]:
    """Return the bodies, the weights (kg) and the fasting glucose (mmol/L) of the patients."""

    def spread(middle: float, variation: float) -> Tensor:
        return torch.tensor([middle * np.exp(variation * c.standard_normal()) for c in chances])

    body = Body(
        glucose_volume=spread(0.16, 0.1),
        insulin_volume=spread(0.12, 0.1),
        production=spread(0.0161, 0.1),
        flux=spread(0.0097, 0.1),
        exchange=spread(0.066, 0.15),
        sensitivity=(spread(51.2e-4, 0.2), spread(8.2e-4, 0.2), spread(520e-4, 0.2)),
        action_rate=(spread(0.006, 0.15), spread(0.06, 0.15), spread(0.03, 0.15)),
        clearance=spread(0.138, 0.1),
        tau_insulin=spread(55, 0.15),
        tau_meal=spread(40, 0.2),
        availability=spread(0.8, 0.05).clamp_max(0.95),
        sensor_rate=spread(0.073, 0.15),
        swing=spread(0.15, 0.3),
        peak=torch.tensor([c.uniform(0, _DAY) for c in chances]),
    )
    return body, spread(74, 0.15), spread(7.0, 0.1)


def _intake(
    chances: list[Generator], days: int, weights: Tensor, units: Tensor
) -> tuple[Intake, Intake]:
    """Return what is eaten and what is injected; `units` are the mU that one mmol needs."""
    eaten, injected = [], []
    for chance, weight, unit in zip(chances, weights.numpy(), units.numpy(), strict=True):
        hour, spread, grams, deviation, share = np.tile(np.array(_MEALS), (days, 1)).T
        count = len(hour)
        day = np.repeat(np.arange(days), len(_MEALS))
        time = _DAY * day + 60 * (hour + spread * chance.standard_normal(count))
        size = np.maximum(grams + deviation * chance.standard_normal(count), 5)
        amount = size * (chance.random(count) < share) * MMOL_PER_GRAM / weight
        habit = 0.9 * np.exp(0.1 * chance.standard_normal())
        judged = habit * np.exp(0.2 * chance.standard_normal(count))
        taken = chance.random(count) >= _MISSED_BOLUS
        late = chance.uniform(-10, 25, count)
        eaten.append((time, amount))
        injected.append((time + late, amount * unit * judged * taken))
    return _stack(eaten), _stack(injected)


def _record(
    meals: Intake, boluses: Intake, weights: Tensor, *, ends: float
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return when (minutes) each patient took in what (g of carbohydrate, U of insulin)."""
    grams = (meals.amounts * weights[:, None] / MMOL_PER_GRAM).numpy()
    units = (boluses.amounts * weights[:, None] / 1000).numpy()
    kept = []
    for number in range(len(grams)):
        times = np.concatenate((meals.times[number], boluses.times[number]))
        nothing = np.zeros(len(times) // 2)
        amounts = np.column_stack(
            (np.append(grams[number], nothing), np.append(nothing, units[number]))
        )
        order = np.argsort(times, kind="stable")
        there = order[amounts[order].any(axis=1) & (times[order] >= 0) & (times[order] < ends)]
        kept.append((times[there], amounts[there]))
    return kept


def _kept(series: Series, record: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Series:
    """Return the series with what the patient wrote down, to the minute."""
    minutes, amounts = record
    return series._replace(taken=Taken(_START + minutes.astype("timedelta64[m]"), amounts))


def _stack(intakes: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Intake:
    return Intake(*(torch.tensor(np.stack(part)) for part in zip(*intakes, strict=True)))


def _wear(subject: str, glucose: NDArray[np.float64], chance: Generator) -> Series:
    """Return what a sensor reports of the interstitial glucose (mg/dL, every 5 minutes)."""
    count = len(glucose)
    noise = np.empty(count)
    noise[0] = chance.standard_normal()
    for now, shock in enumerate(0.6 * chance.standard_normal(count - 1), start=1):
        noise[now] = 0.8 * noise[now - 1] + shock
    gain = 1 + 0.04 * chance.standard_normal()
    shown = np.clip(np.round(gain * glucose + 4 * noise), *RANGE)
    kept = chance.random(count) >= _MISSED_READING
    for start in chance.integers(count, size=chance.poisson(_GAPS_A_DAY * count * MINUTES / _DAY)):
        kept[start : start + chance.integers(4, 37)] = False
    seconds = 60 * MINUTES * np.arange(count) + chance.integers(300) + chance.integers(-1, 2, count)
    times = _START + seconds.astype("timedelta64[s]")
    return Series(subject, times[kept], shown[kept])
