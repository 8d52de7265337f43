"""Sign-ins begun in a chat, to their end: links, paste, callback, notices, edits, restarts."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway import sign_ins
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, MessageRef
from gateway.replies import Audience, ItemState
from mcp_auth.config.models import Config, OAuthOptions, Server
from mcp_auth.errors import StoreError
from mcp_auth.status import AuthState
from mcp_auth.stores.files import FileStore
from mcp_auth.stores.memory import MemoryStore
from tests.gateway.chat import TELEGRAM, Chat, configure, item, open_gateway, words
from tests.gateway.notes_server import NotesServer, notes_server, open_link, open_page
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize


@pytest.fixture
async def notes() -> AsyncIterator[NotesServer]:
    async with notes_server() as running:
        yield running


def config_for(home: Path, *servers: NotesServer, **gateway: Any) -> Config:
    names = ("notes", "mail", "wiki")
    entries = [Server(name=name, url=one.url, auth="oauth") for name, one in zip(names, servers, strict=False)]
    return configure(home, *entries, **{"allow": ("telegram:1",), **gateway})


async def link_of(chat: Chat, server: str = "notes") -> str:
    link = item((await chat.say(f"auth {server}"))[-1], server).link
    assert link is not None
    return link


async def test_a_sign_in_from_the_terminal_is_finished_by_the_callback_and_told(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)
        first, *_, last = await chat.say("auth")
        entry = item(last, "notes")
        assert item(first, "notes").state is ItemState.PREPARING
        assert entry.state is ItemState.LINK
        assert entry.link is not None
        assert entry.link.startswith(notes.base)
        assert "10 minutes" in entry.text

        page = await open_page(await open_link(entry.link))

        notice = await chat.notice("notes: signed in, 2 tools")
        edit = await chat.edit("notes: signed in, 2 tools")
        assert "notes" in page
        assert notice.reply.ok
        assert edit.message is not None
        assert (item(edit.reply, "notes").link, item(edit.reply, "notes").command) == (None, None)
        assert (await gateway.auth.status("notes")).auth is AuthState.SIGNED_IN


async def test_pain_1_the_link_is_for_the_caller_and_the_shared_chat_learns_only_the_outcome(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway, TELEGRAM, private=False)
        last = (await chat.say("auth"))[-1]
        assert last.audience is Audience.CALLER
        assert last.summary == "Sent you 1 link in private."

        await open_page(await open_link(item(last, "notes").link or ""))

        notice = await chat.notice("signed in")
        assert notice.reply.audience is Audience.CHAT
        assert words(notice.reply) == "notes: signed in."


async def test_pain_2_a_chat_is_told_beforehand_that_the_last_page_will_not_load(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        last = (await Chat(gateway, TELEGRAM).say("auth notes"))[-1]

        assert "last page will not load" in words(last)
        assert "send it to me here" in words(last)


async def test_pain_2_pasting_the_address_finishes_and_tells_once(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        address = await open_link(await link_of(chat))
        assert await gateway.claims(address)

        (reply,) = await chat.say(address)
        (again,) = await chat.say(address)
        assert await gateway.settled(PATIENCE)

        assert words(reply) == "notes: signed in, 2 tools"
        assert reply.audience is Audience.CALLER
        assert "already" in words(again)
        code = address.partition("code=")[2].partition("&")[0]
        assert code not in repr([reply, again, *chat.notices])
        assert [one for one in chat.notices if one.message is None] == []
        assert (await chat.edit("signed in, 2 tools")).message is not None


async def test_somebody_else_cannot_finish_it(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        operator, ann = Chat(gateway), Chat(gateway, TELEGRAM)
        address = await open_link(await link_of(operator))

        (reply,) = await ann.say(f"paste {address}")

        assert "somebody else" in words(reply)
        assert (await gateway.auth.status("notes")).auth is AuthState.SIGN_IN_OPEN


async def test_a_denied_consent_is_told_with_the_next_command(tmp_path: Path, notes: NotesServer) -> None:
    notes.knobs.allow = False
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)

        await open_page(await open_link(await link_of(chat)))

        notice = await chat.notice("denied")
        assert "Next: /mcp auth notes" in words(notice.reply)
        assert not notice.reply.ok
        edit = await chat.edit("denied")
        assert item(edit.reply, "notes").state is ItemState.FAILED
        assert item(edit.reply, "notes").command == "auth notes"


async def test_several_servers_are_one_checklist_whose_lines_end_on_their_own(tmp_path: Path) -> None:
    async with notes_server() as one, notes_server() as two:
        dead = Server(name="wiki", url="http://127.0.0.1:9/mcp", auth="oauth")
        both = config_for(tmp_path, one, two)
        config = configure(tmp_path, *both.servers.values(), dead)
        async with open_gateway(config) as gateway:
            chat = Chat(gateway)
            last = (await chat.say("auth"))[-1]
            assert [item(last, name).state for name in ("notes", "mail", "wiki")] == [
                ItemState.LINK,
                ItemState.LINK,
                ItemState.FAILED,
            ]

            await open_page(await open_link(item(last, "mail").link or ""))
            half = (await chat.edit("mail: signed in")).reply
            assert item(half, "notes").state is ItemState.LINK
            (cancelled,) = await chat.say("cancel")
            whole = (await chat.edit("notes: cancelled")).reply

            assert words(cancelled) == "Cancelled: notes."
            assert item(whole, "mail").state is ItemState.DONE
            assert (await gateway.auth.status("mail")).auth is AuthState.SIGNED_IN


async def test_no_edit_overtakes_a_reply_that_is_still_on_its_way(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)
        invocation = chat.invocation("auth")
        message = MessageRef("cli", {"id": 1})
        async for reply in gateway.handle(invocation, chat.capabilities):
            if reply.final:
                # The platform is slow to show the link, and the person finishes it from another message.
                await gateway.auth.paste(await open_link(item(reply, "notes").link or ""), "cli:local")
                await chat.notice("signed in")
                assert all(one.message is None for one in chat.notices)
            gateway.delivered(invocation, message)

        assert item((await chat.edit("signed in")).reply, "notes").state is ItemState.DONE


async def test_asking_again_hands_out_the_same_link(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)

        assert await link_of(chat) == await link_of(chat)


async def test_a_signed_in_server_is_signed_in_again_and_the_old_grant_lives_until_then(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)
        await open_page(await open_link(await link_of(chat)))
        await chat.notice("signed in")
        before = await gateway.auth.access_token("notes")

        (nothing,) = await chat.say("auth")
        address = await open_link(await link_of(chat))
        between = await gateway.auth.access_token("notes")
        (reply,) = await chat.say(f"paste {address}")

        assert "No server is known to lack" in words(nothing)
        assert between == before
        assert "signed in" in words(reply)
        assert await gateway.auth.access_token("notes") != before


async def test_access_that_cannot_be_renewed_for_now_is_no_reason_to_sign_in_and_not_called_well(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    late = [0.0]
    config = configure(tmp_path, Server(name="notes", url=oauth.url, auth="oauth"), allow=("telegram:1",))
    async with open_gateway(config, clock=lambda: time.time() + late[0]) as gateway:
        chat = Chat(gateway)
        await chat.say(await asyncio.to_thread(authorize, await link_of(chat)))
        late[0] = 4000
        oauth.knobs.gone = {"/token": 503}

        tested = (await chat.say("test notes"))[-1]
        (answer,) = await chat.say("auth")
        assert "could not be refreshed: HTTP 503" in words(tested) and "Next: /mcp test notes" in words(tested)
        assert re.search(r"notes: signed in, not renewable since \d\d:\d\d: HTTP 503\. Next: /mcp test", words(answer))
        assert not answer.ok

        # With a definite no a sign-in is what helps
        oauth.knobs.gone = {"/token": 410}
        tested = (await chat.say("test notes"))[-1]
        assert "Next: /mcp auth notes" in words(tested)
        assert item((await chat.say("auth"))[-1], "notes").state is ItemState.LINK
        await chat.say("cancel")

        oauth.knobs.gone = {}
        await chat.say("test notes")
        (answer,) = await chat.say("auth")
        assert "No server is known to lack" in words(answer)


async def test_an_expired_link_is_told(tmp_path: Path, notes: NotesServer) -> None:
    late = [0.0]
    config = config_for(tmp_path, notes)
    async with open_gateway(config, clock=lambda: time.time() + late[0]) as gateway:
        chat = Chat(gateway)
        await link_of(chat)

        late[0] = 601

        notice = await chat.notice("expired")
        assert words(notice.reply) == "The link for notes has expired. Next: /mcp auth notes"


async def test_a_grant_without_refresh_token_says_when_it_ends(tmp_path: Path, notes: NotesServer) -> None:
    notes.knobs.refresh_tokens = False
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)

        await open_page(await open_link(await link_of(chat)))

        text = words((await chat.notice("no refresh token")).reply)
        ends = (await gateway.auth.status("notes")).expires_at
        assert ends is not None
        assert f"ends at {time.strftime('%H:%M', time.localtime(ends))}" in text


async def test_a_token_that_the_server_refuses_is_no_success(tmp_path: Path, notes: NotesServer) -> None:
    notes.knobs.mcp_accepts_tokens = False
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)

        await open_page(await open_link(await link_of(chat)))

        notice = await chat.notice("refuses it")
        assert not notice.reply.ok
        assert "/mcp auth notes" in words(notice.reply)


async def test_pain_16_a_dead_grant_is_told_once_where_it_was_asked_for(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        await chat.say(await open_link(await link_of(chat)))
        notes.access.clear()
        notes.refresh.clear()

        for _ in range(3):
            await chat.say("test notes")
        notice = await chat.notice("sign in again")
        assert await gateway.settled(PATIENCE)

        assert notice.principal == TELEGRAM
        assert len([one for one in chat.notices if "sign in again" in words(one.reply)]) == 1


async def test_a_new_gateway_takes_over_the_sign_ins_that_are_open(tmp_path: Path, notes: NotesServer) -> None:
    """Given a link from a process that is gone, its callback works, and the chat that asked is told by the new one."""
    config = config_for(tmp_path, notes)
    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        address = await open_link(await link_of(Chat(gateway, TELEGRAM)))

    async with open_gateway(config, FileStore(tmp_path)) as gateway:
        chat = Chat(gateway, TELEGRAM)
        await open_page(address)

        notice = await chat.notice("notes: signed in, 2 tools")
        assert notice.chat.data == {"chat": 7}
        assert notice.principal == TELEGRAM


async def test_a_new_gateway_edits_the_checklist_of_the_one_before(tmp_path: Path, notes: NotesServer) -> None:
    lasting = Capabilities(edit_window=None, secret_input=True)
    keyed = Server(name="weather", url=notes.url, headers={"Authorization": "Bearer ${WEATHER_KEY}"})
    mail = Server(name="mail", url=notes.url, auth="oauth")
    config = config_for(tmp_path, notes)
    config = msgspec.structs.replace(config, servers={**config.servers, "mail": mail, "weather": keyed})
    first = open_gateway(config, FileStore(tmp_path))
    async with first:
        begun = (await Chat(first, TELEGRAM, capabilities=lasting).say("auth"))[-1]

    async with open_gateway(config, FileStore(tmp_path)) as second:
        chat = Chat(second, TELEGRAM, capabilities=lasting)
        link = item(begun, "notes").link
        assert link is not None
        await chat.say(await open_link(link))
        edit = await chat.edit("notes: signed in")

    assert edit.message is not None
    assert item(edit.reply, "notes").state is ItemState.DONE
    assert item(edit.reply, "mail").link == item(begun, "mail").link
    assert item(edit.reply, "weather") == item(begun, "weather")
    assert [one.message for one in chat.notices] == [edit.message]


async def test_an_end_in_another_process_is_noticed(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    async with (
        open_gateway(config, FileStore(tmp_path)) as one,
        open_gateway(config, FileStore(tmp_path)) as other,
    ):
        chat = Chat(one)
        address = await open_link(await link_of(chat))

        await other.auth.paste(address, "cli:local")

        await chat.notice("notes: signed in, 2 tools")


async def test_what_another_process_began_is_finished_by_a_paste_here(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes)
    async with (
        open_gateway(config, FileStore(tmp_path)) as one,
        open_gateway(config, FileStore(tmp_path)) as other,
    ):
        address = await open_link(await link_of(Chat(one)))

        (reply,) = await Chat(other).say(f"paste {address}")

        assert words(reply) == "notes: signed in, 2 tools"


async def test_a_store_that_cannot_be_read_for_a_while_only_delays_the_news(
    tmp_path: Path, notes: NotesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign_ins, "_POLL_SECONDS", 0.01)
    store, left = MemoryStore(), [0]
    due = store.sign_ins.due

    async def look_or_fail(before: float) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise StoreError("The disk is gone.")
        return await due(before)

    monkeypatch.setattr(store.sign_ins, "due", look_or_fail)
    async with open_gateway(config_for(tmp_path, notes), store) as gateway:
        chat = Chat(gateway)
        address = await open_link(await link_of(chat))
        left[0] = 3
        await open_page(address)

        await chat.notice("notes: signed in, 2 tools")
        assert left[0] < 0


async def test_logout_revokes_and_deletes(tmp_path: Path, notes: NotesServer) -> None:
    # The SDK's revocation endpoint wants the client's secret in the form.
    options = OAuthOptions(token_endpoint_auth_method="client_secret_post")
    server = Server(name="notes", url=notes.url, auth="oauth", oauth=options)
    async with open_gateway(configure(tmp_path, server)) as gateway:
        chat = Chat(gateway)
        await chat.say(f"paste {await open_link(await link_of(chat))}")

        (reply,) = await chat.say("logout notes")

        assert "revoked at the authorization server and deleted" in words(reply)
        assert not notes.refresh
        assert (await gateway.auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED


async def test_logout_says_when_it_was_not_revoked(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)
        await chat.say(f"paste {await open_link(await link_of(chat))}")

        notes.knobs.revocation_works = False
        (reply,) = await chat.say("logout notes")

        assert "did not confirm the revocation" in words(reply)
        assert (await gateway.auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED


async def test_test_lists_the_tools(tmp_path: Path, notes: NotesServer) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway)
        await chat.say(f"paste {await open_link(await link_of(chat))}")

        first, last = await chat.say("test notes")

        assert not first.final
        assert "2 tools: list_notes, add_note" in words(last)


async def test_a_server_that_nobody_looked_at_is_found_to_need_a_sign_in(tmp_path: Path, notes: NotesServer) -> None:
    plain = Server(name="notes", url=notes.url)
    async with open_gateway(configure(tmp_path, plain)) as gateway:
        last = (await Chat(gateway).say("auth"))[-1]

        assert item(last, "notes").state is ItemState.LINK


async def test_in_per_user_mode_everybody_has_their_own_sign_in(tmp_path: Path, notes: NotesServer) -> None:
    config = config_for(tmp_path, notes, identity="per_user", people={"ann": ("telegram:1",)})
    store = MemoryStore()
    async with open_gateway(config, store) as gateway:
        ann = Chat(gateway, TELEGRAM)
        await ann.say(await open_link(await link_of(ann)))

        assert (await gateway.auth.status("notes", "person:ann")).auth is AuthState.SIGNED_IN
        assert (await gateway.auth.status("notes", "principal:cli:local")).auth is AuthState.SIGN_IN_NEEDED
        as_ann = await Chat(gateway).say("test notes", acting_for="ann")
        assert "2 tools" in words(as_ann[-1])


async def test_without_edits_one_reply_carries_the_link_and_notices_still_come(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes)) as gateway:
        chat = Chat(gateway, capabilities=Capabilities())

        (reply,) = await chat.say("auth")
        await open_page(await open_link(item(reply, "notes").link or ""))

        await chat.notice("notes: signed in")
        assert all(one.message is None for one in chat.notices)


async def test_stopping_is_quick_and_keeps_open_sign_ins(tmp_path: Path, notes: NotesServer) -> None:
    store = MemoryStore()
    gateway = open_gateway(config_for(tmp_path, notes), store)
    await link_of(Chat(gateway))

    async with asyncio.timeout(PATIENCE):
        await gateway.stop()

    assert [one.status for one in await store.sign_ins.list()] == ["started"]
    assert isinstance(gateway, Gateway)


async def test_whoever_asked_in_private_is_told_of_the_new_connection_once(tmp_path: Path, notes: NotesServer) -> None:
    """However many of the admins it is."""
    async with open_gateway(config_for(tmp_path, notes, admins=("telegram:1",))) as gateway:
        chat = Chat(gateway, TELEGRAM)
        await open_page(await open_link(await link_of(chat)))
        await chat.notice("notes: signed in, 2 tools")
        assert await gateway.settled(PATIENCE)
        assert [words(one.reply) for one in chat.notices if one.message is None] == ["notes: signed in, 2 tools"]


async def test_an_admin_who_asked_where_others_read_is_told_the_rest_in_private(
    tmp_path: Path, notes: NotesServer
) -> None:
    async with open_gateway(config_for(tmp_path, notes, admins=("telegram:1",))) as gateway:
        chat = Chat(gateway, TELEGRAM, private=False)
        await open_page(await open_link(await link_of(chat)))
        await chat.notice("2 tools")
        assert await gateway.settled(PATIENCE)
        told = {one.reply.audience: words(one.reply) for one in chat.notices if one.message is None}
        assert told[Audience.CHAT] == "notes: signed in."
        assert "2 tools" in told[Audience.CALLER]


async def test_a_new_gateway_edits_a_checklist_whoever_else_is_signing_in_without_one(
    tmp_path: Path, notes: NotesServer
) -> None:
    lasting = Capabilities(edit_window=None, secret_input=True)
    mail = Server(name="mail", url=notes.url, auth="oauth")
    config, store = config_for(tmp_path, notes), MemoryStore()
    config = msgspec.structs.replace(config, servers={**config.servers, "mail": mail})
    async with open_gateway(config, store) as first:
        # The one without a checklist is the first of the store
        await Chat(first, TELEGRAM, capabilities=Capabilities()).say("auth mail")
        link = item((await Chat(first, TELEGRAM, capabilities=lasting).say("auth notes"))[-1], "notes").link
    async with open_gateway(config, store) as second:
        chat = Chat(second, TELEGRAM, capabilities=lasting)
        await chat.say(await open_link(link or ""))
        assert item((await chat.edit("notes: signed in")).reply, "notes").state is ItemState.DONE
