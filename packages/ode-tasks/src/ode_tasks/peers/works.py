"""What is solved: vector fields, states, times and tolerances, one record a work."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch

from ode_core.errors import ArgumentError
from ode_tasks.peers.fields import (
    Convolution,
    Decay,
    Oscillator,
    Perceptron,
    VanDerPol,
    VanDerPolInState,
)
from ode_tasks.train import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ode_tasks.peers.fields import Field

TABLE, GROWTH = "table", "growth"


@dataclass(frozen=True)
class Work:
    """One thing to solve: `field()` from a state of the given shape over the given times.

    `solver` is the suite's name of the method that everyone uses; `dt` is the size of its steps
    where they are given. `per_sample` says that samples differ so much that steps of their own
    pay. `start` makes the state; by default it is drawn from a standard normal distribution.
    `grows` names what a work of the growth plots is one size of, `size` that size.
    """

    name: str
    summary: str
    field: Callable[[], Field]
    shape: tuple[int, ...]
    times: tuple[float, ...]
    solver: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-6
    dt: float | None = None
    per_sample: bool = False
    backward: bool = True
    start: Callable[[tuple[int, ...]], Tensor] = torch.randn
    grows: str = ""
    size: int = 0

    @property
    def group(self) -> str:
        """`GROWTH` for one point of a growth plot, else `TABLE`."""
        return GROWTH if self.grows else TABLE

    def posed(self, device: str) -> Posed:
        """Return the field, the state in float32 and the times, the same in every call."""
        with seeded(0):
            field, y0 = self.field(), self.start(self.shape)
        return Posed(self, field.to(device), y0.to(device), torch.tensor(self.times, device=device))


class Posed(NamedTuple):
    """A work's tensors: field, state and `[T]` times, on one device."""

    work: Work
    field: Field
    y0: Tensor
    t: Tensor


def _spread(batch: int) -> Tensor:
    """Return `[B, 1]` values of mu from 0.1 to 30, evenly spread on a logarithmic axis."""
    mu: Tensor = torch.logspace(-1.0, math.log10(30.0), batch)
    return mu[:, None]


def _with_mu(shape: tuple[int, ...]) -> Tensor:
    return torch.cat((torch.randn(shape[0], 2), _spread(shape[0])), 1)


def _evenly(end: float, outputs: int) -> tuple[float, ...]:
    return tuple(torch.linspace(0.0, end, outputs, dtype=torch.float64).tolist())


_TABLE = (
    Work("cheap_64x2", "64x2, y' = -y", Decay, (64, 2), (0.0, 5.0)),
    Work("mlp_256x64", "256x64, MLP 128", lambda: Perceptron(64, 128), (256, 64), (0.0, 4.0)),
    Work("cheap_512x512", "512x512, y' = -y", Decay, (512, 512), (0.0, 5.0)),
    Work("mlp_512x512", "512x512, MLP 512", lambda: Perceptron(512, 512), (512, 512), (0.0, 2.0)),
    Work(
        "conv_64x64x16x16",
        "64x64x16x16, conv",
        lambda: Convolution(64),
        (64, 64, 16, 16),
        (0.0, 2.0),
    ),
    Work(
        "van_der_pol",
        "Van der Pol 128x2, mu 0.1 to 30, 20 outputs",
        lambda: VanDerPol(_spread(128)),
        (128, 2),
        _evenly(10.0, 20),
        per_sample=True,
        backward=False,
    ),
    Work(
        "van_der_pol_in_state",
        "Van der Pol 128x3, mu in the state",
        VanDerPolInState,
        (128, 3),
        _evenly(10.0, 20),
        per_sample=True,
        backward=False,
        start=_with_mu,
    ),
    Work("rk4_64x2", "rk4, 64x2, y' = -y", Decay, (64, 2), (0.0, 5.0), "rk4_38", dt=0.05),
    Work(
        "rk4_256x64",
        "rk4, 256x64, MLP 128",
        lambda: Perceptron(64, 128),
        (256, 64),
        (0.0, 4.0),
        "rk4_38",
        dt=0.05,
    ),
    Work("rk4_512x512", "rk4, 512x512, y' = -y", Decay, (512, 512), (0.0, 1.0), "rk4_38", dt=0.05),
)


def _growing() -> list[Work]:
    """Return the works of the growth plots: one thing grows, the others stay."""
    cheap = Work("", "", Decay, (64, 16), (0.0, 5.0), backward=False)
    turns = replace(cheap, field=Oscillator, shape=(64, 2), times=(0.0, 20.0))
    works = []
    for batch in (16, 64, 256, 1024, 4096, 16384, 65536):
        works.append(replace(cheap, grows="batch", size=batch, shape=(batch, 16)))
    for dimension in (4, 16, 64, 256, 1024, 4096, 16384):
        works.append(replace(cheap, grows="dimension", size=dimension, shape=(64, dimension)))
    for steps in (25, 50, 100, 200, 400, 800, 1600):
        grid = replace(turns, solver="rk4_38", dt=0.05, times=(0.0, steps * 0.05))
        works.append(replace(grid, grows="steps", size=steps))
    for outputs in (10, 30, 100, 300, 1000, 3000, 10000):
        times = _evenly(20.0, outputs)
        works.append(replace(turns, grows="outputs", size=outputs, times=times))
    return [
        replace(work, name=f"{work.grows}_{work.size}", summary=f"{work.grows} {work.size}")
        for work in works
    ]


WORKS = {work.name: work for work in (*_TABLE, *_growing())}


def chosen(names: Sequence[str]) -> list[Work]:
    """Return the works of these names or groups, in their order; raises ArgumentError."""
    groups = {work.group for work in WORKS.values()} | {work.grows for work in WORKS.values()}
    for name in names:
        if name not in WORKS and name not in groups - {""}:
            single = [work.name for work in WORKS.values() if work.group == TABLE]
            raise ArgumentError(
                f"there is no work {name!r}; works are {', '.join(single)}, and the groups "
                f"{', '.join(sorted(groups - {''}))}"
            )
    return [
        work for work in WORKS.values() if {work.name, work.group, work.grows} & set(names) - {""}
    ]
