"""One scenario of the contract: a platform, a home, and the servers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from adapters.testing.harness import ANN, BOB, EVE, Harness, SeenMessage
from gateway.demo.run import Demo
from gateway.gateway import Gateway
from gateway.people import People
from mcp_auth.config.load import load
from mcp_auth.records import SHARED
from mcp_auth.status import AuthState

WAIT = 120.0
"""Seconds after which what was waited for never happened: far more than a busy machine needs."""
Found = TypeVar("Found")


@dataclass
class World:
    """One scenario: the platform, a home, the servers behind it."""

    harness: Harness
    home: Path
    demo: Demo
    gateway: Gateway = field(init=False)

    @property
    def principal(self) -> str:
        return str(self.harness.principal(ANN))

    def text(self, person: str = ANN) -> str:
        return "\n".join(message.text for message in self.harness.seen(person))

    def links(self, person: str = ANN) -> list[str]:
        """The links to a sign-in or a key form that this person sees now, newest last."""
        found = (link for message in self.harness.seen(person) for link in message.links)
        return [link for link in found if "response_type=code" in link or "/a/" in link or "/k/" in link]

    def owner(self, person: str) -> str:
        """Of credentials in `per_user` mode."""
        return f"principal:{self.harness.principal(person)}"

    async def is_signed_in(self, person: str) -> bool:
        return (await self.gateway.auth.status("notes", self.owner(person))).auth is AuthState.SIGNED_IN

    @property
    def operator(self) -> People:
        """The list of people in the hands of another process, as `slash-mcp allow` and `slash-mcp deny` have it."""
        return People(load(None, self.home))

    async def sees(self, words: str, person: str = ANN, *, times: int = 1) -> SeenMessage:
        """The newest message with these words, waited for until there are so many."""

        def look() -> SeenMessage | None:
            fitting = [message for message in self.harness.seen(person) if words in message.text]
            return fitting[-1] if len(fitting) >= times else None

        return await self.eventually(look, f"{person} sees {words!r} in:\n{self.text(person)}")

    async def link(self, person: str = ANN) -> str:
        return (await self.eventually(lambda: self.links(person), f"{person} sees a link"))[-1]

    async def eventually(self, look: Callable[[], Found | None], what: str) -> Found:
        """The first truthy answer of `look`.

        Raises:
            AssertionError: there is none within `WAIT` seconds.
        """
        deadline = asyncio.get_running_loop().time() + WAIT
        while not (found := look()):
            assert asyncio.get_running_loop().time() < deadline, f"never happened: {what}"
            await asyncio.sleep(0.02)
        return found

    async def quiet(self) -> None:
        """Wait until nothing new was shown for a moment."""
        before = None
        for _ in range(100):
            now = [list(self.harness.seen(person)) for person in (ANN, BOB, EVE)]
            if now == before:
                return
            before = now
            await asyncio.sleep(0.3)
        raise AssertionError("the chat never came to rest")

    async def begin(self) -> None:
        """A process of the gateway starts on this home."""
        self.gateway = Gateway.from_config(home=self.home)
        await self.gateway.start()
        if self.gateway.config.gateway.public_url is not None:
            await self.gateway.auth.listen()
        await self.harness.start(self.gateway)

    async def end(self) -> None:
        """The process of the gateway ends."""
        await self.harness.stop()
        await self.gateway.stop()

    async def restart(self) -> None:
        """The process of the gateway ends and another one starts on the same home."""
        await self.end()
        await self.begin()

    async def calls_a_tool(self, owner: str = SHARED) -> str:
        """What the server says to the token of the sign-in."""
        async with self.gateway.auth.session("notes", owner) as session:
            result = await session.call_tool("whoami", {})
        return str(result.content[0].text)  # type: ignore[union-attr]
