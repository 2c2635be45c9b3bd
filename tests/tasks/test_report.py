"""The report: what is read, the flat tables, the page, and that the user's files stay."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shlex
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ode_core import DataError
from ode_core.cli import main
from ode_core.console import Output
from ode_tasks import report
from ode_tasks.benchmark.cell import Cell
from ode_tasks.benchmark.store import Store
from ode_tasks.report.rows import read
from ode_tasks.report.tables import COLUMNS, histories, table

QUIET = Output(quiet=True)


def put(directory, *names, status="ok", reason="", **fields):
    """Store one cell; names are task, model, solver, gradient."""
    store = Store(directory)
    store.prepare()
    cell = Cell(*names, packages=(("solver", "ode-solvers 0.1.0"),))
    if status == "ok":
        fields = {
            "loss": 0.25,
            "score": 0.875,
            "score_name": "accuracy",
            "higher_is_better": True,
            "solver_error": 1.5e-4,
            "f_forward": 4.0,
            "f_backward": 0.0,
            "memory_bytes": 3 * 2**20,
            "dt": 0.5,
            "seconds": 2.5,
            "date": "2026-01-02T03:04:05+00:00",
            "machine": "a machine",
            "versions": {"torch": "2.13.0"},
            "settings": {},
            "history": [
                {"epoch": 1, "train_loss": 1.0, "test_score": 0.5, "extra": 7.0},
                {"epoch": 2, "train_loss": 0.5, "test_score": 0.875, "extra": 8.0},
            ],
        } | fields
    store.write(cell, cell.row(status, reason, **fields))
    return cell


@pytest.fixture
def results(tmp_path):
    """A folder with cells that ended in every way, one run beside them and two foreign files."""
    cell = put(tmp_path, "digits", "odenet", "rk4", "direct")
    put(tmp_path, "digits", "odenet", "euler", "direct", score=0.5, solver_error=0.1, f_forward=1.0)
    put(tmp_path, "digits", "odenet", "slow", "direct", status="timeout", reason="8 s <were> up")
    put(tmp_path, "cifar10", "odenet", "rk4", "direct", status="skipped", reason="no data")
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    row = json.loads(Store(tmp_path).path(cell).read_text())
    del row["cell"]
    settings = {"epochs": "3"}
    row |= {"task": "spiral", "solver": "tsit5", "status": "ok", "reason": "", "settings": settings}
    row |= {"plugin_files": ["/my files/mine.py"], "data": "/some data", "rtol": 1e-3}
    (run / "metrics.json").write_text(json.dumps(row))
    for name, text in (("foreign", '{"lr": 0.1}'), ("torn", '{"task": "di')):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "metrics.json").write_text(text)
    return tmp_path


def test_rows_are_read_in_order_and_the_unreadable_named(results):
    found = read(results)
    assert [(r.get("task"), r.get("solver")) for r in found.results] == [
        ("cifar10", "rk4"),
        ("digits", "euler"),
        ("digits", "rk4"),
        ("digits", "slow"),
        ("spiral", "tsit5"),
    ]
    assert found.results[-1].get("cell") == "runs/mine"
    foreign, torn = sorted(found.problems)
    assert "foreign/metrics.json is not a result of this suite" in foreign
    assert "torn/metrics.json cannot be read as JSON" in torn


def test_what_a_cell_left_beside_its_row_is_no_second_result(tmp_path):
    cell = put(tmp_path, "digits", "odenet", "rk4", "direct")
    folder = Store(tmp_path).artefacts(cell)
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(Store(tmp_path).path(cell).read_text())
    (result,) = read(tmp_path).results
    assert result.folder == folder


def test_a_folder_without_results_is_one_sentence_and_stays_empty(tmp_path):
    with pytest.raises(DataError, match="holds no results"):
        report.write(tmp_path, QUIET)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="no folder"):
        report.write(tmp_path / "nowhere", QUIET)


def test_csv_and_parquet_hold_every_row_and_the_same_values(results):
    report.write(results, QUIET)
    csv, parquet = (
        pd.read_csv(results / "results.csv"),
        pd.read_parquet(results / "results.parquet"),
    )
    for frame in (csv, parquet):
        assert tuple(frame.columns[: len(COLUMNS)]) == tuple(COLUMNS)
        euler = frame[frame["solver"] == "euler"].iloc[0]
        assert (euler["score"], euler["solver_error"], euler["f_forward"]) == (0.5, 0.1, 1.0)
        assert euler["solver_package"] == "ode-solvers 0.1.0"
        assert euler["torch"] == "2.13.0"
        assert dict(zip(frame["solver"], frame["status"], strict=True))["slow"] == "timeout"
        assert frame[frame["solver"] == "slow"]["score"].isna().all()
        assert len(frame) == 5
    history = pd.read_parquet(results / "history.parquet")
    assert len(history) == 6
    rk4 = history[history["solver"] == "rk4"]
    assert rk4[["epoch", "train_loss", "test_score", "extra"]].to_numpy().tolist() == [
        [1, 1.0, 0.5, 7.0],
        [2, 0.5, 0.875, 8.0],
    ]


def test_columns_and_types_are_the_same_whatever_the_rows_hold(results, tmp_path_factory):
    skipped = tmp_path_factory.mktemp("skipped")
    put(skipped, "cifar10", "odenet", "rk4", "direct", status="skipped", reason="no data")
    types = []
    for directory in (results, skipped):
        report.write(directory, QUIET)
        schema = pq.read_schema(directory / "results.parquet")
        types.append([(name, schema.field(name).type) for name in COLUMNS])
    assert types[0] == types[1]
    assert list(table([]).columns) == list(COLUMNS)
    assert len(histories([])) == 0


def test_the_command_of_a_row_runs_it_again(results):
    commands = {r.get("solver"): row for r, row in zip(*_commands(results), strict=True)}
    assert shlex.split(commands["tsit5"]) == [
        *("ode", "--plugin", "/my files/mine.py", "run", "spiral", "--model", "odenet"),
        *("--solver", "tsit5", "--gradient", "direct", "--rtol", "0.001", "--dt", "0.5"),
        *("--preset", "smoke", "--seed", "0", "--device", "cpu", "--data", "/some data"),
        *("--set", "epochs=3"),
    ]


def _commands(directory):
    found = read(directory).results
    return found, list(table(found)["command"])


def test_the_page_holds_everything_and_asks_nobody(results):
    report.write(results, QUIET)
    page = (results / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", _markup(page))
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "8 s &lt;were&gt; up" in page
    assert "8 s <were> up" not in page
    held = unpacked(page, "data")
    columns = {column["name"]: column for column in held["columns"]}
    found = read(results).results
    cells = columns["cell"]
    assert [cells["texts"][code] for code in cells["codes"]] == [r.get("cell") for r in found]
    assert columns["score"]["numbers"] == [None, 0.5, 0.875, None, 0.875]
    assert columns["memory"]["numbers"][1] == 3.0
    assert columns["step"]["texts"][-1] == "rtol 1e-3 dt 0.5"
    rows = unpacked(page, "piece0")
    assert [row["row"]["status"] for row in rows] == [r.get("status") for r in found]
    assert rows[2]["command"].startswith("ode run digits --model odenet --solver rk4")
    assert rows[2]["lists"]["history"] == found[2].get("history")
    drawn = {f"{chart['name']}.png" for chart in held["charts"]}
    assert drawn == {path.name for path in (results / "plots").iterdir()}
    summary = page[: page.index("All results")]
    assert re.search(r'<b class="timeout">1</b>', summary)
    assert "torn/metrics.json cannot be read" in summary
    assert "For digits (smoke) take rk4" in summary


def _markup(page):
    return re.sub(r"<script>.*</script>", "", page, flags=re.DOTALL)


def unpacked(page, name):
    text = re.search(rf'id="{name}">([^<]*)<', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_the_output_of_a_cell_that_was_lost_is_on_the_page(tmp_path):
    cell = put(tmp_path, "digits", "odenet", "slow", "direct", status="crashed", reason="SIGSEGV")
    folder = Store(tmp_path).artefacts(cell)
    folder.mkdir(parents=True)
    (folder / "output.txt").write_text("x" * 10_000 + "its last words")
    report.write(tmp_path, QUIET)
    (row,) = unpacked((tmp_path / "index.html").read_text(), "piece0")
    assert row["output"].endswith("its last words")
    assert len(row["output"]) < 7_000


def test_pictures_that_runs_left_are_on_the_page(results):
    before = _images(results)
    (results / "runs" / "mine" / "phase_portrait.png").write_bytes(b"\x89PNG not looked into")
    assert _images(results) == before + 1
    assert "phase portrait, odenet tsit5" in (results / "index.html").read_text()


def _images(directory):
    report.write(directory, QUIET)
    return (directory / "index.html").read_text().count("data:image/png")


def test_a_second_report_replaces_the_first_and_drops_what_is_gone(results):
    first = report.write(results, QUIET)
    assert results / "plots" / "spiral-smoke-training-loss.png" in first
    (results / "plots" / "mine.png").write_text("the user's")
    (results / "runs" / "mine" / "metrics.json").unlink()
    second = report.write(results, QUIET)
    assert not (results / "plots" / "spiral-smoke-training-loss.png").exists()
    assert (results / "plots" / "mine.png").read_text() == "the user's"
    assert set(second) < set(first)
    assert len(pd.read_csv(results / "results.csv")) == 4


@pytest.mark.parametrize("name", ["index.html", "results.csv", "report.json"])
def test_a_file_of_the_users_is_never_replaced(results, name):
    (results / name).write_text("the user's")
    before = sorted(results.rglob("*"))
    with pytest.raises(DataError, match="not written by a report"):
        report.write(results, QUIET)
    assert (results / name).read_text() == "the user's"
    assert sorted(results.rglob("*")) == before


def test_plots_are_images_and_use_no_global_state(results):
    code = (
        "import sys; from pathlib import Path; from ode_core.console import Output\n"
        "from ode_tasks import report\n"
        f"report.write(Path({str(results)!r}), Output(quiet=True))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    names = {path.name for path in (results / "plots").iterdir()}
    kinds = ("error-evaluations", "training-loss", "test-score")
    assert names == {f"{task}-smoke-{kind}.png" for task in ("digits", "spiral") for kind in kinds}
    for path in (results / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_the_command_lists_what_it_wrote(results, capsys):
    assert main(["report", str(results), "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert {"status", "reason", "file"} <= rows[0].keys()
    assert str(results / "index.html") in [row["file"] for row in rows]
    assert "left out" in captured.err
    assert main(["report", str(results / "nowhere")]) == 1
    assert "no folder" in capsys.readouterr().err
