"""odeint_adjoint: gradients by a backward solve with torchdiffeq's tolerances, norms and grids."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ode_core import (
    ArgumentError,
    CompatibilityWarning,
    FixedSteps,
    PIDController,
    Plan,
    Tolerance,
)
from ode_core.protocols import Controller
from ode_solvers.compat.torchdiffeq.call import Call, callbacks_of
from ode_solvers.compat.torchdiffeq.crossing import until_event
from ode_solvers.compat.torchdiffeq.methods import CHOSEN, GIVEN, Method, method_named
from ode_solvers.compat.torchdiffeq.norms import (
    BlockTolerance,
    Norm,
    UserTolerance,
    largest,
    mean_square_root,
)
from ode_solvers.compat.torchdiffeq.settings import settings
from ode_solvers.compat.torchdiffeq.state import State, packed_tolerance
from ode_solvers.compat.torchdiffeq.stepping import Callbacks
from ode_solvers.gradients.adjoint import Adjoint
from ode_solvers.gradients.augmented import Augmented


@dataclass(frozen=True)
class Backward:
    """Makes the plan of the backward solve of a call.

    `options` are None where a fixed grid goes back over the nodes of the forward solve.
    """

    call: Call
    method: Method
    options: Mapping[str, Any] | None
    rtol: Any
    atol: Any

    def __call__(self, adjoint: Augmented, plan: Plan, times: tuple[float, ...]) -> Plan:
        """Return the plan for going back over `times`, given what `Adjoint` would go by."""
        options = self.options or {}
        tolerance = None if self.method.steps == GIVEN else self._tolerance(adjoint, options)
        back = torch.tensor(times, dtype=torch.float64).flip(0)
        callbacks = Callbacks(
            lambda state: self._parts(adjoint, state),
            self.call.time_dtype,
            *callbacks_of(self.call.func, "_adjoint"),
        )
        # The grid is made here, interval by interval.
        steps = {k: v for k, v in options.items() if k not in ("grid_constructor", "step_size")}
        given = self.method.steps == GIVEN
        chosen = settings(
            self.method,
            steps if given else options,
            back,
            callbacks,
            tolerance=tolerance,
            grid=self.call.grid,
        )
        controller: Controller | FixedSteps = chosen.controller or PIDController()
        if given:
            same = self.options is None and isinstance(plan.controller, FixedSteps)
            controller = plan.controller if same else FixedSteps(self._grid(back, options))
        return replace(
            plan,
            solver=chosen.solver,
            controller=controller,
            tolerance=tolerance,
            dt=None if given else chosen.dt,
            max_steps=chosen.max_steps,
        )

    def _grid(self, times: Tensor, options: Mapping[str, Any]) -> list[float]:
        """Return the nodes of all intervals between outputs, the last one first."""
        constructor, step_size = options.get("grid_constructor"), options.get("step_size")
        nodes = [float(times[0])]
        for t0, t1 in pairwise(times):
            if constructor is not None:
                ends = torch.stack([t0, t1]).to(self.call.t)
                part = constructor(self.call.func, self.call.y0, ends).tolist()
                nodes += [*part[1:-1], float(t1)]
            else:
                size = abs(float(t1 - t0)) if step_size is None else float(step_size)
                nodes += FixedSteps().nodes(float(t0), float(t1), size)
        return nodes

    def _tolerance(self, adjoint: Augmented, options: Mapping[str, Any]) -> Tolerance:
        y0, norm = self.call.y0, options.get("norm")
        semi = norm == "seminorm"
        allowed = adjoint.tolerance(
            Tolerance(
                packed_tolerance(self.rtol, y0, "adjoint_rtol"),
                packed_tolerance(self.atol, y0, "adjoint_atol"),
            ),
            semi=semi,
        )
        state_norm = self.call.options.get("norm")
        if callable(norm):
            measure = self._whole(adjoint, norm)
        elif state_norm is not None:
            measure = self._by_state(adjoint, state_norm, semi=semi)
        else:
            sizes = self.call.shape.sizes
            factor = 2 if (y0 if isinstance(y0, Tensor) else y0[0]).is_complex() else 1
            state = [factor * size for size in sizes]
            timed = [1] if self.call.t.requires_grad else []
            segments = (*state, *state, *adjoint.parameter_sizes, *timed)
            return BlockTolerance(allowed.rtol, allowed.atol, segments)
        return UserTolerance(allowed.rtol, allowed.atol, measure=measure)

    def _parts(self, adjoint: Augmented, state: Tensor) -> tuple[Tensor, ...]:
        """Return t's, the state's, the adjoint's and the parameters' parts of a packed state."""
        y, a, grads, along = adjoint.unpack(state)
        shape = self.call.shape
        return (along, *shape.tuple_of(y), *shape.tuple_of(a), *grads)

    def _whole(self, adjoint: Augmented, norm: Norm) -> Norm:
        return lambda ratio: norm(self._parts(adjoint, ratio))

    def _by_state(self, adjoint: Augmented, norm: Norm, *, semi: bool) -> Norm:
        unpack = self.call.shape.unpack

        def measure(ratio: Tensor) -> float:
            y, a, grads, along = adjoint.unpack(ratio)
            rest = () if semi else tuple(mean_square_root(grad) for grad in grads)
            return largest((along, norm(unpack(y)), norm(unpack(a)), *rest))

        return measure


def odeint_adjoint(
    func: Callable[..., Any],
    y0: State,
    t: Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: str | None = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Iterable[Tensor] | None = None,
) -> Any:
    """Solve as `odeint` does, with gradients by the continuous adjoint.

    Args:
        func: as for `odeint`; it need not be a module. Its callbacks for the backward solve end in
            `_adjoint`.
        y0: as for `odeint`.
        t: as for `odeint`.
        rtol: as for `odeint`.
        atol: as for `odeint`.
        method: as for `odeint`.
        options: as for `odeint`.
        event_fn: as for `odeint`.
        adjoint_rtol: relative tolerance of the backward solve; default `rtol`.
        adjoint_atol: absolute tolerance of the backward solve; default `atol`.
        adjoint_method: method of the backward solve; default `method`.
        adjoint_options: options of the backward solve; default `options` without its norm. `norm`
            may be "seminorm", or a function of `(t, y, adj_y, *params)`.
        adjoint_params: the tensors that get gradients beside y0 and t; by default all that func
            uses, and its parameters if it is a module, zeros for those that it does not use.

    Returns:
        As for `odeint`.

    Raises:
        ArgumentError: a ValueError, for what cannot be used.
        IntegrationError: an AssertionError, where the solve cannot be finished.

    """
    call = Call.of(func, y0, t, (rtol, atol), method, options)
    back = method_named(method if adjoint_method is None else adjoint_method)
    if adjoint_options is None and options is not None and back.name != call.method.name:
        raise ArgumentError(
            f"options are for {call.method.name} and say nothing of {back.name}; pass "
            "adjoint_options as well, {} for its defaults"
        )
    chosen = adjoint_options
    if chosen is None and back.steps == CHOSEN:
        chosen = {k: v for k, v in call.options.items() if k != "norm"}
    backward = Backward(
        call,
        back,
        None if chosen is None else dict(chosen),
        rtol if adjoint_rtol is None else adjoint_rtol,
        atol if adjoint_atol is None else adjoint_atol,
    )
    parameters = _parameters(func, adjoint_params, (chosen or {}).get("norm"))
    gradient = Adjoint(parameters=parameters, backward=backward, drift="warn")
    return call.solve(gradient).ys if event_fn is None else until_event(call, event_fn, gradient)


def _parameters(
    func: Callable[..., Any], given: Iterable[Tensor] | None, norm: Any
) -> tuple[Tensor, ...] | None:
    """Return the tensors that get gradients, None to find them by watching func."""
    if given is None and callable(norm) and isinstance(func, torch.nn.Module):
        # A norm of one's own counts on the parameters' order.
        given = func.parameters()
    if given is None:
        return None
    everything = tuple(given)
    needed = tuple(p for p in everything if p.requires_grad)
    if callable(norm) and len(needed) != len(everything):
        warnings.warn(
            "adjoint_params that require no gradient take no part in the backward solve, nor in "
            "its norm",
            CompatibilityWarning,
            stacklevel=3,
        )
    return needed
