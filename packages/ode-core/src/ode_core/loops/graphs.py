"""CUDA graphs: work that is recorded once and started again with one call, and what it relied on.

A graph reads and writes the memory that it was recorded with. What an evaluation of f uses beside
its arguments is noted before every solve, so that a graph made for other tensors, numbers or
operations is never started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ode_core.control import FixedSteps
from ode_core.errors import ArgumentError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ode_core.field import Field

_WARM_UPS = 3


@dataclass(frozen=True)
class Graph:
    """A loop that stays on the device: `steps` attempts at a time, then one small read.

    On CUDA they are one CUDA graph, kept for later solves of the same f, shape and dtype. `lag`
    starts the next ones before the read of those before, so that the device never waits, at the
    price of up to `steps` attempts that are made for nothing at the end.
    """

    steps: int = 8
    lag: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ArgumentError(f"Graph takes a whole number of steps from 1; got {self.steps!r}")


def as_graph(asked: Any, solver: Any, controller: Any, problem: Any) -> Graph | None:
    """Return what was asked for as an object; raises where a loop on the device cannot do it."""
    if asked is False or asked is None:
        return None
    graph = Graph() if asked is True else asked
    if not isinstance(graph, Graph):
        raise ArgumentError(f"graph is True, False or a Graph; got {asked!r:.60}")
    if not getattr(solver, "on_device", False):
        raise UnsupportedError(
            f"{solver.name} reads values from the device in every step, which graph=True is not "
            "for; take an explicit Runge-Kutta method, or drop graph=True"
        )
    if not (isinstance(controller, FixedSteps) or getattr(controller, "per_sample", False)):
        raise UnsupportedError(
            f"{type(controller).__name__} judges host numbers; give it per_sample = True and a "
            "judge for tensors, or drop graph=True"
        )
    if not hasattr(problem, "times") or problem.given.events:
        raise UnsupportedError(
            "graph=True takes shared steps and no events; drop stepping='per_sample' or event=, "
            "or graph=True"
        )
    return graph


class Noted(TorchFunctionMode):
    """Notes the operations of an evaluation: their names, numbers, and tensors from outside.

    Tensors that were made on the way, or named as its own, are not from outside.
    """

    def __init__(self) -> None:
        super().__init__()
        self._own: set[int] = set()
        self._found: list[Any] = []

    def own(self, values: Any) -> None:
        """Take the tensors of a pytree for the evaluation's own."""
        self._own |= {_storage(x) for x in pytree.tree_leaves(values) if isinstance(x, Tensor)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Note what goes in, then do what was asked for."""
        del types
        kwargs = kwargs or {}
        self._found.append(getattr(func, "__name__", repr(func)))
        for value in pytree.tree_leaves((args, kwargs)):
            if not isinstance(value, Tensor):
                self._found.append(repr(value))
            elif _storage(value) not in self._own:
                self._found.append((value.data_ptr(), value.shape, value.stride(), value.dtype))
        out = func(*args, **kwargs)
        self.own(out)
        return out

    @property
    def key(self) -> tuple[Any, ...]:
        """What was noted, equal for evaluations that one recording can stand for."""
        return tuple(self._found)


@contextmanager
def noting(field: Field) -> Iterator[Noted]:
    """Note what f does and uses while the field is called within."""
    f, noted = field.f, Noted()

    def watched(t: Tensor, y: Any, *args: Any) -> Any:
        noted.own((t, y))
        with noted:
            return f(t, y, *args)

    field.f = watched
    try:
        yield noted
    finally:
        field.f = f


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def capturable(y: Tensor) -> bool:
    """Return whether work on a state can be recorded: on a CUDA device."""
    return y.is_cuda


def conditional(device: torch.device) -> bool:
    """Return whether this torch can put work in a graph that runs on a condition only."""
    return device.type == "cuda" and hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node")


def record(run: Callable[..., None], *, conditional: bool) -> Callable[[], None]:
    """Return a function that starts again, as one graph, what `run` does.

    `run` is called with a function that gives the context of each step where that is to run on a
    condition, else with None; it is warmed up on a stream of its own first, and must then leave
    everything as it was. Raises RuntimeError where it waits for the device, or does something else
    that cannot be recorded.
    """
    kept = torch.is_autocast_cache_enabled()
    # Weights that autocast has cast, and kept, would be read for ever.
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                run(None)
        torch.cuda.current_stream().wait_stream(side)
        return _recorded(run, conditional=conditional)
    finally:
        torch.set_autocast_cache_enabled(kept)


def settings(device: torch.device) -> tuple[Any, ...]:
    """Return the settings that decide how the same operations are done."""
    kind = device.type
    return (
        torch.is_autocast_enabled(kind),
        torch.get_autocast_dtype(kind),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_inference_mode_enabled(),
    )


def _recorded(run: Callable[..., None], *, conditional: bool) -> Callable[[], None]:
    graph: Any = torch.cuda.CUDAGraph()

    @contextmanager
    def only_if(flag: Tensor) -> Iterator[None]:
        graph.begin_capture_to_if_node(flag)
        yield
        graph.end_capture_to_conditional_node()

    with torch.cuda.graph(graph):
        run(only_if if conditional else None)
    replay: Callable[[], None] = graph.replay
    return replay
