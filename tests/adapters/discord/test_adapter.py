"""discord.py's own client and Discord on loopback; the gateway and the servers behind it are real."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mcp_auth.config import Server
from tests.adapters.discord.conftest import running_bot
from tests.platforms.discord import DiscordServer
from tests.servers.oauth import OAuthServer, authorize, visit

DEAD = Server(name="dead", url="http://127.0.0.1:9/mcp", auth="oauth")


def notes(oauth: OAuthServer) -> Server:
    return Server(name="notes", url=oauth.url, auth="oauth")


async def test_status_lists_the_servers_to_the_one_who_asked(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, "status")
        message = await server.reading(asked, "sign-in needed")

        assert message.ephemeral_to is bot.ada
        assert "**dead**" in message.content
        assert "[Sign in]" in message.text


async def test_a_sign_in_from_the_link_to_the_notice(server: DiscordServer, tmp_path: Path, oauth: OAuthServer) -> None:
    async with running_bot(server, tmp_path, notes(oauth)) as bot:
        asked = await server.slash(bot.ada, "auth", server="notes")
        message = await server.reading(asked, "open this link within 10 minutes")
        (link,) = message.links()
        redirect = await asyncio.to_thread(authorize, link)
        await asyncio.to_thread(visit, redirect)
        await server.reading(asked, "notes: signed in, 3 tools")
        await server.until(lambda: "signed in, 3 tools" in message.text and message.links() == [])

        assert all(one.ephemeral_to is bot.ada for one in asked.messages)
        assert server.in_place(server.channel) == []


async def test_a_press_answers_in_a_message_of_its_own(server: DiscordServer, tmp_path: Path) -> None:
    async with running_bot(server, tmp_path, DEAD) as bot:
        asked = await server.slash(bot.ada, "status")
        listed = await server.reading(asked, "sign-in needed")
        pressed = await server.press(bot.ada, listed, "Sign in")
        await server.reading(pressed, "cannot be reached")

        assert "sign-in needed" in listed.text
