"""A headless Chromium for tests of pages; it may open files, never a network.

Use in a test module:

    from browser import browser_for_module

    browser = browser_for_module()
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Set to 1 where a browser must be there: without one, tests fail and do not skip.
REQUIRED = "CIBENCH_REQUIRE_BROWSER"
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 375, "height": 740}


def _program():
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    return found or shutil.which("google-chrome")


def _absent(reason):
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{REQUIRED}=1, but {reason}")
    pytest.skip(reason)


@contextmanager
def started():
    """A running browser; skips, or fails where one is required, without one."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _absent("expected playwright, got none; pip install cibench[test]")
    program = _program()
    if program is None:
        _absent("expected chromium on the path, got none; apt install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def browser_for_module():
    """A fixture: one browser for all tests of a module."""

    @pytest.fixture(scope="module", name="browser")
    def browser():
        with started() as found:
            yield found

    return browser


class Visit:
    """A page that was opened, with all that it did behind the reader's back."""

    def __init__(self, page):
        self.page = page
        self.errors, self.dialogs, self.requests = [], [], []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", self._request)

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _request(self, request):
        if not request.url.startswith(("file://", "data:", "blob:")):
            self.requests.append(request.url)

    def quiet(self):
        """Whether nothing was logged as wrong, asked for, or sent."""
        return (self.errors, self.dialogs, self.requests) == ([], [], [])


@contextmanager
def visit(browser, path, route="", *, size=None, **options):
    """Opens a file at a route such as `#/about`; `options` go to the browser's context.

    Every request that is not for a file is cut off and kept in `requests`.
    """
    context = browser.new_context(viewport=size or DESKTOP, **options)
    context.set_default_timeout(20_000)
    context.route(
        lambda url: not url.startswith("file://"), lambda route: route.abort()
    )
    try:
        seen = Visit(context.new_page())
        seen.page.goto(Path(path).resolve().as_uri() + route)
        yield seen
    finally:
        context.close()


def drawn(page):
    """Waits until every chart of the page is drawn; returns how many there are."""
    from playwright.sync_api import expect

    expect(page.locator(".plot").first).to_be_attached()
    expect(page.locator(".plot:not(.ready)")).to_have_count(0, timeout=60_000)
    return page.locator(".plot.ready").count()
