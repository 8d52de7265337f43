"""`/mcp` in Telegram's own list of commands, beside those that are there already."""

from __future__ import annotations

from telegram import (
    Bot,
    BotCommand,
    BotCommandScope,
    BotCommandScopeAllGroupChats,
    BotCommandScopeAllPrivateChats,
    BotCommandScopeDefault,
)

from gateway import sentences

MCP = BotCommand("mcp", sentences.COMMAND_DESCRIPTION)
_SCOPES = (BotCommandScopeAllPrivateChats(), BotCommandScopeAllGroupChats())


async def register(bot: Bot) -> None:
    """Show `/mcp` in private chats and in groups. Nobody's commands are taken away.

    A list for private chats or groups hides the default list there: where the host has only the default one, `/mcp`
    joins that.

    Raises:
        TelegramError: Telegram did not take it.
    """
    default = BotCommandScopeDefault()
    has_default = bool(await bot.get_my_commands(default))
    for scope in _SCOPES:
        its_own = await bot.get_my_commands(scope)
        await _add(bot, default if has_default and not its_own else scope)


async def _add(bot: Bot, scope: BotCommandScope) -> None:
    there = await bot.get_my_commands(scope)
    if all(one.command != MCP.command for one in there):
        await bot.set_my_commands([*there, MCP], scope)
