"""Digits end to end: every model, the study's counts, and what is reported of memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ode_core import ArgumentError
from ode_core.protocols import RunConfig
from ode_tasks.classification import _hold_out
from ode_tasks.data.images import Images
from ode_tasks.digits import Digits
from ode_tasks.run import Silent

TINY = {"epochs": "1", "train_images": "64", "test_images": "40", "width": "4"}


def digits(model="odenet", solver="rk4", gradient="direct", settings=TINY, **changes):
    solves = model == "odenet"
    names = {"solver": solver if solves else "", "gradient": gradient if solves else ""}
    config = RunConfig("digits", model, settings=settings, **names, **changes)
    return Digits().run(config, Silent())


@pytest.mark.parametrize("model", ["odenet", "resnet", "no_block"])
def test_every_model_trains_and_reports(model):
    metrics = digits(model)
    assert metrics["score_name"] == "accuracy"
    assert 0 <= metrics["score"] <= 1
    assert metrics["loss"] > 0
    assert metrics["parameters"] > 0
    assert metrics["memory_bytes"] > 0
    assert metrics["memory_kind"] == "held for backward"
    assert len(metrics["history"]) == 1
    solves = model == "odenet"
    for name in ("f_forward", "f_backward", "solver_error", "solver", "dt"):
        assert (metrics[name] is not None) == solves, name


def test_a_smoke_run_learns_to_read():
    assert digits(settings={})["score"] > 0.6


@pytest.mark.parametrize(("solver", "calls"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_the_studys_counts_of_one_step(solver, calls):
    metrics = digits(solver=solver, gradient="adjoint")
    assert (metrics["f_forward"], metrics["f_backward"]) == (calls, calls)


def test_direct_evaluates_nothing_backwards():
    assert digits(solver="midpoint")["f_backward"] == 0


def test_both_memories_are_reported():
    adjoint = digits(gradient="adjoint")
    direct = digits(gradient="direct")
    assert adjoint["memory_bytes"] < adjoint["memory_bytes_direct"]
    assert direct["memory_bytes"] == direct["memory_bytes_direct"]
    assert direct["memory_bytes"] == adjoint["memory_bytes_direct"]


def test_an_adaptive_solver_gets_its_tolerance():
    loose, tight = (digits(solver="dopri5", rtol=tol, atol=tol) for tol in (1e-1, 1e-6))
    assert (loose["rtol"], tight["rtol"]) == (1e-1, 1e-6)
    assert tight["f_forward"] > loose["f_forward"] >= 8
    assert tight["solver_error"] < 1e-4


def test_the_same_seed_gives_the_same_figures_and_another_seed_others():
    first, again, other = (digits(seed=seed)["loss"] for seed in (0, 0, 1))
    assert first != other
    assert again != other


def test_data_for_the_built_in_digits_are_refused():
    with pytest.raises(ArgumentError, match="images built in and reads none from"):
        digits(data=Path("somewhere"))


def test_images_held_out_are_neither_trained_nor_tested_on():
    metrics = digits("resnet", settings=TINY | {"validation_images": "20"})
    counts = [metrics[f"{part}_images"] for part in ("train", "validation", "test")]
    assert counts == [44, 20, 40]
    row = metrics["history"][-1]
    assert row["validation_loss"] != row["test_loss"]


def test_held_out_images_are_the_last_of_every_class():
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    images = Images(torch.arange(8, dtype=torch.uint8)[:, None, None, None], labels)
    train, held = _hold_out(images, 4)
    assert held.pixels.flatten().tolist() == [4, 5, 6, 7]
    assert train.pixels.flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("changes", [{"precision": "bf16-mixed"}, {"channels_last": "true"}])
def test_precision_and_layout_train_to_nearly_the_same(changes):
    """A layout changes no number but by rounding, 16 bits change some; both reach the net."""
    seen = []
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: (
            seen.append((output.dtype, output.is_contiguous(memory_format=torch.channels_last)))
            if isinstance(module, torch.nn.Conv2d)
            else None
        )
    )
    try:
        metrics = digits("resnet", settings=TINY | changes)
    finally:
        handle.remove()
    plain = digits("resnet")
    assert metrics["train_loss"] == pytest.approx(plain["train_loss"], rel=0.05)
    assert metrics["train_loss"] != plain["train_loss"]
    if "precision" in changes:
        assert torch.bfloat16 in {dtype for dtype, _ in seen}
    else:
        assert all(last for _, last in seen)
