"""`/mcp` in a chat of our own: people and a bot exchange JSON lines over TCP.

    {"event": "e1", "from": "ann", "room": "lobby", "text": "/mcp"}    to the bot; without a room: in private
    {"id": "m1", "to": "ann", "text": "..."}                           from the bot; `to` is a person or "#room"

The same `id` again replaces the message.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import Any

from adapters import BAD, GOOD, Driver, Finding, NotSupported, fit, lay_out
from gateway import Capabilities, ChatRef, Gateway, Invocation, MessageRef, Principal, Reply, SecretPrompt
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


class LinesAdapter:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._options = gateway.platform_options(PLATFORM, LinesOptions)
        self._driver = Driver(gateway, self)
        self._ids = itertools.count(time.time_ns())
        self._writer: asyncio.StreamWriter | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self.capabilities = Capabilities(edit_window=None, text_max=8000)

    async def run(self) -> None:
        reader, self._writer = await asyncio.open_connection(self._options.host, self._options.port)
        undo = self._gateway.subscribe(PLATFORM, self._driver.notify)
        try:
            while line := await reader.readline():
                # A task for each: a slow answer must not keep the next line waiting.
                task = asyncio.create_task(self._answer(json.loads(line)))
                self._answers.add(task)
                task.add_done_callback(self._answers.discard)
        finally:
            undo()
            self._writer.close()

    async def _answer(self, event: dict[str, Any]) -> None:
        text = event["text"]
        if not text.startswith("/mcp") and not await self._gateway.claims(text):
            return
        room = event.get("room")
        chat = ChatRef(PLATFORM, {"to": f"#{room}" if room else event["from"]})
        principal = Principal(PLATFORM, event["from"])
        invocation = Invocation(principal, chat, text, private=not room, event_id=event["event"])
        await self._driver.run_invocation(invocation)

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        return await self._send({"id": f"m{next(self._ids)}", "to": chat.data["to"]}, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self._send({"id": f"m{next(self._ids)}", "to": principal.user}, reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        return await self._send(message.data, reply)

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        raise NotSupported

    async def check(self) -> list[Finding]:
        try:
            _, writer = await asyncio.open_connection(self._options.host, self._options.port)
        except OSError as error:
            return [Finding(BAD, f"the chat cannot be reached ({error.strerror}). Next: start it")]
        writer.close()
        return [Finding(GOOD, "the chat can be reached")]

    async def _send(self, where: dict[str, Any], reply: Reply) -> MessageRef:
        if self._writer is None:
            raise ConnectionError("the chat is not connected")
        text = render(reply, now=time.time(), text_max=self.capabilities.text_max)
        self._writer.write(json.dumps({**where, "text": text}).encode() + b"\n")
        await self._writer.drain()
        return MessageRef(PLATFORM, where)
