"""The scenarios of every adapter, over Matrix: matrix-nio against a homeserver on loopback, and a real Synapse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from adapters.matrix.adapter import MatrixAdapter
from adapters.testing import ANN, BOB, EVE, AdapterContract, Harness, SeenMessage
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal
from tests.patience import PATIENCE
from tests.platforms.synapse import Homeserver, Member, Message


class MatrixHarness(Harness):
    """Three people, a group, and a room of two for each of them."""

    platform = "matrix"
    # Clients keep a line that begins with an unknown slash command.
    prefix = "!mcp"
    has_buttons = False

    def __init__(self, people: dict[str, Member], bot: Member) -> None:
        self._bot = bot
        self._people = people
        self._rooms: dict[str, str] = {}
        self._running = contextlib.AsyncExitStack()
        self._process: asyncio.Task[None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._adapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("matrix", self._people[person].user_id)

    def section(self) -> dict[str, Any]:
        return {"homeserver": self._bot.url, "token": self._bot.token}

    async def start(self, gateway: Gateway) -> None:
        if not self._rooms:
            await self._furnish()
        self._adapter = MatrixAdapter(gateway)
        self._process = asyncio.create_task(self._adapter.run())
        async with asyncio.timeout(PATIENCE):
            while not self._adapter.listening.is_set() and not self._process.done():
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.cancel()
            await asyncio.gather(self._process, return_exceptions=True)

    async def close(self) -> None:
        await self._running.aclose()

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        room = self._rooms["group" if group else person]
        # A homeserver delivers an event once; twice comes what the library hands over twice.
        await self._people[person].say(room, text)
        if times > 1:
            await self._deliver_again(person, text)

    async def enter_secret(self, person: str, value: str) -> None:
        member = self._people[person]
        asked = await member.sees("is tried before it is stored")
        await member.until(lambda: (asked.room, member.user_id) in self._adapter._questions)
        await member.say(asked.room, value)

    def close_private(self, person: str) -> bool:
        self._people[person].refuse_invites_of(self._bot)
        return True

    def seen(self, person: str) -> Sequence[SeenMessage]:
        return tuple(self._seen(one, person) for one in self._people[person].from_others() if self._of_bot(one))

    def _of_bot(self, message: Message) -> bool:
        return message.sender == self._bot.user_id

    def _seen(self, message: Message, person: str) -> SeenMessage:
        others = [
            member
            for member, membership in self._people[person].members[message.room].items()
            if membership == "join" and member not in (self._bot.user_id, self._people[person].user_id)
        ]
        return SeenMessage(message.text, public=bool(others), pings=tuple(message.mentions))

    async def _furnish(self) -> None:
        """The bot is in every room already: whom it follows where is tested beside this suite."""
        ann, bob, eve = (self._people[name] for name in (ANN, BOB, EVE))
        self._rooms["group"] = await ann.create_room(bob, eve, self._bot)
        for member in (bob, eve, self._bot):
            await member.join(self._rooms["group"])
        for name, member in self._people.items():
            self._rooms[name] = await member.create_room(self._bot)
            await self._bot.join(self._rooms[name])
            await self._running.enter_async_context(member.listening())

    async def _deliver_again(self, person: str, text: str) -> None:
        client = self._adapter._client
        assert client is not None
        room = client.rooms[self._rooms[person]]
        mine = await self._people[person].until(
            lambda: [one for one in self._people[person].messages.values() if one.body == text]
        )
        response = await client.room_get_event(room.room_id, mine[-1].event_id)
        for callback in list(client.event_callbacks):
            await callback.async_execute(response.event, room)


class TestMatrix(AdapterContract):
    @pytest.fixture(autouse=True)
    async def _accounts(self, homeserver_of_test: Homeserver) -> None:
        self._people = {name: await homeserver_of_test.register(name) for name in (ANN, BOB, EVE)}
        self._bot = await homeserver_of_test.register("bot")

    def make_harness(self) -> Harness:
        return MatrixHarness(self._people, self._bot)
