"""The files of presets: complete, commented, and refused where they are wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ode_core import ArgumentError
from ode_core.cli import main
from ode_core.protocols import PRESETS
from ode_core.registry import tasks
from ode_tasks import presets
from ode_tasks.settings import Settings

SHIPPED = ["cifar10", "digits", "glucose", "linear", "spiral"]


@pytest.mark.parametrize("task", SHIPPED)
def test_every_setting_of_every_preset_is_explained(task):
    found = tasks.create(task).presets
    assert sorted(found) == sorted(PRESETS)
    for settings in found.values():
        names = {field.name for field in dataclasses.fields(settings)}
        assert names == set(found.meanings), "a setting without a comment, or a comment too many"
    assert all(meaning[0] not in "#=" for meaning in found.meanings.values())


@pytest.mark.parametrize("task", SHIPPED)
def test_smoke_is_the_smallest(task):
    found = tasks.create(task).presets
    if task not in ("linear", "spiral"):  # whose fits are mostly not made in epochs
        assert found["smoke"].epochs <= found["quick"].epochs <= found["full"].epochs
    assert found["smoke"].width <= found["quick"].width <= found["full"].width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Settings):
    flip: bool = False


FILE = """
epochs = 3         # passes
batch = 2
learning_rate = 1  # a whole number will do
width = 4
milestones = [1, 2]
{more}
[smoke]
[quick]
epochs = 5
[full]
clip = 2.5
"""


def test_tables_go_over_what_all_share(tmp_path):
    (tmp_path / "own.toml").write_text(FILE.format(more="flip = true"))
    found = presets.load(tmp_path / "own.toml", Own)
    assert [found[name].epochs for name in PRESETS] == [3, 5, 3]
    assert isinstance(found["smoke"].learning_rate, float)
    assert found["quick"].milestones == (1, 2)
    assert found["full"].clip == 2.5
    assert found["smoke"].flip
    assert found.meanings == {"epochs": "passes", "learning_rate": "a whole number will do"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.format(more="flop = true"), "sets flop to True; expected epochs, batch"),
        (FILE.format(more="flip = 1"), "sets flip to 1; expected a value of type"),
        (FILE.format(more="warmup = 1.5"), "sets warmup to 1.5"),
        (FILE.format(more="").replace("width = 4", ""), "lacks width"),
        (FILE.format(more="").replace("[full]", "[fall]"), "holds the presets smoke, quick, fall"),
        ("epochs", "is no TOML"),
    ],
)
def test_a_wrong_file_is_one_sentence(text, words, tmp_path):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ArgumentError) as caught:
        presets.load(tmp_path / "own.toml", Own)
    assert words in str(caught.value)
    assert str(tmp_path / "own.toml") in str(caught.value)


def test_the_settings_of_a_run_are_shown_and_nothing_is_run(capsys, tmp_path):
    arguments = ["run", "digits", "--preset", "quick", "--set", "milestones=3,5", "--precision"]
    arguments += ["bf16-mixed", "--show-settings", "--json", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    rows = {row["setting"]: row for row in json.loads(captured.out)}
    assert (rows["epochs"]["value"], rows["epochs"]["from"]) == (10, "preset quick")
    assert (rows["milestones"]["value"], rows["milestones"]["from"]) == ("3, 5", "--set")
    assert rows["precision"]["value"] == "bf16-mixed"
    assert rows["batch"]["meaning"] == "images in a step, over all processes together"
    assert captured.err.strip().endswith("presets/digits.toml")
    assert not (tmp_path / "out").exists()
