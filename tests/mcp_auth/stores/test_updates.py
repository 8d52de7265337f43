"""The one loop around `put_if`."""

from __future__ import annotations

import asyncio

import pytest

from mcp_auth.records import ServerProfile
from mcp_auth.stores.memory import MemoryStore
from mcp_auth.stores.updates import TRIES, AlwaysChanging, update

URL = "https://notes.example.com/mcp"


class Shelf:
    """A real store in memory, and somebody who writes in between as often as is wished."""

    def __init__(self, rivals: int = 0) -> None:
        self.store = MemoryStore().profiles
        self.rivals = rivals
        self.seen: list[str | None] = []

    async def read(self) -> ServerProfile:
        return await self.store.get(URL) or ServerProfile(server_url=URL)

    async def mark(self, connection: ServerProfile) -> ServerProfile | None:
        self.seen.append(connection.trouble)
        if self.rivals:
            self.rivals -= 1
            rival = await self.read()
            rival.trouble = f"rival {self.rivals}"
            assert await self.store.put_if(rival) is not None
        connection.resource = "marked"
        return connection

    async def update(self) -> ServerProfile:
        return await update("notes", self.read, self.mark, self.store.put_if)


async def test_what_the_edit_makes_is_stored_and_returned() -> None:
    shelf = Shelf()
    stored = await shelf.update()
    assert (stored.resource, stored.version) == ("marked", 1)
    assert await shelf.read() == stored


async def test_a_lost_race_is_run_again_over_what_the_others_stored() -> None:
    shelf = Shelf(rivals=3)
    stored = await shelf.update()
    assert shelf.seen == [None, "rival 2", "rival 1", "rival 0"]
    # Nothing of theirs is lost.
    assert (stored.trouble, stored.resource, stored.version) == ("rival 0", "marked", 4)


async def test_an_edit_may_leave_the_record_as_it_is() -> None:
    shelf = Shelf()

    async def leave(connection: ServerProfile) -> ServerProfile | None:
        return None

    left = await update("notes", shelf.read, leave, shelf.store.put_if)
    assert left.version == 0
    assert await shelf.store.get(URL) is None


async def test_what_was_read_already_is_not_read_again_at_first() -> None:
    shelf, reads = Shelf(rivals=1), 0

    async def read() -> ServerProfile:
        nonlocal reads
        reads += 1
        return await shelf.read()

    start = await shelf.read()
    await update("notes", read, shelf.mark, shelf.store.put_if, start=start)
    assert reads == 1


async def test_an_error_of_the_edit_stores_nothing() -> None:
    shelf = Shelf()

    async def refuse(connection: ServerProfile) -> ServerProfile | None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await update("notes", shelf.read, refuse, shelf.store.put_if)
    assert await shelf.store.get(URL) is None


async def test_a_record_that_never_keeps_still_is_said() -> None:
    shelf = Shelf(rivals=TRIES)
    with pytest.raises(AlwaysChanging, match=r"^The record of notes changes all the time. Next: try again$"):
        await shelf.update()
    assert len(shelf.seen) == TRIES
    assert (await shelf.read()).resource is None


async def test_tasks_that_change_one_record_lose_none_of_their_changes() -> None:
    store = MemoryStore().profiles

    async def read() -> ServerProfile:
        return await store.get(URL) or ServerProfile(server_url=URL)

    async def add(scope: str) -> None:
        async def edit(connection: ServerProfile) -> ServerProfile:
            # Somebody else's turn, in between.
            await asyncio.sleep(0)
            connection.refused_scopes = [*connection.refused_scopes, scope]
            return connection

        await update("notes", read, edit, store.put_if)

    scopes = [f"scope-{number}" for number in range(8)]
    await asyncio.gather(*(add(scope) for scope in scopes))
    assert sorted((await read()).refused_scopes) == scopes
