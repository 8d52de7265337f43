"""The scenarios of every adapter, over Telegram: our own process polls, or has a webhook with a public URL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.telegram.adapter import TelegramAdapter
from adapters.testing import ANN, BOB, EVE, AdapterContract, Harness, SeenButton, SeenMessage
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal
from tests.platforms.telegram import BotApi, Chat, Message


class TelegramHarness(Harness):
    """Three people who have started the bot, and a group with all of them."""

    platform = "telegram"

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._api = self._stack.enter_context(BotApi(local=True).running())
        # Told by BotFather to hear what is said in groups without a word to it.
        self._api.reads_all = True
        self._people = {name: self._api.person(at, name) for at, name in enumerate((ANN, BOB, EVE), start=1)}
        for person in self._people.values():
            person.refusal = None
        self._group = self._api.group("Everybody")
        self._running: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return TelegramAdapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("telegram", str(self._people[person].id))

    def section(self) -> dict[str, Any]:
        return {"token": self._api.token, "base_url": self._api.base_url}

    async def start(self, gateway: Gateway) -> None:
        self._running = asyncio.create_task(TelegramAdapter(gateway).run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def close(self) -> None:
        self._stack.close()
        # Whatever a scenario did, the adapter sent nothing that Telegram refuses.
        assert [call for call in self._api.refused if "query is too old" not in str(call.error)] == []

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        if group:
            self._group.say(self._people[person], text, twice=times > 1)
        else:
            self._people[person].say(text, twice=times > 1)

    async def press(self, person: str, label: str, *, whose: str | None = None) -> None:
        shown = self._messages(whose or person)
        message = next(one for one in reversed(shown) if any(label in button["text"] for button in one.buttons))
        self._people[person].press(message, label)

    async def enter_secret(self, person: str, value: str) -> None:
        chat = self._people[person]
        await self._api.until(lambda: self._question(chat))
        question = self._question(chat)
        assert question is not None
        chat.answer(question, value)

    def seen(self, person: str) -> Sequence[SeenMessage]:
        return [
            SeenMessage(
                message.text,
                tuple(SeenButton(button["text"], button.get("url")) for button in message.buttons),
                public=message.chat is self._group,
                pings=tuple(message.marked("mention")),
            )
            for message in self._messages(person)
        ]

    def close_private(self, person: str) -> bool:
        self._people[person].block()
        return True

    def _messages(self, person: str) -> list[Message]:
        return sorted([*self._people[person].sent, *self._group.sent], key=lambda message: message.id)

    def _question(self, chat: Chat) -> Message | None:
        """The newest message that asks for a reply and has none yet."""
        answered = {message.reply_to.id for message in chat.messages if message.reply_to is not None}
        asking = [one for one in chat.sent if one.markup == {"force_reply": True} and one.id not in answered]
        return asking[-1] if asking else None


@pytest.mark.service
class TestTelegram(AdapterContract):
    def make_harness(self) -> Harness:
        return TelegramHarness()
