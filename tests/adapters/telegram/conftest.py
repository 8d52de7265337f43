"""A host's Application polling a Bot API server on loopback, with `/mcp` installed in it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from telegram import Update
from telegram.ext import Application, MessageHandler, filters
from telegram.request import HTTPXRequest

from adapters.telegram.adapter import TelegramAdapter
from mcp_auth.config.models import Server
from tests.adapters.telegram.host import Host, StartHost
from tests.gateway.chat import configure, open_gateway
from tests.platforms.telegram import BotApi, Group, Person
from tests.servers.oauth import OAuthServer


@pytest.fixture(scope="session")
def api_running() -> Iterator[BotApi]:
    with BotApi(local=True).running() as server:
        yield server


@pytest.fixture
def api(api_running: BotApi) -> BotApi:
    api_running.reset()
    return api_running


@pytest.fixture
def ada(api: BotApi) -> Person:
    return api.person(1, "Ada", "ada")


@pytest.fixture
def bob(api: BotApi) -> Person:
    return api.person(2, "Bob")


@pytest.fixture
def ops(api: BotApi) -> Group:
    return api.group("Ops")


@pytest.fixture
def start_host(api: BotApi, oauth: OAuthServer, tmp_path: Path) -> StartHost:
    """Starts a host whose gateway has one server `notes` (OAuth), unless told otherwise."""

    @asynccontextmanager
    async def start(*servers: Server, prepare: Any = None, **gateway: Any) -> AsyncIterator[Host]:
        known = servers or (Server(name="notes", url=oauth.url, auth="oauth"),)
        options = {"allow": ("telegram:1",), **gateway}
        opened = open_gateway(configure(tmp_path, *known, **options))
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            await asyncio.sleep(0)

        # Without certificates to load, which take longer than the whole test; nothing here speaks TLS.
        requests = [HTTPXRequest(httpx_kwargs={"verify": False}) for _ in range(2)]
        builder = Application.builder().token(api.token).base_url(api.base_url)
        application = builder.request(requests[0]).get_updates_request(requests[1]).build()
        host = Host(opened, TelegramAdapter(opened, sleep=pause), application, pauses=pauses)

        async def agent(update: Update, context: Any) -> None:
            assert update.effective_message is not None
            host.heard.append(update.effective_message.text or update.effective_message.caption or "")

        application.add_handler(MessageHandler(filters.ALL, agent))
        if prepare is not None:
            prepare(host)
        host.adapter.install(application)
        async with application:
            await application.start()
            await application.updater.start_polling(poll_interval=0)
            try:
                yield host
            finally:
                await application.updater.stop()
                await application.stop()
                await host.adapter.stop()
                await opened.stop()

    return start
