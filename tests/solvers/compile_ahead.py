"""Compile the Triton programs for a GPU that need not be there, and print what became of them.

Run as a script: Triton's interpreter, which the other tests use, replaces the compiler for a whole
process.
"""

from __future__ import annotations

import itertools
import json
import re
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ode_solvers.kernels import programs
from ode_solvers.tables.dopri5 import DOPRI5
from ode_solvers.tables.dopri8 import DOPRI8

BLOCK = 1024
ACCUMULATORS = {"fp32": tl.float32, "bf16": tl.float32, "fp16": tl.float32, "fp64": tl.float64}


def compiled(program, pointers, values, constants, capability):
    """Return the compiled program, its pointers assumed to be aligned to 16 bytes."""
    names = program.arg_names
    signature = pointers | values | dict.fromkeys(constants, "constexpr")
    attributes = {}
    for name, kind in pointers.items():
        place = names.index(name)
        places = [(place, i) for i in range(len(kind))] if isinstance(kind, tuple) else [(place,)]
        attributes |= {p: [["tt.divisibility", 16]] for p in places}
    source = ASTSource(
        fn=program,
        signature={name: signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=attributes,
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"enable_fp_fusion": True})


def combine(dtype, weights, size, capability):
    kind = f"*{dtype}"
    pointers = {"y": kind, "out": kind, "h": "*fp64", "ks": (kind,) * len(weights)}
    constants = {"W": weights, "ACC": ACCUMULATORS[dtype], "BLOCK": BLOCK}
    return compiled(programs.combine_kernel, pointers, {"n": size}, constants, capability)


def finish(dtype, table, make, wide, capability):
    kind, acc = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
    error = table.b_error
    b = (*table.b, 0.0)[: len(error)]
    pointers = {
        "y0": kind, "y1": kind, "partial": "*fp64", "h": "*fp64", "allowed": "*fp64",
        "rtol": acc if wide else "*fp64", "atol": acc if wide else "*fp64",
        "ks": (kind,) * len(error),
    }  # fmt: skip
    constants = {"B": b, "E": error, "MAKE": make, "WIDE": wide, "ACC": ACCUMULATORS[dtype],
                 "BLOCK": BLOCK}  # fmt: skip
    return compiled(programs.finish_kernel, pointers, {"n": "i64"}, constants, capability)


def facts(kernel):
    ptx = kernel.asm["ptx"]
    return {
        "wide_loads": len(re.findall(r"ld\.global[.\w]*\.v[24]\.b(?:32|64)", ptx)),
        "wide_stores": len(re.findall(r"st\.global[.\w]*\.v[24]\.b(?:32|64)", ptx)),
        "float_step": bool(re.search(r"cvt\.f64\.f32", ptx)),
        "spilled": getattr(kernel.metadata, "n_spills", 0) or 0,
        "offsets_64": "mul.wide" in ptx or "shl.b64" in ptx or "mul.lo.s64" in ptx,
    }


def main():
    row = tuple(weight for _, weight in DOPRI5.stage_rows[-1])
    long = tuple(weight for _, weight in DOPRI8.solution_row)
    found = {}
    for capability, dtype in itertools.product((80, 90), ACCUMULATORS):
        for size in ("i32", "i64"):
            kernel = combine(dtype, row, size, capability)
            found[f"combine {dtype} {size} sm_{capability}"] = facts(kernel)
        kernel = combine(dtype, long, "i64", capability)
        found[f"combine {dtype} dopri8 sm_{capability}"] = facts(kernel)
        for make, wide in itertools.product((False, True), repeat=2):
            kernel = finish(dtype, DOPRI5, make, wide, capability)
            found[f"finish {dtype} make={make} wide={wide} sm_{capability}"] = facts(kernel)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
