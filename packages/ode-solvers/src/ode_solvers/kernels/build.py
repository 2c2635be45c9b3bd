"""Building the C kernel where it is first used: once for each machine, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
import torch

_SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
# What torch itself chooses its code by; -march=native would not do on a cluster's shared cache.
_CAPABLE = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel, None where there is no C compiler or it fails.

    The work is done once a process, and once a machine: the result lies in the user's cache folder,
    named by what it was made from.
    """
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")
    if not compiler:
        return None
    source = _SOURCE.read_bytes()
    capability = torch.backends.cpu.get_cpu_capability()
    flags = (*_FLAGS, *_CAPABLE.get(capability, ()))
    key = hashlib.sha256(repr((source, compiler, flags, platform.machine())).encode()).hexdigest()
    for folder in (Path(platformdirs.user_cache_dir("ode-solvers")), Path(tempfile.gettempdir())):
        made = _made(folder / f"native-{key[:16]}.so", [compiler, *flags, str(_SOURCE)])
        if made is not None:
            return made
    return None


def _made(target: Path, command: list[str]) -> ctypes.CDLL | None:
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(target, command)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.SubprocessError):
        return None


def _compile(target: Path, command: list[str]) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".so")
    os.close(handle)
    try:
        subprocess.run([*command, "-o", name, "-lm"], check=True, capture_output=True, timeout=60)
        # Another process may have been as quick; both files are the same.
        Path(name).replace(target)
    finally:
        Path(name).unlink(missing_ok=True)
