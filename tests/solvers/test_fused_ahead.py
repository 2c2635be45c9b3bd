"""The Triton programs compile for GPUs on a machine without one, and into what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_ahead.py")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run([sys.executable, str(SCRIPT)], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_program_compiles_for_both_generations(compiled):
    assert len(compiled) == 2 * 4 * (2 + 1 + 4)


def test_blocks_inside_the_state_load_and_store_sixteen_bytes(compiled):
    for name, facts in compiled.items():
        assert facts["wide_loads"] >= 2, name
        if name.startswith("combine"):
            assert facts["wide_stores"] >= 1, name


def test_offsets_have_64_bits_and_float64_has_no_float32_step(compiled):
    for name, facts in compiled.items():
        assert facts["offsets_64"], name
        if "fp64" in name:
            assert not facts["float_step"], name
