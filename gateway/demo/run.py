"""Runs the demo's servers on loopback, and writes a home for them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

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
    """The demo's servers, as an async context manager.

    Args:
        lifetime: seconds of an access token.
        id_tokens: the authorization server says whose account is signed in.
    """

    def __init__(self, *, lifetime: int = 300, id_tokens: bool = False) -> None:
        self._lifetime = lifetime
        self._id_tokens = id_tokens
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
        provider = DemoProvider(self.issuer, self.notes_url, lifetime=self._lifetime, id_tokens=self._id_tokens)
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
