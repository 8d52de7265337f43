from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.patience import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# As the browser's driver counts.
MILLISECONDS = PATIENCE * 1000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Debian's, without a window; it waits as long as the tests do."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed. Next: scripts/services"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=_QUIET, timeout=MILLISECONDS)
        launched.on("context", _be_patient)
        yield launched
        launched.close()


def _be_patient(context: BrowserContext) -> None:
    context.set_default_timeout(MILLISECONDS)
