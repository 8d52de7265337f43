"""The client of our own, as `slash-mcp serve` runs it, and what `slash-mcp doctor` finds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.options import DiscordOptions
from adapters.discord.process import endpoints
from gateway import sentences
from gateway.gateway import Gateway
from gateway.invocations import ChatRef, Principal
from gateway.replies import Audience, Notice, Reply, Text
from mcp_auth.config.models import Server
from mcp_auth.errors import ConfigError, Unreachable
from tests.gateway.chat import configure, open_gateway
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.platforms.discord import DiscordServer
from tests.ports import free_port

NEWS = Reply((Text("notes: signed in"),), audience=Audience.CALLER)

DEAD = Server(name="dead", url="http://127.0.0.1:9/mcp", auth="oauth")


def section(server: DiscordServer, **changes: Any) -> dict[str, Any]:
    return {"token": server.token, "base_url": server.api_base, "gateway_url": server.gateway_url, **changes}


@contextlib.asynccontextmanager
async def run(adapter: DiscordAdapter) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(adapter.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def adapter_of(folder: Path, server: DiscordServer, **changes: Any) -> tuple[Gateway, DiscordAdapter]:
    options = DiscordOptions(**section(server, **changes))
    gateway = open_gateway(configure(folder, DEAD, allow=(f"discord:{server.user('ada').id}",)))
    return gateway, DiscordAdapter(gateway, options=options)


async def test_it_answers_with_the_token_of_the_configuration(server: DiscordServer, tmp_path: Path) -> None:
    ada = server.user("ada")
    gateway_section = {"allow": [f"discord:{ada.id}"], "discord": section(server, token="${DISCORD_BOT_TOKEN}")}
    home = write_home(tmp_path, {"dead": {"url": "http://127.0.0.1:9/mcp", "auth": "oauth"}}, gateway_section)
    (home / ".env").write_text(f"DISCORD_BOT_TOKEN={server.token}\n")
    async with Gateway.from_config(home=home) as gateway, run(DiscordAdapter(gateway)):
        await server.connected()
        await server.reading(await server.slash(ada, "status"), "sign-in needed")
    assert server.token not in repr(DiscordOptions(**section(server)))


async def test_the_command_is_registered_once_and_again_when_it_changed(
    server: DiscordServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    for changed in (False, False, True):
        if changed:
            server.commands[0]["description"] = "something older"
        gateway, adapter = adapter_of(tmp_path, server)
        async with gateway, run(adapter):
            server.sessions.clear()
            await server.connected()
            writes.append(server.command_writes)
    assert writes == [1, 1, 2]
    assert server.commands[0]["description"] == sentences.COMMAND_DESCRIPTION


async def test_it_asks_for_no_privileged_intent(server: DiscordServer, tmp_path: Path) -> None:
    gateway, adapter = adapter_of(tmp_path, server)
    async with gateway, run(adapter):
        await server.connected()
        (session,) = server.sessions.values()
        assert session.intents == (1 << 0) | (1 << 9) | (1 << 12)


async def test_a_wrong_token_names_the_key_and_where_a_new_one_is_made(server: DiscordServer, tmp_path: Path) -> None:
    gateway, adapter = adapter_of(tmp_path, server, token="MTk4.wrong.token")
    async with gateway:
        with pytest.raises(ConfigError, match="refuses the token") as refused:
            await adapter.run()
    assert refused.value.key == "gateway.discord.token"
    assert "Reset Token" in str(refused.value)
    assert "wrong.token" not in str(refused.value)
    server.violations.clear()


async def test_a_token_revoked_while_running_ends_the_run_with_the_same_sentence(
    server: DiscordServer, tmp_path: Path
) -> None:
    gateway, adapter = adapter_of(tmp_path, server)
    async with gateway, run(adapter) as running:
        await server.connected()
        server.token = "another"
        await server.cut_connections(code=4004)
        with pytest.raises(ConfigError, match="refuses the token"):
            await asyncio.wait_for(running, PATIENCE)


async def test_without_a_connection_it_says_that_discord_cannot_be_reached(
    server: DiscordServer, tmp_path: Path
) -> None:
    gateway, adapter = adapter_of(tmp_path, server, base_url=f"http://127.0.0.1:{free_port()}/api/v10")
    async with gateway:
        with pytest.raises(Unreachable, match="Discord cannot be reached"):
            await adapter.run()


async def test_a_process_that_only_delivers_connects_to_no_gateway(server: DiscordServer, tmp_path: Path) -> None:
    ada = server.user("ada")
    gateway, adapter = adapter_of(tmp_path, server)
    async with gateway, adapter.connected():
        assert await adapter.notify(Notice(Principal("discord", str(ada.id)), ChatRef("discord"), NEWS))
    await server.posted(server.dm(ada), "notes: signed in")
    assert server.connections == 0


async def test_a_missing_token_names_the_key(tmp_path: Path) -> None:
    home = write_home(tmp_path, {}, {"discord": {"secrets_in_chat": True}})
    async with Gateway.from_config(home=home) as gateway:
        with pytest.raises(ConfigError, match=r"gateway\.discord"):
            await DiscordAdapter(gateway).run()


async def test_it_can_be_run_again_after_it_ended(server: DiscordServer, tmp_path: Path) -> None:
    gateway, adapter = adapter_of(tmp_path, server)
    async with gateway:
        for _ in range(2):
            server.sessions.clear()
            async with run(adapter):
                await server.connected()


async def test_debug_logs_never_hold_the_wire(
    server: DiscordServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ada = server.user("ada")
    options = DiscordOptions(**section(server))
    gateway = open_gateway(configure(tmp_path, DEAD, allow=(f"discord:{ada.id}",)))
    with caplog.at_level(logging.DEBUG):
        async with gateway, run(DiscordAdapter(gateway, options=options)):
            await server.connected()
            asked = await server.slash(ada, "status")
            await server.reading(asked, "sign-in needed")
    assert asked.token not in caplog.text
    assert server.token not in caplog.text


def test_addresses_are_set_for_the_process_and_set_back() -> None:
    before = (Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY)
    with endpoints("http://127.0.0.1:1/api/v10", "ws://127.0.0.1:1/"):
        assert Route("GET", "/users/@me").url == "http://127.0.0.1:1/api/v10/users/@me"
        with endpoints("http://127.0.0.1:1/api/v10", "ws://127.0.0.1:1/"):
            pass
        assert Route.BASE == "http://127.0.0.1:1/api/v10"
        with pytest.raises(ConfigError, match="other addresses"), endpoints(None, None):
            pass
    assert before == (Route.BASE, DiscordWebSocket.DEFAULT_GATEWAY)


class TestCheck:
    async def test_all_is_well(self, server: DiscordServer, tmp_path: Path) -> None:
        gateway, adapter = adapter_of(tmp_path, server)
        async with gateway, run(adapter):
            await server.connected()
        async with gateway:
            found = await adapter.check()
        assert [one.mark for one in found] == ["✓"]
        assert "signed in as slash-mcp" in found[0].text

    async def test_what_keeps_commands_away_is_named_with_its_page(self, server: DiscordServer, tmp_path: Path) -> None:
        server.interactions_endpoint_url = "https://elsewhere.example/interactions"
        server.user_installs = False
        options = DiscordOptions(**section(server))
        gateway = open_gateway(configure(tmp_path, DEAD))
        found = await DiscordAdapter(gateway, options=options).check()
        await gateway.stop()
        assert [one.mark for one in found] == ["✓", "✗", "!", "!", "!"]
        said = "\n".join(one.text for one in found)
        assert f"{server.application_id}/information" in said
        assert f"{server.application_id}/installation" in said
        assert "not registered yet" in said
        assert "nobody is served here" in said

    async def test_a_wrong_token_and_a_dead_line_are_findings(self, server: DiscordServer, tmp_path: Path) -> None:
        wrong = DiscordOptions(**section(server, token="wrong"))
        dead = DiscordOptions(**section(server, base_url=f"http://127.0.0.1:{free_port()}/api/v10"))
        gateway = open_gateway(configure(tmp_path, DEAD))
        (refused,) = await DiscordAdapter(gateway, options=wrong).check()
        (unreachable,) = await DiscordAdapter(gateway, options=dead).check()
        await gateway.stop()
        server.violations.clear()
        assert refused.mark == "✗" and "refuses the token" in refused.text
        assert unreachable.mark == "✗" and "cannot be reached" in unreachable.text
