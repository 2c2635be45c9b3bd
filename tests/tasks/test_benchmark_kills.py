"""Killed at any moment, twenty times: what was finished stays, and nothing is run once more."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ode_tasks.benchmark.store import Store

ROOT = Path(__file__).resolve().parents[2]
COUNT, KILLS = 400, 20
PROGRAM = "tests.tasks.light_sweep"


@pytest.fixture
def log(tmp_path, monkeypatch):
    path = tmp_path / "log.txt"
    monkeypatch.setenv("LIGHT_LOG", str(path))
    return path


def start(out, count=COUNT):
    words = [sys.executable, "-m", PROGRAM, str(out), str(count)]
    return subprocess.Popen(words, cwd=ROOT)


def children(pid):
    """The workers of a process: what it has started, without multiprocessing's own helper."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in words:
                found.append(int(child))
    return found


def alive(pid):
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def stored(out):
    """Every stored row, each of which has to be whole at any time."""
    return {p.stem: json.loads(p.read_text()) for p in out.glob("cells/*/*.json")}


class Sweeps:
    """Starts a sweep and kills it, or one of its workers, at random moments between 5 and 95 %."""

    def __init__(self, out):
        self.out = out
        self.random = random.Random(1)
        self.process = start(out)
        self.kills = Counter()
        self.seen = {}

    def look(self):
        now = stored(self.out)
        assert self.seen.items() <= now.items(), "a finished cell was lost or changed"
        self.seen = now
        return 0.05 * COUNT <= len(now) <= 0.95 * COUNT

    def _on(self, before):
        return self.look() and len(self.seen) > before

    def kill(self):
        """Kill one of them, once the sweep has got on since it was started."""
        before = len(self.seen)
        wait_until(
            lambda: (self.look() and len(self.seen) > before) or self.process.poll() is not None
        )
        time.sleep(self.random.uniform(0.0, 0.1))
        workers = children(self.process.pid) if self.process.poll() is None else []
        if not (self.look() and workers):
            return
        parent = sum(self.kills.values()) % 3 == 0
        target = self.process.pid if parent else self.random.choice(workers)
        if not alive(target):
            return
        os.kill(target, signal.SIGKILL)
        self.kills["parent" if parent else "worker"] += 1
        if parent:
            self.process.wait()
            wait_until(lambda: not any(alive(pid) for pid in workers), 5.0)
            self.look()
            self.process = start(self.out)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_twenty_kills_lose_nothing_that_was_finished_and_repeat_nothing(tmp_path, log):
    out = tmp_path / "out"
    sweeps = Sweeps(out)
    try:
        wait_until(sweeps.look)
        while sum(sweeps.kills.values()) < KILLS and sweeps.look():
            sweeps.kill()
        assert sweeps.process.wait(120) == 0
    finally:
        sweeps.end()
    assert sum(sweeps.kills.values()) == KILLS
    assert min(sweeps.kills["parent"], sweeps.kills["worker"]) >= 6

    sweeps.look()
    assert len(sweeps.seen) == COUNT
    statuses = Counter(row["status"] for row in sweeps.seen.values())
    assert statuses["ok"] + statuses["crashed"] == COUNT
    assert statuses["crashed"] <= sweeps.kills["worker"]
    begun = {}
    for line in log.read_text().splitlines():
        key, moment, _ = line.split()
        begun.setdefault(key, []).append(float(moment))
    not_begun = sweeps.seen.keys() - begun.keys()  # the worker was killed before its first line
    assert all(sweeps.seen[key]["status"] == "crashed" for key in not_begun)
    for path in out.glob("cells/*/*.json"):
        assert max(begun.get(path.stem, [0.0])) <= path.stat().st_mtime, (
            "run again after it was finished"
        )
    again = sum(len(moments) - 1 for moments in begun.values())
    assert again <= 2 * sweeps.kills["parent"]
    rows, problems = Store(out).table()
    assert (len(rows), problems) == (COUNT, [])


def test_two_sweeps_at_once_share_the_cells(tmp_path, log):
    out = tmp_path / "out"
    count = 120
    both = [start(out, count) for _ in range(2)]
    while any(process.poll() is None for process in both):
        stored(out)  # whole at any time
        time.sleep(0.05)
    assert [process.returncode for process in both] == [0, 0]
    begun = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert set(begun.values()) == {1}
    assert begun.keys() == stored(out).keys()
    assert len(begun) == count
    assert len({line.split()[2] for line in log.read_text().splitlines()}) > 2  # both took part
    assert list((out / "claims").glob("*.json")) == []
    assert list((out / "tmp").iterdir()) == []
