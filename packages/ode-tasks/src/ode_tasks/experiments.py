"""The study's experiments as data: which runs of a task stand side by side, and what is compared.

A task gets a study by an entry of `STUDIES`; what its page shows beyond curves and the comparisons
is a function of `ode_tasks.report.sections`.
"""

from __future__ import annotations

from typing import NamedTuple

from ode_core.errors import ArgumentError
from ode_core.registry import tasks


class Cell(NamedTuple):
    """One run of the study, made once for each seed; its name is the folder that it writes to.

    `tolerance` is that of a solver that chooses its steps, `dt` the step of one that does not;
    `settings` are pairs over the preset and the user's own that make this cell what it is,
    `defaults` are pairs over the preset alone.
    """

    name: str
    model: str
    solver: str = ""
    gradient: str = ""
    tolerance: float | None = None
    dt: float | None = None
    settings: tuple[tuple[str, str], ...] = ()
    defaults: tuple[tuple[str, str], ...] = ()


class Pair(NamedTuple):
    """Two cells whose scores are compared seed by seed."""

    cell: str
    against: str


class Study(NamedTuple):
    """The cells in the order in which they are run, and the comparisons."""

    cells: tuple[Cell, ...]
    pairs: tuple[Pair, ...]


# Two steps are the fewest with which a network that is trained by fixed steps is more than a
# residual network; the others are the study's own, whose fixed steps go over the block at once.
TWO_STEPS = "rk4_two_steps"
_METHODS = (
    Cell(TWO_STEPS, "odenet", "rk4", dt=0.5),
    Cell("dopri5_1e-3", "odenet", "dopri5", tolerance=1e-3),
    Cell("dopri5_1e-1", "odenet", "dopri5", tolerance=1e-1),
    Cell("rk4", "odenet", "rk4", dt=1.0),
    Cell("midpoint", "odenet", "midpoint", dt=1.0),
    Cell("euler", "odenet", "euler", dt=1.0),
)
_GRADIENTS = ("direct", "adjoint", "checkpoint")


def _by(gradient: str) -> tuple[Cell, ...]:
    return tuple(
        cell._replace(name=f"{cell.name}_{gradient}", gradient=gradient) for cell in _METHODS
    )


_CONTROLS = (
    Cell("resnet", "resnet"),
    Cell("one_block", "resnet", settings=(("residual_blocks", "1"),)),
    Cell("no_block", "no_block"),
)
_OURS = f"{TWO_STEPS}_direct"
# What the accuracies rest on comes first, so that a study that is stopped has it.
_IMAGES = Study(
    (
        _by("direct")[0],
        *_CONTROLS,
        *_by("direct")[1:],
        *(cell for gradient in _GRADIENTS[1:] for cell in _by(gradient)),
    ),
    (
        *(Pair(_OURS, control.name) for control in _CONTROLS),
        *(Pair(f"{cell.name}_adjoint", f"{cell.name}_direct") for cell in _METHODS),
    ),
)
# Memory and evaluations need no hundred epochs; the accuracies and the adjoint's curve have them.
_SHORT = (("epochs", "10"),)
_WHOLE = (_OURS, f"{TWO_STEPS}_adjoint", *(control.name for control in _CONTROLS))
_IMAGES_FULL = _IMAGES._replace(
    cells=tuple(
        cell if cell.name in _WHOLE else cell._replace(defaults=_SHORT) for cell in _IMAGES.cells
    )
)
# The baselines are the same for all cells, so that the trees are grown for one only.
_NO_TREES = (("trees", "false"),)
_LATENT_ODE = Cell("latent_ode", "latent_ode", "dopri5", "direct")
_GRU = Cell("gru", "gru", defaults=_NO_TREES)
_LATENT_STILL = Cell("latent_still", "latent_still", defaults=_NO_TREES)
_FORECASTS = Study(
    (_LATENT_ODE, _GRU, _LATENT_STILL),
    (Pair("latent_ode", "gru"), Pair("latent_ode", "latent_still")),
)


def _with(suffix: str, cells: tuple[Cell, ...], key: str, value: str) -> tuple[Cell, ...]:
    return tuple(
        cell._replace(name=f"{cell.name}_{suffix}", settings=((key, value),), defaults=_NO_TREES)
        for cell in cells
    )


# Alone: without the linear predictor that the networks correct. Unseen: of people whom the network
# never saw, a quarter of them at a time.
_FORECASTS_FULL = Study(
    (
        *_FORECASTS.cells,
        *_with("alone", (_LATENT_ODE, _LATENT_STILL, _GRU), "linear", "false"),
        *_with("unseen", (_LATENT_ODE, _GRU), "folds", "4"),
        Cell("ode_rnn", "ode_rnn", "midpoint", "direct", dt=1.0, defaults=_NO_TREES),
    ),
    (
        *_FORECASTS.pairs,
        Pair("ode_rnn", "gru"),
        Pair("latent_ode_alone", "latent_still_alone"),
        Pair("latent_ode_alone", "latent_ode"),
        Pair("gru_alone", "gru"),
    ),
)
_DYNAMICS = Study((Cell("neural_ode", "neural_ode", "dopri5", "direct"),), ())

STUDIES = {
    "cifar10": _IMAGES,
    "digits": _IMAGES,
    "glucose": _FORECASTS,
    "linear": _DYNAMICS,
    "spiral": _DYNAMICS,
}
# A study that is another one at this preset.
_FULL = {"cifar10": _IMAGES_FULL, "glucose": _FORECASTS_FULL}


def planned(task: str, preset: str) -> Study | None:
    """Return the study of a task at a preset, None where there is none."""
    study = STUDIES.get(task)
    return _FULL.get(task, study) if preset == "full" else study


def study_of(task: str, preset: str = "quick") -> Study:
    """Return the study of a task at a preset.

    Raises UnknownNameError for a task that nobody registers, ArgumentError for one without a study.
    """
    record = tasks[task]
    study = planned(record.name, preset)
    if study is None:
        raise ArgumentError(
            f"the study has no experiment on {task!r}; it has those on {', '.join(STUDIES)}"
        )
    return study
