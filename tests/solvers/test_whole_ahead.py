"""The programs of whole solves compile for GPUs on a machine without one, and need no memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_whole_ahead.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    found = {}
    for given in (["90", "0", "1", "2"], ["80", "3"]):
        done = subprocess.run([sys.executable, str(SCRIPT), *given], env=environment,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        found |= json.loads(done.stdout)
    return found


def test_both_ways_of_both_kinds_compile(compiled):
    assert len(compiled) == 7
    assert sum("pull_kernel" in name for name in compiled) == 3


def test_steps_are_made_in_registers_alone(compiled):
    for name, fact in compiled.items():
        assert fact["spills"] == 0, name
        assert fact["stack"] == 0, name
        assert 32 <= fact["registers"] <= 255, name


def test_offsets_have_64_bits_and_no_number_passes_through_float32(compiled):
    for name, fact in compiled.items():
        assert fact["offsets_64"], name
        assert fact["row_64"], name
        assert not fact["float_argument"], name
        if "float64" in name:
            assert not fact["widened_step"], name
            assert not fact["narrow_numbers"], name
