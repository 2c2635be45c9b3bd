"""The machine and the moment that a row was made on and at; nothing here imports torch."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path
from typing import Any

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_GPUS = Path("/proc/driver/nvidia/gpus")


def conditions() -> dict[str, Any]:
    """Return the machine, how its clock is governed, and its load: what times depend on."""
    return {
        "machine": machine(),
        "machine_id": machine_id(),
        "governor": _text(_GOVERNOR) or None,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


@cache
def machine() -> str:
    """Return system, processor, cores, memory and GPUs in words."""
    parts = [
        platform.system(),
        _processor(),
        f"{os.cpu_count()} cores",
        _memory(),
        *sorted(_gpus()),
    ]
    return ", ".join(part for part in parts if part)


@cache
def machine_id() -> str:
    """Return eight digits that machines alike in these words share."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def _processor() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> str:
    names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
    if not hasattr(os, "sysconf") or not all(name in os.sysconf_names for name in names):
        return ""
    pages, size = (os.sysconf(name) for name in names)
    return f"{round(pages * size / 1024**3)} GiB"


def _gpus() -> list[str]:
    texts = [_text(path) for path in _GPUS.glob("*/information")]
    return [found[1].strip() for text in texts if (found := re.search(r"Model:\s*(.+)", text))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
