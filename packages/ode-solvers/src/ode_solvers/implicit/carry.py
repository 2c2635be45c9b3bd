"""What an implicit method keeps from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ode_solvers.implicit.linear import Parts
from ode_solvers.implicit.newton import Floats
from ode_solvers.implicit.system import System

if TYPE_CHECKING:
    from ode_core.protocols import VectorField
    from ode_solvers.implicit.stepper import ImplicitRungeKutta

# How old a Jacobian is: of this step's start, of an earlier one, or too old to be used again.
NEW, OLD, WORN = 0.0, 1.0, 2.0


class Memory(NamedTuple):
    """What a carry says about each row, as `[B]` arrays on the host.

    The step size of the factors, that of the last step (0: none), the Jacobian's age, and the
    factor eta by which a Newton correction is multiplied to bound the next one.
    """

    factored: Floats
    last: Floats
    age: Floats
    eta: Floats


class Carry(NamedTuple):
    """What goes from step to step; every tensor has a leading `[B]`, 1 for one system.

    `slopes` holds the slope at the start, like the state, where the method's first stage is that.
    `stages` are the last step's, `[B, m, n]`, where they are extrapolated. `known` and `factors`
    are the linear solver's. `memory` is `[B, 4]` float64, on the CPU with shared steps.
    """

    slopes: Parts
    stages: Parts
    known: Parts
    factors: Parts
    memory: Tensor


def start(solver: ImplicitRungeKutta, field: VectorField, t: Any, y: Tensor) -> Carry:
    """Return the carry of a solve's first step: whatever is kept is zero, and marked as worn."""
    table = solver.tableau
    system = system_of(solver, field, t, y)
    rows = system.rows(y.detach())
    linear = solver.linear_solver(rows)
    largest = max(block.size for block in table.blocks)
    stages = (rows.new_zeros(len(rows), largest, rows.shape[1]),) if largest > 1 else ()
    memory = torch.tensor([[0.0, 0.0, WORN, 1.0]], dtype=torch.float64, device="cpu")
    memory = memory.expand(len(rows), 4).to(home(t, y))
    slopes = (field(t, y),) if table.first_is_explicit else ()
    return Carry(slopes, stages, *linear.empty(rows, table.shifts), memory)


def system_of(solver: ImplicitRungeKutta, field: VectorField, t: Any, y: Tensor) -> System:
    """Return the equations: one system, or one a sample."""
    return System.of(field, y, batched=solver.batched or isinstance(t, Tensor))


def home(t: Any, y: Tensor) -> torch.device:
    """Return where a carry's memory lies: with shared steps it is read without a device."""
    return y.device if isinstance(t, Tensor) else torch.device("cpu")
