"""Cells in worker processes: none can hurt another, none is run twice, none outlives its parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.tasks import light_sweep

from ode_core import ArgumentError
from ode_core.cli import main
from ode_tasks.benchmark import guard
from ode_tasks.benchmark.executor import LocalExecutor
from ode_tasks.benchmark.guard import MachineError
from ode_tasks.benchmark.limits import Limits
from ode_tasks.benchmark.plan import Selection, plan
from ode_tasks.benchmark.process import last_words
from ode_tasks.benchmark.store import Store
from ode_tasks.benchmark.sweep import StartError
from ode_tasks.benchmark.worker import Work


def lines(log):
    return log.read_text().splitlines() if log.exists() else []


def runs(log):
    """Return the (task, solver) of every execution, in order."""
    return [tuple(line.split()[:2]) for line in lines(log)]


def stored(out):
    rows = [json.loads(path.read_text()) for path in out.glob("cells/*/*.json")]
    return {(row["task"], row["solver"]): row for row in rows if row["task"]}


def test_a_cell_that_fails_in_any_way_is_a_row_and_costs_only_itself(fakes, tmp_path):
    bad = ("fake_raises", "fake_leaves", "fake_exits", "fake_killed", "fake_hungry")
    solvers = ["fake_a", *bad, "fake_c_loop", "fake_b"]
    items = plan(Selection(tasks=["fake_task"], solvers=solvers))
    cells = [p.cell for p in items if p.cell.task]
    store = Store(tmp_path / "out")
    store.prepare()
    executor = LocalExecutor(workers=2, seconds=4.0, memory=1.0)
    yielded = {r["solver"]: r for r in executor.run(cells, store)}

    assert {solver: row["status"] for solver, row in yielded.items()} == {
        "fake_a": "ok",
        "fake_b": "ok",
        "fake_raises": "failed",
        "fake_leaves": "failed",
        "fake_exits": "crashed",
        "fake_killed": "crashed",
        "fake_hungry": "oom",
        "fake_c_loop": "timeout",
    }
    reasons = {solver: row["reason"] for solver, row in yielded.items()}
    assert reasons["fake_raises"] == "ZeroDivisionError: division by zero"
    assert "exit status 0" in reasons["fake_exits"]
    assert "its last words: computing" in reasons["fake_exits"]
    assert "SIGKILL" in reasons["fake_killed"]
    assert reasons["fake_hungry"].startswith("more than 1 GiB; MemoryError")
    assert reasons["fake_c_loop"].startswith("no result within 4 s; it was in <lambda>")
    assert not any("\n" in reason for reason in reasons.values())

    assert {key[1]: row for key, row in stored(tmp_path / "out").items()} == yielded
    assert sorted(runs(fakes)) == sorted(("fake_task", solver) for solver in solvers)
    assert executor.lost == 3
    assert multiprocessing.active_children() == []
    assert list(store.temporary.iterdir()) == []
    traceback = (
        store.root / "artefacts" / yielded["fake_raises"]["cell"] / "output.txt"
    ).read_text()
    assert traceback.startswith("computing\nTraceback")


def test_the_second_call_repeats_nothing_unless_told(fakes, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["benchmark", "--tasks", "fake_task,fake_data", "--out", str(out), "--workers", "1"]
    assert main([*arguments, "--solvers", "fake_a,fake_raises", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["task"], r["solver"], r["status"]) for r in rows if r["task"]] == [
        ("fake_task", "fake_a", "ok"),
        ("fake_task", "fake_raises", "failed"),
        ("fake_data", "fake_a", "skipped"),
        ("fake_data", "fake_raises", "skipped"),
    ]
    assert runs(fakes) == [("fake_task", "fake_a"), ("fake_task", "fake_raises")]
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")}

    assert main([*arguments, "--solvers", "fake_a,fake_raises"]) == 0
    captured = capsys.readouterr()
    assert "0 to run" in captured.err
    assert "ZeroDivisionError: division by zero" in captured.out
    assert len(runs(fakes)) == 2
    assert {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.json")} == before

    more = ["--solvers", "fake_a,fake_raises,fake_b", "--rerun", "failed"]
    assert main([*arguments, *more]) == 0
    assert runs(fakes)[2:] == [("fake_task", "fake_raises"), ("fake_task", "fake_b")]
    assert (out / "index.html").exists()


def test_nothing_succeeded_is_status_1(fakes, tmp_path):
    arguments = ["--tasks", "fake_task", "--solvers", "fake_raises", "--out", str(tmp_path / "out")]
    assert main(["--quiet", "benchmark", *arguments]) == 1
    assert len(runs(fakes)) == 1


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tasks", "fake_tusk"], "did you mean 'fake_task'"),
        (["--solvers", "fake_aa"], "did you mean"),
        (["--data", "fake_data"], "TASK=PATH"),
        (["--data", "fake_data=/no/such/place"], "nothing at /no/such/place"),
        (["--data", "fake_data=/tmp", "--tasks", "fake_task"], "has no effect"),
        (["--executor", "loca"], "local"),
        (["--seconds", "0"], "0"),
        (["--memory", "-1"], "memory"),
        (["--tolerances", "1e-3,x"], "'x' is none"),
        (["--where", "order = 4"], "equality is =="),
        (["--executor-set", "partition=x"], "no options of its own"),
        (["--executor", "submitit", "--executor-set", "cells=x"], "cells is a whole number"),
        (["--preset", "huge"], "smoke"),
    ],
)
def test_bad_usage_is_status_2_and_writes_nothing(arguments, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["benchmark", *arguments]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "benchmark").exists()


@pytest.mark.usefixtures("fakes")
def test_a_dry_run_shows_the_plan_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "--tasks", "fake_task", "--solvers", "fake_a", "--dry-run"]) == 0
    assert "planned" in capsys.readouterr().out
    assert not (tmp_path / "benchmark").exists()


def command_line(out, *arguments):
    words = ["benchmark", "--tasks", "fake_task,fake_other", "--solvers", "fake_a,fake_b"]
    return [sys.executable, "-m", "ode_core", *words, "--out", str(out), *arguments]


def wait_until(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited in vain: {what}")


def gone(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    # A process that nobody has waited for yet is dead as well.
    return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def worker_ids(log):
    return {int(line.split()[2]) for line in lines(log)}


def test_ctrl_c_stops_the_workers_and_the_next_call_goes_on(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "1.5")
    out = tmp_path / "out"
    with subprocess.Popen(
        command_line(out, "--workers", "1"),
        stderr=subprocess.PIPE,
        text=True,
        # A shell in the background hands on an ignored SIGINT; nothing else runs in this thread.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        wait_until(lambda: len(lines(fakes)) > len(stored(out)) > 0, "a cell half done")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    done = set(stored(out))
    assert re.search(r"stopped: \d of \d cells are stored", err)
    assert "goes on" in err
    wait_until(lambda: all(gone(i) for i in worker_ids(fakes)), "the workers to end")

    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert subprocess.run(command_line(out, "--quiet"), check=False).returncode == 0
    assert {key: row["status"] for key, row in stored(out).items()} == dict.fromkeys(
        [(t, s) for t in ("fake_task", "fake_other") for s in ("fake_a", "fake_b")], "ok"
    )
    assert all(runs(fakes).count(key) == 1 for key in done)


def test_workers_end_with_a_parent_that_was_killed(fakes, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_SECONDS", "600")
    arguments = command_line(tmp_path / "out", "--workers", "1", "--seconds", "600")
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: lines(fakes), "a cell to start")
        process.kill()
    wait_until(lambda: all(gone(i) for i in worker_ids(fakes)), "the worker to end")


@pytest.mark.usefixtures("fakes")
def test_a_machine_where_no_worker_starts_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "lightning_fabric.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    store = Store(tmp_path / "out")
    store.prepare()
    items = plan(Selection(tasks=["fake_task"], solvers=["fake_a"]))
    with pytest.raises(StartError, match="half installed"):
        list(LocalExecutor(workers=1).run([p.cell for p in items if p.cell.task], store))
    assert stored(tmp_path / "out") == {}


@pytest.fixture
def light(tmp_path, monkeypatch):
    """A store, and cells of workers that need no torch; three lost in a row are suspicious."""
    monkeypatch.setattr(guard, "SUSPICIOUS", 3)
    store = Store(tmp_path / "out")
    store.prepare()
    return store, light_sweep.cells(5)


def test_where_a_small_calculation_fails_too_the_sweep_stops_and_takes_its_losses_back(light):
    store, cells = light
    seen = []
    with pytest.raises(MachineError, match=r"it took 9 s.*it is the machine") as caught:
        seen.extend(light_sweep.BrokenExecutor(workers=1).run(cells, store))
    assert "\n" not in str(caught.value)
    assert [row["status"] for row in seen] == ["crashed"] * 3
    assert store.table().rows == []
    assert list(store.claims.glob("*.json")) == []


def test_where_a_small_calculation_goes_well_the_cells_are_to_blame(light):
    store, cells = light
    rows = list(light_sweep.DyingExecutor(workers=1).run(cells, store))
    assert [row["status"] for row in rows] == ["crashed"] * len(cells)
    assert len(store.table().rows) == len(cells)


def test_a_process_that_closes_its_pipe_and_stays_is_ended(light, monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHT_LOG", str(tmp_path / "log"))
    store, cells = light
    executor = light_sweep.DeafExecutor(workers=1, seconds=30.0)
    rows = {row["seed"]: row for row in executor.run(cells, store)}
    assert [rows[seed]["status"] for seed in range(5)] == ["crashed"] + ["ok"] * 4
    assert rows[0]["reason"] == "the worker process closed its connection and went on"
    assert rows[0]["seconds"] < 25


def test_a_sweep_in_which_nothing_ever_ends_well_is_given_up(light, monkeypatch):
    store, cells = light
    monkeypatch.setattr(guard, "HOPELESS", 4)
    with pytest.raises(MachineError, match="each of the 4 cells so far"):
        list(light_sweep.DyingExecutor(workers=1).run(cells, store))
    assert store.table().rows == []


def test_a_check_is_a_small_calculation():
    assert Work([], Limits(1.0)).check() == ""


def test_an_executor_refuses_what_it_cannot_do():
    with pytest.raises(ArgumentError, match="workers"):
        LocalExecutor(workers=-1)
    with pytest.raises(ArgumentError, match="seconds"):
        LocalExecutor(seconds=0)


def test_last_words(tmp_path):
    file = tmp_path / "output.txt"
    assert last_words(file) == ""
    file.write_text("one\n\nterminate called after throwing 'std::bad_alloc'\n\n")
    assert last_words(file) == "its last words: terminate called after throwing 'std::bad_alloc'"
    file.write_text(
        "Thread 0x01 (most recent call first):\n"
        '  File "/x/watch.py", line 1 in watch\n'
        "Current thread 0x02 (most recent call first):\n"
        '  File "/x/stage.py", line 31 in combine\n'
        '  File "/x/run.py", line 9 in run\n'
    )
    assert last_words(file) == "it was in combine (stage.py, line 31)"
