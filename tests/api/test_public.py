"""What users can rely on changes only where somebody has looked at the change."""

from __future__ import annotations

import pytest

from tests.api.surface import SNAPSHOT, changes, surface


@pytest.fixture(scope="module")
def found():
    return surface()


def test_the_public_names_are_those_of_the_snapshot(found):
    difference = changes(SNAPSHOT.read_text().splitlines(), found)
    assert not difference, (
        f"the public surface differs from {SNAPSHOT.name}\n{difference}\n"
        "If that is meant: python -m tests.api.surface, CHANGELOG.md, and where something that "
        "plugins rely on is taken away, docs/plugin-policy.md"
    )


def test_a_name_that_is_lost_and_a_signature_that_changes_show(found):
    (solve,) = [line for line in found if line.startswith("ode_core.solve(")]
    assert "solver: str | Solver = 'dopri5'" in solve
    changed = [line for line in found if line != solve] + [
        solve.replace("dense: bool", "keep: bool")
    ]
    said = changes(found, changed)
    assert said.startswith("taken away or changed, which breaks users:\n  - ode_core.solve(f")
    assert "added:\n  + ode_core.solve(f" in said
    assert changes(found, found) == ""


@pytest.mark.parametrize(
    "line",
    ["solvers: dopri5", "ode_core.Status.SUCCESS", "class ode_models.ODEBlock(field", "ode run:"],
)
def test_every_kind_of_name_is_looked_at(found, line):
    assert [other for other in found if other.startswith(line)]
