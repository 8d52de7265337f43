"""The scenarios of every adapter, over Slack: with the slash command, and with messages and mentions."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.slack.adapter import SlackAdapter
from adapters.slack.response_urls import SECONDS
from adapters.testing import ANN, BOB, EVE, AdapterContract, Harness, SeenButton, SeenMessage
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal
from tests.platforms.slack import Message, Slack, User

pytestmark = pytest.mark.service


class SlackHarness(Harness):
    """Runs the adapter as `slash-mcp serve` does, in Socket Mode."""

    platform = "slack"

    def __init__(self, *, by_command: bool) -> None:
        self.by_command = by_command
        self.slack = Slack()
        self.acme = self.slack.workspace("acme")
        self.people = {name: self.slack.user(name, self.acme) for name in (ANN, BOB, EVE)}
        self.team = self.slack.channel("team", self.acme, *self.people.values())
        self._running: asyncio.Task[None] | None = None
        self._open = False
        self._expected: set[str] = set()
        self._adapter: SlackAdapter | None = None

    @property
    def capabilities(self) -> Capabilities:
        assert self._adapter is not None
        return self._adapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("slack", f"{self.acme.id}/{self.people[person].id}")

    def section(self) -> dict[str, Any]:
        # The port is known once the platform runs; `start` gives the address then.
        return {"bot_token": self.acme.token, "app_token": self.slack.app_token}

    async def start(self, gateway: Gateway) -> None:
        if not self._open:
            self._open = True
            await self.slack.__aenter__()
        gateway.config.gateway.platforms["slack"]["base_url"] = self.slack.base_url
        self._adapter = SlackAdapter(gateway, clock=lambda: self.slack.now, hold=0.3)
        self._running = asyncio.create_task(self._adapter.run())
        await self.slack.connected()

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            self._running = None

    async def close(self) -> None:
        if self._open:
            await self.slack.__aexit__(None, None, None)
            assert set(self.slack.refused) == self._expected
            assert (self.slack.faults, self.slack.unfurled) == ([], [])

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        user = self.people[person]
        is_command = text.startswith("/mcp")
        if group:
            typed = text.removeprefix("/") if is_command else text
            await self.slack.says(user, f"@bot {typed}", self.team, again=times - 1)
        elif self.by_command and is_command:
            await self.slack.types(user, text, self.team, again=times - 1)
        else:
            await self.slack.says(user, text.removeprefix("/"), again=times - 1)

    async def press(self, person: str, label: str, *, whose: str | None = None) -> None:
        seen = self._messages(self.people[whose or person])
        message = [one for one in seen if label in [button["text"]["text"] for button in one.buttons()]][-1]
        await self.slack.presses(self.people[person], message, label)

    async def enter_secret(self, person: str, value: str) -> None:
        user = self.people[person]
        if not self.by_command and self.slack.view_of(user) is None:
            await self.slack.until(lambda: self._has(user, "Enter the key for weather"))
            await self.press(person, "Enter the key for weather")
        await self.slack.until(lambda: self._input(user))
        view = self.slack.view_of(user)
        assert view is not None
        await self.slack.submits(user, view, value)

    def seen(self, person: str) -> Sequence[SeenMessage]:
        user = self.people[person]
        messages = [self._seen(one) for one in self._messages(user)]
        views = [SeenMessage(one.shown) for one in self.slack.views.values() if one.user is user]
        return (*messages, *views)

    def close_private(self, person: str) -> bool:
        self.people[person].takes_messages = False
        self.slack.forbid("chat.postEphemeral", "restricted_action")
        self._expected = {"conversations.open: user_disabled", "chat.postEphemeral: restricted_action"}
        return True

    def close_edits(self) -> bool:
        # A message of the bot can be edited for ever; one that only its caller sees, through a response_url.
        if self.by_command:
            self.slack.advance(SECONDS)
        return self.by_command

    def _messages(self, user: User) -> list[Message]:
        return self.slack.seen_by(user)

    def _seen(self, message: Message) -> SeenMessage:
        made = tuple(SeenButton(one["text"]["text"], one.get("url")) for one in message.buttons())
        public = message.only_for is None and message.channel is self.team
        return SeenMessage(message.shown, made, public, tuple(self.slack.mentions))

    def _has(self, user: User, label: str) -> bool:
        return any(label == button["text"]["text"] for one in self._messages(user) for button in one.buttons())

    def _input(self, user: User) -> bool:
        view = self.slack.view_of(user)
        return view is not None and any(block["type"] == "input" for block in view.payload["blocks"])


class TestTheSlashCommand(AdapterContract):
    def make_harness(self) -> Harness:
        return SlackHarness(by_command=True)


class TestMessages(AdapterContract):
    def make_harness(self) -> Harness:
        return SlackHarness(by_command=False)
