"""torchdiffeq's method names: which registered solver each of them is, and its options."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ode_core import ArgumentError, CompatibilityWarning, Solver, solvers

_LIMITS = frozenset(("min_step", "max_step"))
_CHOSEN = _LIMITS | frozenset(
    ("norm", "first_step", "step_t", "jump_t", "safety", "ifactor", "dfactor", "max_num_steps")
)
_CHOSEN |= {"dtype"}
_GIVEN = frozenset(("norm", "step_size", "grid_constructor", "interp", "perturb"))
_SCIPY = _LIMITS | {"norm", "solver"}
_SCIPY_ORDERS = {"RK45": 5, "RK23": 3, "DOP853": 8, "Radau": 5, "BDF": 5, "LSODA": 12}

# Adams methods on given steps: torchdiffeq takes Runge-Kutta steps of order 4 below that order, and
# diverges under refinement with its own default of 12.
_LEAST, _MOST = 4, 5

CHOSEN, GIVEN, EXTERNAL = "chosen steps", "given steps", "SciPy's steps"


@dataclass(frozen=True)
class Method:
    """One of torchdiffeq's methods.

    `solver` is the registered name, `steps` who decides on them, `options` what it takes, `scale`
    its error estimate as a fraction of the registered solver's, `callbacks` what it calls.
    """

    name: str
    solver: str
    steps: str
    options: frozenset[str]
    scale: float = 1.0

    @property
    def callbacks(self) -> frozenset[str]:
        """The callbacks that a solve by this method makes."""
        step = {"callback_step"} if self.steps != EXTERNAL else set()
        both = {"callback_accept_step", "callback_reject_step"} if self.steps == CHOSEN else set()
        return frozenset(step | both)

    def create(self, options: Mapping[str, Any]) -> Solver:
        """Return the solver; raises what `ode_core.solvers.create` raises."""
        if self.steps == EXTERNAL:
            return _external(options)
        own = {}
        if "max_order" in options:
            own["order"] = min(max(int(options["max_order"]), _LEAST), _MOST)
        made: Solver = solvers.create(self.solver, **own)
        return made

    def warn_of_unknown(self, options: Mapping[str, Any]) -> None:
        """Warn of options that this method does not take, as torchdiffeq does."""
        unknown = sorted(set(options) - self.options)
        if unknown:
            warnings.warn(
                f"{self.name} ignores the unexpected options {unknown}; it takes "
                f"{sorted(self.options)}",
                CompatibilityWarning,
                stacklevel=4,
            )
        if "max_iters" in options and "max_iters" in self.options:
            warnings.warn(
                f"max_iters has no effect on {self.name}: Newton's method goes on until it has "
                "converged, and Adams-Moulton corrects once",
                CompatibilityWarning,
                stacklevel=4,
            )


def _external(options: Mapping[str, Any]) -> Solver:
    kind = options.get("solver", "LSODA")
    if kind not in _SCIPY_ORDERS:
        raise ArgumentError(
            f"scipy_solver takes the option 'solver' out of {list(_SCIPY_ORDERS)}; got {kind!r}"
        )
    base: Any = solvers.create("scipy_lsoda")
    make = getattr(importlib.import_module("scipy.integrate"), kind)
    limits = {"max_step": options["max_step"]} if "max_step" in options else {}
    if "min_step" in options and kind == "LSODA":
        limits["min_step"] = options["min_step"]
    limited = partial(make, **limits)
    limited.__name__ = kind  # type: ignore[attr-defined]  # a partial takes any
    made: Solver = replace(
        base, name=f"scipy_solver {kind}", order=_SCIPY_ORDERS[kind], make=limited
    )
    return made


def _table() -> dict[str, Method]:
    same = ("dopri8", "dopri5", "tsit5", "bosh3", "fehlberg2", "adaptive_heun")
    # Shampine's weights, which torchdiffeq takes for dopri5, are two thirds of the published ones.
    rows = [Method(n, n, CHOSEN, _CHOSEN, 2 / 3 if n == "dopri5" else 1.0) for n in same]
    explicit = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "heun3": "heun3"}
    # What torchdiffeq calls rk4 is the 3/8 rule.
    rows += [Method(n, ours, GIVEN, _GIVEN) for n, ours in (explicit | {"rk4": "rk4_38"}).items()]
    adams = _GIVEN | {"max_order", "max_iters"}
    for name, ours in (
        ("explicit_adams", "adams_bashforth"),
        ("implicit_adams", "adams_moulton"),
        ("fixed_adams", "adams_moulton"),
    ):
        rows.append(Method(name, ours, GIVEN, adams))
    for name, ours in (
        ("implicit_euler", "implicit_euler"),
        ("implicit_midpoint", "implicit_midpoint"),
        ("trapezoid", "trapezoid"),
        ("radauIIA3", "radau_iia3"),
        ("gl4", "gl4"),
        ("radauIIA5", "radau5"),
        ("gl6", "gl6"),
        ("sdirk2", "sdirk2"),
        ("trbdf2", "trbdf2"),
    ):
        rows.append(Method(name, ours, GIVEN, _GIVEN | {"max_iters"}))
    rows.append(Method("scipy_solver", "scipy_lsoda", EXTERNAL, _SCIPY))
    return {row.name: row for row in rows}


METHODS = _table()


def method_named(name: str | None) -> Method:
    """Return a method by its name, dopri5 for None; raises ArgumentError, a ValueError."""
    chosen = "dopri5" if name is None else name
    if chosen not in METHODS:
        raise ArgumentError(f"method is one of {', '.join(METHODS)}; got {chosen!r}")
    return METHODS[chosen]
