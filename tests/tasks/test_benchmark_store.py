"""The store: whole files or none, nothing foreign under `cells`, plans brought up to date."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from ode_core import DataError
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.plan import Planned
from ode_tasks.benchmark.store import Store, load

CELL = Cell("a_task", "a_model", "a_solver", "direct")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


def files(store):
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.rglob("*.json"))


def test_a_row_is_one_file_at_its_key_and_reads_back(store):
    row = CELL.row("ok", loss=float("nan"), score=np.float32(0.5), steps=np.int64(7))
    written = store.write(CELL, row)
    assert files(store) == [f"cells/a_task/{CELL.key}.json"]
    assert list(store.temporary.iterdir()) == []
    read = store.read(CELL)
    assert read == json.loads(store.path(CELL).read_text())
    assert (read["loss"], read["score"], read["steps"]) == (None, 0.5, 7)
    assert written["status"] == read["status"] == "ok"


def test_a_write_that_fails_leaves_the_old_row_and_no_rest(store, monkeypatch):
    store.write(CELL, CELL.row("ok", score=1.0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        store.write(CELL, CELL.row("failed", "later"))
    assert store.read(CELL)["status"] == "ok"
    assert list(store.temporary.iterdir()) == []


def test_a_reader_never_sees_half_a_row(store, monkeypatch):
    """At the moment of the rename the new content is complete, elsewhere, on the same device."""
    seen = []
    replace = os.replace

    def watching(source, target):
        seen.append((load(store.temporary / os.path.basename(source)), store.has(CELL)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watching)
    store.write(CELL, CELL.row("ok", score=1.0))
    ((row, there),) = seen
    assert row["score"] == 1.0
    assert not there


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"task": "a_ta', "cannot be read as JSON"),
        ('{"lr": 0.1}', "not a result of this suite"),
        ("[1, 2]", "not a result of this suite"),
        ('{"task": "x", "status": "ok", "schema": 99}', "newer version"),
    ],
)
def test_a_file_that_is_no_row_is_one_sentence(tmp_path, text, words):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="choose another --out"):
        Store(tmp_path / "file").prepare()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_skip_gives_way_to_a_plan_that_runs_the_cell(store):
    assert store.settle([Planned(CELL, "skipped", "incomplete")])[0]["status"] == "skipped"
    assert store.read(CELL)["reason"] == "incomplete"
    assert store.settle([Planned(CELL)]) == []
    assert not store.has(CELL)


def test_a_skip_for_want_of_data_goes_once_data_is_given(store):
    with_data = Cell("a_task", "a_model", "a_solver", "direct", data="/data")
    store.settle([Planned(CELL, "skipped", "no data")])
    store.settle([Planned(with_data)])
    assert files(store) == []
    store.write(with_data, with_data.row("ok"))
    store.settle([Planned(CELL, "skipped", "no data")])
    assert files(store) == [f"cells/a_task/{with_data.key}.json"]


def test_outcomes_stay_whatever_the_plan_says(store):
    store.write(CELL, CELL.row("ok", score=1.0))
    other = Cell("other", "a_model", "a_solver", "direct")
    store.settle([Planned(other, "skipped", "no data")])
    (row,) = store.settle([Planned(CELL, "skipped", "incomplete")])
    assert row["score"] == 1.0
    assert len(files(store)) == 2


def test_a_plugin_that_was_mended_is_no_longer_a_row(store):
    broken = Cell("", "", "", "", packages=(("plugin", "guest 1.0"),))
    store.settle([Planned(broken, "plugin_failed", "cause")])
    assert files(store) == [f"cells/plugins/{broken.key}.json"]
    store.settle([])
    assert files(store) == []
