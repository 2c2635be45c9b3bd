"""A sweep of at least 500 cells with ten that misbehave: `python -m tests.tasks.sweep_500 OUT`.

Not a test, since it says something of a machine's time: it prints what was lost, the wall time with
its limit, and the memory of the process that watches.
"""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.tasks.planted import STATUS, TASK

from ode_tasks.benchmark.limits import resident
from ode_tasks.benchmark.store import Store

SEEDS = 20
# With so little training its problem is now and then one that it cannot reverse.
FAILS = "reversible_dopri5"


def main(out):
    plugin = Path(__file__).with_name("planted.py")
    words = [
        sys.executable,
        "-m",
        "ode_core",
        "--plugin",
        str(plugin),
        "benchmark",
        "--tasks",
        TASK,
    ]
    words += ["--seeds", str(SEEDS), "--workers", "2", "--seconds", "10", "--memory", "2"]
    words += ["--where", f"solver != '{FAILS}' and (seed == 0 or solver != 'bad_*')", "--out", out]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    sizes, ended = [], threading.Event()

    def watch():
        while process.poll() is None and not ended.is_set():
            sizes.append(resident(process.pid))
            time.sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    figures = ""
    for line in process.stderr:
        if re.match(r"ran \d+ cells", line):
            ended.set()  # what follows is the report
            figures = line.strip()
    watcher.join()
    rows = Store(Path(out)).table().rows
    ran = [row for row in rows if row["status"] != "skipped"]
    lost = {row["solver"]: row for row in ran if row["status"] != "ok"}
    for row in lost.values():
        print(f"{row['solver']}: {row['status']}, {row['reason']}")
    assert {solver: row["status"] for solver, row in lost.items()} == STATUS
    assert len(ran) >= 500, len(ran)
    print(figures)
    said = re.search(r" in ([\d.]+) s\b.* are ([\d.]+) s together", figures)
    wall, own = (float(text) for text in said.groups())
    found = re.search(r"; (\d+) workers were lost", figures)
    restarts = int(found[1]) if found else 0
    limit = 1.15 * own / 2 + 4 * (2 + restarts) / 2
    print(f"wall {wall:.1f} s, limit {limit:.1f} s, load {os.getloadavg()}")
    mid = [size / 2**20 for size in sizes[5:]]
    print(f"memory of the watcher: {mid[0]:.0f} MiB at first, {max(mid):.0f} MiB at most")
    assert process.returncode == 0


if __name__ == "__main__":
    main(sys.argv[1])
