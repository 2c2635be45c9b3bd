"""What a page shows of a study: which runs it takes, its numbers, and what it says of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ode_core.cli import main
from ode_tasks.report import forecasts
from ode_tasks.report.labels import labels
from ode_tasks.report.plots import curve
from ode_tasks.report.rows import Result
from ode_tasks.report.sections import sections
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


def table(results, title="what the study's methods cost"):
    (found,) = (t for s in sections(results) for t in s.tables if t.title.endswith(title))
    return found


def by_method(results, gradient="adjoint"):
    return {r["method"]: r for r in table(results).rows if r["gradient"] == gradient}


def test_the_table_stands_beside_the_studys_figures(results):
    rows = by_method(results)
    assert list(rows) == list(RUNS)
    theirs = [
        (r["memory, study"], r["forward, study"], r["backward, study"]) for r in rows.values()
    ]
    assert theirs == [
        ("3060 MB", "21", "24"),
        ("2534 MB", "17", "15"),
        ("1701 MB", "4", "5"),
        ("1598 MB", "2", "3"),
        ("1367 MB", "1", "2"),
    ]
    ours = [(r["forward"], r["backward"]) for r in rows.values()]
    assert ours == [("26.5", "24.25"), ("14", "14.5"), ("4", "4"), ("2", "2"), ("1", "1")]
    assert rows["rk4"]["memory"] == "5 MiB"
    assert rows["rk4"]["accuracy"] == "43.2 %"


def test_evaluations_are_those_in_one_block():
    rows = by_method([run("rk4", forward=24.0, backward=24.0, ode_blocks=6)])
    assert (rows["rk4"]["forward"], rows["rk4"]["backward"]) == ("4", "4")


def test_seeds_are_one_row_with_their_mean_and_range():
    runs = [run("rk4", seed=seed, score=score) for seed, score in enumerate((0.4, 0.5, 0.45))]
    assert by_method(runs)["rk4"]["accuracy"] == "45.0 % (40.0 to 50.0)"
    again = run("rk4", seed=1, score=0.9, date="2026-02-01")
    assert by_method([*runs, again])["rk4"]["accuracy"] == "58.3 % (40.0 to 90.0)"


def test_the_notes_say_what_was_counted(results):
    notes = " ".join(table(results).notes)
    for words in (
        "5,000 images to train on, 1,000 to test on, 2 epochs, seed 0",
        "2026-01-02",
        "means over the batches of the last epoch",
        "times that need no gradient: 4, 2 and 1",
        "5, 3 and 2, and that is what the study printed",
        "holds for its backward pass on the CPU",
    ):
        assert words in notes
    on_gpu = " ".join(table([run("rk4", memory_kind="peak allocated")]).notes)
    assert "peak that PyTorch allocated" in on_gpu
    assert "on the CPU" not in on_gpu


def test_what_was_not_run_or_failed_is_in_the_table(results):
    results = [r for r in results if r.get("solver") not in ("euler", "midpoint")]
    results.append(run("midpoint", status="failed", reason="the loss is nan"))
    rows = by_method(results)
    assert rows["euler"]["note"] == "not run here"
    assert rows["midpoint"]["note"] == "seed 0 failed: the loss is nan"


def test_other_steps_tolerances_and_tasks_do_not_count():
    others = [
        run("rk4", dt=0.25),
        run("dopri5", 1e-5),
        run("tsit5", 1e-3),
        run("rk4", model="latent_ode"),
        run("rk4", train_images=None),
    ]
    assert not [t for s in sections(others) for t in s.tables if "methods cost" in t.title]


def test_runs_on_other_data_or_tasks_are_not_mixed(results):
    digits = [run(*v, task="digits", data=None, score=0.9) for v in RUNS.values()]
    titles = [t.title for s in sections([*digits, *results]) for t in s.tables]
    assert sorted(t for t in titles if "methods cost" in t) == [
        "cifar10 (quick): what the study's methods cost",
        "digits (quick): what the study's methods cost",
    ]


def test_networks_stand_side_by_side_with_what_they_cost(results):
    size = {"parameters": 1000, "flops": 2.5e6, "ode_share": 0.75}
    ode = run("rk4", gradient="direct", dt=0.5, **size, finer={"euler_1": 0.2, "dopri5_1e-5": 0.43})
    rows = table([*results, ode], "stem, width and head").rows
    assert [row["network"] for row in rows] == ["ResNet", "ODENet, rk4, 2 steps"]
    ours = rows[-1]
    assert (ours["parameters"], ours["in ODE blocks"], ours["MFLOP an image"]) == (
        *("1,000", "75 %", "2.5"),
    )
    assert (ours["accuracy"], ours["by dopri5 at 1e-5"]) == ("43.2 %", "43.0 %")
    assert rows[0]["in ODE blocks"] == ""
    (solved,) = table([ode], "solved otherwise").rows
    assert (solved["as trained"], solved["euler, 1 step"], solved["euler, 4 steps"]) == (
        *("43.2 %", "20.0 %", ""),
    )


def test_the_adjoint_stands_beside_exact_gradients(results):
    pairs = []
    for seed in (0, 1):
        pairs.append(run("euler", seed=seed, gradient="direct", train_loss=0.5))
        pairs.append(run("euler", seed=seed, gradient="checkpoint", gradient_error=1e-7))
        worse = {"train_loss": 2.0 + seed, "gradient_error": 0.8, "gradient_cosine": 0.6}
        pairs.append(run("euler", seed=seed, gradient="adjoint", **worse))
    (row,) = table(pairs, "the adjoint against exact gradients").rows
    assert (row["method"], row["training loss, direct"]) == ("euler", "0.5")
    assert row["training loss, adjoint"] == "2.5 (2 to 3)"
    assert (row["adjoint's gradient error"], row["cosine"]) == ("0.8", "0.600")
    assert row["checkpoint's gradient error"] == "1e-07"
    (plot,) = (p for s in sections(pairs) for p in s.plots)
    assert plot.name == "cifar10-quick-training-loss.png"
    assert plot.png.startswith(b"\x89PNG")


def test_every_cell_of_any_study_is_a_row():
    fields = {"task": "linear", "model": "neural_ode", "study_cell": "neural_ode"}
    fields |= {"score_name": "trajectory_error", "higher_is_better": False}
    runs = [run("dopri5", 1e-4, seed=s, score=s / 10, field_error=0.5, **fields) for s in (1, 2)]
    shown = table(runs, "every cell")
    (row,) = shown.rows
    assert (row["cell"], row["seeds"]) == ("neural ode", "2")
    assert row["trajectory error"] == "0.15 (0.1 to 0.2)"
    assert row["field error"] == "0.5"
    assert "lower is better" in shown.notes[0]
    assert "every cell" not in str([t.title for s in sections([run("rk4")]) for t in s.tables])


def test_the_command_prints_the_tables_and_leaves_them_as_markdown(results, tmp_path, capsys):
    for number, result in enumerate(results):
        write(tmp_path / str(number) / "metrics.json", result.row)
    assert main(["report", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "what the study's methods cost" in captured.out
    assert captured.out.index("dopri5 (1e-3)") < captured.out.index("euler")
    assert "5,000 images" in captured.err
    markdown = (tmp_path / "study.md").read_text()
    row = "| rk4 | adjoint | 5 MiB | 1701 MB | 4 | 4 | 4 | 5 |  |  | 43.2 % |  |"
    assert row in markdown.splitlines()
    page = (tmp_path / "index.html").read_text()
    assert page.index("1701 MB") < page.index("All results")


def test_a_curve_of_seeds_is_their_mean_with_a_band():
    axes = Figure().subplots()
    losses = ((3.0, 1.0), (2.0, 2.0), (4.0, 0.0))
    runs = [
        run("rk4", history=[{"epoch": e, "train_loss": v} for e, v in enumerate(of_seed, 1)])
        for of_seed in losses
    ]
    assert curve(axes, runs, "train_loss", label="rk4") == [2.0, 0.0, 4.0, 2.0]
    (line,), (band,) = axes.get_lines(), axes.collections
    assert line.get_ydata().tolist() == [3.0, 1.0]
    assert band.get_paths()[0].get_extents().extents.tolist() == [1.0, 0.0, 2.0, 4.0]
    curve(axes, runs[:1], "train_loss", label="one seed")
    assert len(axes.collections) == 1


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


def forecast_run(folder, model, score, shift, seed=0):
    folder.mkdir()
    origin = pd.date_range("2026-01-01", periods=40, freq="5min")
    table = pd.DataFrame({"subject": "a", "origin": origin, "horizon_min": 30, "target": 120.0})
    table = table.assign(mean=120.0 + shift, lo90=100.0 + shift, hi90=140.0 + shift)
    table.to_parquet(folder / "predictions.parquet")
    row = {
        "task": "glucose",
        "model": model,
        "preset": "smoke",
        "seed": seed,
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
        forecast_run(tmp_path / "2", "latent_ode", 14.25, 2.0, seed=1),
        forecast_run(tmp_path / "3", "gru", 16.0, 3.0),
    ]
    (compared,) = forecasts.sections(runs)
    (shown,) = compared.tables
    assert [(r["forecast by"], r["RMSE, 30 min"]) for r in shown.rows] == [
        ("latent_ode", "14.75 (14.25 to 15.25)"),  # a mean of seeds, never the best
        ("gru", "16.00"),
        ("last value", "22.50"),
    ]
    assert shown.rows[-1]["MAE, 30 min"] == ""
    (plot,) = compared.plots
    assert plot.name == "glucose-smoke-forecasts.png"
    assert plot.png.startswith(b"\x89PNG")
    assert compared.problems == ()


def test_a_table_of_forecasts_that_cannot_be_read_costs_only_itself(tmp_path):
    runs = [forecast_run(tmp_path / "1", "gru", 16.0, 3.0)]
    (tmp_path / "1" / "predictions.parquet").write_text("not parquet")
    (compared,) = forecasts.sections(runs)
    assert compared.plots == ()
    assert len(compared.tables[0].rows) == 2
    (problem,) = compared.problems
    assert "cannot be read as Parquet" in problem
