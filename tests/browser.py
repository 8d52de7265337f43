"""A browser for tests: real HTTP with a cookie jar, forms as they stand on the page, and no JavaScript."""

from __future__ import annotations

import asyncio
import html
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urljoin

import httpx2

from tests.servers.oauth import authorize

_INPUT = re.compile(r"<input ([^>]*)>")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')


@dataclass(frozen=True)
class Page:
    """What a browser shows. `text` without tags; `source` as it came."""

    url: str
    status: int
    source: str
    headers: httpx2.Headers

    @property
    def text(self) -> str:
        visible = re.sub(r"<(style|script|noscript)>.*?</\1>", " ", self.source, flags=re.DOTALL)
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", visible)).split())

    @property
    def heading(self) -> str:
        found = re.search(r"<h1>(.*?)</h1>", self.source, re.DOTALL)
        return html.unescape(re.sub(r"<[^>]+>", "", found.group(1))) if found else ""

    @property
    def code(self) -> str:
        """The code to confirm, as shown."""
        found = re.search(r'class="code"[^>]*><span[^>]*>([^<]+)<', self.source)
        assert found is not None, self.text
        return found.group(1)

    @property
    def next(self) -> str | None:
        """Where the page goes by itself at once."""
        found = re.search(r'<meta http-equiv="refresh" content="0; url=([^"]+)">', self.source)
        return html.unescape(found.group(1)) if found else None

    @property
    def link(self) -> str | None:
        found = re.search(r'class="button" href="([^"]+)"', self.source)
        return html.unescape(found.group(1)) if found else None

    @property
    def fields(self) -> dict[str, str]:
        """The form's inputs with the values they come with."""
        found = {}
        for match in _INPUT.finditer(self.source):
            attributes = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(match.group(1))}
            found[attributes["name"]] = attributes.get("value", "")
        return found


class Browser:
    """One browser. `app`: asked in this process instead of over the network."""

    def __init__(self, app: Any = None) -> None:
        transport = httpx2.ASGITransport(app=app) if app is not None else None
        self.client = httpx2.AsyncClient(transport=transport, timeout=30, verify=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def request(self, method: str, url: str, **options: Any) -> Page:
        answer = await self.client.request(method, url, follow_redirects=False, **options)
        return Page(str(answer.url), answer.status_code, answer.text, answer.headers)

    async def open(self, url: str) -> Page:
        return await self.request("GET", url)

    async def press(self, page: Page, action: str = "continue", **values: str) -> Page:
        """Send the page's form, and follow where it leads."""
        given = {name: value for name, value in page.fields.items() if name != "untried"}
        answer = await self.request("POST", page.url, data={**given, **values, "action": action})
        if answer.status != 303:
            return answer
        return await self.open(urljoin(page.url, answer.headers["location"]))

    async def authorize(self, page: Page) -> str:
        """Go on to the authorization server and allow it there: the address it sends the browser back to."""
        assert page.next is not None, page.text
        return await asyncio.to_thread(authorize, page.next)

    async def sign_in(self, link: str) -> Page:
        """From the link to the last page, where no proof is asked for."""
        page = await self.press(await self.open(link))
        return await self.open(await self.authorize(page))
