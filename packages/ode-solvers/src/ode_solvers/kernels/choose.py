"""Which kernel a state goes through: the one asked for, else by device."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, cast

import torch

from ode_core import ArgumentError, PluginError
from ode_core.transforms import transformed
from ode_solvers.kernels.contract import Kernel, RowKernel
from ode_solvers.kernels.cpu import Chain
from ode_solvers.kernels.native import Native, available
from ode_solvers.kernels.native_rows import NativeRows
from ode_solvers.kernels.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor

CHAIN = Chain()
NAMES = ("reference", "cpu", "native", "triton", "whole")

_TRITON = {
    "triton": ("ode_solvers.kernels.fused", "Fused"),
    "whole": ("ode_solvers.whole.kernel", "Whole"),
}


@cache
def named(name: str) -> Kernel:
    """Return the kernel of that name.

    Raises ArgumentError for another name, and PluginError where Triton or a compiler is missing.
    """
    if name == "reference":
        return Reference()
    if name == "cpu":
        return CHAIN
    if name == "native":
        if not available():
            raise PluginError("kernel='native' needs a C compiler: install gcc or clang")
        return NativeRows()
    if name in _TRITON:
        if not _has_triton():
            raise PluginError(f"kernel={name!r} needs Triton: pip install 'ode-solvers[triton]'")
        # Triton is imported when it is first used: it takes longer than a small solve.
        module, kind = _TRITON[name]
        kernel: Kernel = getattr(importlib.import_module(module), kind)()
        return kernel
    raise ArgumentError(f"kernel is one of {', '.join(NAMES)}, or an object; got {name!r}")


def for_state(y: Tensor, *, shared: bool = True) -> Kernel:
    """Return the kernel for a state where none was asked for, by its device and stepping."""
    if torch.compiler.is_compiling():
        # The compiler fuses what it can see: plain operations.
        return CHAIN
    if not shared:
        return for_rows(y)
    if y.is_cpu:
        return _for_cpu()
    return named("triton" if _fused(y) else "cpu")


def for_rows(y: Tensor) -> RowKernel:
    """Return the kernel for the rows of a state with per-sample steps."""
    kernel = named("native" if y.is_cpu and available() else "triton" if _fused(y) else "cpu")
    # All of them have all that rows need; to look for it takes longer than to use it.
    return cast("RowKernel", kernel)


@cache
def _for_cpu() -> Kernel:
    return Native() if available() else named("cpu")


def _fused(y: Tensor) -> bool:
    # What the transforms of torch.func hand on is no memory that a kernel can read.
    return y.is_cuda and not transformed() and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
