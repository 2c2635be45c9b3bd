"""How quick the page of a folder is: loading, filtering and sorting, in milliseconds.

`python -m tests.tasks.page_speed FOLDER`, where `ode report FOLDER` has written its page.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

QUERIES = ("rk4", "solver_07 adjoint", "error<1e-4", "status:timeout", "sigsegv", "a0f3", "")
TYPE = """query => {
  const field = document.getElementById("query"), start = performance.now();
  field.value = query;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  document.getElementById("rows").getBoundingClientRect();  // and the layout
  return performance.now() - start;
}"""
SORT = """name => {
  const start = performance.now();
  [...document.querySelectorAll("#heads button")].find((b) => b.textContent === name).click();
  document.getElementById("rows").getBoundingClientRect();
  return performance.now() - start;
}"""


def main(folder: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto((folder / "index.html").resolve().as_uri())
        page.wait_for_selector("html[data-ready=true]", timeout=120_000)
        print(f"ready after {page.evaluate('performance.now()'):.0f} ms")
        for name, script, values in (
            ("filter", TYPE, QUERIES),
            ("sort", SORT, ("score", "solver", "seconds")),
        ):
            for value in values:
                taken = [page.evaluate(script, value) for _ in range(7)]
                print(f"{name} {value!r}: median {statistics.median(taken):.0f} ms, "
                      f"most {max(taken):.0f} ms, {page.inner_text('#shown')}")  # fmt: skip
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
