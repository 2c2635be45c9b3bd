"""The matrix: which cells there are, which are not run and why, and what their keys depend on."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ode_core import ArgumentError, UnknownNameError, registry
from ode_tasks.benchmark import provenance
from ode_tasks.benchmark.estimate import Times
from ode_tasks.benchmark.plan import Selection, plan


def planned(**selection):
    """Return (task, model, solver, gradient) → (status, reason)."""
    return {
        (p.cell.task, p.cell.model, p.cell.solver, p.cell.gradient): (p.status, p.reason)
        for p in plan(Selection(**selection))
        if p.status != "plugin_failed"
    }


@pytest.mark.usefixtures("fakes")
def test_every_task_meets_every_solver():
    cells = planned()
    assert set(registry.tasks) == {task for task, *_ in cells}
    for task in ("fake_task", "fake_other"):
        assert {s for t, _, s, _ in cells if t == task} == set(registry.solvers)


@pytest.mark.usefixtures("fakes")
def test_reasons():
    cells = planned(
        tasks=["fake_task", "fake_data", "fake_large"],
        solvers=["fake_a", "fake_implicit", "fake_absent", "fake_external", "fake_pairs"],
    )

    def outcome(task, solver):
        return cells[task, "fake_model", solver, "direct"]

    assert outcome("fake_task", "fake_a") == ("", "")
    assert outcome("fake_task", "fake_implicit") == ("", "")
    assert outcome("fake_data", "fake_a") == ("skipped", "no data, pass --data fake_data=PATH")
    status, reason = outcome("fake_task", "fake_absent")
    assert status == "skipped"
    assert "pip install 'no-such-package[extra]>=2'" in reason
    status, reason = outcome("fake_task", "fake_external")
    assert (status, "not differentiable" in reason) == ("skipped", True)
    status, reason = outcome("fake_task", "fake_pairs")
    assert (status, "takes pairs (q, v)" in reason) == ("skipped", True)
    status, reason = outcome("fake_large", "fake_implicit")
    assert status == "skipped"
    assert reason.startswith("too costly: an implicit solver on a state of 100000 numbers")


@pytest.mark.usefixtures("fakes")
def test_data_makes_the_cells_run(tmp_path):
    cells = planned(tasks=["fake_data"], solvers=["fake_a"], data={"fake_data": tmp_path})
    assert list(cells.values()) == [("", "")]


@pytest.mark.usefixtures("fakes")
def test_a_model_that_solves_nothing_is_one_cell_and_a_misfit_says_so():
    cells = planned(
        tasks=["fake_task"], models=["fake_plain", "fake_misfit"], solvers=["fake_a", "fake_b"]
    )
    assert cells["fake_task", "fake_plain", "", ""] == ("", "")
    status, reason = cells["fake_task", "fake_misfit", "", ""]
    assert status == "skipped"
    assert "'fake_misfit' is for no" in reason
    assert len(cells) == 2


@pytest.mark.usefixtures("fakes")
def test_seeds_and_gradients_multiply():
    items = plan(Selection(tasks=["fake_task"], solvers=["fake_a", "fake_b"], seeds=3))
    assert [(p.cell.solver, p.cell.seed) for p in items if p.cell.task] == [
        (solver, seed) for solver in ("fake_a", "fake_b") for seed in range(3)
    ]


@pytest.mark.usefixtures("fakes")
def test_an_unknown_name_offers_the_nearest():
    with pytest.raises(UnknownNameError, match="fake_task"):
        plan(Selection(tasks=["fake_tusk"]))
    with pytest.raises(UnknownNameError, match="fake_a"):
        plan(Selection(solvers=["fake_aa"]))


@pytest.mark.usefixtures("fakes")
def test_the_key_changes_with_what_determines_the_result():
    (item,) = (p for p in plan(Selection(tasks=["fake_task"], solvers=["fake_a"])) if p.cell.task)
    cell = item.cell
    again = dataclasses.replace(cell)
    changed = [
        dataclasses.replace(cell, **change)
        for change in (
            {"solver": "fake_b"},
            {"seed": 1},
            {"preset": "quick"},
            {"data_hash": "another"},
            {"rtol": 1e-3},
            {"dt": 0.1},
            {"sources": (("solver", "another"),)},
            {"machine": "another"},
            {"packages": (*cell.packages[:-1], ("gradient", "ode-core 99"))},
        )
    ]
    assert again.key == cell.key
    assert len({cell.key, *(c.key for c in changed)}) == len(changed) + 1
    assert len(cell.key) == 16


@pytest.mark.usefixtures("fakes")
def test_a_changed_plugin_file_changes_the_key(tmp_path, monkeypatch):
    file = tmp_path / "changing.py"
    source = (
        "from ode_core import SolverRecord, hookimpl\n"
        "@hookimpl\n"
        "def ode_solvers():\n"
        "    yield SolverRecord('changing', 'changing:x', 'x', order=1, adaptive=False)\n"
    )
    keys = set()
    monkeypatch.setenv("ODE_PLUGIN_FILES", str(file), prepend=os.pathsep)
    for text in (source, source, source + "x = 1\n"):
        file.write_text(text)
        registry.REGISTRY.refresh()
        items = plan(Selection(tasks=["fake_task"], solvers=["changing"]))
        keys |= {p.cell.key for p in items if p.cell.task}
    assert len(keys) == 2


def test_a_plugin_that_failed_is_a_row_with_its_cause(tmp_path, monkeypatch):
    file = tmp_path / "broken_guest.py"
    file.write_text("raise RuntimeError('cannot find the key')\n")
    monkeypatch.setenv("ODE_PLUGIN_FILES", str(file))
    registry.REGISTRY.refresh()
    with pytest.warns(registry.PluginWarning):
        items = plan(Selection(tasks=["linear"], solvers=["euler"]))
    monkeypatch.undo()
    registry.REGISTRY.refresh()
    reasons = [p.reason for p in items if p.status == "plugin_failed"]
    assert any("broken_guest.py" in r and "cannot find the key" in r for r in reasons)


def test_planning_imports_no_torch():
    code = (
        "import sys, ode_core.cli\n"
        "status = ode_core.cli.main(['benchmark', '--dry-run', '--json'])\n"
        "assert status == 0, status\n"
        "heavy = {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)
    assert {row["task"] for row in rows} >= {"cifar10", "digits", "glucose", "linear", "spiral"}
    reasons = {row["reason"] for row in rows if row["task"] == "cifar10"}
    assert reasons <= {"no data, pass --data cifar10=PATH", "the model 'odenet' is not installed"}


@pytest.mark.usefixtures("fakes")
def test_tolerances_are_for_those_that_choose_their_steps_and_steps_for_the_others():
    items = plan(
        Selection(
            tasks=["fake_task"],
            models=["fake_model", "fake_plain"],
            solvers=["fake_a", "fake_implicit"],
            tolerances=[1e-3, 1e-5],
            steps=[0.1],
            devices=["cpu", "cuda"],
        )
    )
    cells = [p.cell for p in items if p.cell.task]
    assert sorted({(c.solver, c.at, c.rtol, c.atol, c.dt) for c in cells}, key=str) == [
        ("", "", None, None, None),
        ("fake_a", "dt=0.1", None, None, 0.1),
        ("fake_implicit", "rtol=0.001", 1e-3, 1e-3, None),
        ("fake_implicit", "rtol=1e-05", 1e-5, 1e-5, None),
    ]
    assert len(cells) == len({c.key for c in cells}) == 2 * 4
    assert {c.device for c in cells} == {"cpu", "cuda"}


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerances": [1e-3], "solvers": ["fake_a"]}, "--tolerances has no effect"),
        ({"steps": [1e-3], "solvers": ["fake_implicit"]}, "--steps has no effect"),
        ({"where": "oder > 1"}, "did you mean order"),
    ],
)
def test_what_has_no_effect_is_refused(options, words):
    with pytest.raises(ArgumentError, match=words):
        plan(Selection(tasks=["fake_task"], **options))


@pytest.mark.usefixtures("fakes")
def test_names_take_patterns_and_where_looks_at_the_records():
    chosen = {"tasks": ["fake_*"], "solvers": ["euler", "dopri?", "rk4*", "radau5"]}
    solvers = {p.cell.solver for p in plan(Selection(**chosen))}
    assert solvers >= {"euler", "dopri5", "dopri8", "rk4", "rk4_38", "radau5"}
    where = "order >= 4 and not implicit and task == 'fake_t*' and solver.package == 'ode-solvers'"
    left = {(p.cell.task, p.cell.solver) for p in plan(Selection(**chosen, where=where))}
    left.discard(("", ""))
    assert left == {("fake_task", solver) for solver in ("dopri5", "dopri8", "rk4", "rk4_38")}


@pytest.mark.usefixtures("fakes")
def test_data_is_known_by_what_it_holds(tmp_path):
    keys = []
    for place, content in (("a", "1"), ("b", "1"), ("b", "2")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "file.csv").write_text(content)
        data = {"fake_data": tmp_path / place}
        items = plan(Selection(tasks=["fake_data"], solvers=["fake_a"], data=data))
        keys += [p.cell.key for p in items if p.cell.task]
    assert keys[0] == keys[1] != keys[2]


def test_a_changed_source_changes_the_cells_that_rest_on_it(tmp_path, monkeypatch):
    package = tmp_path / "guest_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from guest_package.shared import (\n    table,\n)\n")
    (package / "two.py").write_text("import math\n")
    (package / "shared.py").write_text("table = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def sources():
        reader = provenance._Reader()
        return [reader.source(f"guest_package.{name}") for name in ("one", "two")]

    before = sources()
    assert sources() == before
    (package / "shared.py").write_text("table = 2\n")
    assert [new == old for new, old in zip(sources(), before, strict=True)] == [False, True]


@pytest.mark.usefixtures("fakes")
def test_an_estimate_takes_what_is_most_alike():
    cells = [
        p.cell
        for p in plan(Selection(tasks=["fake_task", "fake_other"], solvers=["fake_a", "fake_b"]))
        if p.cell.task
    ]
    a, b, *other = cells
    times = Times([a.row("ok", seconds=3.0), a.row("ok", seconds=5.0), a.row("skipped", "x")])
    assert times.seconds(a) == (4.0, True)
    assert times.seconds(b) == (4.0, False)
    assert times.estimate(cells) == (8.0, 1, 1, len(other))
    sentence = times.estimate(cells).sentence(2, 20.0)
    assert "about 8 s on 2 workers" in sentence
    assert "2 cells of which nothing is known" in sentence
    assert "at most 80 s" in Times([]).estimate(cells).sentence(2, 20.0)
