"""Claims: a cell is run by one alone of those at a store, and by the next if that one dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import time

import pytest

from ode_tasks.benchmark import claims
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.claims import Claims, Owner
from ode_tasks.benchmark.store import Store

CELL = Cell("a_task", "a_model", "a_solver", "direct")
ME = os.getpid()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


@pytest.fixture
def ended():
    """The number and the identity of a process that has ended."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    owner = Owner.of(process.pid)
    process.join()
    return owner


def left_behind(store, *owners, age=0.0):
    path = store.claims / f"{CELL.key}.json"
    names = [{"host": o.host, "pid": o.pid, "started": o.started} for o in owners]
    path.write_text(json.dumps({"cell": "x", "owners": names}))
    os.utime(path, (time.time() - age, time.time() - age))


def test_a_cell_is_taken_once_and_again_after_it_was_let_go_of(store):
    one, other = Claims(store), Claims(store)
    assert one.take(CELL, ME)
    assert not other.take(CELL, ME)
    assert other.taken(CELL)
    one.release(CELL)
    assert not other.taken(CELL)
    assert other.take(CELL, ME)
    other.close()
    assert list(store.claims.glob("*.json")) == []


def test_a_cell_with_an_outcome_is_not_taken(store):
    store.write(CELL, CELL.row("ok"))
    assert not Claims(store).take(CELL, ME)


def test_the_claim_of_the_dead_is_taken_over_and_that_of_one_alive_is_not(store, ended):
    me = Owner.of(ME)
    left_behind(store, ended, me)
    assert not Claims(store).take(CELL, ME)
    left_behind(store, ended, Owner(me.host, me.pid, "started at another time"))
    assert Claims(store).take(CELL, ME)


@pytest.mark.parametrize(("age", "free"), [(0.0, False), (claims.SILENCE_SECONDS + 60, True)])
def test_on_another_machine_it_holds_as_long_as_it_is_touched(store, age, free):
    left_behind(store, Owner("elsewhere", ME, "1"), age=age)
    assert Claims(store).take(CELL, ME) is free


def test_a_sweep_touches_its_claims(store, monkeypatch):
    mine = Claims(store)
    mine.take(CELL, ME)
    path = store.claims / f"{CELL.key}.json"
    os.utime(path, (0, 0))
    mine.beat()
    assert path.stat().st_mtime == 0  # not yet due
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    mine.beat()
    assert path.stat().st_mtime > 0


@pytest.mark.parametrize(("age", "free"), [(0.0, False), (claims.BEAT_SECONDS + 60, True)])
def test_half_a_claim_holds_for_a_moment(store, age, free):
    left_behind(store)
    path = store.claims / f"{CELL.key}.json"
    path.write_text('{"cell": "x", "own')
    os.utime(path, (time.time() - age, time.time() - age))
    assert Claims(store).take(CELL, ME) is free


def _take_all(root, count, log):
    store = Store(root)
    mine = Claims(store)
    for seed in range(count):
        cell = Cell("a_task", "a_model", "a_solver", "direct", seed=seed)
        if mine.take(cell, os.getpid()):
            with log.open("a") as file:
                file.write(f"{seed}\n")
            store.write(cell, cell.row("ok"))
            mine.release(cell)


def test_of_many_who_want_each_cell_one_gets_it(store, tmp_path):
    context = multiprocessing.get_context("spawn")
    crew = [
        context.Process(target=_take_all, args=(store.root, 60, tmp_path / "log")) for _ in range(3)
    ]
    for process in crew:
        process.start()
    for process in crew:
        process.join()
    taken = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert sorted(taken) == list(range(60))
    assert len(store.table().rows) == 60
