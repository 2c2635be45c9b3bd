"""Headless Chromium for pages on disk, and what such a page may not do."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)
# Root may not have a sandbox, and nothing in the background may look for a network.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--no-first-run"]  # fmt: skip
FROM_DISK = ("file:", "data:", "blob:", "about:")
DESKTOP, PHONE = (1280, 900), (390, 844)


@contextmanager
def chromium():
    """Yield a browser, for `watched`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser, size=DESKTOP, **options):
    """Yield a page and the list of what it complains of, or asks of anything but the disk."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
    page, complaints = context.new_page(), []
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}")
            if m.type in ("error", "warning") else None)  # fmt: skip
    page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
    page.on("request", lambda r: complaints.append(f"asks for {r.url}")
            if not r.url.startswith(FROM_DISK) else None)  # fmt: skip
    page.on("requestfailed", lambda r: complaints.append(f"did not get {r.url}"))
    try:
        yield page, complaints
    finally:
        context.close()


def overflow(page):
    """Return by how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
