"""Discord from end to end: `slash-mcp serve` in its own process, discord.py in it, Discord on loopback around it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from gateway.demo.browser import press
from gateway.demo.run import Demo
from mcp_auth import McpAuth
from tests.e2e.processes import Running, slash_mcp
from tests.platforms.discord import DiscordServer

pytestmark = pytest.mark.service


def configure(home: Path, server: DiscordServer, user_id: int) -> None:
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["gateway"]["allow"] = [f"discord:{user_id}"]
    config["gateway"]["discord"] = {
        "token": "${DISCORD_BOT_TOKEN}",
        "base_url": server.api_base,
        "gateway_url": server.gateway_url,
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    (home / ".env").write_text(f"DISCORD_BOT_TOKEN={server.token}\n")


async def test_from_the_command_to_a_tool_call_with_the_new_token(tmp_path: Path) -> None:
    async with Demo() as demo, DiscordServer().running() as server:
        home = demo.write_home(tmp_path / "home")
        ada, eve = server.user("ada"), server.user("eve")
        configure(home, server, ada.id)
        with Running(home, "--debug", "serve") as serve:
            await server.connected()
            # A command, in a channel that others read
            asked = await server.slash(ada, "auth", server="notes")
            board = await server.reading(asked, "open this link within 10 minutes")
            (link,) = board.links()
            # A scripted browser at a real authorization server
            assert "notes is signed in" in await press(link, "allow")
            # The completion message, and the checklist brought up to date
            news = await server.reading(asked, "notes: signed in, 3 tools")
            await server.until(lambda: board.links() == [])
            refused = await server.reading(await server.slash(eve, "status"), "I do not know you yet")
            assert {news.ephemeral_to, board.ephemeral_to, refused.ephemeral_to} == {ada, eve}
            assert server.in_place(server.channel) == []
        # A tool call with the new token
        async with McpAuth.open(home=home) as auth, auth.session("notes") as session:
            result = await session.call_tool("whoami", {})
            assert "ada@example.com" in str(result.content[0])
        said = "\n".join(serve.errors)
        tokens = [server.token, link, *(one.token for one in server.interactions.values())]
        assert [secret for secret in tokens if secret in said] == []
        assert server.violations == []


async def test_the_doctor_looks_at_discord(tmp_path: Path) -> None:
    async with Demo() as demo, DiscordServer().running() as server:
        home = demo.write_home(tmp_path / "home")
        configure(home, server, server.user("ada").id)
        good = await asyncio.to_thread(slash_mcp, home, "doctor")
        (home / ".env").write_text("DISCORD_BOT_TOKEN=revoked\n")
        bad = await asyncio.to_thread(slash_mcp, home, "doctor")
        assert "✓ discord: signed in as slash-mcp" in good.stdout
        assert "✗ discord: Discord refuses the token of gateway.discord." in bad.stdout
        assert bad.returncode == 1
