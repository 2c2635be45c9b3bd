"""Every explicit Runge-Kutta method: one stepper, the methods are tables."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ode_core import ArgumentError, Step
from ode_core.interpolation import Hermite
from ode_solvers.kernels.choose import CHAIN, for_state, named
from ode_solvers.kernels.contract import Kernel
from ode_solvers.polynomial import Polynomial
from ode_solvers.stiffness import LastStages, Suspicion, last_stages
from ode_solvers.tableau import Tableau, row_of
from ode_solvers.whole.choose import solved_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from ode_core import Tolerance
    from ode_core.loops.pace import TorchPace
    from ode_core.protocols import Interpolant

    VectorField = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class RungeKutta:
    """A stepper for an explicit tableau.

    `kernel` is "cpu", "triton", "reference" or a Kernel; by default the state's device decides.
    The carry of an adaptive method is the slope at the start of the step, `(k1,)`, which the step
    before has evaluated already; that of others is empty.
    """

    tableau: Tableau
    kernel: Kernel | str | None = None
    implicit: bool = field(default=False, init=False)
    one_step: bool = field(default=True, init=False)
    per_sample: bool = field(default=True, init=False)
    on_device: bool = field(default=True, init=False)
    moving_times: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.kernel, str):
            object.__setattr__(self, "kernel", named(self.kernel))
        elif self.kernel is not None and not isinstance(self.kernel, Kernel):
            raise ArgumentError(f"kernel is a name or a Kernel; got {self.kernel!r:.60}")

    @property
    def name(self) -> str:
        """The tableau's name."""
        return self.tableau.name

    @property
    def order(self) -> int:
        """The order of convergence."""
        return self.tableau.order

    @property
    def adaptive(self) -> bool:
        """Whether the table has error weights."""
        return self.tableau.b_error is not None

    @property
    def error_estimate(self) -> str:
        """Which error estimate decides on the steps."""
        return self.tableau.error_estimate

    def init(self, field: VectorField, t: Any, y: Tensor) -> tuple[Tensor, ...]:
        """Return the carry: the slope at the start for an adaptive method."""
        return (field(t, y),) if self.adaptive else ()

    def slope(self, carry: tuple[Tensor, ...]) -> Tensor | None:
        """Return the slope at the start where the carry holds it."""
        return carry[0] if carry else None

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor, ...],
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y`, any shape, from t0 to t1."""
        table, dt = self.tableau, t1 - t0
        kernel = self._kernel(dt, y)
        h = kernel.prepare(dt, y)
        times, end = self._times(field, t0, t1, dt)
        ks, y1 = self._stages(field, kernel, h, times, y, carry, ends=self.adaptive)
        error = None
        if tolerance is not None and self.adaptive:
            y1, norms = kernel.finish(y, y1, h, table.solution_row, table.error_rows, ks, tolerance)
            error = damped(norms)
        elif y1 is None:
            y1 = kernel.combine(y, h, table.solution_row, ks)
        if not self.adaptive:
            return Step(y1, None, (), tuple(ks))
        if table.last_is_solution:
            return Step(y1, error, (ks[-1],), tuple(ks))
        if isinstance(error, float) and error > 1.0:
            # The slope at an end that hardly ever is a start, as with a least step, is not worth a
            # call: without it the next step makes its own.
            return Step(y1, error, (), tuple(ks))
        ks.append(field(end, y1))
        return Step(y1, error, (ks[-1],), tuple(ks))

    def replay(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: tuple[Tensor, ...],
        y1: Tensor,
    ) -> Step:
        """Advance `y` again, without the slope at the end and without an error estimate."""
        del y1
        dt = t1 - t0
        kernel = self._kernel(dt, y)
        h = kernel.prepare(dt, y)
        times, _ = self._times(field, t0, t1, dt)
        ks, last = self._stages(field, kernel, h, times, y, carry, ends=False)
        if last is None:
            last = kernel.combine(y, h, self.tableau.solution_row, ks)
        return Step(last, None, (), tuple(ks))

    def interpolant(
        self, field: VectorField, t0: Any, t1: Any, y0: Tensor, step: Step
    ) -> Interpolant:
        """Return the table's continuous output, or a cubic through both ends.

        It evaluates the field for slopes that the step does not have: none for dopri5 and tsit5,
        three for dopri8, one for methods without an error estimate.
        """
        table, ks = self.tableau, step.dense
        if len(ks) < len(table.with_end_rows()):
            ks = (*ks, field(t1, step.y))
        if table.dense is None:
            return Hermite(t1 - t0, y0, ks[0], step.y, ks[-1])
        dt = t1 - t0
        kernel = self._kernel(dt, y0)
        if table.dense.a:
            h = kernel.prepare(dt, y0)
            for row, node in zip(table.dense.a, table.dense.c, strict=True):
                y = kernel.combine(y0, h, row_of(row), ks)
                ks = (*ks, field(t0 + node * dt, y))
        return Polynomial(table, dt, y0, step.y, ks, kernel)

    def pace(self, plain: TorchPace, y: Tensor) -> Any:
        """Return step-size control on the device for a state, in one launch where it can be."""
        own = getattr(self._kernel(0.0, y), "pace", None)
        return plain if own is None else own(plain)

    def whole(self, problem: Any, plan: Any, method: Any) -> Any:
        """Return a solve with per-sample steps in one launch, None where it goes step by step."""
        return solved_whole(self.tableau, self.kernel, problem, plan, method)

    def diagnose(self, before: Suspicion | None, step: Step) -> Suspicion | None:
        """Return whether the problem looks stiff, where the table's last stages can tell."""
        stages = self._last_stages
        if stages is None:
            return None
        return (before or Suspicion()).after(stages, step.dense)

    # Looked up at every step, for which hashing a table would take too long.
    @cached_property
    def _last_stages(self) -> LastStages | None:
        return last_stages(self.tableau)

    def _stages(
        self,
        field: VectorField,
        kernel: Kernel,
        h: Any,
        times: list[Any],
        y: Tensor,
        carry: tuple[Tensor, ...],
        *,
        ends: bool,
    ) -> tuple[list[Tensor], Tensor | None]:
        """Return the slopes, and the new state unless the kernel's `finish` is to make it.

        `times` are those of the stages. Where the last stage's state is the new one, it is `ends`
        that says whether its slope is wanted.
        """
        table = self.tableau
        rows, reused = table.stage_rows, table.last_is_solution
        evaluated = len(rows) - (reused and not ends)
        ks = list(carry)
        own = getattr(kernel, "stages", None)
        state: Tensor | None = None
        if own is not None:
            state = own(field, h, y, table.sums, evaluated, ks, times)
            if state is not None:
                return ks, state
        if not ks:
            ks.append(field(times[0], y))
        for place in range(len(ks) - 1, len(rows)):
            state = kernel.combine(y, h, rows[place], ks)
            if place < evaluated:
                ks.append(field(times[place + 1], state))
        if not reused:
            return ks, None
        return ks, kernel.combine(y, h, rows[-1], ks) if state is None else state

    def _times(self, field: VectorField, t0: Any, t1: Any, dt: Any) -> tuple[list[Any], Any]:
        """Return the times of the stages and of the end for the field.

        Those on the device are made at one go, and turned into what f gets if the field tells how.
        """
        nodes = self.tableau.c
        # A program makes one operation of them itself, and has no use for what is kept.
        if not isinstance(dt, Tensor) or len(nodes) == 1 or torch.compiler.is_compiling():
            between, first, end = [t0 + node * dt for node in nodes[1:]], t0, t1
        else:
            made = torch.addcmul(t0, _column(nodes[1:], dt.dim(), dt.device), dt)
            seen = getattr(field, "time", _same)
            between, first, end = seen(made).unbind(0), t0, seen(t1)
        # The end is t1 itself: t0 + (t1 - t0) may round beyond it.
        stages = zip(nodes[1:], between, strict=True)
        return [first] + [end if node == 1.0 else time for node, time in stages], end

    def _kernel(self, dt: Any, y: Tensor) -> Kernel:
        number = isinstance(dt, Tensor) and not dt.dim()
        if forward_ad._current_level >= 0 or (number and dt.requires_grad):
            # Derivatives that go forwards, or to times, are known to torch's operations alone.
            return CHAIN
        if self.kernel is None:
            return for_state(y, shared=number or not isinstance(dt, Tensor))
        return self.kernel  # type: ignore[return-value]  # a name became one


def _same(time: Any) -> Any:
    return time


@cache
def _column(nodes: tuple[float, ...], dims: int, device: torch.device) -> Tensor:
    # What is kept serves solves that record gradients, too.
    with torch.inference_mode(False):
        # From pinned memory, so that nothing waits for it.
        host = torch.tensor(nodes, dtype=torch.float64, pin_memory=device.type == "cuda")
        return host.to(device, non_blocking=True).view(-1, *(1,) * dims)


def damped(norms: tuple[Any, ...]) -> Any:
    """Return the error that a table's norms amount to; the second one damps the first."""
    if len(norms) == 1:
        return norms[0]
    first, second = norms
    if isinstance(first, Tensor):
        ratio = first.square() / (first.square() + 0.01 * second.square()).sqrt()
        # Zero over zero is no error; infinity over infinity is one.
        return torch.where(ratio.isfinite(), ratio, torch.where(first == 0.0, second, math.inf))
    if first == 0.0 or math.isinf(first) or math.isinf(second):
        return max(first, second) if math.isinf(max(norms)) else 0.0
    return first * first / math.sqrt(first * first + 0.01 * second * second)
