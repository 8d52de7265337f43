"""The scripted browser at the tests' authorization server, which asks nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from gateway.demo import browser
from gateway.demo.browser import Page as Page
from tests.patience import PATIENCE
from tests.servers.oauth import authorize


class Browser(browser.Browser):
    """One browser. `app`: asked in this process instead of over the network. `script`: whether it runs JavaScript."""

    def __init__(self, app: Any = None, *, script: bool = True) -> None:
        transport = httpx2.ASGITransport(app=app) if app is not None else None
        super().__init__(httpx2.AsyncClient(transport=transport, timeout=PATIENCE, verify=False), script=script)

    async def authorize(self, page: Page) -> str:
        """Go on to the authorization server and allow it there: the address it sends the browser back to."""
        assert page.next is not None, page.text
        return await asyncio.to_thread(authorize, page.next)

    async def sign_in(self, link: str) -> Page:
        """From the link to the last page, where no proof is asked for; without script, one question is."""
        page = await self.press(await self.open(link))
        page = await self.open(await self.authorize(page))
        return await self.press(page, "finish") if "last" in page.fields else page
