"""A trained network whose ODEs are solved otherwise than in training.

A network that was trained with few, large steps is the network of those steps; solved more finely
it answers worse. One that learned an ODE does not: Ott, Katiyar, Hennig, Tiemann, "ResNet after
all: neural ODEs and their numerical solution", ICLR 2021.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ode_core.errors import SolveError
from ode_tasks import measure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn


class Solve(NamedTuple):
    """A way to solve a block over [0, 1]: by so many fixed steps, or to a tolerance."""

    solver: str
    steps: int | None = None
    tolerance: float | None = None

    @property
    def name(self) -> str:
        """Return its name among the metrics, without spaces."""
        return f"{self.solver}_{self.steps or f'{self.tolerance:.0e}'.replace('e-0', 'e-')}"


SOLVES = (Solve("euler", 1), Solve("euler", 4), Solve("dopri5", tolerance=1e-5))


def finer(model: nn.Module, score: Callable[[nn.Module], float]) -> dict[str, float | None]:
    """Return the trained model's score with its blocks solved in each of the ways in `SOLVES`.

    Empty for a model without blocks; None for a solve that cannot be finished.
    """
    if not _blocks(model):
        return {}
    scores: dict[str, float | None] = {}
    for way in SOLVES:
        try:
            with solved_by(model, way):
                scores[way.name] = score(model)
        except SolveError:
            scores[way.name] = None
    return scores


@contextmanager
def solved_by(model: nn.Module, way: Solve) -> Iterator[None]:
    """Have the model's blocks solved in this way while the body runs."""
    blocks = _blocks(model)
    kept = [{name: getattr(block, name) for name in _SETTINGS} for block in blocks]
    dt = None if way.steps is None else 1.0 / way.steps
    try:
        for block in blocks:
            span = abs(block.t[-1] - block.t[0])
            block.solver, block.rtol, block.atol = way.solver, way.tolerance, way.tolerance
            block.dt = None if dt is None else dt * span
        yield
    finally:
        for block, settings in zip(blocks, kept, strict=True):
            for name, value in settings.items():
                setattr(block, name, value)


_SETTINGS = ("solver", "rtol", "atol", "dt")


def _blocks(model: nn.Module) -> list[Any]:
    return [m for m in measure.blocks(model) if all(hasattr(m, name) for name in (*_SETTINGS, "t"))]
