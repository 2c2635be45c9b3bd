"""The gradient of one untrained model by every method through every solver."""

from __future__ import annotations

import dataclasses
import math
import statistics
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ode_core.errors import ArgumentError, OdeError, UnsupportedError
from ode_core.registry import models, tasks
from ode_tasks import measure
from ode_tasks.benchmark.cell import FAILED, OK, SKIPPED
from ode_tasks.benchmark.plan import obstacle
from ode_tasks.settings import build
from ode_tasks.train import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from ode_core.protocols import Progress, RunConfig
    from ode_tasks.gradients.probe import Probe

EXACT = "direct"
_REPEATS = 3

Row = dict[str, Any]


def compare(
    config: RunConfig, solvers: Sequence[str], gradients: Sequence[str], progress: Progress
) -> Iterator[Row]:
    """Yield one row for each solver and gradient method: error, cosine, cost, or why there is none.

    The model has the weights that the seed of the config gives, the same in every row; layers that
    start at nought are drawn, too, since no gradient gets past them. `error` is
    the norm of the difference from the parameters' gradient by `direct` through the same solver
    over that gradient's norm, `cosine` that of the angle between the two; `seconds` is the median
    of three forward and backward passes, `f_forward` and `f_backward` are the evaluations of one.

    Raises ArgumentError for a task that gives no batch, or a model that solves nothing or is for
    another kind of task, and what the task's `probe` raises.
    """
    probe = _probe(config)
    progress.start(len(solvers) * len(gradients), config.task)
    for solver in solvers:
        cells = {g: dataclasses.replace(config, solver=solver, gradient=g) for g in gradients}
        exact: Tensor | OdeError | None = None
        for gradient, cell in cells.items():
            row = {"solver": solver, "gradient": gradient}
            reason = _reason(cell)
            if not reason and exact is None:
                exact = _exact(cell, probe)
            if reason:
                row |= {"status": SKIPPED, "reason": reason}
            elif isinstance(exact, OdeError):
                row |= {"status": FAILED, "reason": f"{EXACT}: {exact}"}
            else:
                row |= _measured(cell, probe, exact)
            progress.advance(f"{solver}, {gradient}")
            yield row


def _probe(config: RunConfig) -> Probe:
    fits, record = tasks[config.task].fits, models[config.model]
    if record.fits != fits or not record.solves:
        kind = f"is for {record.fits}" if record.fits != fits else "solves nothing"
        raise ArgumentError(
            f"the model {config.model!r} {kind}; the gradients of {config.task!r} are those of a "
            f"model for {fits} that solves a differential equation"
        )
    task: Any = tasks.create(config.task)
    if not hasattr(task, "probe"):
        raise ArgumentError(
            f"the task {config.task!r} gives no batch to look at: it has no probe(config); take a "
            "task of this suite, or give it one that returns an ode_tasks.gradients.probe.Probe"
        )
    with seeded(config.seed):
        probe: Probe = task.probe(config)
    return probe


def _reason(cell: RunConfig) -> str:
    data = {} if cell.data is None else {cell.task: cell.data}
    return obstacle(cell.task, cell.model, cell.solver, cell.gradient, data)


def _exact(cell: RunConfig, probe: Probe) -> Tensor | OdeError:
    try:
        return _gradient(*_made(dataclasses.replace(cell, gradient=EXACT), probe))
    except OdeError as error:
        return error


def _measured(cell: RunConfig, probe: Probe, exact: Tensor | None) -> Row:
    """Return what one combination gives, with the first warning as its remark."""
    assert exact is not None  # it was computed for the first row that is not skipped
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            columns = _columns(cell, probe, exact)
        except UnsupportedError as error:
            return {"status": SKIPPED, "reason": str(error)}
        except OdeError as error:
            return {"status": FAILED, "reason": str(error)}
    remark = str(caught[0].message) if caught else ""
    return {**columns, "status": OK, "reason": remark}


def _columns(cell: RunConfig, probe: Probe, exact: Tensor) -> Row:
    model, seed = _made(cell, probe), cell.seed
    found = _gradient(*model)
    forward, backward = measure.evaluations(model[0]) or (None, None)
    seconds = []
    for _ in range(_REPEATS):
        with measure.timed(found.device) as timer:
            _gradient(*model)
        seconds.append(timer.seconds)
    with seeded(seed):
        memory = measure.memory(model[0], lambda: probe.loss(model[0]), probe.inputs)
    return {
        "error": float((found - exact).norm() / exact.norm()),
        "cosine": float(torch.nn.functional.cosine_similarity(found, exact, dim=0)),
        "seconds": statistics.median(seconds),
        "f_forward": forward,
        "f_backward": backward,
        "memory_bytes": memory.bytes,
    }


def _made(cell: RunConfig, probe: Probe) -> tuple[nn.Module, RunConfig, Probe]:
    with seeded(cell.seed):
        model = build(cell, probe.settings, **probe.size)
        _wake(model)
    return model.to(cell.device), cell, probe


def _wake(model: nn.Module) -> None:
    """Draw the weights of layers that are nought, as torch draws a linear layer's."""
    # A model whose last layer starts silent sends no gradient into its solve.
    for weight in model.parameters():
        if weight.dim() > 1 and not bool(weight.detach().any()):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))


def _gradient(model: nn.Module, cell: RunConfig, probe: Probe) -> Tensor:
    """Return the gradient of all parameters as one float64 vector, zeros where there is none.

    Random draws of the model are those of the seed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    with seeded(cell.seed):
        found = torch.autograd.grad(probe.loss(model), trained, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]
    return torch.cat([part.flatten().double() for part in parts])
