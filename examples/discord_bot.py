"""A discord.py bot as there are many, and `/mcp` added to it in the three lines marked with "#".

Servers and people are read from the configuration, `~/.slash-mcp/config.yaml` or `$SLASH_MCP_HOME/config.yaml`.
"""

from __future__ import annotations

import os

import discord
from discord import app_commands

from adapters.discord import DiscordAdapter  #
from gateway import Gateway  #


class Bot(discord.Client):
    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.default())
        self.tree = app_commands.CommandTree(self)

    async def setup_hook(self) -> None:
        await self.tree.sync()

    async def on_message(self, message: discord.Message) -> None:
        if self.user in message.mentions and not message.author.bot:
            await message.channel.send("I was mentioned")


bot = Bot()


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction) -> None:
    await interaction.response.send_message("Hello!")


DiscordAdapter(Gateway.from_config()).install(bot)  #

if __name__ == "__main__":
    bot.run(os.environ["DISCORD_BOT_TOKEN"])
