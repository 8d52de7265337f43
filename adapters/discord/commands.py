"""The slash command `/mcp` with its subcommands. It knows names and options; what they do is the adapter's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import discord
from discord import app_commands

from gateway import sentences

Take = Callable[[discord.Interaction, str], Awaitable[None]]
Choices = Callable[[discord.Interaction, str], list[app_commands.Choice[str]]]

_SAYS = sentences.SUBCOMMANDS


class McpCommands(app_commands.Group):
    """`/mcp status`, `/mcp auth`, ...: installed in servers and by persons, used everywhere.

    Args:
        take: answers an interaction for what would be typed after `/mcp`.
        choices: the servers to offer for what was typed so far, from memory.
    """

    def __init__(self, name: str, take: Take, choices: Choices) -> None:
        super().__init__(
            name=name,
            description=sentences.COMMAND_DESCRIPTION,
            allowed_installs=app_commands.AppInstallationType(guild=True, user=True),
            allowed_contexts=app_commands.AppCommandContext(guild=True, dm_channel=True, private_channel=True),
        )
        self._take = take
        self._choices = choices

    async def _offer(self, interaction: discord.Interaction, current: str) -> list[app_commands.Choice[str]]:
        return self._choices(interaction, current)

    @app_commands.command(description=_SAYS["status"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def status(self, interaction: discord.Interaction, server: str = "") -> None:
        await self._take(interaction, f"status {server}")

    @app_commands.command(description=_SAYS["auth"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def auth(self, interaction: discord.Interaction, server: str = "") -> None:
        await self._take(interaction, f"auth {server}")

    @app_commands.command(description=_SAYS["key"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def key(self, interaction: discord.Interaction, server: str = "") -> None:
        await self._take(interaction, f"key {server}")

    @app_commands.command(description=_SAYS["paste"])
    async def paste(self, interaction: discord.Interaction) -> None:
        await self._take(interaction, "paste")

    @app_commands.command(description=_SAYS["confirm"])
    @app_commands.describe(code=sentences.OPTION_CODE)
    async def confirm(self, interaction: discord.Interaction, code: str) -> None:
        await self._take(interaction, f"confirm {code}")

    @app_commands.command(description=_SAYS["cancel"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def cancel(self, interaction: discord.Interaction, server: str = "") -> None:
        await self._take(interaction, f"cancel {server}")

    @app_commands.command(description=_SAYS["logout"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def logout(self, interaction: discord.Interaction, server: str) -> None:
        await self._take(interaction, f"logout {server}")

    @app_commands.command(description=_SAYS["test"])
    @app_commands.describe(server=sentences.OPTION_SERVER)
    @app_commands.autocomplete(server=_offer)
    async def test(self, interaction: discord.Interaction, server: str) -> None:
        await self._take(interaction, f"test {server}")

    @app_commands.command(description=_SAYS["people"])
    async def people(self, interaction: discord.Interaction) -> None:
        await self._take(interaction, "people")

    @app_commands.command(description=_SAYS["allow"])
    @app_commands.describe(code=sentences.OPTION_REQUEST)
    async def allow(self, interaction: discord.Interaction, code: str) -> None:
        await self._take(interaction, f"allow {code}")

    @app_commands.command(description=_SAYS["deny"])
    @app_commands.describe(who=sentences.OPTION_WHO)
    async def deny(self, interaction: discord.Interaction, who: str) -> None:
        await self._take(interaction, f"deny {who}")

    @app_commands.command(description=_SAYS["help"])
    async def help(self, interaction: discord.Interaction) -> None:
        await self._take(interaction, "help")
