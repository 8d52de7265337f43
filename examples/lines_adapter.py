"""`/mcp` in a chat of our own: people and a bot exchange JSON lines over TCP.

    {"event": "e1", "from": "ann", "room": "lobby", "text": "/mcp"}    to the bot; without a room: in private
    {"id": "m1", "to": "ann", "text": "..."}                           from the bot; `to` is a person or "#room"

The same `id` again replaces the message.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from adapters import GOOD, Adapter, Finding, Later, Refused, fit, lay_out
from gateway import Capabilities, ChatRef, Invocation, MessageRef, Principal, Reply
from mcp_auth import Settings

PLATFORM = "lines"


class LinesOptions(Settings, frozen=True, kw_only=True):
    """The section `gateway.lines`."""

    host: str = "127.0.0.1"
    port: int


def render(reply: Reply, *, now: float, text_max: int) -> str:
    """Plain text: this chat has no buttons, so links stand in the text and commands are typed."""
    shown = lay_out(reply, now=now, button_url_max=0, buttons_max=0)
    return fit(shown, lambda line: len(line.text) + 1, text_max).text


class LinesAdapter(Adapter[LinesOptions]):
    platform = PLATFORM
    title = "Lines"
    options_type = LinesOptions
    capabilities = Capabilities(edit_window=None, text_max=8000)
    failures = (OSError,)
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        self.reader, self.writer = await asyncio.open_connection(self.options.host, self.options.port)
        self.attach()
        try:
            yield
        finally:
            self.writer.close()

    async def receive(self) -> None:
        while line := await self.reader.readline():
            # A task for each: a slow answer must not keep the next line waiting.
            self.spawn(self.take(json.loads(line)))

    async def take(self, event: dict[str, Any]) -> None:
        text, room = event["text"], event.get("room")
        if not text.startswith("/mcp") and not await self.gateway.claims(text):
            return
        chat = ChatRef(PLATFORM, {"to": f"#{room}" if room else event["from"]})
        principal = Principal(PLATFORM, event["from"])
        await self.answer(Invocation(principal, chat, text, private=not room, event_id=event["event"]))

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        return await self._send({"id": f"m{time.time_ns()}", "to": chat.data["to"]}, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self._send({"id": f"m{time.time_ns()}", "to": principal.user}, reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        return await self._send(message.data, reply)

    async def examine(self) -> list[Finding]:
        _, writer = await asyncio.open_connection(self.options.host, self.options.port)
        writer.close()
        return [Finding(GOOD, "the chat can be reached")]

    def refusal(self, error: Exception) -> Refused:
        return Later("the chat cannot be reached", next_step="start it")

    async def _send(self, where: dict[str, Any], reply: Reply) -> MessageRef:
        text = render(reply, now=self.clock(), text_max=self.capabilities.text_max)
        self.writer.write(json.dumps({**where, "text": text}).encode() + b"\n")
        await self.attempt(self.writer.drain)
        return MessageRef(PLATFORM, where)
