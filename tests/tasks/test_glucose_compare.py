"""Errors by range, by the Clarke grid, by person and horizon, and a study's tables of them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from ode_tasks.glucose_clinical import by_range, clarke, zones
from ode_tasks.glucose_compare import against, compared
from ode_tasks.glucose_horizons import horizons_figure
from ode_tasks.glucose_scores import HALF_WIDTH, path_scores, scores
from ode_tasks.glucose_summary import summaries
from ode_tasks.report.glucose import sections
from ode_tasks.report.rows import Result


def table(target, mean, *, std=None, subject="a", horizon=30):
    rows = {
        "subject": subject,
        "origin": pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(len(target)), unit="h"),
        "horizon_min": horizon,
        "target": np.asarray(target, dtype=np.float32),
        "mean": np.asarray(mean, dtype=np.float32),
    }
    if std is not None:
        rows["lo90"] = rows["mean"] - HALF_WIDTH * std
        rows["hi90"] = rows["mean"] + HALF_WIDTH * std
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("true", "said", "zone"),
    [
        (100, 119, "A"),
        (60, 40, "A"),
        (100, 125, "B"),
        (200, 150, "B"),
        (100, 215, "C"),
        (170, 50, "C"),
        (250, 150, "D"),
        (50, 100, "D"),
        (65, 100, "D"),
        (60, 190, "E"),
        (200, 60, "E"),
    ],
)
def test_the_zones_of_the_clarke_grid(true, said, zone):
    assert zones([true], [said]).tolist() == [zone]


def test_the_grid_counts_the_forecasts_that_have_a_reading():
    shares = clarke(table([100, 100, np.nan, 60], [100, 130, 100, 200]))
    assert shares == {"30": pytest.approx({"A": 1 / 3, "B": 1 / 3, "C": 0, "D": 0, "E": 1 / 3})}


def test_errors_are_split_by_the_true_reading():
    parts = by_range(table([60, 69.9, 70, 180, 200, np.nan], [70, 69.9, 74, 180, 170, 9]))
    assert {name: part["n_30"] for name, part in parts.items()} == {
        "below 70": 2,
        "70 to 180": 1,
        "above 180": 2,
    }
    assert parts["70 to 180"]["rmse_30"] == pytest.approx(4)
    assert parts["above 180"]["rmse_30"] == pytest.approx(np.sqrt(450))


def test_the_probability_score_is_its_integral():
    grid = np.linspace(-100, 300, 200_001)
    found = scores(table([110.0], [100.0], std=8.0))
    integral = np.trapezoid((norm.cdf(grid, 100, 8) - (grid >= 110)) ** 2, grid)
    assert found["crps_30"] == pytest.approx(integral, rel=1e-3)
    assert found["width90_30"] == pytest.approx(2 * HALF_WIDTH * 8, rel=1e-5)


def test_medians_stand_beside_means():
    rows = pd.concat([table([100, 100, 100], [101, 102, 190], horizon=h) for h in (30, 60)])
    found = path_scores(rows)
    assert found["path_rmse"] == pytest.approx(np.sqrt((1 + 4 + 8100) / 3))
    assert found["path_root_median_mse"] == pytest.approx(2)
    assert found["path_median_mae"] == pytest.approx(2)
    assert scores(rows)["medae_60"] == pytest.approx(2)


def people(rmse, counts=None):
    counts = counts or [10.0] * len(rmse)
    return {
        f"p{i}": {"rmse_30": float(r), "n_30": float(n)}
        for i, (r, n) in enumerate(zip(rmse, counts, strict=True))
    }


def test_a_gain_that_every_person_has_excludes_nought():
    ridge = np.array([10.0, 12, 14, 16, 20, 9])
    gap = against(people(0.95 * ridge), people(ridge))["rmse_30"]
    assert gap["low"] < gap["difference"] < gap["high"] < 0
    pooled = np.sqrt(np.mean(ridge**2))
    assert gap["difference"] == pytest.approx(-0.05 * pooled)


def test_a_gain_of_one_person_alone_does_not():
    ridge = np.array([10.0, 12, 14, 16, 20, 9])
    model = ridge + np.array([0.3, 0.2, -3.0, 0.3, 0.2, 0.3])
    gap = against(people(model), people(ridge))["rmse_30"]
    assert gap["difference"] < 0 < gap["high"]


def test_seeds_are_averaged_and_people_weighted_by_their_readings():
    gap = compared([people([3, 5], [1, 3]), people([4, 5], [1, 3])], people([1, 1], [1, 3]))[
        "rmse_30"
    ]
    assert gap["difference"] == pytest.approx(np.sqrt((12.5 + 75) / 4) - 1)
    assert against(people([3.0, np.nan], [2, 0]), people([3.0, np.nan], [2, 0]))["rmse_30"] == {
        "difference": 0,
        "low": 0,
        "high": 0,
    }


def test_the_picture_has_a_panel_a_person_and_all_of_its_lines():
    def one(slope):
        return {f"p{i}": {f"rmse_{m}": slope * m + i for m in (15, 30, 60)} for i in range(7)}

    figure = horizons_figure({"gru": one(0.3), "ridge": one(0.4), "straight_line": one(2.0)})
    drawn = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in drawn] == [f"p{i}" for i in range(7)]
    for number, axes in enumerate(drawn):
        lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
        assert lines.keys() == {"gru", "ridge"}
        np.testing.assert_allclose(lines["ridge"], [6 + number, 12 + number, 24 + number])
        low, high = axes.get_ylim()
        assert low == 0
        assert high > 30


def row(rmse, **more):
    person = {
        "a": {"rmse_30": rmse, "n_30": 3.0, "rmse_60": 2 * rmse, "n_60": 3.0},
        "b": {"rmse_30": rmse + 1, "n_30": 3.0, "rmse_60": 2 * rmse, "n_60": 3.0},
    }
    scored = {"rmse_30": rmse, "rmse_60": 2 * rmse, "n_30": 6.0, "coverage90_30": 0.9}
    zone = dict.fromkeys("ABCDE", 0.2)
    return scored | {
        "per_person": person,
        "by_range": {"below 70": {"rmse_30": rmse, "n_30": 6.0}},
        "clarke": {"30": zone, "60": zone},
        **more,
    }


def test_a_studys_tables_have_seeds_as_one_line_and_say_what_the_ode_adds():
    rivals = {"baselines": {"ridge": row(10.0)}}
    made = {
        "latent_ode": [row(9.0, **rivals), row(9.4, **rivals)],
        "latent_still": [row(9.2, **rivals), row(9.2, **rivals)],
    }
    tables = {summary.title: summary for summary in summaries(made)}
    errors = {line["forecast by"]: line for line in tables["RMSE"].rows}
    assert errors["latent ode"]["30 min"] == "9.20 ± 0.28"
    assert errors["latent ode"]["seeds"] == "2"
    assert errors["ridge"]["30 min"] == "10.00"
    assert errors["latent still"]["30 min, less ridge"].startswith("−0.80 (−0.80 to −0.80)")
    intervals = {line["forecast by"]: line for line in tables["90 % intervals"].rows}
    assert intervals["latent ode"]["within 90 %, 30 min"] == "90.0 ± 0.0 %"
    (ode,) = tables["Does the ODE add anything?"].rows
    assert ode["comparison"] == "latent ode − latent still"
    assert ode["30 min"].startswith("+0.00")
    for summary in tables.values():
        for line in summary.rows:
            assert tuple(line) == summary.columns
    assert summaries({}) == []


def test_people_never_seen_have_a_ridge_of_their_own_in_the_tables():
    one, other = {"ridge": row(10.0)}, {"ridge": row(12.0)}
    made = {
        "gru_unseen": [row(11.0, baselines=other, unseen_people=True)],
        "gru": [row(9.0, baselines=one, unseen_people=False)],
    }
    errors = {line["forecast by"]: line for line in summaries(made)[0].rows}
    assert [errors[name]["30 min"] for name in ("ridge", "ridge unseen")] == ["10.00", "12.00"]
    assert errors["gru unseen"]["30 min, less ridge"].startswith("−1.00")


def test_the_report_shows_the_tables_and_the_picture_of_a_study(tmp_path):
    found = [
        Result(
            row(9.0 + seed, baselines={n: row(10.0) for n in ("ridge", "last_value")})
            | {"task": "glucose", "preset": "full", "seed": seed, "model": "gru", "status": "ok"}
            | {"study_cell": cell, "score": 9.0, "data": "x.csv"},
            tmp_path / cell / "metrics.json",
            tmp_path / cell,
        )
        for cell in ("gru", "gru_alone")
        for seed in (0, 1)
    ]
    (section,) = sections(found)
    assert section.tables[0].title == "glucose (full) of x.csv: RMSE"
    names = [line["forecast by"] for line in section.tables[0].rows]
    assert names == ["gru", "gru alone", "ridge", "last value"]
    assert "9.50 ± 0.71" in section.tables[0].markdown()
    (plot,) = section.plots
    assert plot.name == "glucose-full-x-csv-horizons.png"
    assert plot.png.startswith(b"\x89PNG")
    assert sections([]) == []
