"""The documentation site: built strictly, and opened from disk in a browser without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ode_core
import ode_core.testing
import ode_models
import ode_solvers
from ode_solvers.compat import torchdiffeq
from ode_tasks import train
from tests.browser import DESKTOP, EXECUTABLE, PHONE, chromium, overflow, watched

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {
    "ode_core": ode_core,
    "ode_core.testing": ode_core.testing,
    "ode_solvers": ode_solvers,
    "ode_solvers.compat.torchdiffeq": torchdiffeq,
    "ode_models": ode_models,
    "ode_tasks.train": train,
}
# What a page says in words: mappings, and what stands in another package's reference.
TOLD = {
    "ode_core.solvers", "ode_core.gradients", "ode_core.models", "ode_core.tasks",
    "ode_core.executors", "ode_solvers.solve", "ode_solvers.Direct", "ode_tasks.train.Batch",
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "cache"),
         str(ROOT / "docs"), str(folder / "html")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "html"


class Anchors(HTMLParser):
    """The ids of a page and the addresses that it refers to."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.targets += [given[key] for key in ("href", "src") if given.get(key)]


@pytest.fixture(scope="module")
def pages(site):
    return {path: Anchors(path.read_text()) for path in site.rglob("*.html")}


def test_every_link_leads_somewhere(site, pages):
    assert len(pages) > 20
    lost = []
    for page, anchors in pages.items():
        for address in anchors.targets:
            parts = urlsplit(address)
            if parts.scheme:
                assert parts.scheme in ("https", "data"), f"{page.name}: {address}"
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or not target.is_relative_to(site):
                lost.append(f"{page.name}: {address}")
                continue
            fragment = unquote(parts.fragment) if target.suffix == ".html" else ""
            if fragment and fragment not in pages[target].ids:
                lost.append(f"{page.name}: {address}")
    assert lost == []


def test_nothing_is_loaded_from_elsewhere(site):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text()
        assert not re.search(r"<(script|img|iframe)[^>]+src=.https?:", text), path.name
        assert not re.search(r"<link[^>]+stylesheet[^>]+href=.https?:", text), path.name
        assert not re.search(r"url\(.?https?:|@import|@font-face", text), path.name


def test_every_page_is_reached_by_the_navigation(site, pages):
    """Also those of `docs/` that someone adds: they belong into a group of index.md."""
    addresses = [urlsplit(address) for address in pages[site / "index.html"].targets]
    reached = {(site / unquote(a.path)).resolve() for a in addresses if not a.scheme}
    sources = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    missed = {str(p) for p in sources if (site / p).with_suffix(".html").resolve() not in reached}
    assert missed <= {"index.md"}


def test_every_public_name_is_in_the_reference(pages):
    ids = set().union(
        *(anchors.ids for page, anchors in pages.items() if page.parent.name == "api")
    )
    wanted = {f"{module}.{name}" for module, found in PUBLIC.items() for name in found.__all__}
    assert wanted - ids - TOLD == set()
    assert wanted >= TOLD


@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
def test_every_page_opens_from_disk_at_both_widths_and_asks_for_nothing(site, pages):
    found = []
    with chromium() as browser:
        for size in (DESKTOP, PHONE):
            with watched(browser, size) as (page, complaints):
                for path in sorted(pages):
                    page.goto(path.as_uri())
                    if overflow(page) > 0:
                        complaints.append(f"is {overflow(page)} pixels too wide for {size[0]}")
                    found += [f"{path.name}: {complaint}" for complaint in complaints]
                    complaints.clear()
    assert found == []


@pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium")
def test_the_search_works_from_disk(site):
    with chromium() as browser, watched(browser) as (page, complaints):
        page.goto((site / "index.html").as_uri())
        page.fill("input[name=q]", "checkpoint")
        page.press("input[name=q]", "Enter")
        page.wait_for_selector("ul.search li a")
        titles = page.locator("ul.search li a").all_inner_texts()
        assert any("gradient" in title.lower() for title in titles), titles
        page.locator("ul.search li a").first.click()
        page.wait_for_selector("article")
        assert complaints == []
