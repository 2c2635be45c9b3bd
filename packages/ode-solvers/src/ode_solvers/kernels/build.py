"""Building the C kernel where it is first used: once for each machine, kept in the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import platformdirs
import torch

_FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
# Python's own functions are found when the library is loaded; elsewhere that is the default.
_LATER = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
# What torch itself chooses its code by; -march=native would not do on a cluster's shared cache.
_CAPABLE = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx2", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
}


@cache
def library(source: str = "native.c", kind: type[ctypes.CDLL] = ctypes.CDLL) -> ctypes.CDLL | None:
    """Return a compiled source of this folder, None where there is no C compiler or it fails.

    `kind` is `ctypes.PyDLL` for one that calls Python.

    The work is done once a process, and once a machine: the result lies in the user's cache folder,
    named by what it was made from.
    """
    found = compiler()
    if not found:
        return None
    path = Path(__file__).with_name(source)
    capability = torch.backends.cpu.get_cpu_capability()
    flags = (*_FLAGS, *_LATER, *_CAPABLE.get(capability, ()))
    made_from = (path.read_bytes(), found, flags, platform.machine())
    key = hashlib.sha256(repr(made_from).encode()).hexdigest()
    for folder in (Path(platformdirs.user_cache_dir("ode-solvers")), Path(tempfile.gettempdir())):
        made = _made(folder / f"{path.stem}-{key[:16]}.so", [found, *flags, str(path)], kind)
        if made is not None:
            return made
    return None


def compiler() -> str:
    """Return the path of the C compiler, or an empty text where there is none."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), "")


def _made(target: Path, command: list[str], kind: type[ctypes.CDLL]) -> ctypes.CDLL | None:
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            _compile(target, command)
        return kind(str(target))
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
