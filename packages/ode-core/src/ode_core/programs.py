"""Programs that torch.compile makes of parts of a solve, kept for as long as their f is there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ode_core.errors import UnsupportedError
from ode_core.field import Field
from ode_core.protocols import Solver
from ode_core.tolerance import Tolerance

_KEPT: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


class NeedsGradientError(Exception):
    """Raised while a program is made that would have to be differentiated and cannot be."""


class TracedField(Field):
    """The wrapper of f within a program: no versions to check, no calls to count."""

    def __call__(
        self, t: float | Tensor, y: Tensor, mode: AbstractContextManager[Any] | None = None
    ) -> Tensor:
        """Return dy/dt at a time and a packed state, like the state."""
        return self.plain(t, y, mode)


class TracedTolerance(Tolerance):
    """A tolerance whose norms stay tensors: 0-d, float64, infinite where one is NaN."""

    def root_mean_square(self, ratio: Tensor) -> Any:
        """Return the root mean square of scaled errors."""
        mean = ratio.square().sum().to(torch.float64) / ratio.numel()
        return torch.where(mean.isnan(), torch.inf, mean.sqrt())


class Program:
    """What torch.compile makes of a function; one for each kind of call, each made once.

    `first` are its first arguments at every call: objects that are equal for all, but of which
    each might work something out when it is first used. `backend` is one of torch.compile's with
    its options, `calls` how often f is called at the start and in a step.
    `made` counts the graphs that the backend was given, `refused` is why it was found to be of no
    use. Guards see to it that a program made for
    another f, other attributes of it, or another shape is never run in place of this one.
    """

    def __init__(
        self,
        function: FunctionType,
        first: tuple[Any, ...],
        backend: tuple[str | Callable[..., Any], dict[str, Any] | None],
        calls: tuple[int, int],
        *,
        differentiable: bool = True,
    ) -> None:
        self.calls = calls
        self._first = first
        self.made = 0
        self.refused: Exception | None = None
        self._backend, self._options = backend
        self._differentiable = differentiable
        # Of its own code: Dynamo keeps programs, and counts them, by code.
        own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
        self._run = torch.compile(own, backend=self._compiled, fullgraph=True, dynamic=False)

    def __call__(self, *args: Any) -> Any:
        """Run the program, which is made first where there is none for such arguments.

        Raises UnsupportedError where it cannot be made.
        """
        try:
            return self._run(*self._first, *args)
        except torch._dynamo.exc.TorchDynamoException as error:
            if isinstance(getattr(error, "inner_exception", None), NeedsGradientError):
                raise NeedsGradientError from error
            raise UnsupportedError(_sentence(error)) from error
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise UnsupportedError(
                "f has changed in more ways than torch.compile keeps programs for, "
                f"{torch._dynamo.config.recompile_limit}; keep what changes from solve to solve in "
                "tensors, or solve without compile"
            ) from error

    def _compiled(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        asked = torch.is_grad_enabled() and any(
            isinstance(x, Tensor) and x.requires_grad for x in inputs
        )
        if asked and not self._differentiable:
            raise NeedsGradientError
        if self._backend == "inductor":
            made = torch._inductor.compile(graph, inputs, options=self._options)
        else:
            made = torch._dynamo.lookup_backend(self._backend)(graph, inputs)
        # Not before: Dynamo may begin anew.
        self.made += 1
        return made


def _sentence(error: Exception) -> str:
    text = str(error)
    if "No working C++ compiler" in text or "InvalidCxxCompiler" in text:
        return (
            "compile needs a C++ compiler, such as g++, and none was found; install one, or solve "
            "without compile"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    why = next((line for line in lines if line.startswith("Explanation: ")), lines[0])
    why = why.removeprefix("Explanation: ").rstrip(".")
    return (
        f"torch.compile could not make a program of the solver with this f ({why:.200}); solve "
        "without compile, or take compile='auto', which then does"
    )


class Same:
    """Stands for an object in a key: by its value, or, where it has none, by itself."""

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    @classmethod
    def of(cls, thing: Any) -> Any:
        """Return the object itself where it can be a key."""
        try:
            hash(thing)
        except TypeError:
            return cls(thing)
        return thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def found(f: Callable[..., Any]) -> dict[Any, Any]:
    """Return what is kept for an f, by key, to be added to; it goes with f."""
    return _KEPT.setdefault(_anchor(f), {})


def _anchor(f: Callable[..., Any]) -> Any:
    """Return what programs are kept by: the code of a function, whose guards see the rest."""
    if isinstance(f, MethodType):
        return f.__func__.__code__ if isinstance(f.__func__, FunctionType) else type(f.__self__)
    if isinstance(f, FunctionType):
        return f.__code__
    return f if isinstance(f, nn.Module) else type(f)


def calls_of(solver: Solver, tolerance: Tolerance | None) -> tuple[int, int]:
    """Return how often f is called within programs, by taking a step of a small state.

    First at the start, the search for the first step included, then in every step.
    """
    y = torch.zeros(2, dtype=torch.float64)
    t0, t1 = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    calls = 0

    def field(t: Any, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -y

    traced: Any = None if tolerance is None else TracedTolerance(1.0, 1.0)
    with torch.no_grad():
        carry = solver.init(field, t0, y)
        slope = getattr(solver, "slope", None)
        begin = calls + (1 if slope is not None and slope(carry) is not None else 2)
        calls = 0
        solver.step(field, t0, t1, y, carry, traced)
    return begin, calls
