"""The store: whole files or none, nothing foreign under `cells`, plans brought up to date."""

from __future__ import annotations

import json
import os
import tempfile

import numpy as np
import pytest

from ode_core import DataError
from ode_tasks.benchmark.cell import Cell, identity
from ode_tasks.benchmark.plan import Planned
from ode_tasks.benchmark.store import Store, load

CELL = Cell("a_task", "a_model", "a_solver", "direct")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


def files(store):
    return sorted(p.relative_to(store.root).as_posix() for p in store.root.glob("cells/**/*.json"))


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
    other = Cell("a_task", "a_model", "another", "direct")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left") as caught:
        store.write(other, other.row("ok"))
    assert "\n" not in str(caught.value)
    assert store.read(CELL)["status"] == "ok"
    assert not store.has(other)
    assert list(store.temporary.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_row_is_written_once(store, monkeypatch, links):
    if not links:

        def none(*_):
            raise OSError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", none)
    store.write(CELL, CELL.row("ok", score=1.0))
    with pytest.raises(DataError, match="written once"):
        store.write(CELL, CELL.row("failed", "later"))
    assert store.read(CELL)["score"] == 1.0
    assert list(store.temporary.iterdir()) == []


@pytest.mark.parametrize("content", ['{"task": "a_ta', '{"mine": 1}', ""])
def test_a_file_that_is_not_ours_is_never_written_over(store, content):
    store.path(CELL).parent.mkdir()
    store.path(CELL).write_text(content)
    with pytest.raises(DataError, match="there already"):
        store.write(CELL, CELL.row("ok"))
    assert store.path(CELL).read_text() == content
    rows, (problem,) = store.table()
    assert rows == []
    assert str(store.path(CELL)) in problem


def test_a_reader_never_sees_half_a_row(store, monkeypatch):
    """At the moment it gets its name the content is complete, elsewhere, on the same device."""
    seen = []
    link = os.link

    def watching(source, target):
        seen.append((load(store.temporary / os.path.basename(source)), store.has(CELL)))
        link(source, target)

    monkeypatch.setattr(os, "link", watching)
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


def test_a_folder_that_takes_no_file_is_one_sentence_before_any_work(store, monkeypatch):
    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(DataError, match=r"\(Read-only file system\); choose another --out"):
        store.prepare()


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ('{"schema": 99}', "made by a newer version"),
        ("[]", "not that of a store"),
        ('{"schema', "not that of a store"),
    ],
)
def test_a_store_of_another_make_is_one_sentence_and_stays_as_it_is(tmp_path, mark, words):
    (tmp_path / "store.json").write_text(mark)
    for using in (Store(tmp_path).prepare, Store(tmp_path).table):
        with pytest.raises(DataError, match=words):
            using()
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]
    assert (tmp_path / "store.json").read_text() == mark


def test_a_row_of_the_first_schema_reads_as_one_of_now(store):
    old = {"schema": 1, "task": "a_task", "status": "ok", "reason": "", "rtol": 1e-3}
    path = store.path(CELL)
    path.parent.mkdir()
    path.write_text(json.dumps(old))
    row = load(path)
    assert (row["at"], row["rtol"], row["timed_on"]) == ("", 1e-3, "")
    assert {*identity(row)} <= {*identity(CELL.row("ok")), None}


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
