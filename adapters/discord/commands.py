"""The slash command `/mcp` with its subcommands, made from `gateway.commands`. What they do is the adapter's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import discord
from discord import app_commands

from gateway import sentences
from gateway.commands import CommandSpec, shown

Take = Callable[[discord.Interaction, str], Awaitable[None]]
Choices = Callable[[discord.Interaction, str], list[app_commands.Choice[str]]]


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

        async def offer(interaction: discord.Interaction, current: str) -> list[app_commands.Choice[str]]:
            return choices(interaction, current)

        for spec in shown():
            subcommand: app_commands.Command[Any, ..., None] = app_commands.Command(
                name=spec.verb or "", description=spec.menu, callback=_callback(spec, take)
            )
            if spec.option is not None and spec.option.name == "server":
                subcommand.autocomplete("server")(offer)
            self.add_command(subcommand)


def _callback(spec: CommandSpec, take: Take) -> Any:
    """discord.py reads the options off the signature, so there is one for each that a command may have."""
    verb, option = spec.verb, spec.option

    async def bare(interaction: discord.Interaction) -> None:
        await take(interaction, f"{verb}")

    async def any_server(interaction: discord.Interaction, server: str = "") -> None:
        await take(interaction, f"{verb} {server}")

    async def one_server(interaction: discord.Interaction, server: str) -> None:
        await take(interaction, f"{verb} {server}")

    async def one_code(interaction: discord.Interaction, code: str) -> None:
        await take(interaction, f"{verb} {code}")

    async def one_person(interaction: discord.Interaction, who: str) -> None:
        await take(interaction, f"{verb} {who}")

    if option is None:
        return bare
    if option.name == "server":
        callback: Any = one_server if option.required else any_server
    else:
        callback = one_code if option.name == "code" else one_person
    return app_commands.describe(**{option.name: option.description})(callback)
