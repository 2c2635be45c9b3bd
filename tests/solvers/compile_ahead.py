"""Compile the Triton programs for a GPU that need not be there, and print what became of them.

Run as a script: Triton's interpreter, which the other tests use, replaces the compiler for a whole
process. The kernel itself starts the programs, with its own arguments; in place of running, each
is compiled for the GPU asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from ode_core import PIDController, Tolerance
from ode_core.loops.pace import TorchPace
from ode_core.tolerance import SampleTolerance
from ode_solvers.kernels.fused import Fused
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16,
          "fp16": torch.float16}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
BLOCK = 1024


class Absent:
    """A driver of a GPU of one generation that is not there."""

    def __init__(self, capability):
        self.capability = capability

    def get_current_device(self):
        return self.capability

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", self.capability, 32)


@dataclass(frozen=True)
class Compiling(Fused):
    """The kernel, which compiles each program in place of starting it."""

    found: tuple = ()

    def launch(self, kernel, programs, arguments, constants):
        made = kernel.warmup(*arguments, **constants, enable_fp_fusion=True, grid=(programs,))
        self.found[0].append((kernel.__name__, made))


def resources(kernel):
    """Return registers of a thread and bytes of its stack, as the machine code has them."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        told = subprocess.run([CUOBJDUMP, "--dump-resource-usage", file.name], check=True,
                              capture_output=True, text=True).stdout  # fmt: skip
    return int(re.search(r"REG:(\d+)", told)[1]), int(re.search(r"STACK:(\d+)", told)[1])


def facts(kernel):
    ptx, ttir = kernel.asm["ptx"], kernel.asm["ttir"]
    registers, stack = resources(kernel)
    # 16 bytes: four of 32 bits, or two of 64.
    wide = r"{}\.global[.\w]*\.(?:v4\.b32|v2\.b64)"
    return {
        "wide_loads": len(re.findall(wide.format("ld"), ptx)),
        "wide_stores": len(re.findall(wide.format("st"), ptx)),
        "widened_step": bool(re.search(r"arith\.extf.* : f32 to f64", ttir)),
        "float_argument": bool(re.search(r"tt\.func .*%\w+: f32", ttir)),
        "narrow_numbers": len(re.findall(r"arith\.constant .* : f32", ttir)),
        "offsets_64": bool(re.search(r"arith\.muli .* : i64", ttir))
        and not re.search(r"arith\.muli .*program.* : i32", ttir),
        "registers": registers,
        "stack": stack,
        "spills": kernel.n_spills if hasattr(kernel, "n_spills") else 0,
    }


def compiled(dtype, size, case):
    """Return the programs that one use of the kernel starts, with states of `size` reals."""
    found = []
    kernel = Compiling(found=(found,))
    rows, shape = 3, (size,)
    if case.endswith("many rows"):
        rows, size = 1000, size // 64 + size % 2
    one, many = torch.tensor(0.1, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
    if case.endswith("rows"):
        shape = (rows, size)
    y = torch.zeros(shape, dtype=DTYPES[dtype])
    if case.endswith("complex"):
        y = torch.view_as_complex(torch.zeros(size // 2, 2, dtype=DTYPES[dtype]))
    ks = [torch.zeros_like(y) for _ in range(16)]
    kind, *where = case.split()
    h = many if where[-1:] == ["rows"] else one if where == ["device"] else 0.1
    table = DOPRI8 if kind.endswith("8") else DOPRI5
    spread = torch.ones(size, dtype=torch.float64) if where == ["entries"] else 1e-3
    tolerance = (SampleTolerance if where[-1:] == ["rows"] else Tolerance)(spread, 1e-6)
    if kind.startswith("combine"):
        kernel.combine(y, h, table.solution_row, ks)
    elif kind == "pace":
        plain = TorchPace(PIDController(0.3, 0.4, 0.1, dt_min=0.01, dt_max=0.3), 5, 1.0, ())
        clock = torch.zeros(10, dtype=torch.float64)
        kernel.pace(plain).judge(clock, clock[:1], torch.zeros(15, dtype=torch.float64))
    elif kind == "dense":
        kernel.interpolate(y, h, 0.3, DOPRI5.dense, ks[:7])
    elif kind == "scatter":
        kernel.scattered(y, h, 0.0, tuple((w,) for _, w in DOPRI5.stage_rows[-1]))
    else:
        given = None if kind.startswith("make") else torch.zeros_like(y)
        norms = torch.zeros((len(table.error_rows), *getattr(h, "shape", ())))
        kernel._norms(norms.double(), (y, given), h, table.solution_row, table.error_rows, ks,
                      tolerance)  # fmt: skip
    return found


CASES = {
    "combine": "fp32 fp64 bf16 fp16", "combine8": "fp32 fp64", "combine device": "fp32 fp64",
    "combine rows": "fp32 fp64 bf16", "combine many rows": "fp32 fp64",
    "judge many rows": "fp32 fp64", "scatter": "fp32 fp64 bf16", "scatter rows": "fp32",
    "dense": "fp32 fp64 bf16", "dense rows": "fp32",
    "judge": "fp32 fp64 bf16 fp16", "make8": "fp32 fp64 bf16", "judge rows": "fp32 fp64",
    "judge device": "fp32 fp64", "judge entries": "fp32 fp64 bf16", "judge complex": "fp32 fp64",
    "make complex": "fp32", "pace": "fp64",
}  # fmt: skip


def main():
    capabilities = [int(word) for word in sys.argv[1:]] or [90]
    report = {}
    for capability in capabilities:
        triton.runtime.driver.set_active(Absent(capability))
        for case, dtypes in CASES.items():
            for dtype in dtypes.split():
                # Rows of an odd length begin anywhere; all else is wide for every size.
                odd = 4098 if case.endswith("complex") else 4097
                for size in (4096, odd) if capability == capabilities[0] else (odd,):
                    for name, kernel in compiled(dtype, size, case):
                        key = f"{case}, {dtype}, {size}, sm_{capability}: {name}"
                        report[key] = facts(kernel)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
