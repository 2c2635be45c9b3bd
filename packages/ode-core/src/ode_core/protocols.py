"""The page a plugin author reads: what a solver, a controller, a gradient method and a task are.

Everything here is structural: no base class, no registration, any object with these members fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from ode_core.control import FixedSteps
    from ode_core.loops.graphs import Graph
    from ode_core.problem import Problem
    from ode_core.solution import State, Trajectory
    from ode_core.tolerance import Tolerance

Time: TypeAlias = float | Tensor
"""A host float with shared steps; with per-sample steps a float64 `[B]` tensor, one a sample."""

VectorField: TypeAlias = Callable[[Any, Tensor], Tensor]
"""What a solver is given as f: counted and checked, on one packed tensor, at a `Time`."""

Carry: TypeAlias = Any
"""What a solver keeps from step to step: a pytree of tensors, always of the same structure."""

Interpolant: TypeAlias = Callable[[Any], Tensor]
"""The solution within one step, as a function of theta in [0, 1]; `[B]` with per-sample steps."""


class Step(NamedTuple):
    """One attempted step from t0 to t1.

    `y` is the state at t1, in fresh memory. `error` is the scaled norm of the error estimate, at
    most 1 for a step to be accepted, infinite where the step failed, None where the method has no
    estimate. `carry` is for the next step if this one is accepted, `retry` for the next attempt if
    it is not (None: the carry that was passed in). `dense` is read by `interpolant` alone.

    With per-sample steps `error` is `[B]`, and every tensor of the carries has a leading `[B]`.
    """

    y: Tensor
    error: float | Tensor | None
    carry: Carry
    dense: Any
    retry: Carry | None = None


@runtime_checkable
class Solver(Protocol):
    """A stepper: it never changes after construction and one instance serves many solves.

    `order` is the order of convergence. `adaptive` says that `step` estimates its error.
    `one_step` says that `init` rebuilds the carry exactly, so that a step can be replayed from its
    state alone.

    A solver may also have these; where it does not, the core does the general thing:

    - `interpolant(field, t0, t1, y0, step) -> Interpolant`, which may evaluate the field while it
      is built but not when it is called; otherwise a cubic Hermite polynomial is used. One with
      `rows(rows, theta) -> Tensor`, the states of `[n]` rows of a per-sample step at `[n]` thetas,
      need not be evaluated for all rows where a few have outputs; one with
      `many(thetas) -> Sequence[Tensor]`, the states of a shared step at several numbers theta,
      need not be called once for each;
    - `replay(field, t0, t1, y, carry, y1) -> Step`, a differentiable step whose result is known,
      without what only step-size control needs; otherwise `step` with no tolerance;
    - `reverse(field, t0, t1, y1, carry1) -> (y, carry)`, the step from t0 to t1 taken back, which
      `gradient="reversible"` asks for;
    - `pull_back(field, (t0, t1), end, grads, pull) -> (start, grads)`, the same together with the
      gradients, and `pull_step(field, (t0, t1), start, y1, grads, pull) -> grads`, those alone from
      a start that is known (None for a step that is to be made again): ends, starts and gradients
      are pairs of a state and a carry, shared steps only. f is evaluated by `ode_core.replay`'s
      `recorded`, and `pull` pulls a gradient back through what that gave. They are a quicker way to
      what differentiating a step made again finds, and belong to the solver's class;
    - `slope(carry) -> Tensor | None`, f at the start of the step if the carry holds it, which
      saves the choice of the first step an evaluation;
    - `chooses_steps = True`, which says that a step may be as long as one likes, because the solver
      divides it itself: the first one is offered the whole stretch;
    - `diagnose(before, step) -> Any`, what it notices about the problem from an accepted step and
      what it had noticed before (None at first): None, or an object whose `sentence` is for the
      user, empty where there is nothing to say;
    - `active(carry) -> str`, the name of the method in charge, where a solver has several: changes
      are listed in `solution.switches`;
    - `error_order`, the power of the step size with which its error estimate falls, which step-size
      control goes by; otherwise `order`;
    - `compiles = False`, which says that it looks at values within a step, as implicit solvers do
      by default, so that torch.compile can make no program of it. Within a program times are 0-d
      float64 tensors, and `tolerance.norm` returns one;
    - `transforms = False`, which says that it does not go through the transforms of `torch.func`;
    - `on_device = True`, which says that with shared steps it also takes times as 0-d float64
      tensors on the state's device, returns a 0-d error, and reads nothing from there; `pace(plain,
      y) -> Pace`, which does in one launch what the step-size control `plain` does;
    - `whole(problem, plan, method) -> SampleTrajectory | None`, a solve with per-sample steps, with
      its gradients attached, in one go; None where it is to go step by step;
    - `error_estimate`, a few words that say which estimate its error is;
    - `per_sample = True`, which says that it also takes per-sample steps: `init`, `step` and
      `interpolant` then get times as float64 `[B]` tensors and a state `[B, ...]`, one row a
      sample; `tolerance.norm` returns `[B]` errors; a row whose t1 equals its t0 must come out
      unchanged; `ode_core.rows.along(t1 - t0, y)` scales a state. A solver without it is refused
      for `stepping="per_sample"`;
    - `moving_times = True`, which says that `interpolant` gives a function of a 0-d float64 tensor,
      too, and where the solver is not `one_step` that `step` takes such times, both differentiably:
      with given steps its gradients in time are then those of the discrete solve. One that starts
      from a state alone is always given numbers, and a field that knows how its ends move;
    - `fixed_steps = False`, which says that it takes no given steps, `takes_pairs = True`, that its
      state is a pair (q, v), `differentiable = False`, that its steps are not made of torch
      operations, `stiff`, whether it is stable far out on the negative axis (by default where it is
      implicit): what the conformance kit goes by.
    """

    @property
    def name(self) -> str:
        """The name that messages use."""

    @property
    def order(self) -> int:
        """The order of convergence."""

    @property
    def adaptive(self) -> bool:
        """Whether `step` estimates its error."""

    @property
    def implicit(self) -> bool:
        """Whether a step solves equations."""

    @property
    def one_step(self) -> bool:
        """Whether `init` rebuilds the carry exactly."""

    def init(self, field: VectorField, t: Any, y: Tensor) -> Carry:
        """Return the carry at the start, and after anything that changed the state or the field."""

    def step(
        self,
        field: VectorField,
        t0: Any,
        t1: Any,
        y: Tensor,
        carry: Carry,
        tolerance: Tolerance | None,
    ) -> Step:
        """Advance `y` from t0 to t1; `tolerance` is None where no error is asked for."""


class Controller(Protocol):
    """Chooses step sizes from scaled errors; pure, its memory is passed and returned.

    One that has `per_sample = True` also takes errors as `[B]` tensors and then returns tensors. It
    may have `judge_numbers`, which is called in place of that with `ode_core.numbers`, and returns
    such: on a CPU NumPy's arrays, whose arithmetic is quicker.
    """

    def init(self) -> Any:
        """Return the memory at the start."""

    def judge(self, error: Any, order: int, memory: Any) -> tuple[Any, Any, Any]:
        """Return whether the step is accepted, the factor on its size, and the memory."""


@dataclass(frozen=True)
class Plan:
    """How a problem is to be solved: objects in place of the names that the user gave.

    `start` is the state that an earlier solve left, where this one goes on from it. `graph` says
    that the loop stays on the device.
    """

    solver: Solver
    controller: Controller | FixedSteps
    tolerance: Tolerance | None
    dt: Any
    max_steps: int
    dense: bool
    record_steps: bool
    start: State | None = None
    graph: Graph | None = None


@runtime_checkable
class GradientMethod(Protocol):
    """How a solve is differentiated; `exact` says that it is the discrete solve's own gradient.

    Gradients of times are added outside of it, along f. One that gives them itself says
    `differentiates_time = True`; one that says `discrete_times = True` is given a problem with a
    `clock`, where the steps are given, and differentiates those in time.
    """

    @property
    def name(self) -> str:
        """The name that messages use."""

    @property
    def exact(self) -> bool:
        """Whether it differentiates the discrete solve itself."""

    def check(self, problem: Problem, plan: Plan) -> None:
        """Raise UnsupportedError before any work where the combination cannot be done."""

    def solve(self, problem: Problem, plan: Plan) -> Trajectory:
        """Solve, and leave on the result whatever its backward pass needs."""


@dataclass(frozen=True)
class RunConfig:
    """One run of a task: the names of its parts and the user's settings.

    `data` is where the user's data lies (None: embedded data), `settings` are `--set KEY=VALUE`
    pairs over the preset, `out` is the folder to leave predictions, curves and plots in. With
    `checkpoint` training leaves a checkpoint of every epoch and a log of every step there, with
    `resume` it goes on from that checkpoint, with `tensorboard` it logs for TensorBoard as well.
    """

    task: str
    model: str
    solver: str
    gradient: str
    rtol: float | None = None
    atol: float | None = None
    dt: float | None = None
    preset: str = "smoke"
    seed: int = 0
    device: str = "cpu"
    data: Path | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    out: Path | None = None
    checkpoint: bool = False
    resume: bool = False
    tensorboard: bool = False


class Progress(Protocol):
    """What a task tells while it runs; a terminal shows it, a worker ignores it."""

    def start(self, total: int, text: str) -> None:
        """Begin a stretch of `total` equal pieces of work."""

    def advance(self, text: str = "") -> None:
        """One piece is done; `text` replaces the description if given."""


@runtime_checkable
class Task(Protocol):
    """An experiment: data, training and evaluation, for any model of the kind it takes."""

    def run(self, config: RunConfig, progress: Progress) -> Mapping[str, Any]:
        """Run once and return flat metrics; files go to `config.out` where it is given.

        The suite's tasks return `loss` and `score` (with `score_name`), `solver_error`,
        `f_forward` and `f_backward` (means over a training epoch's batches), `memory_bytes` and
        `history`, a list with one flat row for each epoch.
        """


PRESETS: Sequence[str] = ("smoke", "quick", "full")
