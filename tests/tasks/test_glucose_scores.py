"""Baselines, scores and the picture of forecasts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ode_core import DataError
from ode_tasks.data.glucose import Series, load
from ode_tasks.data.windows import HORIZONS, split
from ode_tasks.glucose_baselines import baselines, ridge, slots, straight_line
from ode_tasks.glucose_plot import COLUMNS, figure, read
from ode_tasks.glucose_scores import by_person, scores, table

START = np.datetime64("2024-03-01T00:00:00", "ms")


def parts(glucose, subject="a"):
    times = START + (300_000 * np.arange(len(glucose))).astype("timedelta64[ms]")
    return split([Series(subject, times, np.asarray(glucose, dtype=np.float64))])


@pytest.fixture
def line():
    """A person whose glucose rises by 0.1 mg/dL every 5 minutes."""
    return parts(80 + 0.1 * np.arange(1000))


def test_the_last_value_and_the_straight_line(line):
    found = {name: made.mean for name, made in baselines(line).items()}
    truth = line.test.targets
    np.testing.assert_allclose(
        truth - found["last_value"], [[0.3, 0.6, 0.9, 1.2]] * len(truth), atol=1e-3
    )
    np.testing.assert_allclose(found["straight_line"], truth, atol=1e-3)
    np.testing.assert_allclose(found["ridge"], truth, atol=0.1)


def test_the_line_takes_the_readings_of_15_minutes_only():
    glucose = np.full(1000, 100.0)
    windows = parts(glucose).test
    values = windows.values.copy()
    values[:, -5] = 400  # 20 minutes before the origin
    assert (straight_line(windows._replace(values=values)) == 100).all()
    values[:, -4] = 70  # 15 minutes before it
    rising = straight_line(windows._replace(values=values))
    expected = np.polyval(np.polyfit([-15, -10, -5, 0], [70, 100, 100, 100], 1), HORIZONS)
    np.testing.assert_allclose(rising[0], expected, rtol=1e-5)


def test_the_line_is_flat_where_there_is_one_reading():
    windows = parts(np.arange(1000) / 10 + 80).test
    mask = windows.mask.copy()
    mask[:, -4:-1] = False
    flat = straight_line(windows._replace(mask=mask))
    np.testing.assert_allclose(flat, np.repeat(windows.values[:, -1:], len(HORIZONS), axis=1))


def test_slots_interpolate_within_the_window_only():
    data = parts(100 + 10 * np.sin(np.arange(1000) / 9))
    full = slots(data.test, data.scale)
    assert full.shape == (len(data.test.origin), 49)
    normal = data.scale.normal(data.test.values, data.test.subject)
    np.testing.assert_allclose(full, normal, atol=1e-4)
    mask = data.test.mask.copy()
    mask[:, [0, 10]] = False
    holes = slots(data.test._replace(mask=mask), data.scale)
    np.testing.assert_allclose(holes[:, 10], (normal[:, 9] + normal[:, 11]) / 2, atol=1e-4)
    np.testing.assert_allclose(holes[:, 0], normal[:, 1], atol=1e-6)


def test_ridge_leaves_missing_targets_out():
    data = parts(100 + 10 * np.sin(np.arange(1000) / 9))
    targets = data.train.targets.copy()
    targets[::2] = np.nan
    forecasts = ridge([data.train._replace(targets=targets)], data.test, data.scale)
    assert np.abs(forecasts - data.test.targets).max() < 0.5


def test_the_figures_of_hall(shared_data):
    data = split(load(shared_data / "cgm/hall2018_subset19.csv").series)
    names = [str(number) for number in range(19)]
    found = {k: scores(table(data.test, names, b.mean)) for k, b in baselines(data).items()}
    assert found["last_value"]["rmse_30"] == pytest.approx(15.10, abs=0.01)
    assert found["last_value"]["rmse_60"] == pytest.approx(22.93, abs=0.01)
    assert found["ridge"]["rmse_30"] == pytest.approx(13.21, abs=0.03)
    assert found["ridge"]["rmse_60"] == pytest.approx(20.19, abs=0.03)


def forecasts():
    """Two people, two origins each, horizons 30 and 60; one target is missing."""
    origin = pd.to_datetime(["2024-03-01T00:00", "2024-03-01T00:05"] * 2).repeat(2)
    return pd.DataFrame(
        {
            "subject": ["a"] * 4 + ["b"] * 4,
            "origin": origin,
            "horizon_min": [30, 60] * 4,
            "target": [100, 100, 200, np.nan, 100, 50, 100, 100],
            "mean": [110.0, 130.0, 170.0, 1.0, 100.0, 60.0, 120.0, 100.0],
            "lo90": [101.0, 90.0, 160.0, 0.0, 99.0, 50.0, 110.0, 90.0],
            "hi90": [119.0, 170.0, 201.0, 2.0, 101.0, 70.0, 130.0, 110.0],
        }
    )


def test_scores_are_pooled_over_rows_with_a_target():
    found = scores(forecasts())
    assert found["rmse_30"] == pytest.approx(np.sqrt((10**2 + 30**2 + 0 + 20**2) / 4))
    assert found["mae_30"] == pytest.approx(15)
    assert found["ape_30"] == pytest.approx((10 + 15 + 0 + 20) / 4)
    assert found["coverage90_30"] == pytest.approx(2 / 4)
    assert found["rmse_60"] == pytest.approx(np.sqrt((30**2 + 10**2 + 0) / 3))
    assert found["ape_60"] == pytest.approx((30 + 20 + 0) / 3)
    assert found["coverage90_60"] == pytest.approx(1)


def test_scores_of_each_person():
    found = by_person(forecasts())
    assert list(found) == ["a", "b"]
    assert found["a"]["mae_30"] == pytest.approx(20)
    assert found["a"]["mae_60"] == pytest.approx(30)
    assert found["b"]["mae_30"] == pytest.approx(10)


def test_a_person_without_targets_has_nan():
    rows = forecasts()
    rows.loc[rows["subject"] == "a", "target"] = np.nan
    found = by_person(rows)
    assert np.isnan(found["a"]["rmse_30"])
    assert np.isnan(found["a"]["coverage90_30"])


def test_the_table_has_the_promised_columns_and_the_central_90_percent(line):
    windows = line.test
    mean = np.full_like(windows.targets, 100)
    rows = table(windows, ["x"], mean, std=np.full_like(mean, 10))
    assert tuple(rows.columns) == COLUMNS
    assert len(rows) == 4 * len(windows.origin)
    assert rows["horizon_min"].tolist()[:5] == [15, 30, 45, 60, 15]
    assert set(rows["subject"]) == {"x"}
    assert rows["origin"].iloc[4] == pd.Timestamp(windows.origin[1])
    np.testing.assert_array_equal(rows["target"].to_numpy()[:4], windows.targets[0])
    assert rows["hi90"].iloc[0] == pytest.approx(100 + 16.4485, abs=1e-3)
    assert rows["lo90"].iloc[0] == pytest.approx(100 - 16.4485, abs=1e-3)
    rng = np.random.default_rng(0)
    drawn = windows._replace(targets=rng.normal(100, 10, mean.shape).astype(np.float32))
    share = scores(table(drawn, ["x"], mean, std=np.full_like(mean, 10)))["coverage90_30"]
    assert share == pytest.approx(0.9, abs=0.06)


def lines_of(axes):
    return {line.get_label(): line.get_xydata() for line in axes.get_lines()}


def test_the_picture_has_a_panel_a_model_with_the_same_stretch(line):
    mean = line.test.targets + 1
    one = table(line.test, ["x"], mean, std=np.ones_like(mean))
    two = table(line.test, ["x"], mean + 4, std=np.ones_like(mean))
    drawing = figure({"latent_ode": one, "gru": two.sample(frac=1, random_state=0)}, 60)
    left, right = drawing.axes
    assert (left.get_title(), right.get_title()) == ("latent_ode", "gru")
    shown = [lines_of(axes) for axes in (left, right)]
    np.testing.assert_array_equal(shown[0]["reading"], shown[1]["reading"])
    np.testing.assert_allclose(
        shown[1]["forecast"] - shown[0]["forecast"], [[0, 4]] * 140, atol=1e-3
    )
    # A forecast stands at the time that it is for, above the reading of that time.
    np.testing.assert_allclose(
        shown[0]["forecast"] - shown[0]["reading"], [[0, 1]] * 140, atol=1e-3
    )
    assert len(left.collections) == 1


def test_the_picture_breaks_the_line_at_a_gap(line):
    mean = line.test.targets
    rows = table(line.test, ["x"], mean, std=np.ones_like(mean))
    late = rows["origin"] > rows["origin"].iloc[60]
    rows.loc[late, "origin"] += pd.Timedelta(hours=2)
    shown = lines_of(figure({"gru": rows}, 30).axes[0])["forecast"]
    assert np.isnan(shown[:, 1]).sum() == 1


def test_forecasts_that_cannot_be_drawn_are_refused(tmp_path):
    with pytest.raises(DataError, match="45 minutes ahead"):
        figure({"gru": forecasts()}, 45)
    path = tmp_path / "predictions.parquet"
    with pytest.raises(DataError, match="cannot be read"):
        read(path)
    forecasts().drop(columns="lo90").to_parquet(path)
    with pytest.raises(DataError, match="no column lo90"):
        read(path)
    forecasts().to_parquet(path)
    assert len(read(path)) == 8
