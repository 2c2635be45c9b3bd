"""Some attempts in a row on the device, on fixed memory, so that a CUDA graph can hold them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.loops.graphs import conditional, record
from ode_core.loops.pace import CODE, MADE, RUNNING, T1, T

if TYPE_CHECKING:
    from ode_core.field import Field
    from ode_core.loops.pace import Pace
    from ode_core.protocols import Solver, Step
    from ode_core.tolerance import Tolerance


Contents: TypeAlias = tuple[Tensor, Any, Tensor]
"""What buffers hold: state, carry, clock."""


@dataclass(eq=False)
class Buffers:
    """The memory that a loop goes on in: state, carry, and the clock, or the nodes of given steps.

    Nothing else in it may be kept from one solve to the next.
    """

    y: Tensor
    carry: Any
    clock: Tensor

    def set(self, y: Tensor, carry: Any, clock: Tensor) -> None:
        """Copy what is given."""
        self.y.copy_(y)
        pytree.tree_map(_copied, self.carry, carry)
        self.clock.copy_(clock, non_blocking=True)

    @classmethod
    def like(cls, y: Tensor, carry: Any, clock: Tensor) -> Buffers:
        """Return memory of its own with these contents."""
        return cls(y.clone(), pytree.tree_map(torch.clone, carry), clock.clone())


@dataclass(eq=False)
class Chunk:
    """`steps` attempts on buffers, chosen by a pace, or from node to node without one.

    Attempts after the stop has been reached leave all as it is. Where `keep`, `slots` holds each
    attempt's state, carry and step until the next launch, or its new state alone where not `whole`.
    `calls` is how often f is called.
    """

    solver: Solver
    tolerance: Tolerance | None
    pace: Pace | None
    buffers: Buffers
    steps: int
    keep: bool
    whole: bool = True
    slots: list[tuple[Tensor, Any, Step]] = field(default_factory=list, init=False)
    calls: int = field(default=0, init=False)
    replay: Callable[[], None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        device, clock = self.buffers.y.device, self.buffers.clock
        self._made = torch.zeros((self.steps, MADE + len(clock)), dtype=clock.dtype, device=device)
        self._host = torch.zeros_like(self._made, device="cpu", pin_memory=device.type == "cuda")
        self._event = torch.cuda.Event() if device.type == "cuda" else None

    def capture(self, f: Field, still: Contents, live: Contents) -> None:
        """Record the attempts as a CUDA graph; raises RuntimeError where f does not allow it.

        `still` are contents of the buffers that say that nothing is to be done, for warming up.
        With conditional nodes, the graph must first do from `live` what the operations do one by
        one.
        """
        calls, device = f.calls, self.buffers.y.device
        run = partial(self._run, f)
        try:
            if self.pace is not None and conditional(device):
                try:
                    self.buffers.set(*still)
                    self.replay = record(run, conditional=True)
                    if self._agrees(run, live):
                        return
                except (RuntimeError, TypeError, AttributeError):
                    # Not everything may stand in such a node.
                    torch.cuda.synchronize()
            self.buffers.set(*still)
            self.replay = record(run, conditional=False)
        finally:
            f.calls = calls

    def _agrees(self, run: Callable[..., None], live: Contents) -> bool:
        made: list[list[Tensor]] = []
        for start in (self.replay, partial(run, None)):
            self.buffers.set(*live)
            assert start is not None  # just recorded
            kept = self.slots
            start()
            self.slots = kept
            made.append([x.clone() for x in (self._made, self.buffers.y, self.buffers.clock)])
        pairs = zip(*made, strict=True)
        return all(torch.allclose(a, b, rtol=1e-6, equal_nan=True) for a, b in pairs)

    def launch(self, f: Field) -> None:
        """Start the attempts; nothing waits for them."""
        if self.replay is None:
            self._run(f, None)
        else:
            self.replay()
            f.calls += self.calls
        if self.pace is not None:
            self._host.copy_(self._made, non_blocking=True)
            if self._event is not None:
                self._event.record()

    def read(self) -> list[list[float]]:
        """Wait for the attempts and return their records."""
        if self._event is not None:
            self._event.synchronize()
        rows: list[list[float]] = self._host.tolist()
        return rows

    def _run(self, f: Field, only_if: Callable[[Tensor], Any] | None) -> None:
        calls = f.calls
        self.slots = []
        if self.pace is None:
            self._given(f)
        else:
            self._chosen(f, self.pace, only_if)
        self.calls = f.calls - calls

    def _given(self, f: Field) -> None:
        own = self.buffers
        y, carry = self._begun()
        for k in range(self.steps):
            step = self.solver.step(f, own.clock[k], own.clock[k + 1], y, carry, None)
            if self.keep:
                # Of many steps the slopes would take more memory than all states.
                kept = step if self.whole else step._replace(carry=None, dense=None)
                self.slots.append((y, None, kept))
            y, carry = step.y, step.carry
        own.set(y, carry, own.clock)

    def _chosen(self, f: Field, pace: Pace, only_if: Callable[[Tensor], Any] | None) -> None:
        own = self.buffers
        (y, carry), clock = self._begun(), own.clock
        self._made.zero_()
        for k in range(self.steps):
            with nullcontext() if only_if is None else only_if(clock[CODE] == RUNNING):
                step = self.solver.step(f, clock[T], clock[T1], y, carry, self.tolerance)
                error: Any = step.error
                accept = pace.judge(clock, error, self._made[k])
                clock = self._made[k, MADE:]
                if self.keep:
                    self.slots.append((y, carry, step))
                again = carry if step.retry is None else step.retry
                y = torch.where(accept, step.y, y)
                carry = pytree.tree_map(_either(accept), step.carry, again)
                if only_if is not None or k == self.steps - 1:
                    own.set(y, carry, clock)
                    # What a node that is skipped would have made does not exist.
                    (y, carry), clock = self._begun(), own.clock

    def _begun(self) -> tuple[Tensor, Any]:
        """Return state and carry to start from, where kept as they are now."""
        own = self.buffers
        if not self.keep:
            return own.y, own.carry
        return own.y.clone(), pytree.tree_map(torch.clone, own.carry)


def _either(accept: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda yes, no: torch.where(accept, yes, no)


def _copied(into: Tensor, x: Tensor) -> Tensor:
    return into if into is x else into.copy_(x)
