"""`/mcp` in somebody else's discord.py application."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import discord
import pytest
from discord import app_commands
from discord.ext import commands

from adapters.discord import DiscordAdapter
from adapters.testing import unreadable_address
from mcp_auth.config.models import Server
from mcp_auth.errors import ConfigError
from mcp_auth.stores.files import FileStore
from tests.adapters.discord.conftest import running_bot
from tests.gateway.chat import configure, open_gateway
from tests.platforms.discord import DiscordServer
from tests.servers.oauth import OAuthServer, authorize

DEAD = Server(name="dead", url="http://127.0.0.1:9/mcp", auth="oauth")
INTENTS = discord.Intents(guilds=True, guild_messages=True, dm_messages=True)


class Host(discord.Client):
    """A client with a tree and commands of its own, which syncs by itself."""

    def __init__(self, intents: discord.Intents = INTENTS) -> None:
        super().__init__(intents=intents)
        self.tree = app_commands.CommandTree(self)
        self.heard: list[str] = []

        @self.tree.command(description="the host's own")
        async def ping(interaction: discord.Interaction) -> None:
            await interaction.response.send_message("pong")

    async def setup_hook(self) -> None:
        await self.tree.sync()

    async def on_message(self, message: discord.Message) -> None:
        self.heard.append(message.content)


async def test_a_client_keeps_its_commands_and_hears_what_is_not_ours(server: DiscordServer, tmp_path: Path) -> None:
    host = Host()
    async with running_bot(server, tmp_path, DEAD, client=host) as bot:
        assert sorted(command["name"] for command in server.commands) == ["mcp", "ping"]
        assert server.command_writes == 1
        await server.say(bot.ada, "@bot hello")
        await server.say(bot.ada, "@bot mcp help")
        await server.posted(server.channel, "What /mcp can do")
        assert host.heard == [f"<@{server.bot.id}> hello"]
        await server.reading(await server.slash(bot.ada, "status"), "sign-in needed")


async def test_a_bot_gets_a_listener_and_its_prefix_commands_go_on(server: DiscordServer, tmp_path: Path) -> None:
    claimed: dict[str, bool] = {}

    class HostBot(commands.Bot):
        async def setup_hook(self) -> None:
            await self.tree.sync()

        async def on_message(self, message: discord.Message) -> None:
            if not message.author.bot:
                claimed[message.content] = await bot.adapter.claims(message)

    host = HostBot(command_prefix="!", intents=INTENTS)
    async with running_bot(server, tmp_path, DEAD, client=host) as bot:
        for text in ("@bot hello", "@bot mcp help"):
            await server.say(bot.ada, text)
        await server.posted(server.channel, "What /mcp can do")
        await server.until(lambda: len(claimed) == 2)
        mention = f"<@{server.bot.id}>"
        assert claimed == {f"{mention} hello": False, f"{mention} mcp help": True}


async def test_the_address_of_a_sign_in_is_kept_from_the_host_wherever_it_is_pasted(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    notes = Server(name="notes", url=oauth.url, auth="oauth")
    server.privileged_allowed = True
    host = Host(discord.Intents(guilds=True, guild_messages=True, dm_messages=True, message_content=True))
    async with running_bot(server, tmp_path, notes, client=host) as bot:
        asked = await server.reading(await server.slash(bot.ada, "auth", server="notes"), "open this link")
        redirect = await asyncio.to_thread(authorize, asked.links()[0])

        await server.say(bot.ada, redirect)
        await server.posted(server.channel, "where others read along")
        await server.say(bot.ada, redirect, server.dm(bot.ada))
        await server.posted(server.dm(bot.ada), "notes: signed in")

        assert host.heard == []


async def test_an_address_is_kept_from_the_host_while_the_store_cannot_be_read(
    server: DiscordServer, tmp_path: Path
) -> None:
    host = Host()
    async with running_bot(server, tmp_path, DEAD, client=host, store=FileStore(tmp_path)) as bot:
        dm = server.dm(bot.ada)
        await server.say(bot.ada, await unreadable_address(bot.gateway), dm)

        await server.posted(dm, "cannot be read")

        assert host.heard == []


async def test_install_sends_nothing_and_stop_takes_everything_back(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, DEAD))
    host = Host()
    theirs = host.on_message

    adapter = DiscordAdapter(gateway)
    adapter.install(host)
    installed = [command.name for command in host.tree.get_commands()]
    await adapter.stop()
    await adapter.stop()

    assert installed == ["ping", "mcp"]
    assert [command.name for command in host.tree.get_commands()] == ["ping"]
    assert host.on_message == theirs
    await gateway.stop()


async def test_it_is_installed_once(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, DEAD))
    host = Host()
    adapter = DiscordAdapter(gateway)
    adapter.install(host)
    with pytest.raises(ConfigError, match="has a command /mcp already"):
        DiscordAdapter(gateway).install(host)
    with pytest.raises(RuntimeError, match="installed already"):
        adapter.install(Host())
    await gateway.stop()


async def test_a_client_without_a_tree_gets_one_and_a_hidden_one_has_to_be_given(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, DEAD))
    bare, hiding = discord.Client(intents=INTENTS), discord.Client(intents=INTENTS)
    tree: app_commands.CommandTree[Any] = app_commands.CommandTree(hiding)

    adapter = DiscordAdapter(gateway)
    adapter.install(bare)
    with pytest.raises(ConfigError, match="has a command tree already") as refused:
        DiscordAdapter(gateway).install(hiding)
    DiscordAdapter(gateway).install(tree)
    await adapter.stop()

    assert "install(tree)" in str(refused.value.next_step)
    assert [command.name for command in tree.get_commands()] == ["mcp"]
    await gateway.stop()
