"""Each plugin in a process of its own: what ends, crashes or hangs that process harms nobody."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ode_core import discovery
from ode_core.catalogue import load_target
from ode_core.containment import Attempt
from ode_core.discovery import ENV_BLOCK, Source, describe
from ode_core.loading import BLOCKED, FAILED, load
from ode_core.records import DiagnosticRecord, Record

DIAGNOSIS_SECONDS = 60.0
"""How long one package's diagnostics may take: they may import torch and compile."""

_AT_ONCE = 4
_CHILD = "import sys; from ode_core.probe import answer; answer(*sys.argv[1:])"

Row = dict[str, Any]


def probe(sources: Sequence[Source], seconds: float) -> tuple[list[Row], list[Row]]:
    """Load each plugin in a child process and ask those that have diagnostics for them.

    Returns a row for each plugin, in their order (status, load time in seconds, reason and remedy),
    and rows of `what` and `value` from the diagnostics.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(lambda source: _loaded(source, seconds), sources))
        talkative = [s for s, row in zip(sources, rows, strict=True) if row.pop("diagnostics", ())]
        facts = list(pool.map(_diagnosed, talkative))
    return rows, [fact for found in facts for fact in found]


def _loaded(source: Source, seconds: float) -> Row:
    row: Row = {"kind": "plugin", "name": source.name, "package": source.package}
    row |= {"version": source.version, "status": BLOCKED, "records": 0, "seconds": None}
    reason = discovery.blocked(source)
    if reason:
        return row | {"reason": reason, "remedy": ""}
    answered, end = _ask("load", source, seconds)
    if answered is None:
        remedy = f"set {ENV_BLOCK}={source.package}"
        return row | {"status": FAILED, "reason": f"it {end} when it was loaded", "remedy": remedy}
    return row | dict(answered)


def _diagnosed(source: Source) -> list[Row]:
    answered, end = _ask("diagnose", source, DIAGNOSIS_SECONDS)
    if answered is None:
        return [{"what": source.package, "value": f"its diagnostics {end}"}]
    return [{"what": what, "value": str(value)} for what, value in answered.items()]


def _ask(question: str, source: Source, seconds: float) -> tuple[Mapping[str, Any] | None, str]:
    """Return the child's answer, or None and how the child ended without one."""
    with tempfile.TemporaryDirectory(prefix="ode-probe-") as folder:
        answer_file, words = Path(folder) / "answer.json", Path(folder) / "words.txt"
        which = (source.package, source.name, source.target)
        with words.open("wb") as stream:
            child = subprocess.Popen(
                [sys.executable, "-c", _CHILD, question, str(answer_file), *which],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
            try:
                code = child.wait(seconds)
                end = _ended(code)
            except subprocess.TimeoutExpired:
                end = f"took longer than {seconds:g} s"
            finally:
                _end(child)
        if answer_file.exists():
            answered: Mapping[str, Any] = json.loads(answer_file.read_text())
            return answered, ""
        last = words.read_text(errors="replace").strip().splitlines()[-1:]
        return None, end + (f" ({last[0][:200]})" if last else "")


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended the process with status {code}"
    with contextlib.suppress(ValueError):
        return f"crashed the process with {signal.Signals(-code).name}"
    return f"crashed the process with signal {-code}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and what it started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


def answer(question: str, answer_file: str, package: str, name: str, target: str) -> None:
    """Answer in the child: load the plugin, or run its diagnostics; what is raised is an answer."""
    which = (package, name, target)
    sources = [s for s in discovery.find() if (s.package, s.name, s.target) == which]
    start = time.perf_counter()
    plugin = load(sources[0])
    seconds = time.perf_counter() - start
    diagnostics = [r for r in plugin.records if isinstance(r, DiagnosticRecord)]
    found: dict[str, Any] = {
        "status": plugin.status,
        "records": len(plugin.records),
        "seconds": round(seconds, 3),
        "reason": plugin.cause,
        "remedy": ", ".join(trouble.remedy for trouble in plugin.troubles if trouble.remedy),
        "diagnostics": len(diagnostics),
    }
    if question == "diagnose":
        found = {key: value for r in diagnostics for key, value in _said(r).items()}
    # Whole or not at all: the process may be ended at any time.
    unfinished = Path(answer_file).with_suffix(".part")
    unfinished.write_text(json.dumps(found, default=str))
    unfinished.replace(answer_file)


def _said(record: Record) -> dict[str, Any]:
    said: dict[str, Any] = {}
    with Attempt() as attempt:
        said |= load_target(record)()
    return {record.name: f"failed: {describe(attempt.error)}"} if attempt.error else said
