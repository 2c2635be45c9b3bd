"""The glucose-insulin model of Hovorka et al. 2004 for people with type 1 diabetes.

R. Hovorka et al., "Nonlinear model predictive control of glucose concentration in subjects with
type 1 diabetes", Physiological Measurement 25 (2004) 905-920: the glucose subsystem (Q1, Q2, with
endogenous production, renal excretion F_R and the flux F01 that needs no insulin), the gut's
absorption U_G, the insulin subsystem (S1, S2, I) and the three actions of insulin (x1, x2, x3),
with the population values of its table of parameters. Added is the interstitial compartment in
which a sensor measures, dC/dt = k_int (G - C), as in M. E. Wilinska et al., J. Diabetes Sci.
Technol. 4 (2010) 132-144.

Both absorption chains are linear with two equal rates, so that what they pass on has a closed form,
amount t exp(-t / tau) / tau^2 for an intake at t = 0: they need no states.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MMOL_PER_GRAM = 1000 / 180.156
"""Of glucose, per gram of carbohydrate."""

_KIDNEY_FROM = 9.0
_FLUX_FULL_FROM = 4.5
_BISECTIONS = 60


class Body(NamedTuple):
    """The parameters of N people, `[N]` float64 each.

    Volumes in L/kg, fluxes in mmol/kg/min, rates in 1/min, `tau` in min; the sensitivities are of
    transport (1/min per mU/L), disposal (likewise) and production (1 per mU/L). `swing` is by which
    part the sensitivities rise and fall in a day, `peak` the minute of the day when they are
    highest.
    """

    glucose_volume: Tensor
    insulin_volume: Tensor
    production: Tensor
    flux: Tensor
    exchange: Tensor
    sensitivity: tuple[Tensor, Tensor, Tensor]
    action_rate: tuple[Tensor, Tensor, Tensor]
    clearance: Tensor
    tau_insulin: Tensor
    tau_meal: Tensor
    availability: Tensor
    sensor_rate: Tensor
    swing: Tensor
    peak: Tensor


class Intake(NamedTuple):
    """When and how much: `times` `[N, M]` in minutes, `amounts` `[N, M]` (0 where there is less).

    A meal's amount is in mmol/kg of glucose, a bolus' in mU/kg of insulin.
    """

    times: Tensor
    amounts: Tensor

    def absorbed(self, t: Tensor, tau: Tensor) -> Tensor:
        """Return the appearance `[N]` per minute at time `t` (0-d), zero before each intake."""
        passed = (t - self.times).clamp_min_(0) / tau[:, None]
        return (self.amounts * passed * torch.exp(-passed)).sum(dim=1) / tau


class Hovorka:
    """The vector field of N people at once: `f(t, y)`, t in minutes, y `[N, 7]`.

    The state is Q1, Q2 (mmol/kg), I (mU/L), x1, x2, x3 and the interstitial glucose C (mmol/L).
    `basal` is the insulin infused all the time, `[N]` in mU/kg/min.
    """

    def __init__(self, body: Body, meals: Intake, boluses: Intake, basal: Tensor) -> None:
        self.body = body
        self.meals = meals
        self.boluses = boluses
        self.basal = basal
        self._rates = torch.stack(body.action_rate, dim=1)
        self._gains = torch.stack(body.sensitivity, dim=1) * self._rates

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Return dy/dt, `[N, 7]`."""
        body = self.body
        q1, q2, insulin, _, _, _, interstitial = y.unbind(dim=1)
        actions = y[:, 3:6]
        transport, disposal, suppression = actions.unbind(dim=1)
        glucose = q1 / body.glucose_volume
        meal = body.availability * self.meals.absorbed(t, body.tau_meal)
        infused = self.basal + self.boluses.absorbed(t, body.tau_insulin)
        moved = transport * q1
        returned = body.exchange * q2
        made = body.production * (1 - suppression).clamp_min(0)
        lost = _flux(body, glucose) + _kidney(body, glucose)
        phase = (t - body.peak) * (2 * torch.pi / 1440)
        gains = self._gains * (1 + body.swing * torch.cos(phase))[:, None]
        return torch.column_stack(
            (
                meal + made + returned - moved - lost,
                moved - returned - disposal * q2,
                infused / body.insulin_volume - body.clearance * insulin,
                gains * insulin[:, None] - self._rates * actions,
                body.sensor_rate * (glucose - interstitial),
            )
        )


def steady(body: Body, glucose: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state `[N, 7]` that stays at `glucose` (`[N]`, mmol/L) and its basal infusion.

    That is for the sensitivities' mean over a day. The insulin is found by bisection: the more
    there is of it, the faster glucose falls.
    """
    low, high = torch.zeros_like(glucose), torch.full_like(glucose, 200.0)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rising = _net(body, glucose, middle) > 0
        low, high = torch.where(rising, middle, low), torch.where(rising, high, middle)
    actions = [gain * low for gain in body.sensitivity]
    q1 = glucose * body.glucose_volume
    q2 = actions[0] * q1 / (body.exchange + actions[1])
    state = torch.stack((q1, q2, low, *actions, glucose), dim=1)
    return state, low * body.insulin_volume * body.clearance


def dose(body: Body, glucose: Tensor, insulin: Tensor) -> Tensor:
    """Return the insulin that removes what one mmol of absorbed glucose brings, `[N]` in mU.

    Linearised where both are a little above their fasting values `glucose` (mmol/L) and `insulin`
    (mU/L), as they are after a meal.
    """
    raised, more = 1.2 * glucose, 4.0
    effect = (_net(body, raised, insulin) - _net(body, raised, insulin + more)) / more
    return body.availability * body.insulin_volume * body.clearance / effect


def _net(body: Body, glucose: Tensor, insulin: Tensor) -> Tensor:
    """Return dQ1/dt without a meal where all but Q1 is at rest."""
    transport, disposal, suppression = (gain * insulin for gain in body.sensitivity)
    q1 = glucose * body.glucose_volume
    taken = transport * q1 * disposal / (body.exchange + disposal)
    made = body.production * (1 - suppression).clamp_min(0)
    return made - taken - _flux(body, glucose) - _kidney(body, glucose)


def _flux(body: Body, glucose: Tensor) -> Tensor:
    return body.flux * (glucose / _FLUX_FULL_FROM).clamp_max(1)


def _kidney(body: Body, glucose: Tensor) -> Tensor:
    return 0.003 * (glucose - _KIDNEY_FROM).clamp_min(0) * body.glucose_volume
