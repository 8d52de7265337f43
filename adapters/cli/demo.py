"""`slash-mcp demo`: the demo's servers and the terminal chat on them; `--script` plays it without a person."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from adapters.cli.chat import chat
from adapters.cli.cli import FAILED, OK
from adapters.terminal.adapter import TerminalAdapter
from adapters.terminal.screen import say
from gateway.demo.browser import press
from gateway.demo.run import Demo
from gateway.gateway import Gateway
from mcp_auth.net.names import run

_LINK = re.compile(r"^https?://\S+$", re.MULTILINE)
_NOTICE_SECONDS = 20.0


def run_demo(options: Namespace) -> int:
    return run(_play() if options.script else _open_chat())


async def _open_chat() -> int:
    with tempfile.TemporaryDirectory(prefix="slash-mcp-demo-") as folder:
        async with Demo() as demo:
            home = demo.write_home(Path(folder) / "home")
            say("Three MCP servers are running: notes (OAuth), weather (API key), clock (open).")
            say(f"Type /mcp to see them, then /mcp auth. The key of weather is {demo.weather_key}.")
            say("Open the link in a browser, or paste its last page's address. Ctrl-D leaves.\n")
            async with Gateway.from_config(home=home) as gateway:
                await chat(gateway)
    return OK


async def _play() -> int:
    """The whole story: list, sign in, enter the key, use the tools, sign out. Fails when a step does not come out."""
    with tempfile.TemporaryDirectory(prefix="slash-mcp-demo-") as folder:
        async with Demo() as demo:
            home = demo.write_home(Path(folder) / "home")
            async with Gateway.from_config(home=home) as gateway:
                return await _Script(demo, gateway).run()


class _Script:
    def __init__(self, demo: Demo, gateway: Gateway) -> None:
        self._demo = demo
        self._gateway = gateway
        self._out = io.StringIO()
        self._adapter = TerminalAdapter(gateway, out=self._out, ask_hidden=self._type_key)
        self._wrong: list[str] = []

    async def run(self) -> int:
        undo = self._adapter.install()
        try:
            await self._steps()
        finally:
            undo()
        for wrong in self._wrong:
            print(f"slash-mcp: {wrong}", file=sys.stderr)
        return FAILED if self._wrong else OK

    async def _steps(self) -> None:
        await self._type("/mcp", "sign-in needed", "key missing", "none needed")
        shown = await self._type("/mcp auth", "notes", "weather")
        link = _LINK.search(shown)
        if link is None:
            self._wrong.append("/mcp auth showed no link")
            return
        print("(the browser opens the link, and Ada presses Allow)")
        page = await press(link.group(), "allow")
        print(f"(the last page says: {page})\n")
        self._expect("the last page", page, "signed in")
        await self._gateway.settled(_NOTICE_SECONDS)
        self._expect("the notice", self._show(), "signed in", "3 tools")
        await self._type("/mcp key weather", "works", "stored")
        await self._type("/mcp test notes", "connected", "3 tools")
        await self._type("/mcp test weather", "connected", "1 tool")
        await self._type("/mcp test clock", "connected", "1 tool")
        await self._use_a_tool()
        await self._type("/mcp", "signed in", "key set")
        await self._type("/mcp logout notes", "revoked")
        await self._type("/mcp", "sign-in needed")

    async def _use_a_tool(self) -> None:
        print("(the agent behind calls a tool of notes)")
        async with self._gateway.auth.session("notes") as client:
            result = await client.call_tool("whoami", {})
        said = " ".join(getattr(part, "text", "") for part in result.content)
        print(f"whoami: {said}\n")
        self._expect("the tool", said, "ada@example.com")

    async def _type(self, line: str, *expected: str) -> str:
        print(f"> {line}")
        await self._adapter.say(line)
        shown = self._show()
        self._expect(line, shown, *expected)
        return shown

    def _show(self) -> str:
        """Print what was answered since the last time."""
        shown = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        print(shown, end="", flush=True)
        return shown

    def _expect(self, where: str, shown: str, *expected: str) -> None:
        self._wrong += [f"{where} does not say {word!r}" for word in expected if word not in shown]

    async def _type_key(self, question: str) -> str:
        self._show()
        print(f"{question}********\n")
        return self._demo.weather_key
