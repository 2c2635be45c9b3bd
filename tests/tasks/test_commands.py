"""`ode run` and `ode study` as they are typed."""

from __future__ import annotations

import json

import pytest

from ode_core.cli import main
from ode_tasks import commands

TINY = [
    "--set",
    "epochs=1",
    "--set",
    "train_images=64",
    "--set",
    "test_images=40",
    "--set",
    "width=4",
]
RUN = ["run", "digits", "--solver", "euler", *TINY]


def test_run_prints_a_small_table(capsys):
    assert main(RUN) == 0
    out = capsys.readouterr().out
    for word in ("digits", "odenet", "euler", "direct", "accuracy", "f_forward"):
        assert word in out
    assert "\x1b" not in out
    assert "history" not in out


def test_run_writes_json_rows_and_nothing_else(capsys):
    assert main([*RUN, "--json"]) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    assert (row["model"], row["gradient"], row["dt"], row["f_forward"]) == (
        "odenet",
        "direct",
        1.0,
        1.0,
    )
    assert row["settings"]["epochs"] == "1"
    assert captured.err == ""


def test_run_leaves_metrics_and_does_not_write_over_them(capsys, tmp_path):
    out = tmp_path / "run"
    assert main([*RUN, "--out", str(out)]) == 0
    before = (out / "metrics.json").read_bytes()
    assert main([*RUN, "--out", str(out)]) == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert (out / "metrics.json").read_bytes() == before


def test_run_of_a_model_without_a_solve_needs_no_solver(capsys):
    assert main(["run", "digits", "--model", "resnet", "--json", *TINY]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["solver"], row["f_forward"], row["solver_error"]) == (None, None, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "digits", "--model", "odnet"], "did you mean 'odenet'"),
        (["run", "digits", "--solver", "dopri55"], "did you mean 'dopri5'"),
        (["run", "digits", "--gradient", "adjont"], "did you mean 'adjoint'"),
        (["run", "digits", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "digits", "--set", "epoch=1"], "did you mean 'epochs'"),
        (["run", "digits", "--set", "epochs"], "KEY=VALUE"),
        (["run", "digits", "--solver", "rk4", "--rtol", "1e-3"], "fixed steps"),
        (["run", "digits", "--model", "resnet", "--solver", "rk4"], "would have no effect"),
        (["run", "digits", "--model", "gru"], "is for forecasting"),
        (["run", "digits", "--device", "cuda:99"], "use --device cpu"),
        (["run", "digits", "--solver", "rk4", "--dt", "-1"], "dt is a number above 0"),
        (["run", "cifar10"], "--data DIR"),
        (["run", "cifar10", "--data", "/no/such/folder"], "/no/such/folder does not exist"),
        (["run", "digits", "--resume"], "--resume needs the folder of the run; pass --out DIR"),
        (["run", "digits", "--tensorboard"], "--tensorboard needs the folder of the run"),
        (["run", "digits", "--set", "clip=-1"], "clip is above 0"),
        (["run", "digits", "--set", "patience=2"], "hold some out with --set validation_images"),
        (["run", "digits", "--set", "milestones=a"], "milestones is a whole number; 'a' is not"),
        (["run", "digits", "--precision", "half"], "precision 'half'"),
        (["study", "digit", "--out", "{out}"], "did you mean 'digits'"),
    ],
)
def test_bad_usage_is_one_sentence_without_a_traceback(
    arguments, words, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("ODE_DATA_DIR", str(tmp_path / "cache"))
    arguments = [word.format(out=tmp_path / "out") for word in arguments]
    assert main(arguments) == (1 if "cifar10" in arguments else 2)  # data is no usage
    err = capsys.readouterr().err
    assert words in err
    assert err.startswith("ode: ")
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_is_one_sentence_and_130(capsys, monkeypatch):
    def interrupted(config, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "execute", interrupted)
    assert main(RUN) == 130
    err = capsys.readouterr().err
    assert err.startswith("ode: interrupted; the run of digits is not finished")
    assert err.count("\n") == 1
