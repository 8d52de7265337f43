"""A real discord.py client with `/mcp` in it, connected to Discord on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discord
import pytest

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.process import OwnClient, endpoints
from gateway.gateway import Gateway
from mcp_auth.config.models import Server
from tests.gateway.chat import configure, open_gateway
from tests.platforms.discord import DiscordServer, User


@dataclass
class Bot:
    """One running bot and the two people of its server; `ada` is served, `eve` is not."""

    discord: DiscordServer
    gateway: Gateway
    adapter: DiscordAdapter
    client: discord.Client
    ada: User
    eve: User


@pytest.fixture
async def server() -> AsyncIterator[DiscordServer]:
    """Discord. What it refused fails the test, unless the test cleared `violations`."""
    async with DiscordServer().running() as running:
        yield running
        assert running.violations == []


@contextlib.asynccontextmanager
async def running_bot(
    server: DiscordServer,
    folder: Path,
    *servers: Server,
    client: discord.Client | None = None,
    ada: User | None = None,
    **options: Any,
) -> AsyncIterator[Bot]:
    """`ada`: who is allowed; None: somebody new."""
    ada, eve = ada or server.user("ada"), server.user("eve")
    also = options.pop("also", ())
    allow = (f"discord:{ada.id}", *also)
    if options.get("admins") is True:
        options["admins"] = (f"discord:{ada.id}",)
    if also:
        # Several people, each with their own credentials: no admin has to be named.
        options = {"identity": "per_user", **options}
    store = options.pop("store", None)
    gateway = open_gateway(configure(folder, *servers, allow=allow, **options), store)
    adapter = DiscordAdapter(gateway, clock=server.clock)
    with endpoints(server.api_base, server.gateway_url):
        async with gateway:
            used = client or OwnClient()
            adapter.install(getattr(used, "tree", used))
            async with used:
                running = asyncio.create_task(used.start(server.token))
                try:
                    await server.connected()
                    yield Bot(server, gateway, adapter, used, ada, eve)
                finally:
                    await adapter.stop()
                    await used.close()
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
