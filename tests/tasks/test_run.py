"""One run leaves one row, written once and in one go."""

from __future__ import annotations

import json

import pytest

import ode_core
from ode_core import ArgumentError, TaskRecord, UnknownNameError
from ode_core.protocols import RunConfig
from ode_tasks.run import METRICS, Silent, execute, plain, write

TASK = """
import random
import torch


class Chance:
    def run(self, config, progress):
        drawn = [random.random(), torch.rand(1).item()]
        return {"score": drawn[0], "rtol": 0.5, "history": [{"epoch": 1, "loss": float("nan")}]}


class Broken:
    def run(self, config, progress):
        raise ZeroDivisionError("as asked")
"""


@pytest.fixture
def chance(tmp_path, monkeypatch):
    (tmp_path / "chance_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("chance", "broken"):
        ode_core.register(
            TaskRecord(
                name,
                f"chance_task:{name.capitalize()}",
                "draws",
                fits="classification",
                default_model="odenet",
            )
        )
    yield
    for name in ("chance", "broken"):
        ode_core.registry.REGISTRY.remove("task", name)


def config(**changes):
    fields = {"task": "chance", "model": "odenet", "solver": "rk4", "gradient": "direct"}
    return RunConfig(**(fields | changes))


def test_a_row_has_the_config_the_metrics_and_where_they_come_from(chance):
    row = execute(config(seed=3, settings={"a": "b"}), Silent())
    assert (row["task"], row["solver"], row["seed"], row["settings"]) == (
        "chance",
        "rk4",
        3,
        {"a": "b"},
    )
    assert row["rtol"] == 0.5  # what the task used goes over what was given
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["seconds"] >= 0
    assert row["date"][4] == "-"
    assert row["date"].endswith("+00:00")
    assert row["machine"]
    assert row["threads"] >= 1
    assert set(row["versions"]) >= {"python", "torch", "ode-core", "ode-tasks"}


def test_the_seed_decides(chance):
    first, again, other = (execute(config(seed=s), Silent())["score"] for s in (1, 1, 2))
    assert first == again != other


def test_the_row_is_written_as_json_without_nan(chance, tmp_path):
    row = execute(config(out=tmp_path / "deep/run"), Silent())
    stored = json.loads((tmp_path / "deep/run" / METRICS).read_text())
    assert stored["history"] == [{"epoch": 1, "loss": None}]
    assert stored["score"] == row["score"]
    assert stored["out"] == str(tmp_path / "deep/run")


def test_a_finished_run_is_never_written_over(chance, tmp_path):
    execute(config(out=tmp_path), Silent())
    before = (tmp_path / METRICS).read_text()
    with pytest.raises(ArgumentError, match=r"holds a finished run; choose another --out"):
        execute(config(out=tmp_path, seed=9), Silent())
    assert (tmp_path / METRICS).read_text() == before


def test_a_file_in_place_of_the_folder_is_refused(chance, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentError, match="takes a folder"):
        execute(config(out=tmp_path / "file"), Silent())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_run_that_fails_leaves_no_metrics(chance, tmp_path):
    with pytest.raises(ZeroDivisionError):
        execute(config(task="broken", out=tmp_path / "run"), Silent())
    assert not (tmp_path / "run" / METRICS).exists()


def test_names_are_checked_before_any_work(chance):
    with pytest.raises(UnknownNameError, match="'rk5'"):
        execute(config(task="broken", solver="rk5"), Silent())
    with pytest.raises(ArgumentError, match="fixed steps"):
        execute(config(task="broken", rtol=1e-3), Silent())


def test_a_write_that_fails_leaves_nothing(tmp_path):
    class Unprintable:
        def __str__(self):
            raise RuntimeError("no words")

    with pytest.raises(RuntimeError):
        write(tmp_path / "row.json", {"a": Unprintable()})
    assert list(tmp_path.iterdir()) == []


def test_plain_reaches_every_depth():
    value = {"a": [float("inf"), {"b": (float("nan"), 1)}], "c": "x"}
    assert plain(value) == {"a": [None, {"b": [None, 1]}], "c": "x"}
