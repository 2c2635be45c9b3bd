"""A dozen rude plugins installed at once: each is named once, and everything else works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.acceptance.guests import GOOD, RUDE, install, install_rude

NAMES = [f"rude-{name}" for name in RUDE]


@pytest.fixture(scope="module")
def rude(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    install_rude(site)
    install(site, "good-guest", GOOD)
    return beside(site)


def beside(site):
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def python(environment, *arguments):
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def sentences(stderr):
    return {
        name: [line for line in stderr.splitlines() if f"the plugin {name} 1.0 " in line]
        for name in NAMES
    }


@pytest.fixture(scope="module")
def listed(rude):
    return python(rude, "-m", "ode_core", "list", "--json")


def test_each_is_named_once_and_no_two_sentences_are_alike(listed):
    said = sentences(listed.stderr)
    assert {name: len(lines) for name, lines in said.items()} == dict.fromkeys(NAMES, 1)
    bare = {line.replace(name, "").replace(name.replace("-", "_"), "")
            for name, (line,) in said.items()}  # fmt: skip
    assert len(bare) == len(NAMES)
    assert listed.stderr.count("the plugin ") == len(NAMES)
    assert "Traceback" not in listed.stderr


@pytest.mark.parametrize("name", RUDE)
def test_a_sentence_has_its_own_cause_and_the_way_out(listed, name):
    _, _, cause, remedy = RUDE[name]
    (line,) = sentences(listed.stderr)[f"rude-{name}"]
    assert cause in line
    assert remedy in line
    assert f"ODE_PLUGINS_BLOCK=rude-{name}" in line


def test_the_list_shows_their_status_and_everything_else(listed):
    rows = json.loads(listed.stdout)
    status = {row["package"]: row["status"] for row in rows if row["kind"] == "plugin"}
    assert status["good-guest"] == status["ode-solvers"] == "active"
    assert {name: status[f"rude-{name}"] for name in RUDE} == {n: RUDE[n][1] for n in RUDE}
    solvers = {row["name"] for row in rows if row["kind"] == "solver"}
    assert solvers >= {"dopri5", "rude-greedy:dopri5", "good_guest", "rude_rubbish", "rude_upsets"}
    assert "rude_newer" not in solvers


def test_a_solve_is_what_it_would_be_without_them(rude):
    code = """
import os, signal, sys, warnings
before = [os.getcwd(), list(sys.path), dict(os.environ), signal.getsignal(signal.SIGINT)]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    import ode_core
    filters = list(warnings.filters)
    solution = ode_core.solve(lambda t, y: -y, torch.ones(1), [0.0, 1.0])
    assert warnings.filters == filters
    assert ode_core.solvers["dopri5"].package == "ode-solvers"
assert before == [os.getcwd(), list(sys.path), dict(os.environ), signal.getsignal(signal.SIGINT)]
assert torch.get_default_dtype() == torch.float32
assert {w.category for w in caught} == {ode_core.PluginWarning}
print(len(caught), round(float(solution.ys[-1]), 3))
"""
    # Only a program that has not imported torch itself waits for a plugin that does.
    assert python(rude, "-c", code).stdout.split()[-2:] == [str(len(NAMES) - 1), "0.368"]


def test_the_benchmark_plans_with_them_and_has_a_row_for_each_that_is_lost(rude, tmp_path):
    done = python(
        rude, "-m", "ode_core", "benchmark", "--tasks", "linear",
        "--solvers", "euler,good_guest,rude-greedy:dopri5", "--dry-run", "--json",
        "--out", str(tmp_path / "result"),
    )  # fmt: skip
    rows = json.loads(done.stdout)
    lost = {row["packages"]["plugin"] for row in rows if row["status"] == "plugin_failed"}
    assert lost == {f"rude-{name} 1.0" for name, (_, status, *_) in RUDE.items()
                    if status != "active"}  # fmt: skip
    planned = {row["solver"] for row in rows if row["status"] == "planned"}
    assert planned == {"euler", "good_guest", "rude-greedy:dopri5"}


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"ODE_PLUGINS_BLOCK": ",".join(NAMES)}, ()),
        ({"ODE_PLUGINS_ALLOW": "good-guest"}, ()),
        ({}, ("--no-plugins",)),
    ],
)
def test_who_is_kept_away_is_not_even_imported(rude, variables, arguments):
    done = python(rude | variables, "-X", "importtime", "-m", "ode_core", "list", "plugins",
                  "--json", *arguments)  # fmt: skip
    assert not re.search(r"\| +rude_", done.stderr)
    assert "the plugin" not in done.stderr
    status = {row["package"]: row["status"] for row in json.loads(done.stdout)}
    assert {status[name] for name in NAMES} == {"blocked"}
    assert status["good-guest"] == ("blocked" if arguments else "active")


def test_a_distribution_whose_entry_points_cannot_be_read_is_named_and_no_more(tmp_path):
    # Python's own search for entry points, which torch makes when it is imported, ends at this one.
    install(tmp_path, "rude-torn", GOOD, "guest\n")
    install(tmp_path, "good-guest", GOOD)
    done = python(beside(tmp_path), "-m", "ode_core", "list", "plugins", "--json")
    status = {row["package"]: row["status"] for row in json.loads(done.stdout)}
    assert (status["rude-torn"], status["good-guest"]) == ("failed", "active")
    assert (
        "rude-torn 1.0 could not be loaded: it raised ValueError: its entry_points" in done.stderr
    )


def test_fifty_guests_are_listed_without_torch(tmp_path):
    for number in range(50):
        install(tmp_path, f"guest-{number}", GOOD)
    code = (
        "import sys\n"
        "from ode_core.cli import main\n"
        "for words in (['list'], ['list', 'plugins'], ['--help']):\n"
        "    assert main(words) == 0\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python(beside(tmp_path), "-c", code)
    assert done.stdout.count("guest-49") == 3  # among the solvers, and twice among the plugins
    assert done.stderr == ""
