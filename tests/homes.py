"""Homes for tests: a configuration written as a person writes it, and an `McpAuth` opened on it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml

from mcp_auth import McpAuth
from mcp_auth.records import Requester
from tests.ports import free_port
from tests.servers.oauth import authorize

ME = Requester(principal="cli:local")


class Clock:
    """The time of day at which it was made, and as far ahead as a test says. It does not go on by itself."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._made = time.time()

    def __call__(self) -> float:
        return self._made + self.ahead


def write_home(folder: Path, servers: dict[str, Any], gateway: dict[str, Any] | None = None) -> Path:
    home = folder / "home"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    section = {"callback": {"port": free_port()}, **(gateway or {})}
    (home / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": servers, "gateway": section}))
    return home


def open_auth(folder: Path, servers: dict[str, Any], gateway: dict[str, Any] | None = None, **options: Any) -> McpAuth:
    return McpAuth.open(home=write_home(folder, servers, gateway), **options)


async def signed_in(auth: McpAuth, server: str = "notes", owner: str = "shared") -> None:
    """Sign in as a person does: follow the link, and let the redirect be received."""
    started = await auth.sign_in(server, owner, ME, listen=False)
    redirect = await asyncio.to_thread(authorize, started.link)
    await auth.paste(redirect, ME.principal)


def query_of(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))
