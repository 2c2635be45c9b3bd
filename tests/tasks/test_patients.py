"""Virtual patients: plausible, seeded, different, and moved by food and insulin the right way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ode_core import ArgumentError, solve
from ode_tasks.data import patients
from ode_tasks.data.hovorka import MMOL_PER_GRAM, Body, Hovorka, Intake, dose, steady
from ode_tasks.data.patients import RANGE, cohort


def body(count=1):
    """Return people with the population's values, whose sensitivity does not swing."""

    def values(number):
        return torch.full((count,), number, dtype=torch.float64)

    return Body(
        glucose_volume=values(0.16),
        insulin_volume=values(0.12),
        production=values(0.0161),
        flux=values(0.0097),
        exchange=values(0.066),
        sensitivity=(values(51.2e-4), values(8.2e-4), values(520e-4)),
        action_rate=(values(0.006), values(0.06), values(0.03)),
        clearance=values(0.138),
        tau_insulin=values(55.0),
        tau_meal=values(40.0),
        availability=values(0.8),
        sensor_rate=values(0.073),
        swing=values(0.0),
        peak=values(0.0),
    )


def course(grams=0.0, units=0.0, solver="dopri5", **options):
    """Return plasma and interstitial glucose (mmol/L) over 8 h, food and insulin after one."""
    person = body()
    state, basal = steady(person, torch.tensor([7.0], dtype=torch.float64))
    at = torch.tensor([[60.0]], dtype=torch.float64)
    meals = Intake(at, at * 0 + grams * MMOL_PER_GRAM / 74)
    boluses = Intake(at, at * 0 + 1000 * units / 74)
    times = torch.arange(0, 481, 5, dtype=torch.float64)
    states = solve(
        Hovorka(person, meals, boluses, basal), state, times, solver=solver, **options
    ).ys
    return (states[:, 0, 0] / 0.16).numpy(), states[:, 0, -1].numpy()


def test_fasting_glucose_stays_where_it_is():
    plasma, sensed = course()
    assert np.ptp(plasma) < 1e-4
    assert plasma[0] == pytest.approx(7.0)
    assert sensed[0] == pytest.approx(7.0)


def test_a_meal_raises_glucose_and_insulin_lowers_it():
    fed, _ = course(grams=60)
    treated, _ = course(grams=60, units=2)
    fasting, _ = course(units=2)
    assert fed.max() > 7 + 3
    assert 7 + 1 < treated.max() < fed.max()
    assert (treated[-24:] < fed[-24:] - 2).all()
    assert fasting.min() < 7 - 3


def test_the_dose_for_a_meal_brings_glucose_back():
    person = body()
    start = torch.tensor([7.0], dtype=torch.float64)
    state, _ = steady(person, start)
    mmol = 60 * MMOL_PER_GRAM  # 60 g of carbohydrate
    units = float(dose(person, start, state[:, 2])) * mmol / 1000
    treated, _ = course(grams=60, units=units)
    assert 4.0 < treated[-1] < 8.5
    assert abs(treated[-1] - 7) < abs(course(grams=60)[0][-1] - 7)


def test_the_sensor_lags():
    plasma, sensed = course(grams=60)
    assert 5 <= 5 * (int(sensed.argmax()) - int(plasma.argmax())) <= 30


def test_absorption_passes_on_the_whole_amount_after_the_intake_only():
    intake = Intake(torch.tensor([[60.0, 100.0]]), torch.tensor([[2.0, 0.0]]))
    times = torch.arange(0.0, 1500.0)
    appearing = torch.stack([intake.absorbed(t, torch.tensor([40.0])) for t in times])[:, 0]
    assert appearing[:61].abs().max() == 0
    assert appearing.argmax() == 100
    assert float(appearing.sum()) == pytest.approx(2.0, rel=1e-3)


def test_steps_of_five_minutes_are_fine_enough():
    coarse, _ = course(grams=60, units=2, solver="rk4", dt=5.0)
    exact, _ = course(grams=60, units=2, rtol=1e-9, atol=1e-9)
    assert np.abs(coarse - exact).max() < 0.01


def test_the_cohort_is_plausible():
    readings = np.concatenate([person.glucose for person in cohort().series])
    assert 100 < readings.mean() < 200
    assert 25 < readings.std() < 90
    assert readings.min() >= 35
    assert readings.max() <= 450
    assert np.isin(readings, RANGE).mean() < 0.03  # the sensor's limits are rarely met
    assert 0.4 < ((readings >= 70) & (readings <= 180)).mean() < 0.95


def test_the_cohort_has_clocks_gaps_and_noise():
    for person in cohort().series:
        minutes = np.diff(person.times) / np.timedelta64(1, "m")
        assert (minutes > 0).all()
        assert 0.9 < (np.abs(minutes - 5) < 0.1).mean() < 1
    everyone = np.concatenate([np.diff(p.times) for p in cohort().series])
    assert (everyone > np.timedelta64(15, "m")).sum() >= 5
    assert all(np.diff(p.glucose, n=2).std() > 3 for p in cohort().series)


def test_the_seed_decides_and_patients_differ():
    patients.cohort.cache_clear()
    first, again, other = cohort(3, 2, 1), None, cohort(3, 2, 2)
    patients.cohort.cache_clear()
    again = cohort(3, 2, 1)
    assert first is not again
    for one, two, three in zip(first.series, again.series, other.series, strict=True):
        assert (one.glucose == two.glucose).all()
        assert (one.times == two.times).all()
        assert not np.array_equal(one.glucose, three.glucose)
    assert len({person.subject for person in first.series}) == 3
    means = sorted(person.glucose.mean() for person in first.series)
    assert min(np.diff(means)) > 0.5


def test_a_patient_is_the_same_whoever_else_there_is():
    alone, among = cohort(1, 2, 5).series[0], cohort(4, 2, 5).series[0]
    assert (alone.times == among.times).all()
    assert (alone.glucose == among.glucose).mean() > 0.99  # rounding of a sum may differ


def test_a_cohort_without_patients_is_refused():
    with pytest.raises(ArgumentError, match="at least 1 patient"):
        cohort(0, 4)


def test_the_patients_wrote_down_what_they_ate_and_injected():
    people = cohort(4, 5).series
    for person in people:
        times, amounts = person.taken
        assert (np.diff(times) >= np.timedelta64(0)).all()
        assert ((amounts > 0).sum(axis=1) == 1).all()
        meals, boluses = (amounts[amounts[:, kind] > 0, kind] for kind in (0, 1))
        assert 3 * 5 <= len(meals) <= 4 * 5
        assert 10 < meals.mean() < 90
        assert 0.3 < len(boluses) / len(meals) <= 1
        assert 0.5 < boluses.mean() < 20
    rise = [_after_meals(person) for person in people]
    assert np.mean(rise) > 15


def _after_meals(person):
    """Return by how much glucose rises in the 45 minutes after a meal above 50 g, in the mean."""
    meals = person.taken.times[person.taken.amounts[:, 0] > 50]
    now, later = (
        np.interp(
            (meals + np.timedelta64(minutes, "m")).astype("float64"),
            person.times.astype("float64"),
            person.glucose,
        )
        for minutes in (0, 45)
    )
    return (later - now).mean()
