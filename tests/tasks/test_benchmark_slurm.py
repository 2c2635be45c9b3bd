"""Cells as jobs of a real SLURM cluster of one node, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.tasks import slurm_cluster

from ode_core import ArgumentError, registry
from ode_tasks.benchmark.plan import Selection, plan
from ode_tasks.benchmark.store import Store


@pytest.fixture(scope="module")
def cluster():
    missing = slurm_cluster.missing()
    if missing:
        pytest.skip(f"needs slurm-wlm and munge: {missing}")
    cluster = slurm_cluster.Cluster()
    try:
        try:
            cluster.start()
        except AssertionError as error:  # the cluster's own trouble is not the suite's
            last = str(error).strip().rpartition("\n")[2]
            pytest.skip(f"needs slurm-wlm and munge: the cluster did not start ({last})")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "out")
    store.prepare()
    return store


def cells_of(*solvers):
    items = plan(Selection(tasks=["fake_task"], solvers=solvers))
    return [p.cell for p in items if p.cell.task]


def runs(log):
    text = log.read_text() if log.exists() else ""
    return [tuple(line.split()[:2]) for line in text.splitlines()]


def submitted(store):
    return {
        path.name.partition("_submitted")[0]
        for path in (store.root / "jobs").glob("*_submitted.pkl")
    }


def wait_until(condition, what):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"waited in vain: {what}")


def test_a_killed_job_costs_no_finished_cell_and_is_gone_on_with(
    cluster, store, fakes, monkeypatch
):
    for name, value in (cluster.environment | {"FAKE_SECONDS": "1"}).items():
        monkeypatch.setenv(name, value)
    cells = cells_of("fake_a", "fake_b", "fake_exits")
    how = registry.executors.create("submitit", workers=2, seconds=20.0, cells=2)

    def kill():
        wait_until(lambda: ("fake_task", "fake_b") in runs(fakes), "the first job's second cell")
        (worker,) = (line.split()[2] for line in fakes.read_text().splitlines() if "_b " in line)
        job = Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1]
        os.kill(int(job), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    rows = {}
    for row in how.run(cells, store):
        assert list(store.root.glob(f"cells/*/{row['cell']}.json"))
        rows[row["solver"]] = row
    killer.join()

    outcomes = {solver: row["status"] for solver, row in rows.items()}
    assert outcomes == {"fake_a": "ok", "fake_b": "ok", "fake_exits": "crashed"}
    assert "its last words: computing" in rows["fake_exits"]["reason"]
    assert len(submitted(store)) == 3  # two, and one in place of the killed one
    assert sorted(solver for _, solver in runs(fakes)) == [
        "fake_a",
        "fake_b",  # once in the job that was killed, once in the other
        "fake_b",
        "fake_exits",
    ]
    assert list(store.claims.glob("*.json")) == []


@pytest.mark.usefixtures("fakes")
def test_what_slurm_refuses_is_one_sentence(cluster, store, monkeypatch):
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    how = registry.executors.create("submitit", partition="nowhere")
    with pytest.raises(Exception, match="SLURM did not take 1 jobs") as caught:
        list(how.run(cells_of("fake_a"), store))
    assert "nowhere" in str(caught.value) or "partition" in str(caught.value)


def test_it_refuses_what_it_cannot_do():
    pytest.importorskip("submitit")
    with pytest.raises(ArgumentError, match="cpus is too small"):
        registry.executors.create("submitit", cpus=0)
    with pytest.raises(ArgumentError, match="cells and minutes is too small"):
        registry.executors.create("submitit", cells=-1, minutes=-1)
