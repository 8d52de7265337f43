"""Runs the demo's servers on loopback, writes a home for them, and plays the browser."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin

import httpx2
import uvicorn

from gateway.demo.authorization_server import DemoProvider
from gateway.demo.servers import authorization_app, notes_server, weather_app

if TYPE_CHECKING:
    from starlette.applications import Starlette

_START_SECONDS = 10.0
KEY_VARIABLE = "DEMO_WEATHER_API_KEY"

_CONFIG = """# The demo's configuration: what a real one looks like.
mcp_servers:
  notes:                                # signed in to with OAuth
    url: {notes}
    auth: oauth
  weather:                              # wants an API key, kept in .env beside this file
    url: {weather}
    headers: {{Authorization: "Bearer ${{{variable}}}"}}
  clock:                                # a command on this machine, open to all
    command: {python}
    args: [-m, gateway.demo.stdio_server]

gateway:
  callback: {{port: {port}}}
"""


class Demo:
    """The demo's servers, as an async context manager. `lifetime`: seconds of an access token."""

    def __init__(self, *, lifetime: int = 300) -> None:
        self._lifetime = lifetime
        self._stack = AsyncExitStack()
        self.weather_key = f"demo-key-{secrets.token_hex(4)}"
        self.issuer = ""
        self.notes_url = ""
        self.weather_url = ""

    async def __aenter__(self) -> Self:
        issuer_socket, notes_socket, weather_socket = (_free_socket() for _ in range(3))
        self.issuer, notes, weather = (
            f"http://127.0.0.1:{each.getsockname()[1]}" for each in (issuer_socket, notes_socket, weather_socket)
        )
        self.notes_url, self.weather_url = f"{notes}/mcp", f"{weather}/mcp"
        provider = DemoProvider(self.issuer, self.notes_url, lifetime=self._lifetime)
        notes_app = notes_server(provider, self.issuer, self.notes_url).streamable_http_app()
        try:
            await self._serve(authorization_app(provider, self.issuer), issuer_socket)
            await self._serve(notes_app, notes_socket)
            await self._serve(weather_app(self.weather_key), weather_socket)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def write_home(self, folder: Path) -> Path:
        """A throw-away home with the three servers in its `config.yaml`, and no key yet."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.closing(_free_socket()) as free:
            port = free.getsockname()[1]
        text = _CONFIG.format(
            notes=self.notes_url, weather=self.weather_url, variable=KEY_VARIABLE, python=sys.executable, port=port
        )
        (folder / "config.yaml").write_text(text, encoding="utf-8")
        return folder

    async def _serve(self, app: Starlette, bound: socket.socket) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
        server = _EmbeddedServer(config)
        task = asyncio.create_task(server.serve(sockets=[bound]))
        self._stack.push_async_callback(_stop, server, task)
        async with asyncio.timeout(_START_SECONDS):
            while not server.started:
                if task.done():
                    task.result()
                    raise RuntimeError("a demo server did not start")
                await asyncio.sleep(0.01)


async def press(link: str, answer: str) -> str:
    """The scripted browser: opens `link`, presses `allow` or `deny`, and returns the text of the last page."""
    redirect = await answer_consent(link, answer)
    async with _browser() as browser:
        return _Text.read((await browser.get(redirect)).text)


async def answer_consent(link: str, answer: str) -> str:
    """Opens `link`, presses `allow` or `deny`, and returns the address that the browser is sent to, not yet visited."""
    async with _browser() as browser:
        page = await browser.get(link)
        form = _Form.read(page.text)
        sent = await browser.post(
            urljoin(str(page.url), form.action), data={**form.hidden, "answer": answer}, follow_redirects=False
        )
        return urljoin(str(sent.url), sent.headers["location"])


def _browser() -> httpx2.AsyncClient:
    return httpx2.AsyncClient(trust_env=False, follow_redirects=True, timeout=30.0)


class _EmbeddedServer(uvicorn.Server):
    """A server inside another program: signals are that program's business."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


async def _stop(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    server.should_exit = True
    done, _ = await asyncio.wait({task}, timeout=5.0)
    if not done:
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _free_socket() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    bound.listen(64)
    bound.setblocking(False)
    return bound


class _Form(HTMLParser):
    """The first form of a page: where it goes, and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.hidden: dict[str, str] = {}

    @classmethod
    def read(cls, page: str) -> _Form:
        form = cls()
        form.feed(page)
        return form

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "form" and not self.action:
            self.action = values.get("action") or ""
        if tag == "input" and values.get("type") == "hidden":
            self.hidden[values.get("name") or ""] = values.get("value") or ""


class _Text(HTMLParser):
    """What a page says, without its styles."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._hidden = False

    @classmethod
    def read(cls, page: str) -> str:
        text = cls()
        text.feed(page)
        return " ".join(" ".join(text._parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden = tag in ("style", "title", "script")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)
