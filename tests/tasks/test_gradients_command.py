"""`ode gradients` as it is typed: errors, costs, reasons and the plot."""

from __future__ import annotations

import json

import pytest
import torch

from ode_core.cli import main
from ode_core.protocols import RunConfig
from ode_core.registry import gradients, tasks
from ode_tasks.gradients import compare as module
from ode_tasks.gradients.compare import compare
from ode_tasks.run import Silent

LINEAR = ["gradients", "linear", "--solvers", "euler,alf"]
CHEAP = ["--set", "width=4", "--set", "batch=8"]


def table(capsys, *arguments):
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {(row["solver"], row["gradient"]): row for row in rows}


def test_every_method_through_every_solver(capsys):
    rows = table(capsys, *LINEAR, *CHEAP)
    assert list(rows) == [(s, g) for s in ("euler", "alf") for g in gradients]
    for solver in ("euler", "alf"):
        direct = rows[solver, "direct"]
        assert (direct["error"], direct["f_backward"], direct["status"]) == (0.0, 0, "ok")
        assert direct["cosine"] == pytest.approx(1.0)
        for method in ("checkpoint", "symplectic"):
            row = rows[solver, method]
            assert row["error"] < 1e-5
            assert row["f_backward"] >= row["f_forward"] == direct["f_forward"] > 0
            assert 0 < row["memory_bytes"] < direct["memory_bytes"]
            assert row["seconds"] > 0.0
    assert rows["euler", "adjoint"]["error"] > 1e-3
    assert rows["euler", "adjoint"]["status"] == "ok"
    assert rows["alf", "reversible"]["error"] < 1e-5


def test_what_makes_no_sense_is_a_row_with_its_reason(capsys):
    names = ["--solvers", "euler,scipy_bdf,velocity_verlet", "--gradients", "direct,reversible"]
    rows = table(capsys, "gradients", "linear", *names, *CHEAP)
    assert rows["euler", "direct"]["status"] == "ok"
    for pair, reason in {
        ("euler", "reversible"): "cannot: take solver='alf'",
        ("scipy_bdf", "direct"): "not differentiable",
        ("velocity_verlet", "direct"): "pairs (q, v)",
    }.items():
        assert rows[pair]["status"] == "skipped"
        assert reason in rows[pair]["reason"]
        assert "error" not in rows[pair]


def test_larger_steps_make_the_adjoint_worse(capsys):
    found = []
    for dt in ("0.1", "0.01"):
        rows = table(
            capsys, "gradients", "linear", "--solvers", "euler", "--gradients", "adjoint",
            "--set", f"dt={dt}", *CHEAP,
        )  # fmt: skip
        found.append(rows["euler", "adjoint"]["error"])
    assert found[0] > 3 * found[1]


@pytest.mark.parametrize(
    ("task", "settings", "least"),
    [
        ("digits", {"width": "4", "batch": "4", "train_images": "16"}, 1e-2),
        # Its decoder starts at nought: left so, no gradient would reach the solve.
        ("glucose", {"width": "4", "batch": "4", "patients": "2", "days": "5"}, 1e-5),
        ("spiral", {"width": "4", "batch": "4"}, 2e-6),
    ],
)
def test_every_kind_of_task_gives_a_batch(task, settings, least):
    config = RunConfig(task, tasks[task].default_model, "", "", settings=settings)
    before = torch.random.get_rng_state()
    rows = list(compare(config, ["midpoint"], ["checkpoint", "adjoint"], Silent()))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["error"] < 1e-6
    assert rows[1]["error"] > least


def test_a_direct_solve_that_fails_fails_its_solver_alone(monkeypatch):
    config = RunConfig("linear", "neural_ode", "", "", settings={"width": "4"})
    made = module._made

    def fail(cell, probe):
        if (cell.solver, cell.gradient) == ("euler", "direct"):
            raise module.OdeError("no more steps")
        return made(cell, probe)

    monkeypatch.setattr(module, "_made", fail)
    rows = list(compare(config, ["euler", "rk4"], ["checkpoint"], Silent()))
    assert [row["status"] for row in rows] == ["failed", "ok"]
    assert rows[0]["reason"] == "direct: no more steps"


def test_the_plot_is_left_in_the_folder(tmp_path, capsys):
    out = tmp_path / "new"
    arguments = ["--gradients", "checkpoint,adjoint", "--out", str(out), *CHEAP]
    assert main([*LINEAR, *arguments]) == 0
    captured = capsys.readouterr()
    assert "adjoint" in captured.out
    assert "gradients.png" in captured.err
    assert (out / "gradients.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_that_could_be_compared_is_exit_code_1(capsys):
    arguments = ["gradients", "linear", "--solvers", "euler", "--gradients", "reversible"]
    assert main([*arguments, *CHEAP]) == 1
    assert "skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["linear", "--solvers", "eulr"], "did you mean 'euler'"),
        (["linear", "--gradients", "ajoint"], "adjoint"),
        (["linear", "--model", "odenet"], "is for classification"),
        (["glucose", "--model", "gru"], "solves nothing"),
        (["linear", "--data", "there"], "leave out --data"),
        (["cifar10"], "--data"),
        (["linear", "--set", "widht=4"], "did you mean 'width'"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(capsys, arguments, said):
    assert main(["gradients", *arguments]) != 0
    assert said in capsys.readouterr().err


def test_a_task_from_elsewhere_is_asked_for_its_batch(fakes, capsys):
    (name, *_) = [n for n, r in tasks.items() if r.package not in ("ode-tasks",)]
    assert main(["gradients", name, "--solvers", "euler"]) != 0
    assert "probe" in capsys.readouterr().err
