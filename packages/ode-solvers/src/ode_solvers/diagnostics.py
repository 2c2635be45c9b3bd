"""What `ode doctor` says of the kernels: which there are on this machine, and why not others."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

import platformdirs
import torch

from ode_core.folders import writable
from ode_solvers.kernels.build import compiler, library


def kernels() -> dict[str, str]:
    """Return a line each on the C compiler, the C kernel, Triton and the folder of kernels."""
    made, found = library(), compiler()
    if made is not None:
        native = made._name
    else:
        native = f"{found} failed; torch makes the sums" if found else "none; torch makes the sums"
    return {
        "C compiler": found or "none of cc, gcc, clang",
        "C kernel": native,
        "Triton": _triton(),
        "kernel cache": writable(Path(platformdirs.user_cache_dir("ode-solvers"))),
    }


def _triton() -> str:
    if importlib.util.find_spec("triton") is None:
        return "not installed; pip install 'ode-solvers[triton]' for states on a GPU"
    use = "used for states on a GPU" if torch.cuda.is_available() else "no GPU to use it on"
    return f"{metadata.version('triton')}, {use}"
