"""The index of a store: quick to read, brought up to date by itself, never the truth."""

from __future__ import annotations

import json

import pytest

from ode_tasks.benchmark import index
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.store import Store

COUNT = 60


def cell(seed, task="a_task"):
    return Cell(task, "a_model", "a_solver", "direct", seed=seed)


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    for seed in range(COUNT):
        history = [{"epoch": 1}]
        store.write(cell(seed), cell(seed).row("ok", score=seed / 7, history=history))
    return store


def truth(store):
    rows = [{k: v for k, v in row.items() if not isinstance(v, list)} for _, row in store.rows()]
    return sorted(rows, key=lambda row: row["cell"])


def table(store):
    rows = [dict(row) for row in store.table().rows]
    for row in rows:
        assert json.loads((store.root / "cells" / row.pop("path")).read_text())["cell"]
    rows = [{k: v for k, v in row.items() if v is not None or k == "data"} for row in rows]
    return sorted(rows, key=lambda row: row["cell"])


def segments(store):
    return {path: path.stat().st_mtime_ns for path in (store.root / "index").glob("*.json")}


@pytest.fixture
def reads(monkeypatch):
    """How many files of rows the index has read."""
    seen = []
    load = index._load

    def counting(cells, paths, read):
        seen.append(len(paths))
        return load(cells, paths, read)

    monkeypatch.setattr(index, "_load", counting)
    return seen


def test_it_says_what_the_files_say_and_reads_them_once(store, reads):
    assert table(store) == truth(store)
    assert table(store) == truth(store)
    assert reads == [COUNT, 0]
    assert len(segments(store)) == 1


def test_it_is_extended_by_what_is_new_and_forgets_what_is_gone(store, reads):
    table(store)
    for seed in range(COUNT, 2 * COUNT):
        store.write(cell(seed), cell(seed).row("failed", "no", extra=True))
    store.forget(cell(3))
    assert table(store) == truth(store)
    assert table(store) == truth(store)
    assert reads == [COUNT, COUNT, 0]
    assert len(segments(store)) == 2


def test_a_file_that_was_changed_is_read_again(store):
    table(store)
    path = store.path(cell(5))
    path.write_text(path.read_text().replace('"ok"', '"failed"'))
    assert [row["seed"] for row in store.table().rows if row["status"] == "failed"] == [5]
    path.write_text(path.read_text()[:40])
    rows, (problem,) = store.table()
    assert (len(rows), str(path) in problem) == (COUNT - 1, True)


@pytest.mark.parametrize("damage", ["", "[]", '{"format": 1, "files": [["x"]', '{"format": 99}'])
def test_a_damaged_or_foreign_segment_is_passed_over(store, damage):
    table(store)
    for path in segments(store):
        path.write_text(damage)
    assert table(store) == truth(store)


def test_without_an_index_that_can_be_written_the_rows_are_the_same(store):
    (store.root / "index").write_text("in the way")
    assert table(store) == truth(store)
    assert (store.root / "index").read_text() == "in the way"


def test_many_segments_become_one(store, monkeypatch):
    monkeypatch.setattr(index, "_WORTH_A_SEGMENT", 1)
    for seed in range(COUNT, COUNT + 12):
        store.write(cell(seed, "other"), cell(seed, "other").row("ok", extra=seed))
        assert table(store) == truth(store)
    assert len(segments(store)) <= index._MOST_SEGMENTS


def test_fields_can_be_chosen(store):
    table(store)
    rows = store.table(["seed", "score", "no_such_field"]).rows
    assert {tuple(row) for row in rows} == {("path", "seed", "score")}
    assert sorted(row["score"] for row in rows) == [seed / 7 for seed in range(COUNT)]
