"""The Triton programs compile for GPUs on a machine without one, and into what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_ahead.py")
# Bytes of each tensor that a thread takes in one block.
BYTES = {"fp32": 32, "fp64": 32, "bf16": 16, "fp16": 16}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, str(SCRIPT), "90", "80"], env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [dict(fact, name=name) for name, fact in json.loads(done.stdout).items()]


def test_every_program_compiles_for_both_generations(compiled):
    names = {fact["name"].split(", ")[-1] for fact in compiled}
    programs = ("combine", "combine_rows", "scatter", "scatter_rows", "finish", "finish_rows",
                "norm", "pace")  # fmt: skip
    assert names == {f"sm_{c}: {p}_kernel" for c in (80, 90) for p in programs}


def test_nothing_spills_and_registers_are_few(compiled):
    for fact in compiled:
        assert fact["spills"] == 0, fact
        assert fact["stack"] == 0, fact
        assert 16 <= fact["registers"] <= 80, fact


def test_blocks_inside_the_state_load_and_store_sixteen_bytes(compiled):
    """For odd sizes, too: a row that begins between two multiples of 16 bytes is met before it."""
    for fact in compiled:
        case, dtype, size, _ = fact["name"].split(", ")
        kind, *where = case.split()
        if "norm" in fact["name"] or kind == "pace":
            continue
        # Where 16 divides the size the path with masks is as wide as the one without; and blocks of
        # rows have one more, at their ends. Norms of many short rows know the one with masks alone.
        paths = 2 if int(size) % 16 == 0 else 1
        paths += where in (["rows"], ["device"])
        if kind == "judge" and where == ["many", "rows"]:
            paths -= 1
        each = paths * BYTES[dtype] // 16
        tensors = {"combine": 6, "combine8": 9, "dense": 7, "scatter": 1, "judge": 8, "make8": 9,
                   "make": 7}[kind]  # fmt: skip
        if where != ["entries"] and "complex" not in where:
            assert fact["wide_loads"] == each * tensors, fact
        assert fact["wide_loads"] >= each * tensors / 2, fact
        made = {"judge": 0, "scatter": 5}.get(kind, 1)
        assert fact["wide_stores"] >= each * made / 2, fact
        assert bool(fact["wide_stores"]) == bool(made), fact


def test_offsets_have_64_bits(compiled):
    for fact in compiled:
        assert fact["offsets_64"] or "pace" in fact["name"], fact


def test_no_step_size_and_no_tolerance_passes_through_float32(compiled):
    for fact in compiled:
        assert not fact["float_argument"], fact
        if "fp64" in fact["name"]:
            assert not fact["widened_step"], fact
            assert not fact["narrow_numbers"], fact
