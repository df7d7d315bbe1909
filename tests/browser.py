# SPDX-License-Identifier: Apache-2.0
"""Debian's chromium, driven by playwright, for tests that click."""

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

# So that it asks nobody for anything.
_FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]


@contextlib.contextmanager
def opened() -> Iterator[tuple[Any, list[str]]]:
  """A page, and the addresses of elsewhere that it has asked.

  Skips the test where there is no browser, and says so.
  """
  sync_api = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install -e '.[browser]'"
  )
  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  if chromium is None:
    pytest.skip("no chromium on this machine: apt-get install chromium")
  elsewhere: list[str] = []

  def note(request: Any) -> None:
    if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
      elsewhere.append(request.url)

  with sync_api.sync_playwright() as play:
    browser = play.chromium.launch(executable_path=chromium, args=_FLAGS)
    try:
      page = browser.new_page(
        viewport={"width": 1280, "height": 1000}, accept_downloads=True
      )
      page.set_default_timeout(120_000)
      page.on("request", note)
      yield page, elsewhere
    finally:
      browser.close()
