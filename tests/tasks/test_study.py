"""`ode study`: its cells, seeds and folder, how it goes on, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ode_core import ArgumentError
from ode_core.cli import main
from ode_core.protocols import RunConfig
from ode_tasks import experiments, study, study_command
from ode_tasks.experiments import STUDIES, study_of
from ode_tasks.study import chosen, configs
from ode_tasks.train import TrainingError

SIZES = {"epochs": "1", "train_images": "64", "test_images": "40", "width": "4"}
SETTINGS = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
STUDY = ["study", "digits", "--preset", "smoke", *SETTINGS]
FEW = ["--only", "rk4_direct", "--only", "*_block", "--only", "euler_adjoint"]
NAMES = ["one_block", "no_block", "rk4_direct", "euler_adjoint"]


def done(seed=0, **fields):
    return {"status": "ok", "score_name": "accuracy", "score": 0.5, "seconds": 1.0} | fields


def test_all_methods_by_all_gradients_and_the_controls_are_cells():
    cells = {cell.name: cell for cell in study_of("cifar10").cells}
    methods = ("dopri5_1e-3", "dopri5_1e-1", "rk4", "midpoint", "euler", "rk4_two_steps")
    expected = {f"{m}_{g}" for m in methods for g in ("direct", "adjoint", "checkpoint")}
    assert set(cells) == expected | {"resnet", "one_block", "no_block"}
    assert cells["dopri5_1e-1_adjoint"].tolerance == 1e-1
    assert (cells["euler_direct"].dt, cells["rk4_two_steps_direct"].dt) == (1.0, 0.5)


@pytest.mark.parametrize("task", STUDIES)
@pytest.mark.parametrize("preset", ["quick", "full"])
def test_names_are_unique_and_pairs_are_of_cells(task, preset):
    made = study_of(task, preset)
    names = [cell.name for cell in made.cells]
    assert len(set(names)) == len(names)
    assert {name for pair in made.pairs for name in pair} <= set(names)


def test_at_full_what_the_accuracies_rest_on_is_trained_to_the_end():
    cells = study_of("cifar10", "full").cells
    whole = [cell.name for cell in cells if not cell.defaults]
    controls = ["resnet", "one_block", "no_block"]
    assert whole == ["rk4_two_steps_direct", *controls, "rk4_two_steps_adjoint"]
    base = RunConfig("cifar10", "", "", "", preset="full")
    (run,) = configs(cells[-1], base, Path("out"), 1)
    assert run.settings == {"epochs": "10"}
    base = RunConfig("cifar10", "", "", "", preset="full", settings={"epochs": "1"})
    (run,) = configs(cells[-1], base, Path("out"), 1)
    assert run.settings == {"epochs": "1"}


def test_a_pattern_that_matches_nothing_is_refused():
    assert [cell.name for cell in chosen("digits", "quick", ["res*"])] == ["resnet"]
    with pytest.raises(ArgumentError, match="no cell of the study of digits matches 'rk5'"):
        chosen("digits", "quick", ["resnet", "rk5"])


def test_a_study_runs_every_seed_goes_on_and_reports(capsys, tmp_path):
    assert main([*STUDY, *FEW, "--seeds", "2", "--json", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["cell"], row["seed"]) for row in rows] == [(n, s) for n in NAMES for s in (0, 1)]
    assert {(row["gradient"] or "", row["f_backward"]) for row in rows} == {
        ("", None),
        ("direct", 0),
        ("adjoint", 1),
    }
    made = json.loads((tmp_path / "study.json").read_text())
    assert made["command"].startswith("ode study digits --preset smoke --seeds 2 --set epochs=1")
    page = (tmp_path / "index.html").read_text()
    assert made["command"] in page
    assert "what may be claimed" not in page  # none of the pairs was run
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/metrics.json")}
    assert len(stored) == 8

    lost = tmp_path / "rk4_direct/seed-1/metrics.json"
    lost.unlink()
    assert main([*STUDY, *FEW, "--seeds", "2", "--json", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert [(row["cell"], row["seed"]) for row in json.loads(captured.out)] == [("rk4_direct", 1)]
    assert captured.err.count("kept") == 7
    for path, time in stored.items():
        assert (path.stat().st_mtime_ns == time) == (path != lost)


def test_a_folder_of_another_study_is_left_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "execute", lambda config, progress: done())
    monkeypatch.setattr(study_command.report, "write", lambda out, output: None)
    only = ["--only", "resnet", "--seeds", "1", "--out", str(tmp_path)]
    assert main([*STUDY, *only]) == 0
    assert main(["study", "linear", "--out", str(tmp_path)]) == 0  # nothing lies there yet
    run = tmp_path / "neural_ode" / "seed-0"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text("{}")
    assert main([*STUDY, *only]) == 2
    err = capsys.readouterr().err
    assert "holds a study with task 'linear' and preset 'quick'" in err


def test_a_study_that_is_interrupted_says_how_to_go_on(capsys, tmp_path, monkeypatch):
    begun = []

    def execute(config, progress):
        if begun:
            raise KeyboardInterrupt
        begun.append(config.out.relative_to(tmp_path).as_posix())
        return done()

    monkeypatch.setattr(study, "execute", execute)
    assert main([*STUDY, "--out", str(tmp_path)]) == 130
    err = capsys.readouterr().err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert begun == ["rk4_two_steps_direct/seed-0"]


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(tmp_path):
    base = RunConfig("digits", "", "", "")
    cell = study_of("digits").cells[0]
    folder = tmp_path / cell.name / "seed-1"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_text("")
    assert [run.resume for run in configs(cell, base, tmp_path, 2)] == [False, True]


def test_a_run_that_diverges_is_a_row_with_its_epochs(capsys, tmp_path, monkeypatch):
    def execute(config, progress):
        if config.solver == "euler":
            config.out.mkdir(parents=True)
            lines = [{"kind": "step", "loss": 1}, {"kind": "epoch", "epoch": 1, "train_loss": 2.5}]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (config.out / "metrics.jsonl").write_text(text)
            raise TrainingError("the loss is nan")
        return done()

    monkeypatch.setattr(study, "execute", execute)
    monkeypatch.setattr(study_command.report, "write", lambda out, output: None)
    assert main([*STUDY, *FEW, "--seeds", "1", "--json", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["failed"]
    stored = json.loads((tmp_path / "euler_adjoint/seed-0/metrics.json").read_text())
    assert (stored["status"], stored["reason"]) == ("failed", "the loss is nan")
    assert [row["train_loss"] for row in stored["history"]] == [2.5]


def test_a_task_without_a_study_says_which_have_one(monkeypatch):
    monkeypatch.delitem(experiments.STUDIES, "digits")
    with pytest.raises(ArgumentError, match="no experiment on 'digits'; it has those on cifar10"):
        study_of("digits")
