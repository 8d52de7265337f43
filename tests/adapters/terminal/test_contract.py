"""The scenarios of every adapter, over the terminal."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.terminal.adapter import TerminalAdapter
from adapters.testing import AdapterContract, Harness, SeenMessage
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Capabilities, Principal


class Screen(io.StringIO):
    """What is printed, a message for each reply: the adapter flushes after every one."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def flush(self) -> None:
        if printed := self.getvalue():
            self.messages.append(printed.strip("\n"))
            self.seek(0)
            self.truncate()


class TerminalHarness(Harness):
    """One person at a screen; the others are not there."""

    platform = "cli"
    has_groups = False
    has_buttons = False

    def __init__(self) -> None:
        self._screen = Screen()
        self._secrets: asyncio.Queue[str] = asyncio.Queue()
        self._said: set[asyncio.Task[bool]] = set()
        self._undo: Any = None

    @property
    def capabilities(self) -> Capabilities:
        return self._adapter.capabilities

    def principal(self, person: str) -> Principal:
        return LOCAL

    def section(self) -> dict[str, Any]:
        return {}

    async def start(self, gateway: Gateway) -> None:
        self._adapter = TerminalAdapter(gateway, out=self._screen, ask_hidden=self._ask)
        self._undo = self._adapter.install()

    async def stop(self) -> None:
        self._undo()
        for task in self._said:
            task.cancel()
        await asyncio.gather(*self._said, return_exceptions=True)

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        self._said.add(asyncio.create_task(self._adapter.say(text)))

    async def enter_secret(self, person: str, value: str) -> None:
        await self._secrets.put(value)

    def seen(self, person: str) -> Sequence[SeenMessage]:
        if person != "ann":
            return ()
        return tuple(SeenMessage(text) for text in self._screen.messages)

    async def _ask(self, question: str) -> str:
        return await self._secrets.get()


@pytest.mark.service
class TestTheTerminal(AdapterContract):
    def make_harness(self) -> Harness:
        return TerminalHarness()
