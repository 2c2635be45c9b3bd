"""Presets, `--set`, and what a solve takes from them."""

from __future__ import annotations

import dataclasses

import pytest

from ode_core import ArgumentError, UnknownNameError
from ode_core.protocols import RunConfig
from ode_tasks.settings import Settings, check, choose, pairs, solving


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Settings):
    images: int = 10
    flip: bool = False
    name: str = "a"


PRESETS = {
    "smoke": Own(epochs=1, batch=2, learning_rate=0.1, width=4),
    "quick": Own(epochs=5, batch=2, learning_rate=0.1, width=4),
}


def config(**changes):
    fields = {"task": "digits", "model": "odenet", "solver": "rk4", "gradient": "direct"}
    return RunConfig(**(fields | changes))


def test_the_preset_is_chosen_by_name():
    assert choose(PRESETS, config(preset="quick")).epochs == 5


def test_settings_go_over_the_preset_with_their_own_types():
    settings = {"epochs": "7", "learning_rate": "1e-2", "flip": "yes", "name": "b"}
    chosen = choose(PRESETS, config(settings=settings))
    assert (chosen.epochs, chosen.learning_rate, chosen.flip, chosen.name) == (7, 0.01, True, "b")
    assert chosen.images == 10
    assert not choose(PRESETS, config(settings={"flip": "False"})).flip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "smoky"}, ["'smoky'", "did you mean 'smoke'", "quick"]),
        ({"settings": {"epoch": "3"}}, ["'epoch'", "did you mean 'epochs'", "learning_rate"]),
        ({"settings": {"epochs": "3.5"}}, ["epochs", "whole number", "'3.5'"]),
        ({"settings": {"learning_rate": "fast"}}, ["learning_rate", "a number", "'fast'"]),
        ({"settings": {"flip": "maybe"}}, ["flip", "true or false", "'maybe'"]),
        ({"settings": {"epochs": "0"}}, ["epochs is 0", "from 1"]),
        ({"settings": {"learning_rate": "nan"}}, ["learning_rate is nan", "above 0"]),
        ({"settings": {"dt": "-1"}}, ["dt is -1", "above 0"]),
    ],
)
def test_a_bad_preset_or_setting_is_one_sentence(changes, words):
    with pytest.raises(ArgumentError) as caught:
        choose(PRESETS, config(**changes))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_pairs_are_split_at_the_first_equals_sign():
    assert pairs(["epochs=3", "name = a=b"]) == {"epochs": "3", "name": "a=b"}


@pytest.mark.parametrize("text", ["epochs", "=3", ""])
def test_a_pair_without_a_key_is_refused(text):
    with pytest.raises(ArgumentError, match="KEY=VALUE"):
        pairs([text])


def test_an_adaptive_solve_gets_the_presets_tolerances_and_no_step():
    used = solving(config(solver="dopri5", atol=1e-5), PRESETS["smoke"])
    assert used == {
        "solver": "dopri5",
        "gradient": "direct",
        "rtol": 1e-3,
        "atol": 1e-5,
        "dt": None,
    }


def test_a_fixed_step_solve_gets_the_presets_step_and_no_tolerance():
    assert solving(config(), PRESETS["smoke"])["dt"] == 0.25
    used = solving(config(dt=0.5), PRESETS["smoke"])
    assert (used["rtol"], used["atol"], used["dt"]) == (None, None, 0.5)


def test_a_model_without_a_solve_gets_nothing():
    used = solving(config(model="resnet", solver="", gradient=""), PRESETS["smoke"])
    assert set(used.values()) == {None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rtol": 1e-3}, ["'rk4'", "fixed steps", "rtol would have no effect", "dopri5"]),
        ({"model": "resnet", "gradient": ""}, ["'resnet'", "solver would have no effect"]),
        ({"model": "gru"}, ["'gru' is for forecasting", "'digits'", "odenet"]),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(ArgumentError) as caught:
        check(config(**changes))
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"task": "digit"}, "digits"),
        ({"model": "odnet"}, "odenet"),
        ({"solver": "dopri"}, "dopri5"),
        ({"gradient": "ajoint"}, "adjoint"),
    ],
)
def test_an_unknown_name_offers_the_nearest(changes, nearest):
    with pytest.raises(UnknownNameError) as caught:
        check(config(**changes))
    assert nearest in caught.value.nearest
