"""`ode results`: what is listed, filtered, compared and exported."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys

import pandas as pd
import pytest

from ode_core.cli import main
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.store import Store

HERE = {"machine_id": "here"}


def fill(root, **scores):
    """A store with a cell for each solver, with the given score or the given fields of a row."""
    store = Store(root)
    store.prepare()
    for solver, given in scores.items():
        cell = Cell("a_task", "a_model", solver, "direct", packages=(("solver", f"{root.name} 1"),))
        fields = given if isinstance(given, dict) else {"score": given}
        row = {"status": "ok", "higher_is_better": True, "date": "2026", **HERE} | fields
        store.write(cell, cell.row(**row))
    return str(root)


@pytest.fixture
def out(tmp_path):
    failed = {"status": "failed", "reason": "too stiff", "score": None}
    return fill(tmp_path / "out", euler=0.5, rk4={"score": 0.75, "seconds": 2}, dopri5=failed)


def rows(capsys, *arguments):
    assert main(["results", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_list_of_what_is_stored(out, capsys):
    assert main(["results", out]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert lines[0][:2] == ["task", "solver"]
    assert [line[1] for line in lines[1:]] == ["dopri5", "euler", "rk4"]
    assert "3 cells: 2 ok, 1 failed" in captured.err
    assert main(["results", out, "--limit", "1", "--columns", "solver,reason"]) == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["solver", "reason", "dopri5", "too", "stiff"]
    assert "1 shown, --limit 0 shows all" in captured.err


def test_a_condition_chooses(out, capsys):
    assert [row["solver"] for row in rows(capsys, out, "--where", "score > 0.6")] == ["rk4"]
    assert main(["results", out, "--where", "status != 'ok'", "--columns", "reason"]) == 0
    assert capsys.readouterr().out.split("\n")[1].strip() == "too stiff"


def test_export(out, tmp_path, capsys):
    assert main(["results", out, "--export", str(tmp_path / "x.csv")]) == 0
    table = {row["solver"]: row for row in csv.DictReader((tmp_path / "x.csv").open())}
    assert table["rk4"]["score"] == "0.75"
    assert table["rk4"]["packages.solver"] == "out 1"
    assert main(["results", out, "--export", str(tmp_path / "x.parquet")]) == 0
    frame = pd.read_parquet(tmp_path / "x.parquet").set_index("solver")
    assert frame.score["rk4"] == 0.75
    assert frame.score.isna()["dopri5"]
    assert frame.higher_is_better["euler"] is True or bool(frame.higher_is_better["euler"])
    assert frame.seconds["rk4"] == 2
    words = ["--columns", "solver,score", "--where", "status == 'ok'"]
    assert main(["results", out, "--export", str(tmp_path / "x.csv"), *words]) == 0
    assert (tmp_path / "x.csv").read_text().split() == ["solver,score", "euler,0.5", "rk4,0.75"]


def test_without_pyarrow_there_is_a_sentence_and_no_file(out, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["results", out, "--export", str(tmp_path / "x.parquet")]) == 1
    assert "pip install 'ode-tasks[parquet]'" in capsys.readouterr().err
    assert not (tmp_path / "x.parquet").exists()
    assert main(["results", out, "--export", str(tmp_path / "x.csv")]) == 0


def test_two_stores_are_compared_cell_by_cell(tmp_path, capsys):
    failed = {"status": "failed", "reason": "too stiff", "score": None}
    slow = {"score": 1.0, "step_ratio": 2.0, "step_ratio_low": 1.9, "step_ratio_high": 2.1}
    fast = {"score": 1.0, "step_ratio": 1.5, "step_ratio_low": 1.4, "step_ratio_high": 1.7}
    unsure = fast | {"step_ratio_high": 1.95}
    old = fill(tmp_path / "old", a=0.5, b=0.5, c=0.5, d=failed, e=1.0, f=slow, g=slow, h=2.0)
    new = fill(tmp_path / "new", a=0.5, b=0.7, c=0.4, d=1.0, e=failed, f=fast, g=unsure, i=2.0)
    found = {row["solver"]: row["kind"] for row in rows(capsys, new, "--compare", old)}
    assert found == {
        "b": "better",
        "c": "worse",
        "d": "mended",
        "e": "broken",
        "f": "time",
        "h": "gone",
        "i": "new",
    }
    assert main(["results", new, "--compare", old, "--where", "solver == 'e'"]) == 0
    captured = capsys.readouterr()
    assert "too stiff" in captured.out
    assert "1 cells in both stores; 1 broken" in captured.err


def test_of_several_versions_of_a_cell_the_latest_is_compared(tmp_path, capsys):
    old, new = fill(tmp_path / "old", a=0.5), fill(tmp_path / "new", a=0.4)
    cell = Cell("a_task", "a_model", "a", "direct", packages=(("solver", "newer 2"),))
    later = cell.row("ok", score=0.6, date="2027", higher_is_better=True)
    Store(tmp_path / "new").write(cell, later)
    (row,) = rows(capsys, new, "--compare", old)
    assert (row["kind"], row["score"], row["score_other"]) == ("better", 0.6, 0.5)
    assert dataclasses.replace(cell, packages=()).key != cell.key


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--where", "scor > 1"], 2, "did you mean score"),
        (["--columns", "scor"], 2, "no row has 'scor'"),
        (["--export", "x.xls"], 2, "written as .csv or .parquet"),
        (["--compare", "/no/such/place"], 1, "/no/such/place holds no stored cells"),
    ],
)
def test_what_is_wrong_is_a_sentence(out, arguments, status, words, capsys):
    assert main(["results", out, *arguments]) == status
    assert words in capsys.readouterr().err


def test_a_folder_without_results_and_a_file_that_is_none(out, tmp_path, capsys):
    assert main(["results", str(tmp_path / "nothing")]) == 1
    assert "ode benchmark --out" in capsys.readouterr().err
    (tmp_path / "out" / "cells" / "a_task" / "mine.json").write_text('{"mine": true}')
    assert main(["results", out]) == 0
    captured = capsys.readouterr()
    assert "left out:" in captured.err
    assert "not a result of this suite" in captured.err
    assert (tmp_path / "out" / "cells" / "a_task" / "mine.json").read_text() == '{"mine": true}'


def test_listing_imports_nothing_heavy(out, capsys):
    code = (
        "import sys, ode_core.cli\n"
        f"assert ode_core.cli.main(['results', {out!r}]) == 0\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
