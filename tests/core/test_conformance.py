"""Each check of the kit, against a solver that is wrong on purpose in just that way."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ode_core
from ode_core import ArgumentError, SolverRecord, UnknownNameError, registry
from ode_core.testing import CHECKS, TIERS, check_solver

PATH = Path(__file__).with_name("wrong_solvers.py")


@pytest.fixture(scope="module", autouse=True)
def zoo():
    """The module of wrong solvers, importable by name as a record's target has to be."""
    spec = importlib.util.spec_from_file_location("wrong_solvers", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_solvers"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["wrong_solvers"]


def _names():
    spec = importlib.util.spec_from_file_location("wrong_solvers", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_solvers"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return list(module.WRONG), len(module.ALSO_WRONG)


IDS, OTHERS = _names()

# These need a record, or a GPU; their tests stand below.
ELSEWHERE = {
    "plugin.resolves",
    "plugin.name",
    "plugin.claims",
    "plugin.light_import",
    "device.cuda",
}


@pytest.fixture
def registered():
    """Register records for one test."""
    names = []

    def add(name, target, order=2, adaptive=True, **claims):
        ode_core.register(
            SolverRecord(name, f"wrong_solvers:{target}", "a test", order, adaptive, **claims)
        )
        names.append(name)
        return name

    yield add
    for name in names:
        registry.REGISTRY.remove("solver", name)


def only(solver, identity):
    (result,) = check_solver(solver, checks=[identity])
    return result


@pytest.mark.parametrize("maker", ["Heun", "BackwardEuler"])
def test_a_correct_solver_passes_every_check(zoo, maker):
    results = check_solver(getattr(zoo, maker)())
    assert [(r.id, r.reason) for r in results if not r.ok] == []
    assert {r.id for r in results} == {check.id for check in CHECKS}
    assert {r.tier for r in results if r.status == "passed"} == set(TIERS)


def test_every_check_has_a_solver_that_is_wrong_in_just_that_way():
    assert {check.id for check in CHECKS} == set(IDS) | ELSEWHERE


@pytest.mark.parametrize("identity", IDS)
def test_the_check_fails_for_its_wrong_solver(zoo, identity):
    result = only(zoo.WRONG[identity], identity)
    assert result.status == "failed"
    assert not result.ok
    assert len(result.reason) > 40


@pytest.mark.parametrize("index", range(OTHERS))
def test_claims_are_held_to_both_ways(zoo, index):
    identity, solver = zoo.ALSO_WRONG[index]
    assert only(solver, identity).status == "failed"


def test_a_target_that_is_not_there(registered):
    name = registered("nowhere", "Nothing")
    results = check_solver(name)
    failed = {r.id: r.reason for r in results if not r.ok}
    assert "Nothing" in failed["plugin.resolves"]
    # Nothing of the other tiers could run, and each of them says so.
    assert {f"{tier}.ran" for tier in TIERS[1:]} < set(failed)


def test_an_object_that_lacks_members():
    (result,) = check_solver(object(), checks=["plugin.resolves"])
    assert "no init, no step" in result.reason


def test_a_record_under_another_name(registered):
    name = registered("other_name", "Heun")
    assert "'heun21'" in only(name, "plugin.name").reason


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"order": 3}, "order=3"),
        ({"adaptive": False}, "adaptive=False"),
        ({"implicit": True}, "implicit=True"),
        ({"per_sample": False}, "per_sample=False"),
    ],
)
def test_a_record_that_claims_what_the_object_does_not(registered, claim, said):
    name = registered("claimed", "Heun", **({"per_sample": True} | claim))
    result = only(name, "plugin.claims")
    assert result.status == "failed"
    assert said in result.reason


def test_a_record_that_is_right_passes(registered):
    name = registered("heun21", "Heun", per_sample=True)
    results = check_solver(name, tiers=["plugin"])
    assert [r.id for r in results if not r.ok] == []


def test_a_solver_that_leaves_the_gpu(zoo):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    assert only(zoo.LeavesTheGPU(), "device.cuda").status == "failed"


def test_an_expected_failure_is_strict(zoo):
    reasons = {"hygiene.quiet": "it is verbose"}
    (noisy,) = check_solver(zoo.Prints(), checks=["hygiene.quiet"], expected_failures=reasons)
    assert (noisy.status, noisy.ok) == ("expected_failure", True)
    assert noisy.reason.startswith("it is verbose (a solve printed")
    (silent,) = check_solver(zoo.Heun(), checks=["hygiene.quiet"], expected_failures=reasons)
    assert (silent.status, silent.ok) == ("unexpected_pass", False)
    assert "take it off" in silent.reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expected_failures": {"api.shape": "why"}}, "'api.shape'"),
        ({"expected_failures": {"api.shapes": " "}}, "say why"),
        ({"tiers": ["numeric"]}, "'numeric'"),
        ({"checks": ["api.nothing"]}, "'api.nothing'"),
        ({"checks": ["api.shapes"], "tiers": ["api"]}, "not both"),
    ],
)
def test_what_does_not_exist_is_refused(zoo, options, said):
    with pytest.raises(ArgumentError, match=said):
        check_solver(zoo.Heun(), **options)


def test_an_unknown_name_is_an_error():
    with pytest.raises(UnknownNameError):
        check_solver("no_such_solver")


def test_a_tier_where_nothing_ran_fails(zoo):
    results = check_solver(zoo.BackwardEuler(), checks=["numerics.tolerance"])
    assert [(r.id, r.status) for r in results] == [
        ("numerics.tolerance", "skipped"),
        ("numerics.ran", "failed"),
    ]
    assert "no error estimate" in results[1].reason


def test_a_check_leaves_the_process_as_it_was(zoo):
    before = torch.get_rng_state(), torch.get_default_dtype()
    check_solver(zoo.Draws(), tiers=["hygiene"])
    check_solver(zoo.Heun(), tiers=["device"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_default_dtype() == before[1]


def test_the_kit_is_found_without_importing_torch():
    code = (
        "import ode_core.testing, ode_core.testing.options, sys; assert 'torch' not in sys.modules"
    )
    assert ode_core.testing.TIERS == TIERS

    subprocess.run([sys.executable, "-c", code], check=True)
