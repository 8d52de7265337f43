"""The scripted browser: real HTTP with a cookie jar, and forms as they stand on the page.

It knows the pages of our endpoint, and does what their script does (`mcp_auth/templates/page.js`): keeps a secret for
each link, posts it, and shows what comes back. `script=False`: a browser without JavaScript. It knows the consent page
of the demo's authorization server, too.
"""

from __future__ import annotations

import asyncio
import html
import json
import re
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import httpx2

_INPUT = re.compile(r"<input ([^>]*)>")
_ATTRIBUTE = re.compile(r'([\w-]+)="([^"]*)"')
_UNSEEN = re.compile(r"<(style|script|noscript|title)>.*?</\1>", re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
_CODE = re.compile(r'class="code"[^>]*><span[^>]*>([^<]+)<')
_BODY = re.compile(r"<body ([^>]*)>")
# Where a page waits, it is asked again so often, in seconds.
_RELOAD = 0.1


@dataclass(frozen=True)
class Page:
    """What a browser shows. `text` without tags; `source` as it came, or what the script put in its place.

    `onward`: where that script goes on to. `kept`: the name under which it keeps its secret.
    """

    url: str
    status: int
    source: str
    headers: httpx2.Headers
    onward: str | None = None
    kept: str | None = None

    @property
    def text(self) -> str:
        return " ".join(html.unescape(_TAG.sub(" ", _UNSEEN.sub(" ", self.source))).split())

    @property
    def heading(self) -> str:
        found = re.search(r"<h1>(.*?)</h1>", self.source, re.DOTALL)
        return html.unescape(_TAG.sub("", found.group(1))) if found else ""

    @property
    def has_code(self) -> bool:
        return _CODE.search(self.source) is not None

    @property
    def code(self) -> str:
        """The code to confirm, as shown.

        Raises:
            LookupError: this page shows none.
        """
        found = _CODE.search(self.source)
        if found is None:
            raise LookupError(f"no code on this page: {self.text}")
        return found.group(1)

    @property
    def next(self) -> str | None:
        """Where the page goes by itself at once."""
        if self.onward is not None:
            return self.onward
        found = re.search(r'<meta http-equiv="refresh" content="0; url=([^"]+)">', self.source)
        return html.unescape(found.group(1)) if found else None

    @property
    def task(self) -> dict[str, str]:
        """What the page's script is told to do; empty: there is none."""
        found = _BODY.search(self.source)
        return dict(_ATTRIBUTE.findall(found.group(1))) if found else {}

    @property
    def link(self) -> str | None:
        found = re.search(r'class="button" href="([^"]+)"', self.source)
        return html.unescape(found.group(1)) if found else None

    @property
    def action(self) -> str | None:
        """Where the form is sent, when not to the page itself."""
        found = re.search(r'<form [^>]*action="([^"]+)"', self.source)
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
    """One browser, with its own cookies and, with `script`, its own storage: by origin, as browsers keep it."""

    def __init__(self, client: httpx2.AsyncClient | None = None, *, script: bool = True) -> None:
        self.client = client or httpx2.AsyncClient(trust_env=False, timeout=120.0)
        self.script = script
        self.storage: dict[tuple[str, str], str] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def request(self, method: str, url: str, **options: Any) -> Page:
        answer = await self.client.request(method, url, **{"follow_redirects": False, **options})
        return Page(str(answer.url), answer.status_code, answer.text, answer.headers)

    async def open(self, url: str, **options: Any) -> Page:
        """Load an address, and let the page's script do what it does."""
        page = await self.request("GET", url, **options)
        name, here = page.task.get("data-name", ""), page.url.partition("?")[0]
        if not self.script or not name:
            return page
        match page.task.get("data-task"):
            case "start" if self.kept(url, name) is not None:
                shown = await self._send(f"{here}/state", name)
                return page if shown.source == "start" else shown
            case "page":
                return await self._send(f"{here}/state", name)
            case "answer":
                query = urlsplit(page.url).query
                known = urlencode({"state": dict(parse_qsl(query)).get("state", "")})
                return await self._send(f"{here}?{known}", name, answer=query)
        return page

    def kept(self, url: str, name: str) -> str | None:
        return self.storage.get((_origin(url), name))

    async def _send(self, url: str, name: str, **fields: str) -> Page:
        data = {**fields, "secret": self.kept(url, name) or ""}
        answer = await self.request("POST", url, data=data, headers={"Accept": "application/json"})
        here = url.partition("?")[0].removesuffix("/state")
        if "json" not in answer.headers.get("content-type", ""):
            return Page(here, answer.status, answer.source, answer.headers)
        told = json.loads(answer.source)
        source = told.get("main", told["state"])
        # After an answer the script moves to the page where it began.
        page = self.storage.get((_origin(url), f"{name} page"), here)
        return Page(page, answer.status, source, answer.headers, told.get("onward"), name)

    async def press(self, page: Page, action: str = "continue", **values: str) -> Page:
        """Send the form of a page of ours, and follow where it leads."""
        given = {name: value for name, value in page.fields.items() if name != "untried"}
        if page.kept is not None:
            return await self._send(page.url, page.kept, **{**given, **values, "action": action})
        name = page.task.get("data-name", "")
        if self.script and page.task.get("data-task") == "login":
            return await self._send(page.url.partition("?")[0], name, **{**given, **values})
        if self.script and action == "continue" and name:
            secret = self.storage.setdefault((_origin(page.url), name), secrets.token_urlsafe(32))
            self.storage[_origin(page.url), f"{name} page"] = page.url
            given |= {"secret": secret, "kept": "storage"}
        sent_to = urljoin(page.url, page.action or page.url)
        answer = await self.request("POST", sent_to, data={**given, **values, "action": action})
        if answer.status != 303:
            return answer
        return await self.open(urljoin(page.url, answer.headers["location"]))

    async def released(self, page: Page, seconds: float = 20.0) -> Page:
        """The page that shows a code, once it goes on by itself.

        Raises:
            TimeoutError: nobody confirmed the code in time.
        """
        async with asyncio.timeout(seconds):
            while page.has_code:
                await asyncio.sleep(_RELOAD)
                page = await self.open(page.url)
        return page

    async def consent(self, url: str, answer: str) -> str:
        """Press `allow` or `deny` at the demo's authorization server: the address it sends back to, not yet visited."""
        page = await self.request("GET", url, follow_redirects=True)
        sent = await self.request("POST", page.url, data={**page.fields, "answer": answer})
        return urljoin(sent.url, sent.headers["location"])

    async def finish(self, page: Page, answer: str = "allow") -> Page:
        """From our page that goes on to the authorization server to the last one.

        Raises:
            LookupError: this page goes nowhere.
        """
        if page.next is None:
            raise LookupError(f"this page does not go on: {page.text}")
        return await self.open(await self.consent(page.next, answer))


async def press(link: str, answer: str) -> str:
    """Opens `link`, which no proof stands before, presses `allow` or `deny`, and returns the last page's text."""
    async with Browser() as browser:
        if "/a/" not in link:
            return (await browser.open(await browser.consent(link, answer))).text
        return (await browser.finish(await browser.press(await browser.open(link)), answer)).text


async def answer_consent(link: str, answer: str) -> str:
    """Opens `link`, presses `allow` or `deny`, and returns the address that the browser is sent to, not yet visited."""
    async with Browser() as browser:
        return await browser.consent(link, answer)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
