"""The scenarios of every adapter, over Discord: once with slash commands, once with text that mentions the bot."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest

from adapters.discord import DiscordAdapter
from adapters.discord.interactions import TOKEN_SECONDS
from adapters.testing import ANN, BOB, EVE, AdapterContract, Harness, SeenButton, SeenMessage
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal
from tests.platforms.discord import DiscordServer, Interaction, Message, User
from tests.platforms.discord_markdown import shown

_VERBS = frozenset({"status", "auth", "key", "confirm", "cancel", "logout", "test", "help"})


class DiscordHarness(Harness):
    """Three people in one server. Presses and forms are the same for both ways to ask."""

    platform = "discord"

    def __init__(self) -> None:
        self._discord = DiscordServer()
        self._users: dict[str, User] = {name: self._discord.user(name) for name in (ANN, BOB, EVE)}
        self._submitted: set[int] = set()
        self._pressed: set[tuple[int, int]] = set()
        self._stack = AsyncExitStack()
        self._running: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return DiscordAdapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("discord", str(self._users[person].id))

    def section(self) -> dict[str, Any]:
        found = self._discord
        return {"token": found.token, "base_url": found.api_base, "gateway_url": found.gateway_url}

    async def start(self, gateway: Gateway) -> None:
        if self._running is None:
            await self._stack.enter_async_context(self._discord.running())
        self._discord.sessions.clear()
        self._running = asyncio.create_task(DiscordAdapter(gateway, clock=self._discord.clock).run())
        await self._discord.connected()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def close(self) -> None:
        await self._stack.aclose()
        assert self._discord.violations == []

    async def press(self, person: str, label: str, *, whose: str | None = None) -> None:
        seen = [one for one in self._visible(whose or person) if label in [button["label"] for button in one.buttons]]
        await self._discord.press(self._users[person], seen[-1], label)

    async def enter_secret(self, person: str, value: str) -> None:
        """Into the form that is open, or that the button under the question opens."""
        user = self._users[person]
        opened = await self._discord.until(lambda: self._form(user) or self._question(person))
        if isinstance(opened, Message):
            self._pressed.add((opened.id, len(opened.payloads)))
            opened = await self._discord.answered(await self._discord.press(user, opened, "Enter the key"))
        self._submitted.add(opened.id)
        await self._discord.submit(opened, value)

    def close_edits(self) -> bool:
        self._discord.clock.advance(TOKEN_SECONDS)
        return True

    def _form(self, user: User) -> Interaction | None:
        shown = (one for one in self._discord.interactions.values() if one.user is user and one.modal is not None)
        return next((one for one in shown if one.id not in self._submitted), None)

    def _question(self, person: str) -> Message | None:
        asking = (one for one in self._visible(person) if "[Enter the key]" in one.text)
        return next((one for one in asking if (one.id, len(one.payloads)) not in self._pressed), None)

    def seen(self, person: str) -> Sequence[SeenMessage]:
        return tuple(_read(message) for message in self._visible(person))

    def _visible(self, person: str) -> list[Message]:
        user = self._users[person]
        shown = [one for one in self._discord.messages if one.author is self._discord.bot and not one.loading]
        mine = (self._discord.channel, self._discord.dm(user))
        return [one for one in shown if one.ephemeral_to is user or (one.ephemeral_to is None and one.place in mine)]


class SlashHarness(DiscordHarness):
    """Everything typed as a slash command, in the server's channel and in the direct messages."""

    reads_along = False

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        user = self._users[person]
        if not text.startswith("/mcp"):
            await self._discord.say(user, text, self._discord.dm(user))
            return
        typed, _, rest = text.removeprefix("/mcp").strip().partition(" ")
        verb, server = (typed, rest) if typed in _VERBS else ("status", f"{typed} {rest}".strip())
        place = self._discord.channel if group else self._discord.dm(user)
        options = {"code" if verb == "confirm" else "server": server} if server else {}
        asked = await self._discord.slash(user, verb, place, **options)
        for _ in range(times - 1):
            await self._discord.deliver_again(asked)


class TextHarness(DiscordHarness):
    """`@bot mcp ...` in the server's channel, `!mcp ...` in the direct messages."""

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        user = self._users[person]
        typed = text.replace("/mcp", "mcp" if group else "!mcp", 1) if text.startswith("/mcp") else text
        where = self._discord.channel if group else self._discord.dm(user)
        message = await self._discord.say(user, f"@bot {typed}" if group else typed, where)
        for _ in range(times - 1):
            await self._discord.deliver_again(message)

    def close_private(self, person: str) -> bool:
        self._users[person].takes_dms = False
        return True


@pytest.mark.service
class TestSlashCommands(AdapterContract):
    def make_harness(self) -> Harness:
        return SlashHarness()


@pytest.mark.service
class TestText(AdapterContract):
    def make_harness(self) -> Harness:
        return TextHarness()


def _read(message: Message) -> SeenMessage:
    buttons = tuple(SeenButton(one["label"], one.get("url")) for one in message.buttons)
    mentions = message.payloads[-1].get("allowed_mentions", {"parse": ["everyone", "users"]})
    pings = tuple(re.findall(r"@everyone|@here|<@\d+>", message.content)) if mentions["parse"] else ()
    public = message.ephemeral_to is None and message.place.kind != "dm"
    return SeenMessage(shown(message.content), buttons, public=public, pings=pings)
