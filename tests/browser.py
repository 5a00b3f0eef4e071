"""A headless Chromium for the tests that look at pages; Debian's, or Chrome where that is installed."""

import os
import shutil
from contextlib import contextmanager

import pytest

PROGRAMS = ("chromium", "google-chrome", "chromium-browser")


@contextmanager
def chromium():
    """A Playwright browser. Skips where none is installed, but fails where REQUIRE_BROWSER is set, as .ci/run sets it."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(
            "no browser is installed (Debian: apt install chromium)"
        )
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
