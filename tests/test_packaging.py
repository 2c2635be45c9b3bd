"""What the four packages declare, and the files that say which versions that means."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECTS = {
    path.parent.name: tomllib.loads(path.read_text())["project"]
    for path in sorted((ROOT / "packages").glob("*/pyproject.toml"))
}
# Their versions go together, and torch's floor is that of the oldest one that was run.
WITH_TORCH = {"torch", "torchvision", "triton"}


def pins(name):
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def requirements():
    for project in PYPROJECTS.values():
        extras = project.get("optional-dependencies", {}).values()
        for line in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            name, wanted = re.fullmatch(r"([\w-]+)(.*)", line).groups()
            yield name, wanted


@pytest.mark.parametrize(("name", "wanted"), sorted(set(requirements())))
def test_a_requirement_is_a_range_whose_floor_is_in_the_file_of_floors(name, wanted):
    assert wanted.startswith(">="), f"{name}{wanted}: a range with a floor, never =="
    if name.startswith("ode-"):
        assert wanted == ">=0.1,<0.2"
        return
    assert name in pins("constraints.txt")
    floor = re.match(r">=([\d.]+)", wanted)[1].split(".")
    if name not in WITH_TORCH:
        lowest = pins("constraints-lowest.txt")[name].split(".")
        assert lowest == floor + ["0"] * (len(lowest) - len(floor)), name


def test_the_file_of_floors_has_nothing_else():
    assert (
        set(pins("constraints-lowest.txt"))
        == {name for name, _ in requirements() if not name.startswith("ode-")} - WITH_TORCH
    )


def test_all_four_are_one_release_with_what_users_look_for():
    assert len(PYPROJECTS) == 4
    assert len({project["version"] for project in PYPROJECTS.values()}) == 1
    for name, project in PYPROJECTS.items():
        folder = ROOT / "packages" / name
        assert (folder / project["readme"]).is_file()
        assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
        assert (folder / "src" / name.replace("-", "_") / "py.typed").is_file()
    version = PYPROJECTS["ode-core"]["version"]
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_hooks_before_a_commit_run_the_tested_ruff():
    found = re.findall(r"ruff==([\d.]+)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert set(found) == {pins("constraints.txt")["ruff"]}
