"""What `ode doctor` says of the kernels: which there are on this machine, and why not others."""

from __future__ import annotations

import ctypes
import importlib.util
from importlib import metadata
from pathlib import Path

import platformdirs
import torch

from ode_core.folders import writable
from ode_solvers.kernels.build import compiler, library


def kernels() -> dict[str, str]:
    """Return a line each on the C compiler, what it made, Triton and the folder of kernels."""
    return {
        "C compiler": compiler() or "none of cc, gcc, clang",
        "sums in C": _built(library()),
        "stages in C": _built(library("stages.c", ctypes.PyDLL)),
        "Triton": _triton(),
        "kernel cache": writable(Path(platformdirs.user_cache_dir("ode-solvers"))),
    }


def _built(made: ctypes.CDLL | None) -> str:
    if made is not None:
        return str(made._name)
    return f"not built by {compiler()}; torch makes them" if compiler() else "torch makes them"


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed; pip install 'ode-solvers[triton]' for states on a GPU"
    use = "used for states on a GPU" if torch.cuda.is_available() else "no GPU to use it on"
    return f"{metadata.version('triton')}, {use}"
