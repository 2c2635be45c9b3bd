"""The page of a report in a browser: sorting, filtering, cells, by mouse and by keyboard."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
from tests.tasks import synthetic_store

from ode_core.console import Output
from ode_tasks import report
from ode_tasks.report.rows import read

CELLS, TASKS = 1_300, 2
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; its sandbox cannot be had by root."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Chromium and Playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    synthetic_store.make(folder, CELLS, TASKS)
    report.write(folder, Output(quiet=True))
    return folder


@pytest.fixture(scope="module")
def rows(folder):
    return [result.row for result in read(folder).results]


@pytest.fixture
def opened(browser, folder):
    """A function that opens the page, which may ask for nothing and complain of nothing."""
    asked, complaints, contexts = [], [], []
    address = (folder / "index.html").as_uri()

    def open_page(place="", *, width=1280, height=900, **options):
        size = {"width": width, "height": height}
        contexts.append(browser.new_context(viewport=size, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address + place)
        page.wait_for_selector("html[data-ready=true]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    foreign = [url for url in asked if not url.startswith((address, "data:"))]
    assert foreign == []


def column(page, number):
    return page.locator(f"#body tr.row > :nth-child({number})").all_inner_texts()


def number_of(page, heading):
    return 1 + page.locator("#heads th").all_inner_texts().index(heading)


def shown(page):
    return int(page.inner_text("#shown").split()[0].replace(",", ""))


def test_a_heading_sorts_up_then_down_and_what_is_missing_stays_last(opened, rows):
    page = opened()
    scores = sorted(row["score"] for row in rows if "score" in row)
    head = page.locator("#heads th", has_text="score").first
    place = number_of(page, "score")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, place)[:3]] == pytest.approx(scores[:3], rel=1e-3)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert float(column(page, place)[0]) == pytest.approx(scores[-1], rel=1e-3)
    page.locator("#rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight; }")
    page.wait_for_function(f"document.querySelector('[aria-rowindex=\"{len(rows) + 1}\"]')")
    assert column(page, place)[-1] == ""


def test_only_rows_in_sight_are_in_the_document(opened, rows):
    page = opened()
    assert shown(page) == len(rows) == CELLS
    assert 10 < page.locator("tr.row").count() < 80
    assert page.get_attribute("#table", "aria-rowcount") == str(len(rows) + 1)


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        ("solver_07", lambda row: row["solver"] == "solver_07"),
        ("solver_07 adjoint", lambda r: (r["solver"], r["gradient"]) == ("solver_07", "adjoint")),
        ("SIGSEGV", lambda row: "SIGSEGV" in row["reason"]),
        ('"the loss is nan"', lambda row: "the loss is nan" in row["reason"]),
        ("status:crash", lambda row: row["status"] == "crashed"),
        ("status != ok", lambda row: row["status"] != "ok"),
        ("error < 1e-4", lambda row: row.get("solver_error", 1) < 1e-4),
        ("task=spiral score>=.055", lambda r: r["task"] == "spiral" and r.get("score", 0) >= 0.055),
        ("package:some-plugin-3", lambda row: "some-plugin-3 " in row["packages"]["solver"]),
        ("nowhere", lambda row: False),
    ],
)  # fmt: skip
def test_a_query_shows_the_rows_that_fit(opened, rows, query, fits):
    page = opened()
    page.fill("#query", query)
    assert shown(page) == sum(map(fits, rows))
    page.click("button[type=reset]")
    page.wait_for_function("document.getElementById('query').value === ''")
    assert page.input_value("#query") == ""
    page.wait_for_function(f"document.getElementById('shown').textContent.startsWith('{CELLS:,} ')")


def test_choices_and_counts_filter_as_well(opened, rows):
    page = opened()
    page.select_option("select[name=task]", "spiral")
    page.select_option("select[name=gradient]", "direct")
    wanted = [r for r in rows if (r["task"], r["gradient"]) == ("spiral", "direct")]
    assert shown(page) == len(wanted)
    page.click("button[type=reset]")
    page.click(".counts button[data-status=timeout]")
    assert shown(page) == sum(row["status"] == "timeout" for row in rows)
    assert set(column(page, number_of(page, "status"))) == {"timeout"}


def test_a_cell_opens_and_the_back_button_returns_to_its_row(opened):
    page = opened()
    page.fill("#query", "status:timeout")
    link = page.locator("tr.row a").nth(3)
    link.click()
    page.wait_for_selector("#view:not([hidden])")
    key = page.url.partition("#cell=")[2]
    assert not page.is_visible("#report")
    view = page.inner_text("#view")
    assert "no result within 8 s; it was in step" in view
    assert "computing" in view  # what it printed
    assert page.inner_text("#view .command pre").startswith("ode run ")
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.go_back()
    page.wait_for_selector("#report:not([hidden])")
    assert page.input_value("#query") == "status:timeout"
    assert page.evaluate("document.activeElement.getAttribute('href')") == f"#cell={key}"


def test_a_cell_has_an_address_of_its_own(opened, rows):
    row = next(row for row in rows if row["status"] == "ok")
    page = opened(f"#cell={row['cell']}")
    assert page.inner_text("#view h1") == f"{row['solver']} on {row['task']}"
    assert f"--solver {row['solver']} --gradient {row['gradient']}" in page.inner_text("#view pre")
    assert page.locator("#view svg").count() >= 4
    page.click("#view nav a:has-text('Next')")
    page.wait_for_function(f"!location.hash.endsWith('{row['cell']}')")
    page.wait_for_selector("#view nav a:has-text('Previous')")
    page.click("#back")
    page.wait_for_selector("#report:not([hidden])")
    assert "No such cell" in opened("#cell=0000").inner_text("#view")


def test_every_part_of_a_cell_is_in_the_page(opened, rows):
    for row in (rows[0], rows[127], rows[128], rows[-1]):
        page = opened(f"#cell={row['cell']}")
        assert row["cell"] in page.inner_text("#view")


def test_rows_are_walked_and_opened_by_keyboard(opened, rows):
    page = opened()
    page.locator("tr.row a").first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowUp", "PageDown"):
        page.keyboard.press(key)
    assert int(page.evaluate("document.activeElement.closest('tr').dataset.place")) > 5
    page.keyboard.press("End")
    assert (
        page.evaluate("document.activeElement.getAttribute('href')") == f"#cell={rows[-1]['cell']}"
    )
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#view:not([hidden])")
    assert page.url.endswith(f"#cell={rows[1]['cell']}")


def test_charts_are_linked_and_a_point_opens_its_cell(opened):
    page = opened()
    assert page.locator("#charts details.task").count() == TASKS + 1  # and over all of them
    charts = page.locator("details.task[open] .chart svg")
    assert charts.count() >= 6
    button = page.locator(".legend button").first
    name = button.get_attribute("data-name")
    button.click()
    faint = page.locator("svg g.series.dim").evaluate_all("all => all.map(g => g.dataset.name)")
    assert faint
    assert name not in faint
    button.click()
    assert page.locator("svg g.series.dim").count() == 0
    page.select_option("select[name=solver]", "solver_07")
    faint = page.locator("svg g.series.dim").evaluate_all("all => all.map(g => g.dataset.name)")
    assert any(name.startswith("solver_15") for name in faint)
    page.locator("details.task[open] .chart svg circle.dot").first.click(force=True)
    page.wait_for_selector("#view:not([hidden])")


def test_a_part_of_the_points_filters_the_table(opened):
    page = opened()
    box = page.locator("#points").bounding_box()
    page.locator("#points").scroll_into_view_if_needed()
    box = page.locator("#points").bounding_box()
    page.mouse.move(box["x"] + 80, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert page.input_value("#query").count("f_forward") == 2
    assert 0 < shown(page) < CELLS


def test_a_phone_shows_it_without_scrolling_sideways(opened):
    page = opened(width=390, height=844, has_touch=True)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 390
    assert page.is_visible("tr.row .brief")
    assert not page.is_visible("#heads")
    page.select_option("#sorting", "score down")
    page.locator("tr.row a").first.tap()
    page.wait_for_selector("#view:not([hidden])")
    assert page.evaluate(wide) <= 390


def test_dark_is_dark_and_paper_is_white(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    page = opened(color_scheme="dark")
    dark = [int(part) for part in page.evaluate(background)[4:-1].split(",")]
    assert max(dark) < 60
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(background) == "rgb(255, 255, 255)"
    assert not page.is_visible("#filters")


def test_every_control_has_a_name_and_every_picture_words(opened):
    page = opened()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, summary")]
          .filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length))
          .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    wordless = "svg[role=img]:not([aria-label]), img:not([alt]), canvas:not([aria-label])"
    assert page.locator(wordless).count() == 0
    levels = page.evaluate(
        "[...document.querySelectorAll('#report :is(h1, h2, h3, h4)')].map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_text_from_results_is_never_markup(browser, tmp_path):
    synthetic_store.make(tmp_path, 12, 1)
    path = next((tmp_path / "cells").glob("*/*.json"))
    nasty = "<img src=x onerror=alert(1)></script><b>"
    row = json.loads(path.read_text()) | {"status": "failed", "reason": nasty, "solver": nasty}
    path.write_text(json.dumps(row))
    report.write(tmp_path, Output(quiet=True))
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri() + f"#cell={row['cell']}")
    page.wait_for_selector("html[data-ready=true]")
    assert nasty in page.inner_text("#view")
    assert page.locator("img[src=x]").count() == 0
    page.close()
