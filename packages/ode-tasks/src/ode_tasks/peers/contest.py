"""What a peer is, and what is asked of it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ode_core.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from ode_tasks.peers.works import Posed, Work

FORWARD, BACKWARD = "forward", "forward+backward"

EXACT, CONTINUOUS = "exact", "continuous"
"""Kinds of gradients: of the discrete solve, or from an adjoint equation that is solved, too."""

SUITE = "suite"


class Variant(NamedTuple):
    """One way in which a peer solves a work.

    `kind` is that of its gradient, `EXACT` also where none is asked for: like is compared with
    like. `base` marks the suite's variant that others are compared with.
    """

    name: str
    kind: str = EXACT
    base: bool = False


class Outcome(NamedTuple):
    """What one call has given, and what it took.

    `ys` are states `[T, ...]` on the CPU, `gradient` is that of `loss` with respect to the start
    and then all weights in order, flat, or None. Calls of f and attempted steps are those of the
    slowest sample where each has its own; calls in the backward pass are None where nobody can
    count them.
    """

    ys: Tensor
    gradient: Tensor | None
    f_forward: int
    f_backward: int | None
    steps: int


class Prepared(NamedTuple):
    """A solve that is ready to be timed.

    `run` is what is timed, `outcome` makes one call that counts; `compiles` says that the first
    call of `run` compiles what the later ones use.
    """

    run: Callable[[], Any]
    outcome: Callable[[], Outcome]
    compiles: bool = False


class Peer(Protocol):
    """A solver of differential equations that the suite is held against.

    `estimate` is its method's error estimate over that of Hairer's dopri5: a tolerance is
    multiplied by it, so that all accept the same steps.
    """

    @property
    def name(self) -> str:
        """The name of the package."""

    @property
    def estimate(self) -> float:
        """What it makes of an error that Hairer's dopri5 calls 1."""

    @property
    def missing(self) -> str:
        """The pip requirement that would have to be installed, "" where it is."""

    def variants(self, work: Work, direction: str) -> Sequence[Variant]:
        """Return the ways in which it can solve a work; raises UnsupportedError without any."""

    def prepare(self, posed: Posed, variant: Variant, direction: str, threads: int) -> Prepared:
        """Return the solve; raises UnsupportedError for what it cannot do on this machine."""


def missing(module: str, requirement: str) -> str:
    """Return the requirement unless the module can be imported."""
    return "" if importlib.util.find_spec(module) is not None else requirement


def tolerances(work: Work, estimate: float) -> tuple[float, float]:
    """Return the rtol and atol at which a peer with that estimate accepts the same steps."""
    return work.rtol * estimate, work.atol * estimate


def refuse(peer: str, what: str) -> UnsupportedError:
    """Return the error that says what a peer does not have."""
    return UnsupportedError(f"{peer} has no {what}")
