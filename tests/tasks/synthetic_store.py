"""A store as large as wanted, with rows such as cells leave, made quickly and always alike.

`python -m tests.tasks.synthetic_store FOLDER 100000` makes one; `ode report FOLDER` then shows it.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from pathlib import Path

TASKS = {
    "cifar10": ("odenet", "accuracy", True),
    "digits": ("odenet", "accuracy", True),
    "glucose": ("latent_ode", "rmse", False),
    "lotka_volterra": ("neural_ode", "trajectory_error", False),
    "pendulum": ("neural_ode", "trajectory_error", False),
    "spiral": ("neural_ode", "trajectory_error", False),
}
SOLVERS = [f"solver_{number:02d}" for number in range(40)]
GRADIENTS = ("direct", "adjoint", "checkpoint", "symplectic", "interpolated")
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
EPOCHS = 10
LOST = {
    "timeout": "no result within 8 s; it was in step (explicit.py, line {line})",
    "crashed": "the worker process was killed by SIGSEGV; its last words: at {line}",
    "failed": "the loss is nan in epoch 2, batch {line}; lower the learning rate",
    "skipped": "too costly: an implicit solver on a state of 2048 numbers (at most 64)",
}


def make(folder: Path, count: int, tasks: int = len(TASKS)) -> None:
    """Write so many cells of so many tasks, one cell in twenty without an outcome."""
    chance = random.Random(1)
    alike = list(itertools.product(TOLERANCES, GRADIENTS, SOLVERS, list(TASKS)[-tasks:]))
    for number in range(count):
        row = _row(chance, number, number // len(alike), *alike[number % len(alike)])
        path = folder / "cells" / row["task"] / f"{row['cell']}.json"
        if number < tasks:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row, indent=1))
        if row["status"] in ("timeout", "crashed"):
            beside = folder / "artefacts" / row["cell"]
            beside.mkdir(parents=True, exist_ok=True)
            (beside / "output.txt").write_text(f"computing\n{row['reason']}\n")


def _row(chance, number, seed, rtol, gradient, solver, task):
    model, score_name, higher = TASKS[task]
    row = {
        "schema": 1,
        "cell": f"{chance.getrandbits(64):016x}",
        "task": task,
        "model": model,
        "solver": solver,
        "gradient": gradient,
        "preset": "smoke",
        "seed": seed,
        "device": "cpu",
        "data": None,
        "packages": {
            "torch": "2.13.0",
            "task": "ode-tasks 0.1.0",
            "model": "ode-models 0.1.0",
            "solver": f"some-plugin-{int(solver[-2:]) // 4} 1.{number % 3}",
            "gradient": "ode-solvers 0.1.0",
        },
        "plugin_files": [],
        "status": "ok",
        "reason": "",
        "rtol": rtol,
        "atol": rtol,
    }
    if number % 20 == 7:
        status = list(LOST)[number // 20 % len(LOST)]
        return row | {"status": status, "reason": LOST[status].format(line=number % 400)}
    return row | _outcome(chance, row, score_name, higher)


def _outcome(chance, row, score_name, higher):
    order = 1 + int(row["solver"][-2:]) % 8
    noise = chance.lognormvariate(0.0, 0.05)
    error, calls = (
        row["rtol"] * 10 ** (0.1 * order) * noise,
        6 + order * row["rtol"] ** (-1 / order),
    )
    seconds = 0.01 * calls * noise
    score = 0.9 - 0.02 * chance.random() if higher else 0.05 + 0.01 * chance.random()
    return {
        "date": f"2026-01-{1 + row['seed'] % 28:02d}T03:04:05+00:00",
        "machine": "Linux x86_64, 2 cores",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "ode-core": "0.1.0"},
        "threads": 1,
        "settings": {},
        "loss": 0.25 * noise,
        "score": score,
        "score_name": score_name,
        "higher_is_better": higher,
        "train_loss": 0.2 * noise,
        "f_forward": calls,
        "f_backward": 0.0 if row["gradient"] == "direct" else 1.2 * calls,
        "epoch_seconds": seconds,
        "solver_error": error,
        "memory_bytes": int(2048 * calls) if row["gradient"] == "direct" else 8192,
        "memory_kind": "held for backward",
        "memory_bytes_direct": int(2048 * calls),
        "parameters": 1234,
        "seconds": EPOCHS * seconds,
        "work_precision": [
            {
                "rtol": tolerance,
                "atol": tolerance,
                "error": tolerance * 10 ** (0.1 * order) * noise,
                "f_calls": int(6 + order * tolerance ** (-1 / order)),
                "accepted": int(1 + tolerance ** (-1 / order)),
                "memory_bytes": 4096 if row["gradient"] == "adjoint" else int(999 * calls),
                "seconds": 1e-4 * (6 + order * tolerance ** (-1 / order)) * noise,
                "rounds": 5,
            }
            for tolerance in TOLERANCES[:5]
        ],
        "history": [
            {
                "epoch": epoch,
                "train_loss": noise / epoch,
                "f_forward": calls * (1 + 0.05 * epoch),
                "f_backward": calls,
                "test_score": score * (1 - 0.5 / epoch),
                "test_loss": noise / epoch,
                "seconds": seconds,
            }
            for epoch in range(1, EPOCHS + 1)
        ],
    }


if __name__ == "__main__":
    make(Path(sys.argv[1]), int(sys.argv[2]))
