"""`examples/discord_bot.py`: the bot goes on as before, and answers `/mcp`."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

from adapters.discord.process import endpoints
from tests.homes import write_home
from tests.platforms.discord import DiscordServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "discord_bot.py"


def test_three_lines_were_added() -> None:
    assert sum(line.endswith("  #") for line in EXAMPLE.read_text().splitlines()) == 3


async def test_an_existing_bot_answers_mcp_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DiscordServer().running() as server:
        ada = server.user("ada")
        dead = {"dead": {"url": "http://127.0.0.1:9/mcp", "auth": "oauth"}}
        home = write_home(tmp_path, dead, {"allow": [f"discord:{ada.id}"]})
        monkeypatch.setenv("SLASH_MCP_HOME", str(home))
        with endpoints(server.api_base, server.gateway_url):
            bot = runpy.run_path(str(EXAMPLE))["bot"]
            async with bot:
                running = asyncio.create_task(bot.start(server.token))
                await server.connected()
                assert sorted(command["name"] for command in server.commands) == ["hello", "mcp"]
                await server.reading(await server.slash(ada, "status"), "sign-in needed")
                await server.say(ada, "@bot hello")
                await server.posted(server.channel, "I was mentioned")
                await server.say(ada, "@bot mcp help")
                await server.posted(server.channel, "What /mcp can do")
                await bot.close()
                await asyncio.gather(running, return_exceptions=True)
        assert len(server.in_place(server.channel)) == 2
        assert server.violations == []
