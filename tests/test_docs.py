"""Every Python block of the README and the docs runs and prints what stands below it."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")),
         *sorted((ROOT / "packages").glob("*/README.md"))]  # fmt: skip
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)


def expected(text):
    """A pattern in which '...' stands for anything within a line."""
    return re.compile(r"[^\n]*".join(re.escape(part) for part in text.split("...")))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_blocks_run_and_print_what_they_say(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for code, wanted in BLOCK.findall(page.read_text()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        assert expected(wanted).fullmatch(printed.getvalue()), printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_names_the_two_commands_that_ci_runs():
    text = (ROOT / "README.md").read_text()
    setup = "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s "
    assert setup + "benchmark" in text
    assert setup + "tests" in text
    ci = (ROOT / ".ci" / "run").read_text()
    assert (setup + "tests").replace("install nox", "install -q nox") in ci
