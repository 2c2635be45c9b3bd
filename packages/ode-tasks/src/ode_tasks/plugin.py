"""The tasks, the executors and the commands of this package, as records that import nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core.hooks import hookimpl
from ode_core.records import CommandRecord, ExecutorRecord, TaskRecord
from ode_tasks.sources import TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def ode_tasks() -> Iterable[TaskRecord]:
    """Yield the experiments."""
    yield TaskRecord(
        "cifar10",
        "ode_tasks.cifar10:Cifar10",
        "classify small colour images (needs --data)",
        fits="classification",
        default_model="odenet",
        needs_data=True,
        state_size=64 * 8 * 8,
        source=TASKS["cifar10"],
    )
    yield TaskRecord(
        "digits",
        "ode_tasks.digits:Digits",
        "classify 8x8 grey images of handwritten digits",
        fits="classification",
        default_model="odenet",
        state_size=32 * 2 * 2,
        source=TASKS["digits"],
    )
    yield TaskRecord(
        "glucose",
        "ode_tasks.glucose:Glucose",
        "forecast a person's glucose 15, 30 and 60 minutes ahead",
        fits="forecasting",
        default_model="latent_ode",
        state_size=16,
        source=TASKS["glucose"],
    )
    yield from _dynamics()
    yield from _beyond()


def _dynamics() -> Iterable[TaskRecord]:
    yield TaskRecord(
        "linear",
        "ode_tasks.linear:Linear",
        "recover a damped rotation from samples of it",
        fits="dynamics",
        default_model="neural_ode",
        state_size=2,
        source=TASKS["linear"],
    )
    yield TaskRecord(
        "spiral",
        "ode_tasks.spiral:Spiral",
        "recover a spiral with cubic dynamics from samples of it",
        fits="dynamics",
        default_model="neural_ode",
        state_size=2,
        source=TASKS["spiral"],
    )
    yield TaskRecord(
        "lotka_volterra",
        "ode_tasks.lotka_volterra:LotkaVolterra",
        "recover prey and predators from irregular samples of their numbers",
        fits="dynamics",
        default_model="neural_ode",
        state_size=2,
        source=TASKS["lotka_volterra"],
    )
    yield TaskRecord(
        "van_der_pol",
        "ode_tasks.van_der_pol:VanDerPol",
        "recover a stiff relaxation oscillation from samples of it",
        fits="dynamics",
        default_model="neural_ode",
        state_size=2,
        source=TASKS["van_der_pol"],
    )
    yield TaskRecord(
        "pendulum",
        "ode_tasks.pendulum:Pendulum",
        "recover a damped pendulum from samples of angle and speed",
        fits="dynamics",
        default_model="neural_ode",
        state_size=2,
        source=TASKS["pendulum"],
    )


def _beyond() -> Iterable[TaskRecord]:
    yield TaskRecord(
        "winding",
        "ode_tasks.winding:Winding",
        "tell clockwise from anticlockwise spirals with readings missing",
        fits="series",
        default_model="neural_cde",
        state_size=16,
        source=TASKS["winding"],
    )
    yield TaskRecord(
        "annuli",
        "ode_tasks.annuli:Annuli",
        "tell a ball from the shell around it",
        fits="points",
        default_model="anode",
        state_size=2,
        source=TASKS["annuli"],
    )
    yield TaskRecord(
        "density",
        "ode_tasks.density:Density",
        "learn a density in the plane from its points",
        fits="density",
        default_model="cnf",
        state_size=3,
        source=TASKS["density"],
    )


@hookimpl
def ode_executors() -> Iterable[ExecutorRecord]:
    """Yield the ways to run a benchmark's cells."""
    yield ExecutorRecord(
        "local",
        "ode_tasks.benchmark.executor:LocalExecutor",
        "worker processes on this machine",
    )
    yield ExecutorRecord(
        "submitit",
        "ode_tasks.benchmark.slurm:SubmititExecutor",
        "jobs of a SLURM cluster, several cells each",
        requires=(("submitit", "submitit>=1.5"),),
    )


@hookimpl
def ode_commands() -> Iterable[CommandRecord]:
    """Yield what this package adds to `ode`."""
    yield CommandRecord("run", "ode_tasks.commands:run", "Train and score one model on one task.")
    yield CommandRecord(
        "study",
        "ode_tasks.study_command:study",
        "Run the study's experiments on one task and report.",
    )
    yield CommandRecord(
        "benchmark",
        "ode_tasks.benchmark.command:benchmark",
        "Run every task against every registered solver.",
    )
    yield CommandRecord(
        "results",
        "ode_tasks.benchmark.results_command:results",
        "List, filter, compare and export stored results.",
    )
    yield CommandRecord(
        "gradients",
        "ode_tasks.gradients.command:gradients",
        "Compare every gradient method through every solver with the exact gradient.",
    )
    yield CommandRecord(
        "peers",
        "ode_tasks.peers.command:peers",
        "Time the suite beside torchdiffeq, torchode, diffrax and SciPy on the same work.",
    )
    yield CommandRecord(
        "report", "ode_tasks.report.command:report", "Write tables and plots of stored results."
    )
