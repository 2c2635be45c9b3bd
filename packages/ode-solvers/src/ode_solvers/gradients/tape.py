"""What a solve leaves behind for a backward pass that makes its steps again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core import ArgumentError

if TYPE_CHECKING:
    from ode_core import Plan, Step
    from ode_core.loops.march import Accepted
    from ode_core.protocols import Carry, Solver


@dataclass(frozen=True)
class Budget:
    """How many states may be kept at a time: a number, or as many as fit into `bytes`."""

    states: int | None = None
    bytes: int | None = None

    def slots(self, state: State) -> int | None:
        """Return the number of states like this one, None without a limit; ArgumentError for 0."""
        if self.bytes is None:
            return self.states
        tensors = [x for x in pytree.tree_leaves(tuple(state)) if isinstance(x, Tensor)]
        size = sum(x.numel() * x.element_size() for x in tensors)
        if size > self.bytes:
            raise ArgumentError(
                f"Checkpoint(bytes={self.bytes}) has no room for a state, which takes {size} "
                "bytes; allow at least that many"
            )
        return self.bytes // max(size, 1)


class State(NamedTuple):
    """Where a step starts; `carry` is None where the solver's `init` makes it from the state.

    Otherwise it is that with which the step was accepted.
    """

    y: Tensor
    carry: Carry


class Tape:
    """Every accepted step as floats, and the states before some of them.

    Without a budget these are all; with one those at equal spaces, which double whenever there are
    too many. `latest` is the state after the last step. The carry of a solver that cannot be
    started from a state alone is part of a state.
    """

    def __init__(self, plan: Plan, start: float, budget: Budget) -> None:
        self._plan, self._start, self._budget = plan, start, budget
        self._ends = array("d")
        self._resumed: dict[int, float] = {}
        self._outputs: dict[int, tuple[int, ...]] = {}
        self._rejected: dict[int, tuple[float, ...]] = {}
        self._stride = 1
        self._attempts: list[float] = []
        self._kept: dict[int, State] = {}
        self.slots: int | None = None
        self.latest: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of accepted steps."""
        return len(self._ends)

    def plan(self) -> Plan:
        """Return the plan of the solve to be recorded."""
        plan = self._plan
        if plan.solver.one_step or plan.tolerance is None:
            return plan
        # A rejection may change the carry, so that a step made again must be rejected again.
        noting: Any = _Noting(plan.solver, self._attempts)
        return replace(plan, solver=noting)

    def keep(self, accepted: Accepted, outputs: list[int]) -> None:
        """Note a step, and the indices of the states that it answered for."""
        index = len(self._ends)
        self._ends.append(accepted.t1)
        if accepted.until != accepted.t1:
            self._resumed[index] = accepted.until
        if outputs:
            self._outputs[index] = tuple(outputs)
        if len(self._attempts) > 1:
            self._rejected[index] = tuple(self._attempts[:-1])
        self._attempts.clear()
        self.latest = accepted.step.y
        if index % self._stride:
            return
        own = self._plan.solver.one_step or (accepted.fresh and not self._begun(index))
        carry = None if own else accepted.carry
        if carry is not None and not index:
            # One that an earlier solve has left may have a graph.
            carry = pytree.tree_map(_detached, carry)
        state = State(accepted.y0, carry)
        if not index:
            self.slots = self._budget.slots(state)
        self._kept[index] = state
        if self.slots is not None and len(self._kept) > self.slots:
            self._stride *= 2
            for other in [k for k in self._kept if k % self._stride]:
                del self._kept[other]

    def taken(self) -> dict[int, State]:
        """Return the states that are kept, to be used up; with a budget the first alone stays."""
        kept = dict(self._kept)
        if self.slots is not None:
            self._kept = {0: kept[0]} if kept else {}
        return kept

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors of the states that are kept, and the last state."""
        kept = [*self._kept.values(), self.latest]
        return tuple(x for x in pytree.tree_leaves(kept) if isinstance(x, Tensor))

    def span(self, index: int) -> tuple[float, float, float]:
        """Return a step's start, its end, and the time up to which it answers."""
        end = self._ends[index]
        before = self._ends[index - 1] if index else self._start
        return self._resumed.get(index - 1, before), end, self._resumed.get(index, end)

    def outputs(self, index: int) -> tuple[int, ...]:
        """Return the indices of the states that a step answered for."""
        return self._outputs.get(index, ())

    def fresh(self, index: int) -> bool:
        """Return whether `init` made a step's carry."""
        return (index == 0 and not self._begun(0)) or index - 1 in self._resumed

    def rejected(self, index: int) -> Iterator[float]:
        """Yield the ends of the attempts before a step, where these changed its carry."""
        yield from self._rejected.get(index, ())

    def _begun(self, index: int) -> bool:
        """Return whether a step goes on with the carry of an earlier solve."""
        start = self._plan.start
        return (
            index == 0
            and start is not None
            and start.carry is not None
            and not (self._plan.solver.one_step)
        )


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


class _Noting:
    """A solver that notes the end of every step that it attempts."""

    def __init__(self, solver: Solver, attempts: list[float]) -> None:
        self._solver, self._attempts = solver, attempts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._solver, name)

    def step(self, field: Any, t0: Any, t1: Any, y: Tensor, carry: Carry, tolerance: Any) -> Step:
        """Advance `y` as the solver does."""
        self._attempts.append(t1)
        return self._solver.step(field, t0, t1, y, carry, tolerance)
