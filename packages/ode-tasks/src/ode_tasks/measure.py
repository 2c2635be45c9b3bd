"""What a run costs and how exact it is: evaluations, memory, time, the solver's own error."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import os
import platform
import subprocess
import weakref
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ode_core.api import solve
from ode_core.errors import SolveError
from ode_core.solution import Stats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

HELD = "held for backward"
PEAK = "peak allocated"

# A field with kinks, such as ReLU makes, needs thousands of steps for digits that float32 does not
# hold; what a smooth one does not need is not spent on it.
_TIGHT, _TIGHT_STEPS = 1e-10, 100
_LOOSE, _LOOSE_STEPS = 1e-8, 2_000


class Memory(NamedTuple):
    """Bytes, and which kind they are: `HELD` on the CPU, `PEAK` on CUDA."""

    bytes: int
    kind: str


class _Saved:
    """A tensor kept by the graph; it lives exactly as long as the graph keeps it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        # A result that its own operation keeps would hold its graph in a circle.
        self.tensor = tensor.detach()


def held_bytes(forward: Callable[[], Any], exclude: Iterable[Tensor] = ()) -> int:
    """Return the bytes that the graph of `forward()` holds for its backward pass.

    Counted are the storages, each once however many tensors share it, of all tensors that autograd
    still holds when `forward` returns. The storages of `exclude` (parameters, buffers, inputs:
    what exists whether or not a gradient is asked for) are left out.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Saved:
        kept = _Saved(tensor)
        saved.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        result = forward()
    storages = [kept.tensor.untyped_storage() for kept in saved]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    for tensor in exclude:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    del result  # the graph had to live until here
    return sum(sizes.values())


def memory(model: nn.Module, loss: Callable[[], Tensor], inputs: Sequence[Tensor]) -> Memory:
    """Return the memory of one training step whose scalar loss `loss()` computes.

    On CUDA the step is run forwards and backwards and the peak allocated is read; elsewhere it is
    run forwards and `held_bytes` is read, without parameters, buffers and `inputs`.
    The gradients of the model are left as they were.
    """
    parameters = list(model.parameters())
    device = parameters[0].device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        torch.autograd.grad(loss(), trained, allow_unused=True)
        torch.cuda.synchronize(device)
        return Memory(int(torch.cuda.max_memory_allocated(device)), PEAK)
    return Memory(held_bytes(loss, [*parameters, *model.buffers(), *inputs]), HELD)


def memory_columns(
    model: nn.Module,
    twin: nn.Module,
    loss: Callable[[nn.Module], Tensor],
    inputs: Sequence[Tensor],
) -> dict[str, Any]:
    """Return the memory of a training step of the model, and of its twin by `direct`."""
    own = memory(model, lambda: loss(model), inputs)
    direct = own if twin is model else memory(twin, lambda: loss(twin), inputs)
    return {
        "memory_bytes": own.bytes,
        "memory_kind": own.kind,
        "memory_bytes_direct": direct.bytes,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the submodules that have solved: those whose `stats` is a `Stats`."""
    return [m for m in model.modules() if isinstance(getattr(m, "stats", None), Stats)]


def evaluations(model: nn.Module) -> tuple[float, float] | None:
    """Return the evaluations of the field in the last forward and backward pass of all blocks.

    Where samples step for themselves it is their mean. None where the model has solved nothing.
    """
    stats: list[Any] = [block.stats for block in blocks(model)]
    if not stats:
        return None
    return sum(_mean(s.f_calls) for s in stats), sum(_mean(s.backward_f_calls) for s in stats)


def _mean(count: int | Tensor) -> float:
    return float(count.double().mean()) if isinstance(count, Tensor) else count


def reference(
    field: Callable[[Tensor, Tensor], Tensor],
    y0: Tensor,
    t: Any,
    *,
    tolerance: float = _TIGHT,
    max_steps: int = 100_000,
) -> Tensor:
    """Return the solution `[T, ...]` in float64 by dopri8.

    `field` has to work in float64, like a copy of a module after `.double()`. Raises SolveError
    where it takes more steps than `max_steps`.
    """
    with torch.no_grad():
        states: Tensor = solve(
            field,
            y0.double(),
            t,
            solver="dopri8",
            rtol=tolerance,
            atol=tolerance,
            max_steps=max_steps,
        ).ys
    return states


def relative_rms(values: Tensor, exact: Tensor) -> float:
    """Return the root of the mean square of `values - exact` over that of `exact`."""
    exact = exact.double()
    difference = (values.double() - exact).square().mean().sqrt()
    return float(difference / exact.square().mean().sqrt().clamp_min(torch.finfo(exact.dtype).tiny))


def solver_error(model: nn.Module, *inputs: Any) -> float | None:
    """Return the relative RMS error of the model's solves on one batch, None if it solves nothing.

    The field of each of its `solves` is solved again from the same state by `nearly_exact`; NaN
    where that cannot be finished.
    """
    try:
        pairs = [_pair(*call) for call in solves(model, *inputs)]
    except SolveError:
        return math.nan
    if not pairs:
        return None
    return relative_rms(*(torch.cat([p[i] for p in pairs]) for i in (0, 1)))


def solves(model: nn.Module, *inputs: Any) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Return the blocks that the model calls on one batch, each with its state and its result.

    A block is a submodule with `field`, `t` and, once it has solved, `stats`. The model is called
    in evaluation mode and without gradients. Raises SolveError where its own solves fail.
    """
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        calls.append((module, arguments[0].detach(), output.detach()))

    handles = [block.register_forward_hook(note) for block in _solvable(model)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return calls


def _solvable(model: nn.Module) -> list[nn.Module]:
    return [m for m in blocks(model) if hasattr(m, "field") and hasattr(m, "t")]


def _pair(block: Any, y0: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
    exact = nearly_exact(copy.deepcopy(block.field).double(), y0, block.t)
    exact = exact if output.dim() == exact.dim() else exact[-1]
    return output.double().flatten(), exact.flatten()


def nearly_exact(field: Callable[[Tensor, Tensor], Tensor], y0: Tensor, t: Any) -> Tensor:
    """Return `reference` to 1e-10, or to 1e-8 where that takes more than 100 steps.

    Raises SolveError where neither can be finished.
    """
    try:
        return reference(field, y0, t, tolerance=_TIGHT, max_steps=_TIGHT_STEPS)
    except SolveError:
        return reference(field, y0, t, tolerance=_LOOSE, max_steps=_LOOSE_STEPS)


class Timer:
    """The seconds that a stretch of work took."""

    seconds: float = 0.0


@contextmanager
def timed(device: torch.device) -> Iterator[Timer]:
    """Time the body, waiting for the device at both ends."""
    timer = Timer()
    _wait(device)
    start = perf_counter()
    try:
        yield timer
    finally:
        _wait(device)
        timer.seconds = perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: str) -> str:
    """Return the operating system, the processor and its cores, and the GPU if that is used."""
    name = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if device.partition(":")[0] == "cuda" and torch.cuda.is_available():
        name += f", {torch.cuda.get_device_name(device)}"
    return name


def commit() -> str | None:
    """Return the commit that this code was checked out at, None where it is no checkout.

    "-dirty" is appended where files that are tracked differ from it.
    """
    here = str(Path(__file__).resolve().parent)
    # An installed copy may lie below somebody else's repository.
    tracked = ("ls-files", "--error-unmatch", __file__)
    described = ("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    try:
        _, done = (
            subprocess.run(["git", "-C", here, *words], capture_output=True, check=True, text=True)
            for words in (tracked, described)
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions of Python, torch and the given distributions that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
