"""The glucose task: one run from readings to forecasts, metrics and a picture."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import ode_core
from ode_core import ArgumentError, DataError, ModelRecord
from ode_core.protocols import RunConfig
from ode_tasks import glucose_training
from ode_tasks.data.patients import cohort
from ode_tasks.data.windows import split
from ode_tasks.glucose_plot import COLUMNS
from ode_tasks.glucose_scores import scores
from ode_tasks.run import Silent, execute

MODEL = """
from typing import NamedTuple

import torch

SEEN = []


class Forecast(NamedTuple):
    mean: torch.Tensor
    std: torch.Tensor
    penalty: torch.Tensor


class Drift(torch.nn.Module):
    def __init__(self, horizons, width, controls=0):
        super().__init__()
        self.horizons = horizons
        self.gain = torch.nn.Parameter(torch.zeros(len(horizons)))
        self.log_std = torch.nn.Parameter(torch.zeros(len(horizons)))

    def forward(self, times, values, mask, intake_times=None, intakes=None):
        SEEN.append(len(times))
        assert (times <= 0).all() and mask[:, -1].all() and (values[~mask] == 0).all()
        change = values[:, -1:] - values[:, -4:-3]
        mean = values[:, -1:] + self.gain * change
        return Forecast(mean, self.log_std.exp().expand_as(mean), 0.5 * self.gain.square().sum())
"""


@pytest.fixture
def drift(tmp_path, monkeypatch):
    (tmp_path / "drift_model.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drift_model", raising=False)
    record = ModelRecord("drift", "drift_model:Drift", "drifts", fits="forecasting", solves=False)
    ode_core.register(record)
    yield tmp_path
    ode_core.registry.REGISTRY.remove("model", "drift")


def config(**changes):
    fields = {"task": "glucose", "model": "drift", "solver": "", "gradient": ""}
    return RunConfig(**(fields | {"settings": {"patients": "4", "days": "5"}} | changes))


@pytest.fixture
def run(drift):
    """Return a run's row and the table of forecasts that it left."""

    def of(**changes):
        out = drift / "out"
        row = execute(config(out=out, **changes), Silent())
        return row, pd.read_parquet(out / "predictions.parquet")

    return of


def test_a_run_leaves_forecasts_metrics_and_a_picture(run, drift):
    row, forecasts = run()
    assert tuple(forecasts.columns) == COLUMNS
    assert len(forecasts) == 4 * row["test_windows"]
    assert forecasts["origin"].dtype.kind == "M"
    assert sorted(set(forecasts["horizon_min"])) == [15, 30, 45, 60]
    assert (drift / "out/forecast.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((drift / "out/metrics.json").read_text())
    assert stored["per_person"].keys() == set(forecasts["subject"])
    assert stored["people"] == 4
    assert stored["baselines"].keys() == {"last_value", "straight_line", "ridge"}
    assert (drift / "out/horizons.png").read_bytes().startswith(b"\x89PNG")
    for figures in (stored, *stored["baselines"].values(), *stored["per_person"].values()):
        assert figures.keys() >= {f"{n}_{h}" for n in ("rmse", "mae", "ape") for h in (15, 30, 60)}
    assert set(stored["baselines"]["ridge"]["per_person"]) == set(forecasts["subject"])


def test_the_metrics_are_those_of_the_forecasts(run):
    row, forecasts = run()
    assert row["score_name"] == "rmse_30"
    assert row["higher_is_better"] is False
    assert row["score"] == row["rmse_30"]
    for name, value in scores(forecasts).items():
        assert row[name] == pytest.approx(value)
    assert 0.5 < row["coverage90_30"] <= 1
    assert row["rmse_15"] < row["baselines"]["last_value"]["rmse_15"]  # it has learned the drift


def test_the_targets_are_readings_of_the_test_part(run):
    _, forecasts = run()
    people = {person.subject: person for person in cohort(4, 5).series}
    for subject, rows in forecasts.groupby("subject"):
        person = people[subject]
        cut = person.times[int(0.8 * len(person.times))]
        assert (rows["origin"] >= cut).all()
        known = rows.dropna(subset=["target"])
        assert set(known["target"]) <= set(person.glucose[person.times > cut])


def test_the_test_part_is_forecast_once_after_training(run, monkeypatch):
    asked = []
    forecast = glucose_training.forecast

    def noting(model, windows, scale, **options):
        asked.append(len(windows.origin))
        return forecast(model, windows, scale, **options)

    monkeypatch.setattr(glucose_training, "forecast", noting)
    row, _ = run(settings={"patients": "4", "days": "5", "epochs": "2"})
    assert asked == [*[row["validation_windows"]] * 3, row["test_windows"]]


def test_the_loss_is_the_gaussian_likelihood_of_known_targets_plus_the_penalty():
    mean = torch.tensor([[1.0, 2.0, 3.0]])
    std = torch.tensor([[1.0, 2.0, 0.5]])
    targets = torch.tensor([[0.0, torch.nan, 3.5]])

    def model(times, values, mask):
        return type("Forecast", (), {"mean": mean, "std": std, "penalty": torch.tensor(0.25)})

    normal = torch.distributions.Normal(mean[:, [0, 2]], std[:, [0, 2]])
    expected = 0.25 - normal.log_prob(targets[:, [0, 2]]).mean()
    torch.testing.assert_close(glucose_training.loss(model, (mean, mean, mean, targets)), expected)


def test_a_batch_without_targets_has_no_loss_and_no_nan_in_the_gradient():
    mean = torch.zeros(2, 3, requires_grad=True)
    loss = glucose_training.likelihood(mean, torch.ones(2, 3), torch.full((2, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert mean.grad.abs().max() == 0


def test_early_stopping_watches_the_validation_loss(run, monkeypatch):
    script = iter([(3.0, 20.0), (2.0, 30.0), (2.5, 10.0), (2.6, 5.0), (0.0, 0.0)])

    def validate(self, model):
        loss, score = next(script)
        return {"validation_loss": loss, "validation_score": score}

    monkeypatch.setattr(glucose_training.Validate, "__call__", validate)
    row, _ = run(settings={"patients": "4", "days": "5", "epochs": "9", "patience": "2"})
    assert [epoch["validation_loss"] for epoch in row["history"]] == [3.0, 2.0, 2.5, 2.6]
    assert "test_score" not in row["history"][0]


def test_training_takes_windows_from_all_over(drift):
    parts = split(cohort(4, 5).series)
    used = glucose_training.spread(parts.train, 100)
    assert len(used.origin) == 100
    assert set(used.subject) == {0, 1, 2, 3}
    assert len(glucose_training.spread(parts.train, 10**6).origin) == len(parts.train.origin)
    row = execute(config(settings={"patients": "4", "days": "5", "train_windows": "100"}), Silent())
    assert row["train_windows"] == 100
    assert row["test_windows"] == len(parts.test.origin)


def test_a_file_of_readings_and_what_was_done_to_it(drift):
    lines = ["subject,time,glucose_mg_dl"]
    person = cohort(1, 5).series[0]
    lines += [f"x,{t},{g:.0f}" for t, g in zip(person.times, person.glucose, strict=True)]
    path = drift / "mine.csv"
    path.write_text("\n".join([*lines, lines[-1]]))
    row = execute(config(data=path, settings={}), Silent())
    assert row["people"] == 1
    assert list(row["per_person"]) == ["x"]
    assert row["data_notes"] == ["1 repeated readings were merged"]


def test_bad_settings_and_data_are_refused_before_any_training(drift):
    with pytest.raises(ArgumentError, match="train_windows is 0"):
        execute(config(settings={"train_windows": "0"}), Silent())
    with pytest.raises(ArgumentError, match="weight_decay is -1"):
        execute(config(settings={"weight_decay": "-1"}), Silent())
    with pytest.raises(DataError, match="no file and no folder"):
        execute(config(data=drift / "missing.csv"), Silent())
    with pytest.raises(DataError, match="no forecast to choose"):
        execute(config(settings={"days": "1", "patients": "2"}), Silent())
    with pytest.raises(ArgumentError, match="solves no differential equation"):
        execute(config(solver="rk4"), Silent())
    assert importlib.import_module("drift_model").SEEN == []


@pytest.mark.parametrize(
    ("model", "solver", "gradient"),
    [("gru", "", ""), ("latent_ode", "dopri5", "direct"), ("latent_ode", "rk4", "adjoint")],
)
def test_both_models_learn_something(model, solver, gradient):
    settings = {"patients": "4", "days": "4", "train_windows": "512"}
    row = execute(
        config(model=model, solver=solver, gradient=gradient, settings=settings), Silent()
    )
    assert np.isfinite([row["loss"], row["train_loss"]]).all()
    assert row["score"] < row["baselines"]["last_value"]["rmse_30"]
    assert (row["solver_error"] is None) == (model == "gru")
    assert (row["f_forward"] is None) == (model == "gru")
    assert row["memory_bytes"] > 0


def test_the_real_people(shared_data):
    path = shared_data / "cgm/hall2018_subset19.csv"
    row = execute(config(model="gru", data=path, settings={"train_windows": "512"}), Silent())
    assert row["test_windows"] == 4_863
    assert row["people"] == 19
    assert row["score"] < 25


def test_stretching_moves_all_readings_and_targets_away_from_the_last_one():
    values = torch.tensor([[0.0, 1.0, 2.0], [5.0, 3.0, 4.0]])
    mask = torch.tensor([[False, True, True], [True, True, True]])
    targets = torch.tensor([[3.0, torch.nan], [4.0, 2.0]])
    given = (torch.zeros(2, 3), values, mask, targets, torch.ones(2, 1))
    _, moved, _, ahead, intakes = glucose_training.stretched(given, 0.5)
    factor = (ahead[:, :1] - 0)[0] - 2.0
    assert moved[:, -1].tolist() == [2.0, 4.0]
    assert moved[0, 1].item() == pytest.approx(2.0 - factor.item(), abs=1e-5)
    assert moved[0, 0] == 0
    assert torch.isnan(ahead[0, 1])
    ratio = (moved[1] - 4.0) / (values[1] - 4.0)
    torch.testing.assert_close(ratio[:2], ((ahead[1, 1:] - 4.0) / -2.0).expand(2))
    assert ratio[0] != 1
    assert torch.equal(intakes, torch.ones(2, 1))
    assert torch.equal(glucose_training.stretched(given, 0.0)[1], values)


def test_beta_weighs_by_the_forecasts_own_variance():
    mean, std = torch.zeros(2, 1, requires_grad=True), torch.tensor([[1.0], [3.0]])
    targets = torch.tensor([[1.0], [1.0]])
    grads = [
        torch.autograd.grad(glucose_training.likelihood(mean, std, targets, beta), mean)[0]
        for beta in (0.0, 0.5, 1.0)
    ]
    ratios = [(grad[1] / grad[0]).item() for grad in grads]
    assert ratios == pytest.approx([1 / 9, 1 / 3, 1.0])


def test_calibration_makes_the_intervals_hold_90_percent():
    rng = np.random.default_rng(0)
    targets = rng.normal(100, 20, (999, 2)).astype(np.float32)
    targets[:, 1] = np.nan
    made = glucose_training.Forecasts(
        np.full((999, 2), 100, np.float32), np.full((999, 2), 5, np.float32), 0.0
    )
    factors = glucose_training.calibrated(made, targets)
    assert factors[1] == 1
    within = np.abs(targets[:, 0] - 100) <= 1.6448536 * 5 * factors[0] + 1e-4
    assert within.sum() == 900
    assert factors[0] == pytest.approx(4, rel=0.1)


def test_the_intervals_of_a_run_are_the_calibrated_ones(run, monkeypatch):
    monkeypatch.setattr(glucose_training, "calibrated", lambda made, targets: np.full(4, 3.0))
    wide, _ = run()
    assert wide["calibration_30"] == 3
    monkeypatch.undo()
    usual = execute(config(), Silent())
    assert wide["width90_30"] * usual["calibration_30"] == pytest.approx(3 * usual["width90_30"])
    assert wide["rmse_30"] == usual["rmse_30"]


def test_people_never_seen_are_forecast_on_the_same_windows(run):
    settings = {"patients": "4", "days": "5", "epochs": "1"}
    seen = execute(config(settings=settings), Silent())
    row, forecasts = run(settings=settings | {"folds": "2"})
    assert row["unseen_people"]
    assert row["test_windows"] == seen["test_windows"]
    assert set(forecasts["subject"]) == {f"virtual-0{n}" for n in range(1, 5)}
    ridge = {
        name: made["baselines"]["ridge"]["rmse_30"] for name, made in (("a", row), ("b", seen))
    }
    assert ridge["a"] != ridge["b"]
    assert ridge["a"] == pytest.approx(ridge["b"], rel=0.3)
    with pytest.raises(DataError, match="4 people do not fill 9 folds"):
        execute(config(settings=settings | {"folds": "9"}), Silent())


def test_a_record_of_meals_and_insulin_is_used_unless_it_is_not_wanted(drift):
    settings = {"patients": "4", "days": "4", "train_windows": "512"}
    used = execute(config(model="gru", settings=settings), Silent())
    unused = execute(config(model="gru", settings=settings | {"controls": "false"}), Silent())
    assert (used["intakes"], unused["intakes"]) == (True, False)
    assert used["parameters"] > unused["parameters"]
    assert used["rmse_60"] < unused["rmse_60"]


def test_the_linear_predictor_can_be_left_out(drift):
    settings = {"patients": "3", "days": "4", "train_windows": "128", "epochs": "1"}
    counts = [
        execute(config(model="gru", settings=settings | {"linear": flag}), Silent())["parameters"]
        for flag in ("true", "false")
    ]
    assert counts[0] > counts[1]


def test_boosted_trees_stand_beside_the_baselines(drift):
    settings = {"patients": "3", "days": "4", "train_windows": "128", "epochs": "1"}
    row = execute(config(settings=settings | {"trees": "true"}), Silent())
    trees = row["baselines"]["boosted_trees"]
    assert trees["rmse_30"] < row["baselines"]["last_value"]["rmse_30"]
    assert 0.4 < trees["coverage90_30"] < 1
    gap = row["against_ridge"]["rmse_30"]
    assert gap["difference"] == pytest.approx(row["rmse_30"] - row["baselines"]["ridge"]["rmse_30"])
    assert gap["low"] <= gap["difference"] <= gap["high"]
