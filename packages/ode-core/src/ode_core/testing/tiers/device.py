"""Tier device: the state's device and dtype decide, not the process's defaults."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ode_core.testing.cases import F64, cast, distance, turning
from ode_core.testing.results import check, demand
from ode_core.testing.subject import Subject, cuda

_NODES = (0.0, 0.125, 0.25)


@check("device.default_dtype")
def default_dtype(subject: Subject) -> str | None:
    """The process's default dtype changes nothing."""
    case = turning(pair=subject.pair)
    for dtype in (torch.float32, F64):
        results = []
        for default in (torch.float32, F64):
            torch.set_default_dtype(default)
            results.append(subject.solve(case.f, cast(case.y0, dtype), [0.0, 1.0]).ys)
        off = distance(*results)
        demand(
            off == 0.0,
            f"with another default dtype a {dtype} state ends {off:.1e} away; create tensors with "
            "the state's dtype, as y.new_tensor does",
        )
    return None


@check("device.dtype")
def dtype(subject: Subject) -> str | None:
    """Nothing promotes a float32 state: states and what is carried of their shape stay float32."""
    case = turning(pair=subject.pair)
    for taken in subject.walk(case.f, cast(case.y0, torch.float32), _NODES):
        shape = taken.y0.shape
        kept = [x for x in (taken.step.y, *_tensors(taken.step.carry)) if x.shape == shape]
        others = {x.dtype for x in kept if x.is_floating_point()} - {torch.float32}
        demand(
            not others,
            f"a step from a float32 state returned {sorted(map(str, others))[:1]}; multiply by "
            "Python floats or by tensors of the state's dtype",
        )
    return None


@check("device.placement")
def placement(subject: Subject) -> str | None:
    """Every tensor that a step makes is on the state's device, whatever the default device is."""
    case = turning(pair=subject.pair)
    plain = list(subject.walk(case.f, case.y0, _NODES))
    solver, tolerance = subject.solver, subject.tolerance()
    field, y = plain[0].field, plain[0].y0
    try:
        with torch.device("meta"):
            carry = solver.init(field, _NODES[0], y)
            step = solver.step(field, _NODES[0], _NODES[1], y, carry, tolerance)
        off = distance(step.y, plain[0].step.y)
    except (RuntimeError, NotImplementedError) as error:
        demand(
            False,
            "with another default device a step fails "
            f"({' '.join(str(error).split())[:120]}); create tensors on y.device",
        )
    demand(off == 0.0, f"with another default device a step differs by {off:.1e}; use y.device")
    strays = {str(x.device) for x in _tensors(step.carry)} - {"cpu"}
    demand(not strays, f"the carry has tensors on {sorted(strays)}; create them on y.device")
    return None


@check("device.cuda", cuda)
def on_cuda(subject: Subject) -> str | None:
    """On a GPU the state stays there and the result is the CPU's."""
    case = turning(pair=subject.pair)
    here = subject.solve(case.f, case.y0, [0.0, 0.5, 1.0]).ys
    there = subject.solve(case.f, cast(case.y0, F64, "cuda"), [0.0, 0.5, 1.0]).ys
    first: Tensor = there[0] if subject.pair else there
    demand(first.is_cuda, f"a state on the GPU came back on {first.device}; leave it there")
    off = distance(here, cast(there, F64))
    demand(
        off <= max(1e-9, subject.slack),
        f"on the GPU the result differs by {off:.1e} from the CPU's; use the same formulas",
    )
    return f"differs by {off:.0e}"


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, Tensor)]


CHECKS = (default_dtype, dtype, placement, on_cuda)
