"""Tier api, through `solve`: shapes, dtypes, structures, and what f is given."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ode_core.errors import OdeError
from ode_core.testing.cases import F64, Decay, cast, distance, state_of, turning, vector
from ode_core.testing.results import CheckError, attempted, check, demand
from ode_core.testing.subject import Subject, fixed_steps, one_tensor

_SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (3,), (2, 3, 4), (2, 0))
_CLOSE = {torch.float16: 0.05, torch.bfloat16: 0.1, torch.float32: 3e-3, torch.complex64: 3e-3}


@check("api.shapes")
def shapes(subject: Subject) -> str | None:
    """States of any shape are solved, empty ones too, and come back in their shape."""
    for shape in _SHAPES:
        y0 = state_of(torch.ones(shape, dtype=F64), pair=subject.pair)
        solution, cause = attempted(partial(subject.solve, Decay(), y0, [0.0, 0.5, 1.0]))
        if solution is None:
            raise CheckError(f"a state of shape {shape} raised {cause}; take any shape")
        ys = solution.ys
        first = ys[0] if subject.pair else ys
        demand(
            first.shape == (3, *shape),
            f"a state of shape {shape} came back as {tuple(first.shape)}; keep the shape",
        )
        wanted = math.cos(1.0) if subject.pair else math.exp(-1.0)
        error_ = (first[-1] - wanted).abs().max().item() if first[-1].numel() else 0.0
        demand(
            error_ < 0.1,
            f"y' = -y from ones of shape {shape} is wrong by {error_:.1e} at t = 1; let no "
            "operation mix entries",
        )
    return None


@check("api.batch_of_one", one_tensor)
def batch_of_one(subject: Subject) -> str | None:
    """A batch of one gives what the sample alone gives."""
    case = turning(pair=False)
    alone = subject.solve(case.f, case.y0, [0.0, case.t1]).ys
    turned = subject.solve(_Columns(case.f), case.y0.unsqueeze(0), [0.0, case.t1]).ys
    difference = distance(alone, turned[:, 0])
    demand(
        difference <= subject.slack,
        f"a batch of one differs by {difference:.1e} from its sample alone; let no operation "
        "depend on the number of dimensions",
    )
    return None


class _Columns:
    """A field on `[n]` for states `[1, n]`."""

    def __init__(self, f: Any) -> None:
        self.f = f

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        slope: Tensor = self.f(t, y[0])
        return slope.unsqueeze(0)


@check("api.dtypes")
def dtypes(subject: Subject) -> str | None:
    """Every dtype comes back as itself, right to its digits; a complex one may be refused."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.complex64, torch.complex128):
        y0 = state_of(torch.ones(3, dtype=dtype), pair=subject.pair)
        close = _CLOSE.get(dtype, 3e-3)
        try:
            ys = _to_precision(subject, y0, close)
        except OdeError as error:
            demand(
                dtype not in (torch.float32,),
                f"a {dtype} state was refused ({error}); take float32 states, most networks' dtype",
            )
            continue
        last = (ys[0] if subject.pair else ys)[-1]
        demand(last.dtype == dtype, f"a {dtype} state came back as {last.dtype}; keep the dtype")
        wanted = math.cos(1.0) if subject.pair else math.exp(-1.0)
        off = (last.to(torch.complex128) - wanted).abs().max().item()
        demand(
            off <= close,
            f"y' = -y in {dtype} is wrong by {off:.1e} at t = 1; be right to the dtype's digits, "
            "or raise ode_core.UnsupportedError",
        )
    return None


def _to_precision(subject: Subject, y0: Any, close: float) -> Any:
    if subject.solver.adaptive:
        return subject.controlled(Decay(), y0, [0.0, 1.0], close / 5).ys
    steps = 256 if subject.solver.order == 1 and close < 0.01 else 20
    return subject.fixed(Decay(), y0, [0.0, 1.0], steps).ys


@check("api.pytree", one_tensor, fixed_steps)
def structures(subject: Subject) -> str | None:
    """A dict of tensors gives what each entry gives alone, where f lets none meet another."""
    y0 = {"a": vector(1.0, 2.0), "b": torch.full((2, 1), 0.5, dtype=F64)}
    got = subject.gridded(_Tree(), y0, [0.0, 1.0]).ys
    demand(
        got["b"].shape == (2, 2, 1),
        f"a dict's entry of shape (2, 1) came back as {tuple(got['b'].shape)}; keep the structure",
    )
    for key, start in y0.items():
        difference = distance(got[key], subject.gridded(Decay(), start, [0.0, 1.0]).ys)
        demand(
            difference <= subject.slack,
            f"an entry of a dict differs by {difference:.1e} from itself alone; with given steps "
            "let no operation mix the entries of the state",
        )
    return None


class _Tree:
    """y' = -y on a dict."""

    def __call__(self, t: Tensor, y: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: -value for key, value in y.items()}


@check("api.strides")
def strides(subject: Subject) -> str | None:
    """A state that is not contiguous gives what its contiguous copy gives."""
    base = torch.arange(1.0, 7.0, dtype=F64).reshape(2, 3) / 6
    crossed = state_of(base.t(), pair=subject.pair)
    plain = state_of(base.t().contiguous(), pair=subject.pair)
    rate = torch.linspace(0.5, 1.0, 2, dtype=F64)
    difference = distance(
        subject.solve(Decay(rate), crossed, [0.0, 1.0]).ys,
        subject.solve(Decay(rate), plain, [0.0, 1.0]).ys,
    )
    demand(
        difference <= 1e-14,
        f"a transposed state differs by {difference:.1e} from its contiguous copy; do not assume "
        "how it lies in memory",
    )
    return None


def _kind(y: Tensor) -> tuple[Any, ...]:
    return y.dtype, tuple(y.shape), y.device.type


class Watched:
    """A field that notes every call: times, dtypes and shapes, as the user's own f sees them."""

    def __init__(self, f: Any) -> None:
        self.f = f
        self.times: list[float] = []
        self.kinds: set[tuple[Any, ...]] = set()

    def __call__(self, t: Tensor, y: Any) -> Any:
        """Return what f returns."""
        self.times.append(float(t.detach().to(F64).reshape(-1)[0]))
        self.kinds |= {(t.dtype, *_kind(part)) for part in (y if isinstance(y, tuple) else (y,))}
        return self.f(t, y)


@check("api.counts")
def counts(subject: Subject) -> str | None:
    """`stats.f_calls` is the number of calls that f has seen."""
    case = turning(pair=subject.pair)
    watched = Watched(case.f)
    said = subject.solve(watched, case.y0, [0.0, case.t1 / 3, case.t1]).stats.f_calls
    seen = len(watched.times)
    demand(
        said == seen,
        f"stats.f_calls is {said} where f was called {seen} times; call f through the field that "
        "step is given, nowhere else",
    )
    return f"{seen} calls"


@check("api.interval")
def interval(subject: Subject) -> str | None:
    """f is called within the interval of the solve only, forwards and backwards."""
    case = turning(pair=subject.pair)
    for dtype in (F64, torch.float32):
        start = cast(case.y0, dtype)
        for t0, t1 in ((0.1, 1.7), (1.7, 0.1), (-0.3, 0.1)):
            watched = Watched(case.f)
            subject.gridded(watched, start, [t0, t1])
            low, high = (float(torch.tensor(t, dtype=F64).to(dtype)) for t in sorted((t0, t1)))
            outside = [t for t in watched.times if not low <= t <= high]
            demand(
                not outside,
                f"f was called at t = {outside[:1]} in a solve from {t0} to {t1}, where it may not "
                "exist; keep every stage's time within the step, and the last at t1 itself",
            )
    return None


@check("api.field")
def field(subject: Subject) -> str | None:
    """f is given times and states of the dtype and the shape of the state, and no others."""
    case = turning(pair=subject.pair)
    for dtype in (F64, torch.float32):
        start = cast(case.y0, dtype)
        watched = Watched(case.f)
        subject.gridded(watched, start, [0.0, 1.0])
        wanted = (dtype, *_kind(start[0] if subject.pair else start))
        others = watched.kinds - {wanted}
        demand(
            not others,
            f"f was given (dtype of t, of y, shape, device) {sorted(map(str, others))[:2]} for a "
            f"state {wanted}; call the field with states like the one given",
        )
    return None


CHECKS = (
    shapes,
    batch_of_one,
    dtypes,
    structures,
    strides,
    counts,
    interval,
    field,
)
