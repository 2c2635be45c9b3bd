"""The command: correctness, then speed, then memory, on the first CUDA device.

It needs no more than the wheels of ode-core and ode-solvers, torch and triton; ODENet is trained
where ode-models is installed, and torchdiffeq, torchode and diffrax are measured beside it where
they are. It leaves one JSON file and
one picture.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

_SECONDS = 540.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts in order; return 0 where every check passed, else 1."""
    parser = argparse.ArgumentParser("python -m ode_solvers.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(), help="folder for gpu.json and gpu.svg")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="time for all of it")
    parser.add_argument(
        "--interpret", action="store_true",
        help="the correctness part alone, on the CPU in Triton's interpreter",
    )  # fmt: skip
    parser.add_argument(
        "--only", choices=("checks", "speed", "memory"), action="append",
        help="this part alone, as for compute-sanitizer; may be given again",
    )  # fmt: skip
    asked = parser.parse_args(argv)
    if asked.interpret:
        # Triton reads it when the kernels are imported, which is later.
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        _say(
            "there is no CUDA device here: run this on a machine with one, or with --interpret, "
            "which does the correctness part in Triton's interpreter"
        )
        return 1
    run: Any = importlib.import_module("ode_solvers.gpu.run")
    device = torch.device("cpu" if asked.interpret else "cuda")
    parts = asked.only or run.PARTS
    passed: bool = run.run(device, asked.out, asked.seconds, _say, parts)
    return 0 if passed else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
