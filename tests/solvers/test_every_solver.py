"""The conformance kit over every registered solver, a test for each tier."""

from __future__ import annotations

import pytest

import ode_core
from ode_core.testing import TIERS, check_solver

TIMID = "Fehlberg's own estimate, (k3 - k1) / 512, is hundreds of times below the error"
BEYOND = "the method has a stage at 1.23 of a step"
THROUGH = "SciPy's own ValueError comes through"
PARTED = "decay drives its two solutions apart, and no step is accepted beyond 100 tolerances"
DRAWN = "each step draws the one at the edge back to the other, so that the edge is never reached"
SHORTER = "what SciPy gives up on is tried again over ever shorter stretches, for very long"

# Solver -> id of a check -> why it fails; strict, so what is mended has to leave this list.
EXPECTED: dict[str, dict[str, str]] = {
    "fehlberg2": {
        "api.dtypes": TIMID,
        "numerics.tolerance": TIMID,
        "numerics.retries": TIMID,
        "numerics.end_values": TIMID,
    },
    "kvaerno5": {
        "api.interval": BEYOND,
        "numerics.restart": BEYOND,
        "numerics.dense_output": "a cubic between steps of order 5",
    },
    "reversible_dopri5": {
        "numerics.end_values": PARTED,
        "numerics.not_finite": DRAWN,
        "gradient.rejected_step": PARTED,
    },
    "scipy_radau": {"numerics.not_finite": THROUGH, "numerics.singularity": SHORTER},
    "scipy_bdf": {"numerics.not_finite": THROUGH, "numerics.singularity": SHORTER},
    "scipy_lsoda": {"numerics.not_finite": SHORTER, "numerics.singularity": SHORTER},
}

SOLVERS = [name for name, record in ode_core.solvers.items() if record.package == "ode-solvers"]


def test_the_solvers_of_the_suite_are_there():
    assert len(SOLVERS) >= 30
    assert set(EXPECTED) <= set(SOLVERS)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", SOLVERS)
def test_it_is_what_its_record_says(name, tier):
    failing = {i: why for i, why in EXPECTED.get(name, {}).items() if i.startswith(f"{tier}.")}
    results = check_solver(name, tiers=[tier], expected_failures=failing)
    assert [(r.id, r.reason) for r in results if not r.ok] == []
    assert any(r.status == "passed" for r in results)
    assert {r.id for r in results if r.status == "expected_failure"} == set(failing)
