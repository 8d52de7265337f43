"""News of ends stands in the store beside its cause: it is told once, over restarts and beside other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from gateway import sign_ins
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Principal
from gateway.people import People
from mcp_auth.config.models import Config, Server
from mcp_auth.core import McpAuth
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileStore
from tests.gateway.chat import TELEGRAM, Chat, configure, open_gateway, words
from tests.gateway.notes_server import NotesServer, notes_server, open_link
from tests.gateway.test_pairing import code_in
from tests.gateway.test_sign_ins import config_for, link_of
from tests.patience import PATIENCE

ADMIN = Principal("matrix", "@ada:example.org")


@pytest.fixture
async def notes() -> AsyncIterator[NotesServer]:
    async with notes_server() as server:
        yield server


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(sign_ins, "_POLL_SECONDS", 0.02)


async def rows(store: Store) -> list[str]:
    return [row.about for row in await store.outbox.due(2e10)]


async def emptied(store: Store) -> None:
    async with asyncio.timeout(PATIENCE):
        while await rows(store):
            await asyncio.sleep(0.01)


def said(chat: Chat, what: str) -> list[str]:
    return [words(one.reply) for one in chat.notices if one.message is None and what in words(one.reply)]


async def begun(config: Config, home: Path) -> str:
    """A link that somebody asked for in a process that is gone; the address at which it ends."""
    async with open_gateway(config, FileStore(home)) as gateway:
        return await open_link(await link_of(Chat(gateway, TELEGRAM)))


async def test_what_ends_while_no_gateway_runs_is_told_by_the_next_one(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    address = await begun(config, tmp_path)
    async with McpAuth.open(config, store=FileStore(tmp_path)) as auth:
        await auth.paste(address, str(TELEGRAM))

    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        notice = await Chat(gateway, TELEGRAM).notice("notes: signed in, 2 tools")
        assert notice.chat.data == {"chat": 7}
        await emptied(gateway.auth.store)
    # And by nobody once more
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        await chat.say("")
        assert await gateway.settled(PATIENCE)
        assert said(chat, "signed in") == []


async def test_of_several_processes_one_tells(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    address = await begun(config, tmp_path)
    async with AsyncExitStack() as stack:
        gateways: list[Gateway] = [
            await stack.enter_async_context(open_gateway(config, FileStore(tmp_path))) for _ in range(3)
        ]
        chats = [Chat(gateway, TELEGRAM) for gateway in gateways]
        await gateways[0].auth.paste(address, str(TELEGRAM))
        await emptied(gateways[0].auth.store)
        for gateway in gateways:
            assert await gateway.settled(PATIENCE)
        assert len([one for chat in chats for one in said(chat, "notes: signed in")]) == 1


async def test_what_no_process_can_say_waits(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    address = await begun(config, tmp_path)
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        # Nobody listens for Telegram's notices here
        await gateway.auth.paste(address, str(TELEGRAM))
        assert await gateway.settled(PATIENCE)
        assert await rows(gateway.auth.store) == ["sign_in"]
        await Chat(gateway, TELEGRAM).notice("notes: signed in")
        await emptied(gateway.auth.store)


@pytest.mark.parametrize(("days", "left"), [(29.9, ["sign_in"]), (30.1, [])])
async def test_what_nobody_could_say_for_a_month_goes(
    tmp_path: Path, notes: NotesServer, days: float, left: list[str]
) -> None:
    config = config_for(tmp_path, notes)
    address = await begun(config, tmp_path)
    async with McpAuth.open(config, store=FileStore(tmp_path)) as auth:
        await auth.paste(address, str(TELEGRAM))
        (row,) = await auth.store.outbox.due(2e10)
        assert await auth.store.outbox.put_if(msgspec.structs.replace(row, at=row.at - days * 86_400))
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        # Nobody listens for Telegram's notices here; one round of looking is over when the next begins
        chat = Chat(gateway, LOCAL)
        await chat.say("")
        async with asyncio.timeout(PATIENCE):
            while await rows(gateway.auth.store) != left:
                await asyncio.sleep(0.01)
        assert await gateway.settled(PATIENCE)
        assert await rows(gateway.auth.store) == left


async def test_an_admin_elsewhere_hears_of_it_from_the_process_that_can(tmp_path: Path, notes: NotesServer) -> None:
    accounts = (str(TELEGRAM), str(ADMIN))
    config = config_for(tmp_path, notes, allow=accounts, admins=accounts, people={"ada": accounts})
    address = await begun(config, tmp_path)
    async with open_gateway(config, FileStore(tmp_path)) as one:
        chat = Chat(one, TELEGRAM)
        await one.auth.paste(address, str(TELEGRAM))
        await chat.notice("notes: signed in")
        async with asyncio.timeout(PATIENCE):
            while await rows(one.auth.store) != ["text"]:
                await asyncio.sleep(0.01)
    async with open_gateway(config, FileStore(tmp_path)) as other:
        await Chat(other, ADMIN).notice("signed in")
        await emptied(other.auth.store)


async def test_what_a_reply_tells_is_no_news(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        address = await open_link(await link_of(chat))
        assert "notes: signed in" in words((await chat.say(f"paste {address}"))[-1])
        assert await rows(gateway.auth.store) == []
        await link_of(chat)
        await chat.say("cancel notes")
        assert await rows(gateway.auth.store) == []


async def test_news_of_an_end_that_was_not_written_is_not_told(tmp_path: Path, notes: NotesServer) -> None:
    """Its writer died between the row and the record: the sign-in is open still, and the right answer finishes it."""
    config, store = config_for(tmp_path, notes), FileStore(tmp_path)
    address = await begun(config, tmp_path)
    (record,) = await store.sign_ins.list()
    ended = msgspec.structs.replace(record, status="failed", ended_at=1.0, outcome="It failed.")
    before = (tmp_path / "sign-ins" / f"{record.id}.json").read_bytes()
    assert await store.sign_ins.put_if(ended) is not None
    (tmp_path / "sign-ins" / f"{record.id}.json").write_bytes(before)
    assert await rows(store) == ["sign_in"]

    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        await chat.say("")
        await gateway.auth.paste(address, str(TELEGRAM))
        await chat.notice("notes: signed in")
        await emptied(gateway.auth.store)
        assert said(chat, "It failed") == []


async def test_a_claim_of_a_process_that_died_is_taken_over(tmp_path: Path, notes: NotesServer) -> None:
    config, store = config_for(tmp_path, notes), FileStore(tmp_path)
    address = await begun(config, tmp_path)
    async with McpAuth.open(config, store=store) as auth:
        await auth.paste(address, str(TELEGRAM))
        (row,) = await store.outbox.due(2e10)
        assert await store.outbox.claim(row, store.backend.now() - 1000, 999) is not None
        # Of the same row only one claim counts
        assert await store.outbox.claim(row, store.backend.now(), 60) is None
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        await Chat(gateway, TELEGRAM).notice("notes: signed in")
        await emptied(gateway.auth.store)


async def test_somebody_who_was_let_in_hears_of_it_once_from_the_process_that_can(tmp_path: Path) -> None:
    config = configure(tmp_path, Server(name="notes", url="https://notes.example/mcp"), allow=(str(TELEGRAM),))
    config = msgspec.structs.replace(
        config, gateway=msgspec.structs.replace(config.gateway, admins=(str(TELEGRAM),), identity="per_user")
    )
    stranger = Principal("telegram", "666")
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        (reply,) = await Chat(gateway, stranger).say("")
        code = code_in(reply)
    # Let in while no gateway runs
    await People(config).allow(code, LOCAL)
    assert await rows(FileStore(tmp_path)) == ["person"]
    async with (
        open_gateway(config, FileStore(tmp_path)) as one,
        open_gateway(config, FileStore(tmp_path)) as other,
    ):
        chats = [Chat(one, stranger), Chat(other, stranger)]
        await emptied(one.auth.store)
        for gateway in (one, other):
            assert await gateway.settled(PATIENCE)
        assert len([text for chat in chats for text in said(chat, "let in")]) == 1
