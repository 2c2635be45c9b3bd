"""All parts in order, within a time, and what they leave behind."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import triton

from ode_core import OdeError
from ode_solvers.gpu.correctness import CHECKS
from ode_solvers.gpu.memory import MEMORY
from ode_solvers.gpu.picture import picture
from ode_solvers.gpu.speed import SPEED
from ode_solvers.gpu.training import TRAINING
from ode_solvers.gpu.waiting import WAITING
from ode_solvers.gpu.whole import agrees, repeats
from ode_solvers.gpu.whole import speed as whole_speed

# One that fails must not take the others with it.
_FAILURES = (
    OdeError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, LookupError,
    ImportError, triton.errors.TritonError,
)  # fmt: skip
Say = Callable[[str], None]
PARTS = ("checks", "speed", "memory")
WHOLE = {"whole solves": agrees, "whole solves repeat to the bit": repeats}


def run(
    device: torch.device, out: Path, seconds: float, say: Say, parts: Sequence[str] = PARTS
) -> bool:
    """Run every check, on a GPU every measurement too; return whether all checks passed.

    What there is no time for is listed as left out, and so are parts that were not asked for.
    """
    report: dict[str, Any] = {"machine": machine(device), "checks": {}, "speed": {}, "memory": {}}
    say(json.dumps(report["machine"]))
    checks = CHECKS | WHOLE | WAITING if device.type == "cuda" else CHECKS | WHOLE
    speed = {"whole solves": whole_speed} | SPEED
    ends = time.monotonic() + seconds
    for part, measured in (("checks", checks), ("speed", speed), ("memory", MEMORY | TRAINING)):
        if part not in parts:
            report[part] = "left out: not asked for"
            continue
        if device.type != "cuda" and part != "checks":
            report[part] = "not measured: there is no GPU"
            continue
        for name, measure in measured.items():
            if time.monotonic() > ends:
                report[part][name] = "left out: no time"
            else:
                report[part][name] = _tried(measure, device)
            say(f"{part}: {name}: {json.dumps(report[part][name])}")
            _save(report, out)
    found = report["checks"] if "checks" in parts else {}
    passed = all(isinstance(one, dict) and one.get("passed") for one in found.values())
    report["passed"] = passed
    _save(report, out)
    if device.type == "cuda" and "speed" in parts:
        (out / "gpu.svg").write_text(picture(report))
    say("every check passed" if passed else "not every check passed")
    return passed


def _tried(measure: Callable[[torch.device], Any], device: torch.device) -> Any:
    started = time.monotonic()
    try:
        found = measure(device)
    except _FAILURES as error:
        found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:600]}
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return {**found, "seconds": round(time.monotonic() - started, 2)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on: versions and the device."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "device": "Triton's interpreter on the CPU",
        "conditional_nodes": hasattr(torch.cuda.CUDAGraph, "begin_capture_to_if_node"),
    }
    found |= dict(_peers())
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {
            "device": about.name,
            "memory_gib": round(about.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def _peers() -> Iterator[tuple[str, str]]:
    for name in ("ode-core", "ode-solvers", "ode-models", "torchdiffeq", "torchode", "diffrax"):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield name, "not installed"


def _save(report: dict[str, Any], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
