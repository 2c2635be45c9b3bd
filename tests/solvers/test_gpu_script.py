"""The script for GPUs: its checks find what is wrong, and it says what it needs."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

from ode_solvers.gpu import correctness, run, training, whole
from ode_solvers.gpu.__main__ import main
from ode_solvers.gpu.correctness import CHECKS
from ode_solvers.gpu.memory import MEMORY
from ode_solvers.gpu.picture import bars, picture
from ode_solvers.gpu.speed import SPEED
from ode_solvers.gpu.training import TRAINING
from ode_solvers.gpu.waiting import WAITING
from ode_solvers.kernels.choose import named

CPU = torch.device("cpu")
FUSED, WHOLE = type(named("triton")), type(named("whole"))
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("name", ["rows", "gradients", "what is not finite is refused"])
def test_a_check_passes(name):
    assert CHECKS[name](CPU)["passed"]


def test_a_kernel_that_is_a_little_off_fails(monkeypatch):
    monkeypatch.setattr(correctness, "SHAPES", [(127,)])
    assert correctness.sums(CPU)["passed"]
    summed = FUSED.summed
    monkeypatch.setattr(FUSED, "summed", lambda *given: summed(*given) * (1.0 + 1e-6))
    assert not correctness.sums(CPU)["passed"]
    assert not correctness.rows(CPU)["passed"]


def test_without_a_gpu_it_says_so_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "no CUDA device" in line
    assert "--interpret" in line


def test_one_json_holds_everything_and_a_failure_takes_nothing_with_it(monkeypatch, tmp_path):
    def broken(device):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run, "WHOLE", {})
    monkeypatch.setattr(run, "CHECKS", {"good": lambda device: {"passed": True}, "bad": broken})
    lines = []
    assert not run.run(CPU, tmp_path, 60.0, lines.append)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["checks"]["good"]["passed"]
    assert "out of memory" in report["checks"]["bad"]["error"]
    assert report["speed"] == "not measured: there is no GPU"
    assert lines[-1] == "not every check passed"
    monkeypatch.setattr(run, "CHECKS", {"good": lambda device: {"passed": True}})
    assert not run.run(CPU, tmp_path, -1.0, lines.append)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["checks"]["good"] == "left out: no time"


def test_the_picture_marks_the_goals():
    small = {"eager_us": 45.0, "graph_us": 50.0}
    kernels = {"goal": 0.85, "fractions": {"combine1 float32 16777216": 0.9, "x float32 1024": 0.1}}
    made = picture({"machine": {"device": "A & B", "torch": "2"},
                    "speed": {"kernels": kernels, "a small step": small}})  # fmt: skip
    assert "A &amp; B" in made
    assert made.count("<rect") == 3
    lengths = bars("", [("a", 45.0, 90.0, ""), ("b", 90.0, 90.0, ""), ("c", math.inf, 90.0, "")])
    assert [f'width="{x}"' in lengths for x in ("112.5", "225.0", "450.0")] == [True] * 3


def test_whole_solves_are_checked_and_one_that_is_a_little_off_fails(monkeypatch):
    monkeypatch.setattr(whole, "fields", partial(one_field, whole.fields))
    assert whole.agrees(CPU)["passed"]
    pull = WHOLE.pull
    monkeypatch.setattr(
        WHOLE, "pull", lambda *given: (pull(*given)[0] * (1.0 + 1e-6), pull(*given)[1])
    )
    found = whole.agrees(CPU)
    assert found["same_steps"]
    assert not found["passed"]


def one_field(fields, batch, device, dtype):
    return {"system": fields(batch, device, dtype)["system"]}


def test_one_part_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "WHOLE", {})
    monkeypatch.setattr(run, "CHECKS", {"bad": lambda device: {"passed": False}})
    assert run.run(CPU, tmp_path, 60.0, [].append, ["speed"])
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["checks"] == report["memory"] == "left out: not asked for"


@pytest.mark.parametrize("gradient", ["direct", "reversible"])
def test_the_model_that_is_trained_is_the_registered_one(monkeypatch, gradient):
    for name, value in (("_WIDTH", 8), ("_BATCH", 2), ("_SIZE", 8)):
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(training, "peak", lambda step: step())
    monkeypatch.setattr(training, "wall_milliseconds", lambda step, repeats: step())
    model = training._model(CPU, gradient)
    training._measured(model, CPU)
    assert type(model).__name__ == "ODENet"
    assert model.blocks[0].block.gradient == gradient
    assert all(x.grad is not None for x in model.parameters())
    states = []

    def integrate(field, y0, times, **options):
        states.append(y0.dtype)
        return torch.stack([y0, y0 + field(times[0], y0)])

    model.blocks[0] = training.Peer(model.blocks[0].block.field, integrate)
    training._measured(model, CPU)
    assert set(states) == {torch.float32}


@needs_cuda
@pytest.mark.parametrize("name", CHECKS | WAITING | run.WHOLE)
def test_every_check_passes_on_the_gpu(name):
    found = (CHECKS | WAITING | run.WHOLE)[name](torch.device("cuda"))
    assert found["passed"], found


@needs_cuda
@pytest.mark.parametrize("name", SPEED | MEMORY | TRAINING | {"whole": whole.speed})
def test_everything_can_be_measured(name):
    assert (SPEED | MEMORY | TRAINING | {"whole": whole.speed})[name](torch.device("cuda"))
