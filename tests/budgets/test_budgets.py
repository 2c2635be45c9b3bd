"""No solver does more beside f than its budget allows."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from ode_core import registry
from tests.budgets.budgets import PAGE, WRITE, changes, measured, solvers, stored
from tests.budgets.write import page


@pytest.mark.parametrize("name", solvers())
def test_no_count_is_above_its_budget(name):
    risen, fallen = changes(name, measured(name), stored().get(name, {}))
    assert not risen, "these counts rose:\n" + "\n".join(risen)
    if fallen:
        warnings.warn(f"{len(fallen)} counts of {name} fell; hold them: {WRITE}", stacklevel=1)


def test_every_budget_has_a_solver():
    assert sorted(stored()) == sorted(solvers())


def test_the_page_shows_the_budgets():
    assert PAGE.read_text() == page(stored()), f"docs/budgets.md is not that of now: {WRITE}"


class Wasteful:
    """Euler's method with one operation, one allocation and one wait more than it needs."""

    name, order, adaptive, implicit, one_step = "wasteful", 1, False, False, True
    per_sample = False

    def init(self, field, t, y):
        return ()

    def step(self, field, t0, t1, y, carry, tolerance):
        made = registry.solvers.create("euler").step(field, t0, t1, y, carry, tolerance)
        made.y.abs().tolist()
        return made


def test_one_operation_more_is_found():
    risen, fallen = changes("wasteful", measured(Wasteful()), measured("euler"))
    assert [text for text in risen if "step:" in text] == [
        "wasteful, shared step: operations 2 -> 3",
        "wasteful, shared step: read 2 -> 3",
        "wasteful, shared step: written 1 -> 2",
        "wasteful, shared step: allocations 2 -> 3",
        "wasteful, shared step: allocated 1 -> 2",
        "wasteful, shared step: synchronisations 0 -> 1",
    ]
    assert all("is not counted any more" in text for text in fallen)


def test_less_is_noticed_and_new_ones_need_a_budget():
    allowed = {"shared step": dict.fromkeys(measured("euler")["shared step"], 5.0)}
    found = copy.deepcopy(allowed)
    found["shared step"]["operations"] = 4.0
    assert changes("x", found, allowed) == ([], ["x, shared step: operations 5 -> 4"])
    risen, _ = changes("x", found | {"per_sample step": found["shared step"]}, allowed)
    assert risen == [f"x, per_sample step: has no budget; {WRITE} gives it one"]


def test_counts_do_not_depend_on_threads_or_what_ran_before():
    before = measured("dopri5")
    torch.randn(100, 100).matmul(torch.randn(100, 100))
    assert measured("dopri5") == before
