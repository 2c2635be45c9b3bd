"""The study's table: which runs it takes, its numbers, and what it says about them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ode_core.cli import main
from ode_tasks.report.forecasts import forecasts
from ode_tasks.report.plots import labels
from ode_tasks.report.rows import Result
from ode_tasks.report.study import study
from ode_tasks.run import write

RUNS = {
    "dopri5 (1e-3)": ("dopri5", 1e-3, 26.5, 24.25),
    "dopri5 (1e-1)": ("dopri5", 1e-1, 14.0, 14.5),
    "rk4": ("rk4", None, 4.0, 4.0),
    "midpoint": ("midpoint", None, 2.0, 2.0),
    "euler": ("euler", None, 1.0, 1.0),
}


def run(solver, rtol=None, forward=1.0, backward=1.0, **fields):
    row = {
        "task": "cifar10",
        "model": "odenet",
        "solver": solver,
        "gradient": "adjoint",
        "rtol": rtol,
        "dt": None if rtol else 1.0,
        "preset": "quick",
        "seed": 0,
        "device": "cpu",
        "data": "/images",
        "status": "ok",
        "reason": "",
        "loss": 1.25,
        "score": 0.4321,
        "score_name": "accuracy",
        "higher_is_better": True,
        "f_forward": forward,
        "f_backward": backward,
        "memory_bytes": 5 * 2**20,
        "memory_bytes_direct": 9 * 2**20,
        "memory_kind": "held for backward",
        "train_images": 5000,
        "test_images": 1000,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": "a machine",
        "history": [{"epoch": 1}, {"epoch": 2}],
    } | fields
    return Result(row, Path("x"), Path("x"))


@pytest.fixture
def results():
    runs = [run(*values) for values in RUNS.values()]
    control = run(None, gradient=None, model="resnet", score=0.5, f_forward=None, f_backward=None)
    return [*reversed(runs), control]


def test_the_table_stands_beside_the_studys_figures(results):
    table = study(results)
    rows = {row["method"]: row for row in table.rows}
    assert list(rows) == [*RUNS, "ResNet"]
    theirs = [(r["memory, study"], r["forward, study"], r["backward, study"]) for r in table.rows]
    assert theirs == [
        ("3060 MB", "21", "24"),
        ("2534 MB", "17", "15"),
        ("1701 MB", "4", "5"),
        ("1598 MB", "2", "3"),
        ("1367 MB", "1", "2"),
        ("", "", ""),
    ]
    ours = [(r["forward here"], r["backward here"]) for r in table.rows]
    assert ours == [("26.5", "24.25"), ("14", "14.5"), ("4", "4"), ("2", "2"), ("1", "1"), ("", "")]
    assert rows["rk4"]["memory here"] == "5 MiB"
    assert rows["rk4"]["memory by direct"] == "9 MiB"
    assert (rows["rk4"]["loss"], rows["rk4"]["accuracy"]) == ("1.250", "43.2%")
    assert rows["ResNet"]["accuracy"] == "50.0%"


def test_the_notes_say_what_was_counted(results):
    notes = " ".join(study(results).notes)
    for words in (
        "5,000 images to train on, 1,000 to test on, 2 epochs",
        "trained by adjoint",
        "2026-01-02",
        "means over the batches of the last epoch",
        "times that need no gradient: 4, 2 and 1",
        "5, 3 and 2, and that is what the study printed",
        "holds for its backward pass on the CPU",
    ):
        assert words in notes
    on_gpu = " ".join(study([run("rk4", memory_kind="peak allocated")]).notes)
    assert "peak that PyTorch allocated" in on_gpu
    assert "on the CPU" not in on_gpu


def test_what_was_not_run_or_failed_is_in_the_table(results):
    results = [r for r in results if r.get("solver") not in ("euler", "midpoint")]
    results.append(run("midpoint", status="failed", reason="the loss is nan"))
    rows = {row["method"]: row for row in study(results).rows}
    assert rows["euler"]["note"] == "not run here"
    assert rows["midpoint"]["note"] == "failed: the loss is nan"
    assert rows["euler"]["memory, study"] == "1367 MB"


def test_other_steps_tolerances_and_tasks_do_not_count():
    others = [
        run("rk4", dt=0.25),
        run("dopri5", 1e-5),
        run("tsit5", 1e-3),
        run("rk4", model="latent_ode"),
        run("rk4", train_images=None),
    ]
    assert study(others) is None


def test_runs_are_not_mixed_and_the_fullest_newest_adjoint_set_is_taken(results):
    digits = [run(*v, task="digits", gradient="direct", score=0.9) for v in RUNS.values()]
    assert study([*digits, *results]).title.endswith("cifar10")
    fewer = [r for r in results if r.get("solver") != "rk4"]
    assert study([*digits, *fewer]).title.endswith("digits")
    newer = [run(*v, seed=1, score=0.9, date="2026-02-01") for v in RUNS.values()]
    assert study([*newer, *results]).rows[0]["accuracy"] == "90.0%"


def test_the_command_prints_the_table_and_leaves_it_as_markdown(results, tmp_path, capsys):
    for number, result in enumerate(results):
        write(tmp_path / str(number) / "metrics.json", result.row)
    assert main(["report", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("The study's methods on cifar10")
    assert captured.out.index("dopri5 (1e-3)") < captured.out.index("euler")
    assert "5,000 images" in captured.err
    markdown = (tmp_path / "study.md").read_text()
    row = "| rk4 | 5 MiB | 9 MiB | 1701 MB | 4 | 4 | 4 | 5 | 1.250 | 43.2% |  |"
    assert row in markdown.splitlines()
    page = (tmp_path / "index.html").read_text()
    assert page.index("1701 MB") < page.index("All results")


def test_labels_tell_results_apart_and_no_more(results):
    assert labels(results) == [
        "euler",
        "midpoint",
        "rk4",
        "dopri5 1e-1",
        "dopri5 1e-3",
        "resnet",
    ]
    assert labels([run("rk4"), run("rk4", gradient="direct")]) == ["rk4 adjoint", "rk4 direct"]
    control = run(None, model="gru", gradient=None)
    assert labels([run("rk4", model="latent_ode"), control]) == ["latent_ode rk4", "gru"]
    assert labels([run("rk4"), run("rk4", model="other")]) == ["odenet rk4", "other rk4"]


def forecast_run(folder, model, score, shift):
    folder.mkdir()
    origin = pd.date_range("2026-01-01", periods=40, freq="5min")
    table = pd.DataFrame({"subject": "a", "origin": origin, "horizon_min": 30, "target": 120.0})
    table = table.assign(mean=120.0 + shift, lo90=100.0 + shift, hi90=140.0 + shift)
    table.to_parquet(folder / "predictions.parquet")
    row = {
        "task": "glucose",
        "model": model,
        "preset": "smoke",
        "status": "ok",
        "score": score,
        "rmse_30": score,
        "mae_30": 1.0,
        "baselines": {"last_value": {"rmse_30": 22.5, "per_person": {}}},
    }
    return Result(row, folder / "metrics.json", folder)


def test_forecasts_stand_side_by_side_with_the_baselines(tmp_path):
    runs = [
        forecast_run(tmp_path / "1", "latent_ode", 15.25, 1.0),
        forecast_run(tmp_path / "2", "latent_ode", 14.25, 2.0),
        forecast_run(tmp_path / "3", "gru", 16.0, 3.0),
    ]
    (compared,) = forecasts(runs)
    assert [(r["forecast by"], r["RMSE, 30 min"]) for r in compared.rows] == [
        ("latent_ode", "14.25"),
        ("gru", "16.00"),
        ("last value", "22.50"),
    ]
    assert compared.rows[-1]["MAE, 30 min"] == ""
    assert compared.plot.name == "glucose-smoke-forecasts.png"
    assert compared.plot.png.startswith(b"\x89PNG")
    assert compared.problems == []


def test_a_table_of_forecasts_that_cannot_be_read_costs_only_itself(tmp_path):
    runs = [forecast_run(tmp_path / "1", "gru", 16.0, 3.0)]
    (tmp_path / "1" / "predictions.parquet").write_text("not parquet")
    (compared,) = forecasts(runs)
    assert compared.plot is None
    assert len(compared.rows) == 2
    (problem,) = compared.problems
    assert "cannot be read as Parquet" in problem
