"""Tier api, by hand: what `init` and `step` take and return."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.problem import Given, build
from ode_core.protocols import Step
from ode_core.testing.cases import F64, cast, distance, turning
from ode_core.testing.results import check, demand
from ode_core.testing.subject import Subject, Walked, offers, one_step
from ode_core.tolerance import Tolerance

_NODES = (0.0, 0.05, 0.125, 0.25)


def walked(subject: Subject, dtype: torch.dtype = F64) -> list[Walked]:
    """Return a few steps of unequal size, taken by the protocol alone."""
    case = turning(pair=subject.pair)
    return list(subject.walk(case.f, cast(case.y0, dtype), _NODES))


@check("api.members")
def members(subject: Subject) -> str | None:
    """The members have the types of the protocol: a name, an order from 1, flags."""
    solver: Any = subject.solver
    demand(
        isinstance(solver.name, str) and bool(solver.name),
        f"name is {solver.name!r}; give a text, messages use it",
    )
    demand(
        isinstance(solver.order, int) and solver.order >= 1,
        f"order is {solver.order!r}; give the whole number from 1 with which errors fall",
    )
    flags = ("adaptive", "implicit", "one_step", "per_sample", "stiff", "fixed_steps")
    for flag in flags:
        value = getattr(solver, flag, False)
        demand(isinstance(value, bool), f"{flag} is {value!r}; give True or False")
    return None


@check("api.step")
def step(subject: Subject) -> str | None:
    """A step returns a Step whose state has the shape, dtype and device of the state given."""
    for taken in (*walked(subject), *walked(subject, torch.float32)):
        got = taken.step
        demand(
            isinstance(got, Step),
            f"step returned a {type(got).__name__}; return ode_core.Step(y, error, carry, dense)",
        )
        y, y0 = got.y, taken.y0
        demand(
            isinstance(y, Tensor)
            and (y.shape, y.dtype, y.device) == (y0.shape, y0.dtype, y0.device),
            f"step returned a state {_words(y)} for one {_words(y0)}; return it like the one given",
        )
    return None


def _words(y: Any) -> str:
    if not isinstance(y, Tensor):
        return f"of type {type(y).__name__}"
    return f"of shape {tuple(y.shape)}, {y.dtype} on {y.device}"


@check("api.error")
def error(subject: Subject) -> str | None:
    """With a tolerance an adaptive solver returns a scaled error, a number; others return None."""
    for taken in walked(subject):
        if not subject.solver.adaptive:
            got = taken.step.error
            demand(
                got is None,
                f"adaptive is False, yet step returned the error {got!r:.40}; say adaptive = True "
                "or return None, nothing reads it",
            )
            continue
        got = subject.attempt(taken, taken.t1 + 0.01).error
        demand(
            got is not None,
            "adaptive is True, yet step returned no error for a tolerance; return "
            "tolerance.norm(error, y, y1), or say adaptive = False",
        )
        number = isinstance(got, float) or (isinstance(got, Tensor) and got.dim() == 0)
        demand(
            number and float(got or 0.0) >= 0.0,
            f"step returned the error {got!r:.40}; return one number from 0, infinite where the "
            "step failed: tolerance.norm makes it",
        )
    return None


@check("api.fresh_memory")
def fresh_memory(subject: Subject) -> str | None:
    """The new state lies in fresh memory; the state and the carry given are not written to."""
    case = turning(pair=subject.pair)
    problem = build(case.f, case.y0, [_NODES[0], _NODES[-1]], given=Given())
    solver, tolerance, y = subject.solver, subject.tolerance(), problem.y0
    carry = solver.init(problem.field, _NODES[0], y)
    seen: list[tuple[str, Tensor, Tensor]] = []
    for index, (t0, t1) in enumerate(pairwise(_NODES)):
        given = [("the state", y), *(("the carry", x) for x in _tensors(carry))]
        seen += [(what, x, x.clone()) for what, x in given]
        got = solver.step(problem.field, t0, t1, y, carry, tolerance)
        for what, x, copy in seen:
            demand(
                torch.equal(x, copy),
                f"step {index} wrote into {what} that it, or a step before, was given; solutions "
                "and gradients still read it, so write into new memory",
            )
        demand(
            _memory(got.y) != _memory(y),
            f"step {index} returned its state in the memory of the one given; return a new tensor",
        )
        y, carry = got.y, got.carry
    return None


def _memory(x: Tensor) -> int:
    return x.untyped_storage().data_ptr() if x.numel() else id(x)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


@check("api.carry")
def carry(subject: Subject) -> str | None:
    """The carry is a pytree of tensors, the same structure, shapes and dtypes after every step."""
    steps = walked(subject)
    first = _form(steps[0].carry)
    strangers = [type(x).__name__ for x in pytree.tree_leaves(steps[0].carry) if x is not None
                 and not isinstance(x, Tensor)]  # fmt: skip
    demand(
        not strangers,
        f"the carry holds a {strangers[0] if strangers else ''}; samples are dropped from it and "
        "it is replayed, so hold tensors",
    )
    for index, taken in enumerate(steps):
        for what, tree in (("carry", taken.step.carry), ("retry", taken.step.retry)):
            if what == "retry" and tree is None:
                continue
            demand(
                _form(tree) == first,
                f"step {index} returned a {what} of the form {_form(tree)} where init made "
                f"{first}; keep one form, filled up from the start",
            )
    return None


def _form(tree: Any) -> str:
    leaves, spec = pytree.tree_flatten(tree)
    kinds = [f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else repr(x) for x in leaves]
    return f"{len(leaves)} leaves [{', '.join(kinds)}] in {spec}" if leaves else "()"


@check("api.pure")
def pure(subject: Subject) -> str | None:
    """A step depends on what it is given alone: a rejected one leaves no trace on the next."""
    case = turning(pair=subject.pair)
    taken = list(subject.walk(case.f, case.y0, _NODES))[-1]
    solver, tolerance = subject.solver, subject.tolerance()
    attempted = Tolerance(1e-9, 1e-9) if solver.adaptive else None
    rejected = solver.step(taken.field, taken.t0, taken.t0 + 0.4, taken.y0, taken.carry, attempted)
    again = solver.step(taken.field, taken.t0, taken.t1, taken.y0, taken.carry, tolerance)
    difference = distance(taken.step.y, again.y)
    demand(
        difference == 0.0,
        f"the same step taken again, after a longer one, differs by {difference:.1e}; keep nothing "
        "of an attempt outside what step returns",
    )
    demand(
        rejected.retry is None or _form(rejected.retry) == _form(taken.carry),
        f"a retry of the form {_form(rejected.retry)} stands for a carry {_form(taken.carry)}; "
        "keep one form",
    )
    return None


@check("api.one_step", one_step)
def rebuilt(subject: Subject) -> str | None:
    """`init` rebuilds the carry of a one-step method: a replay starts from the state alone."""
    before, after = walked(subject)[-2:]
    solver = subject.solver
    made = solver.init(after.field, after.t0, before.step.y)
    anew = solver.step(after.field, after.t0, after.t1, after.y0, made, subject.tolerance())
    difference = distance(anew.y, after.step.y)
    demand(
        difference <= subject.slack,
        f"one_step is True, but a step from init's carry differs by {difference:.1e} from the one "
        "with the carry of the step before; say one_step = False, then the carry is kept",
    )
    return None


@check("api.slope", offers("slope"))
def slope(subject: Subject) -> str | None:
    """`slope` returns f at the start of the step, or None where the carry does not hold it."""
    for taken in walked(subject):
        held = subject.made.slope(taken.carry)
        if held is None:
            continue
        difference = distance(held, taken.field(taken.t0, taken.y0))
        demand(
            difference <= 1e-12,
            f"slope differs by {difference:.1e} from f at t = {taken.t0}; the first step is chosen "
            "with it, so return f(t, y) or None",
        )
    return None


@check("api.interpolant", offers("interpolant"))
def ends(subject: Subject) -> str | None:
    """The interpolant meets the step's states at its ends, and `many` states are its own."""
    worst = 0.0
    for taken in walked(subject):
        own: Any = subject.solver
        at = own.interpolant(taken.field, taken.t0, taken.t1, taken.y0, taken.step)
        calls = taken.field.calls
        worst = max(worst, distance(at(0.0), taken.y0), distance(at(1.0), taken.step.y))
        demand(
            taken.field.calls == calls,
            "the interpolant called f when it was read; call f while it is built",
        )
        if hasattr(at, "many"):
            thetas = (0.25, 0.75)
            apart = [distance(a, at(b)) for a, b in zip(at.many(thetas), thetas, strict=True)]
            demand(
                max(apart) <= 1e-13,
                f"the interpolant's `many` states are {max(apart):.1e} away from those that it "
                "gives one by one; return the same, in the order of the thetas",
            )
    demand(
        worst <= 1e-13,
        f"the interpolant is {worst:.1e} away from the step's state at an end; return the states "
        "themselves there",
    )
    return f"the ends are met to {worst:.0e}"


CHECKS = (
    members,
    step,
    error,
    fresh_memory,
    carry,
    pure,
    rebuilt,
    slope,
    ends,
)
