"""A real browser, and everything that it complains about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Dialog, Page, sync_playwright

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
"""Where there is one; Debian's is in the package ``chromium``."""
WAIT = 20_000.0
"""Milliseconds for what happens at once."""

_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(`refused: ${event.violatedDirective}`), true);
"""


@dataclass
class Window:
    """A page of its own context, and what went wrong in it."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT)
        self.page.add_init_script(_VIOLATIONS)
        self.page.on("console", lambda said: self._complain(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._refuse)

    def _refuse(self, dialog: Dialog) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"{kind}: {text}")


class Windows:
    """Opens windows of one browser."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextmanager
    def open(self, url: str, *, path: str = "/console", **context: Any) -> Iterator[Window]:
        """A window at a page of a server; expects that it has nothing to complain about at the end."""
        made: BrowserContext = self._browser.new_context(base_url=url, **context)
        try:
            window = Window(made.new_page())
            window.page.goto(path)
            yield window
            assert window.complaints == []
        finally:
            made.close()


@contextmanager
def browsing() -> Iterator[Windows]:
    """A browser that is closed at the end."""
    options = ["--disable-gpu", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # Chromium's own walls do not work for root; only pages of ours are opened
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield Windows(browser)
        finally:
            browser.close()
