"""Why a combination of task, model, solver and gradient method makes no sense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ode_core import registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ode_core.records import Record, SolverRecord, TaskRecord

LARGEST_IMPLICIT_STATE = 64
"""An implicit step solves equations as large as the state, at a cost that grows with its cube."""


def obstacle(task: str, model: str, solver: str, gradient: str, data: Mapping[str, Path]) -> str:
    """Return why this cell is not run, or an empty text."""
    task_record, model_record = registry.tasks[task], registry.models.get(model)
    if model_record is None:
        return f"the model {model!r} is not installed"
    if model_record.fits != task_record.fits:
        return (
            f"the model {model!r} is for {model_record.fits}, "
            f"the task {task!r} takes a model for {task_record.fits}"
        )
    if task_record.needs_data and task not in data:
        return f"no data, pass --data {task}=PATH"
    if not solver:
        return _missing(task_record, model_record)
    solver_record = registry.solvers[solver]
    missing = _missing(task_record, model_record, solver_record, registry.gradients[gradient])
    return missing or _unfit(task_record, solver_record)


def _missing(*records: Record) -> str:
    for record in records:
        if record.missing:
            needed = " ".join(f"'{requirement}'" for requirement in record.missing)
            return f"the {record.kind} {record.name!r} is incomplete: pip install {needed}"
    return ""


def _unfit(task: TaskRecord, solver: SolverRecord) -> str:
    if not solver.differentiable:
        return (
            f"the solver {solver.name!r} is not differentiable, so nothing can be trained with it"
        )
    if solver.takes_pairs:
        return f"the solver {solver.name!r} takes pairs (q, v) alone, and no model's state is one"
    if solver.implicit and task.state_size > LARGEST_IMPLICIT_STATE:
        return (
            f"too costly: an implicit solver on a state of {task.state_size} numbers "
            f"(at most {LARGEST_IMPLICIT_STATE})"
        )
    return ""
