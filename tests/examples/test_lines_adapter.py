"""The adapter of `docs/write-an-adapter.md`: it is short, it is what the page says, and the contract holds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.testing import AdapterContract, Harness, SeenMessage
from adapters.testing.ports import free_port
from examples.lines_adapter import LinesAdapter
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_adapter_whole_and_it_is_short() -> None:
    page = (ROOT / "docs" / "write-an-adapter.md").read_text()
    code = (ROOT / "examples" / "lines_adapter.py").read_text()
    body = code.split('"""', 2)[2]

    shown = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:-1])

    assert shown.split() == body.split()
    assert len([line for line in body.splitlines() if line.strip()]) < 100


class LinesHarness(Harness):
    """The chat's server: keeps what was said, and who sees it."""

    platform = "lines"
    has_buttons = False

    def __init__(self) -> None:
        self._said: dict[str, dict[str, str]] = {}
        self._events = 0
        self._server: asyncio.Server | None = None
        self._bot: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._adapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("lines", person)

    def section(self) -> dict[str, Any]:
        self._port = free_port()
        return {"port": self._port}

    async def start(self, gateway: Gateway) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._adapter = LinesAdapter(gateway)
        self._task = asyncio.create_task(self._adapter.run())
        await self._connected.wait()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._connected.clear()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        self._events += 1
        event = {"event": f"e{self._events}", "from": person, "text": text, **({"room": "lobby"} if group else {})}
        assert self._bot is not None
        for _ in range(times):
            self._bot.write(json.dumps(event).encode() + b"\n")
        await self._bot.drain()

    def seen(self, person: str) -> Sequence[SeenMessage]:
        return [
            SeenMessage(message["text"], public=message["to"] == "#lobby")
            for message in self._said.values()
            if message["to"] in (person, "#lobby")
        ]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._bot = writer
        self._connected.set()
        while line := await reader.readline():
            message = json.loads(line)
            assert len(message["text"]) <= 8000
            self._said[message["id"]] = message
        writer.close()


async def test_doctor_says_whether_the_chat_is_there(tmp_path: Path) -> None:
    harness = LinesHarness()
    (tmp_path / "config.yaml").write_text(f"gateway:\n  lines: {json.dumps(harness.section())}\n")
    gateway = Gateway.from_config(home=tmp_path)
    assert "cannot be reached" in (await LinesAdapter(gateway).check())[0].text
    await harness.start(gateway)
    assert "can be reached" in (await LinesAdapter(gateway).check())[0].text
    await harness.stop()
    await harness.close()
    await gateway.stop()


@pytest.mark.service
class TestLines(AdapterContract):
    def make_harness(self) -> Harness:
        return LinesHarness()
