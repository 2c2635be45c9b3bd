"""The command line: rows for people and programs, sentences instead of tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ode_core import registry
from ode_core.cli import main


@pytest.fixture(autouse=True)
def _fresh_registry(monkeypatch):
    # --plugin and --no-plugins are passed on by environment variables.
    variables = ("ODE_PLUGINS_ALLOW", "ODE_PLUGIN_FILES", "ODE_PLUGINS_BLOCK")
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    yield
    for variable in variables:
        os.environ.pop(variable, None)
    registry.REGISTRY.refresh()


def test_list_as_json_is_one_array_and_nothing_else(capsys):
    assert main(["list", "solvers", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    dopri5 = next(row for row in rows if row["name"] == "dopri5")
    assert dopri5["order"] == 5
    assert dopri5["adaptive"] is True
    assert dopri5["package"] == "ode-solvers"
    assert dopri5["status"] == "ok"


def test_global_options_stand_anywhere(capsys):
    assert main(["--json", "list", "gradients"]) == 0
    first = capsys.readouterr().out
    assert main(["list", "--json", "gradients"]) == 0
    assert capsys.readouterr().out == first


def test_list_as_a_table_is_never_cut(capsys):
    assert main(["list", "solvers"]) == 0
    out = capsys.readouterr().out
    assert "Dormand and Prince's method of order 8 (DOP853)" in out
    assert "\x1b" not in out


def test_list_plugins_shows_status(capsys):
    assert main(["list", "plugins"]) == 0
    assert "active" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "solver"], "none of solvers"),
        (["lst"], "list"),
        (["list", "--nonsense"], "--nonsense"),
    ],
)
def test_bad_usage_is_status_2_and_a_sentence(capsys, arguments, said):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_plugin_file_that_fails_is_said_once_and_the_rest_works(tmp_path, capsys):
    path = tmp_path / "broken_guest.py"
    path.write_text("raise RuntimeError('on purpose')\n")
    assert main(["list", "solvers", "--plugin", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "dopri5" in out
    assert err.count("on purpose") == 1
    assert "Traceback" not in err


def test_no_plugins_leaves_the_suite(tmp_path, capsys):
    assert main(["--no-plugins", "list", "solvers"]) == 0
    assert "dopri5" in capsys.readouterr().out


def test_doctor_names_versions_and_plugins(capsys):
    assert main(["doctor", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    facts = {row["what"]: row["value"] for row in rows if "what" in row}
    assert facts["torch"].startswith("2.")
    assert any(row.get("kind") == "plugin" for row in rows)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "ode_core", "list", "gradients"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "direct" in done.stdout


def test_ctrl_c_within_a_command_is_one_word_and_130(capsys, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "plugin_rows", interrupted)
    assert main(["list", "plugins"]) == 130
    err = capsys.readouterr().err
    assert "interrupted" in err
    assert "Traceback" not in err
