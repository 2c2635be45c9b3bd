"""`ode peers`: the suite beside other solvers on the same work."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from ode_core.errors import ArgumentError
from ode_tasks.benchmark.cell import OK
from ode_tasks.peers import works as catalogue
from ode_tasks.peers.compare import Settings, compare
from ode_tasks.peers.contest import BACKWARD, FORWARD, SUITE
from ode_tasks.peers.diffrax import Diffrax
from ode_tasks.peers.scipy import SciPy
from ode_tasks.peers.suite import Suite
from ode_tasks.peers.table import write
from ode_tasks.peers.torchdiffeq import Torchdiffeq
from ode_tasks.peers.torchode import Torchode
from ode_tasks.progress import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ode_core.console import Output
    from ode_core.protocols import Progress
    from ode_tasks.peers.compare import Row
    from ode_tasks.peers.contest import Peer
    from ode_tasks.peers.works import Work

_INTERRUPTED = 130

PEERS: tuple[Peer, ...] = (Suite(), Torchdiffeq(), Torchode(), Diffrax(), SciPy())

COLUMNS = (
    "work",
    "direction",
    "peer",
    "variant",
    "seconds",
    "times_suite",
    "over_floor",
    "step_overhead",
    "f_forward",
    "f_backward",
    "steps",
    "error",
    "gradient_error",
    "compile_seconds",
    "status",
    "reason",
)


class Direction(StrEnum):
    """Which passes are timed."""

    forward = "forward"
    backward = "backward"
    both = "both"


def peers(
    ctx: typer.Context,
    *,
    works: Annotated[
        str, typer.Option(help="Names or groups (table, growth), separated by commas.")
    ] = catalogue.TABLE,
    peers: Annotated[str, typer.Option(help="Names, separated by commas; all if not given.")] = "",
    direction: Annotated[
        Direction, typer.Option(help="forward, backward (both passes together), or both of these.")
    ] = Direction.both,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds; medians are shown.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads for everyone.")] = 1,
    device: Annotated[
        str, typer.Option(help="cpu or cuda; by default the CPU and, where present, CUDA.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Leave peers.json, peers.md and plots in this folder.")
    ] = None,
) -> None:
    """Time the suite beside torchdiffeq, torchode, diffrax and SciPy on the same work."""
    output: Output = ctx.obj
    if out is not None and out.exists() and not out.is_dir():
        raise ArgumentError(f"--out takes a folder, and {out} is a file; choose another")
    chosen = _peers(_listed(peers))
    cells = [
        (work, way, Settings(rounds, threads, where))
        for where in _devices(device)
        for work in catalogue.chosen(_listed(works))
        for way in _directions(work, direction)
    ]
    rows: list[Row] = []
    interrupted = False
    try:
        with shown(output, "peers") as progress:
            _run(cells, chosen, progress, rows, output)
    except KeyboardInterrupt:
        output.note("ode: interrupted; tables have what was finished")
        interrupted = True
    output.rows(rows, COLUMNS)
    if out is not None and rows:
        for path in write(out, rows):
            output.note(f"written to {path}")
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
    if not any(row["status"] == OK for row in rows):
        raise typer.Exit(1)


def _run(
    cells: Sequence[tuple[Work, str, Settings]],
    chosen: Sequence[Peer],
    progress: Progress,
    rows: list[Row],
    output: Output,
) -> None:
    progress.start(len(cells), "")
    for work, way, settings in cells:
        found = list(compare(work, way, chosen, settings))
        rows += found
        progress.advance(f"{work.name}, {way}")
        done = sum(row["status"] == OK for row in found)
        output.note(f"{work.name}, {way}, {settings.device}: {done} of {len(found)} measured")


def _directions(work: Work, asked: Direction) -> list[str]:
    """Return the passes to time; a work that is solved forwards only is not asked for more."""
    ways = {Direction.forward: [FORWARD], Direction.backward: [BACKWARD]}.get(
        asked, [FORWARD, BACKWARD]
    )
    return ways if work.backward or asked is Direction.backward else [FORWARD]


def _devices(asked: str) -> list[str]:
    if not asked:
        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise ArgumentError(f"--device {asked}: torch sees no GPU on this machine; take cpu")
    return [str(torch.device(asked))]


def _peers(names: Sequence[str]) -> list[Peer]:
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in known:
            raise ArgumentError(f"there is no peer {name!r}; peers are {', '.join(known)}")
    return [peer for peer in PEERS if not names or peer.name in (SUITE, *names)]


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
