"""What a training run leaves in its folder while it trains: a checkpoint, and a log of each step.

`checkpoint.pt` is replaced as a whole and loads with `weights_only=True`. `metrics.jsonl` is only
added to: one object a line for each optimiser step, each epoch and each time the run went on.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import pickle
from typing import IO, TYPE_CHECKING, Any, Protocol

import torch
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from ode_core.errors import ArgumentError, DataError
from ode_tasks import files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ode_core.protocols import RunConfig

CHECKPOINT, LOG, TENSORBOARD = "checkpoint.pt", "metrics.jsonl", "tensorboard"
FORMAT = 1

# What a run has to have in common with the checkpoint that it goes on from.
_SAME = (
    "task", "model", "solver", "gradient", "rtol", "atol", "dt", "preset", "seed", "settings",
)  # fmt: skip


class Record(Protocol):
    """Where a run keeps what it needs to go on, and what it tells of its steps."""

    def load(self) -> dict[str, Any] | None:
        """Return what `save` was last given; None where the run begins."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state of tensors, numbers and texts in place of the one before."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Note an optimiser step."""

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Note an epoch that has ended after so many steps."""

    def close(self) -> None:
        """Let go of open files."""


class Nothing:
    """The record of a run that keeps none."""

    def load(self) -> None:
        """Return None: every run begins."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Ignore it."""

    def step(self, row: Mapping[str, Any]) -> None:
        """Ignore it."""

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Have nothing to let go of."""


class Folder:
    """The record in `config.out`; see the head of this file."""

    def __init__(self, config: RunConfig, out: Path) -> None:
        files.require_writable(out)
        self._out, self._resume = out, config.resume
        self._same = {name: _plain(getattr(config, name)) for name in _SAME}
        self._tensorboard = config.tensorboard
        self._board: TensorBoardLogger | None = None
        self._file: IO[str] | None = None

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint's state, None where the run begins.

        Raises ArgumentError for a checkpoint of another run and where it is gone though the log
        tells of epochs, DataError for a file that is no checkpoint.
        """
        state = self._checked() if self._resume else None
        self._file = self._opened(anew=state is None and not self._resume)
        if self._tensorboard:
            self._board = _board(self._out, state["position"]["step"] + 1 if state else None)
        if state is not None:
            told = {row.get("epoch") for row in self._rows() if row["kind"] == "epoch"}
            for row in state["position"]["history"]:  # the kill came between checkpoint and log
                if row["epoch"] not in told:
                    self._write({"kind": "epoch", **row})
            self._write({"kind": "resume", "step": state["position"]["step"]})
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; raises OutputError where the folder takes none."""
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "run": self._same, **state}, buffer)
        files.replace(self._out / CHECKPOINT, buffer.getvalue())

    def step(self, row: Mapping[str, Any]) -> None:
        """Add a step to the log."""
        self._write({"kind": "step", **row})
        if self._board is not None:
            numbers = {name: row[name] for name in ("loss", "learning_rate")}
            self._board.log_metrics(numbers, row["step"])

    def epoch(self, row: Mapping[str, Any], step: int) -> None:
        """Add an epoch to the log."""
        self._write({"kind": "epoch", **row})
        if self._board is not None:
            numbers = {f"epoch/{name}": value for name, value in row.items() if value is not None}
            self._board.log_metrics(numbers, step)

    def close(self) -> None:
        """Close the log."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.finalize("")

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None, "load() opens the log"
        # JSON has no NaN and no infinity; null is what readers in other languages take.
        plain = {name: _finite(value) for name, value in row.items()}
        with files.room(self._out):
            self._file.write(json.dumps(plain, allow_nan=False) + "\n")
            self._file.flush()

    def _opened(self, *, anew: bool) -> IO[str]:
        path = self._out / LOG
        with files.room(self._out):
            if not anew and path.exists():
                whole = path.read_bytes().rpartition(b"\n")  # a kill may have cut the last line
                with path.open("r+b") as file:
                    file.truncate(len(whole[0]) + len(whole[1]))
            return path.open("w" if anew else "a", encoding="utf-8")

    def _rows(self) -> list[dict[str, Any]]:
        path = self._out / LOG
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:  # the line that a kill has cut
                continue
        return rows

    def _checked(self) -> dict[str, Any] | None:
        path = self._out / CHECKPOINT
        if not path.exists():
            told = max((row.get("epoch", 0) for row in self._rows()), default=0)
            if told > 1 or any(row["kind"] == "epoch" for row in self._rows()):
                raise ArgumentError(
                    f"{path} is gone, though {LOG} beside it tells of {told} epochs; put it back, "
                    "or start again with another --out"
                )
            return None
        state = read(path)
        differing = [name for name, value in self._same.items() if state["run"][name] != value]
        if differing:
            shown = ", ".join(
                f"{name} {state['run'][name]!r} and not {self._same[name]!r}" for name in differing
            )
            raise ArgumentError(
                f"{path} is of a run with {shown}; give what that run was given, or choose "
                "another --out"
            )
        return state


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, its tensors on the CPU; DataError where it is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] == FORMAT:
            return dict(state)
        reason = f"its format is {state['format']}, this version reads {FORMAT}"
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, OSError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
    raise DataError(
        f"{path} is no checkpoint of a run ({reason}); put a whole one there, or start again with "
        "another --out"
    )


def keeper(config: RunConfig | None) -> Record:
    """Return the record of a run: its folder where it is to leave checkpoints, else nothing."""
    if config is None or config.out is None or not config.checkpoint:
        return Nothing()
    return Folder(config, config.out)


def require_tensorboard() -> None:
    """Raise ArgumentError where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ArgumentError("--tensorboard needs a package: pip install 'ode-tasks[tensorboard]'")


def _board(out: Path, step: int | None) -> TensorBoardLogger:
    """Return a log whose earlier steps from `step` on, which are made again, are hidden."""
    return TensorBoardLogger(out, name=TENSORBOARD, version="", purge_step=step)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "keys") else value
