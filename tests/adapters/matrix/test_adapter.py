"""The adapter with the real matrix-nio, against a homeserver on loopback and against a real Synapse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from nio import AsyncClient, InviteMemberEvent, RoomMessageText
from nio.responses import RoomCreateError
from nio.rooms import MatrixInvitedRoom

from adapters.matrix.adapter import MatrixAdapter
from adapters.symbols import BAD, GOOD, WARN
from adapters.testing import unreadable_address
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, ChatRef, Principal
from gateway.people import People
from gateway.replies import Audience, Notice, Reply, Text
from mcp_auth.config.load import load
from mcp_auth.errors import ConfigError, Unreachable
from mcp_auth.limits import Rate
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.platforms.cable import cable
from tests.platforms.synapse import Homeserver, Member
from tests.ports import free_port

SERVERS = {
    "files": {"command": "never-started"},
    "weather": {"url": "http://127.0.0.1:9/mcp", "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}},
}


@pytest.fixture
async def ann(homeserver_of_test: Homeserver) -> AsyncIterator[Member]:
    async with (await homeserver_of_test.register("ann")).listening() as member:
        yield member


@pytest.fixture
async def bob(homeserver_of_test: Homeserver) -> AsyncIterator[Member]:
    async with (await homeserver_of_test.register("bob")).listening() as member:
        yield member


@pytest.fixture
async def account(homeserver_of_test: Homeserver) -> Member:
    """The bot's."""
    return await homeserver_of_test.register("bot")


def home_for(folder: Path, account: Member, *allowed: Member, url: str | None = None, **options: Any) -> Path:
    section = {"homeserver": url or account.url, "token": "${MATRIX_TOKEN}", **options}
    allow = [f"matrix:{member.user_id}" for member in allowed] or ["cli:local"]
    home = write_home(folder, SERVERS, {"allow": allow, "admins": allow[:1], "matrix": section})
    (home / ".env").write_text(f"MATRIX_TOKEN={account.token}\n")
    return home


@contextlib.asynccontextmanager
async def bot(home: Path) -> AsyncIterator[MatrixAdapter]:
    """The bot in a process of its own, as `slash-mcp serve` runs it."""
    async with Gateway.from_config(home=home) as gateway:
        adapter = MatrixAdapter(gateway)
        running = asyncio.create_task(adapter.run())
        try:
            async with asyncio.timeout(PATIENCE):
                while not adapter.listening.is_set() and not running.done():
                    await asyncio.sleep(0.01)
            if running.done():
                running.result()
            yield adapter
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def two(ann: Member, account: Member) -> str:
    """A room of Ann's with the bot, which has joined it by her invitation."""
    room = await ann.create_room(account)
    await ann.until(lambda: ann.members.get(room, {}).get(account.user_id) == "join")
    return room


def notice(account: Member, person: Member, room: str) -> Notice:
    chat = ChatRef("matrix", {"room": room, "user": person.user_id, "private": True})
    reply = Reply((Text("notes: signed in as ada@example.com", tone="good"),), audience=Audience.CALLER)
    return Notice(Principal("matrix", person.user_id), chat, reply)


# -- where it is ---------------------------------------------------------------------------------


async def test_it_follows_those_who_are_served_and_nobody_else(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        strangers = await bob.create_room(account, ann, direct=False)
        room = await two(ann, account)
        await adapter.idle()

        await bob.until(lambda: bob.members.get(strangers, {}).get(account.user_id) == "invite")
        await ann.say(room, "!mcp")
        assert (await ann.sees("never-started")).room == room


@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "encrypted"])
async def test_a_stranger_is_told_a_code_in_their_direct_room_which_the_bot_leaves_again(
    tmp_path: Path, ann: Member, bob: Member, account: Member, encrypted: bool
) -> None:
    home = home_for(tmp_path, account, ann)
    async with bot(home) as adapter:
        room = await bob.create_room(account, encrypted=encrypted)
        if not encrypted:
            await bob.say(room, "!mcp")
        told = await bob.sees("I do not know you yet. To be let in")
        await bob.until(lambda: bob.members.get(room, {}).get(account.user_id) == "leave")
        assert told.room == room
        assert len(bob.from_others()) == 1
        assert await rooms_of(account) == []

        code = re.search(r"slash-mcp allow ([A-Z0-9-]+)", told.text)
        assert code is not None
        await People(load(None, home)).allow(code[1], LOCAL)

        let_in = await bob.sees("You have been let in")
        assert let_in.room != room
        await bob.say(let_in.room, "!mcp")
        await bob.sees("MCP Servers")
        await adapter.idle()


async def test_a_strangers_room_that_others_read_or_may_enter_is_left_without_a_word(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)):
        crowded = await bob.create_room(account, ann, direct=True)
        await bob.until(lambda: bob.members.get(crowded, {}).get(account.user_id) == "leave")
        unlocked = await bob.create_room(account, preset="public_chat", direct=True)
        await bob.until(lambda: bob.members.get(unlocked, {}).get(account.user_id) == "leave")

        assert not [one for one in (*bob.from_others(), *ann.from_others()) if one.sender == account.user_id]
        assert await rooms_of(account) == []


async def test_a_flood_of_invitations_moves_the_bot_a_few_times_only(
    tmp_path: Path,
    homeserver_of_test: Homeserver,
    ann: Member,
    bob: Member,
    account: Member,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapters.matrix.adapter._VISITS", Rate("matrix_visits", 4, 60))
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        crowded = [await bob.create_room(account, ann, direct=True) for _ in range(6)]
        direct = [await bob.create_room(account) for _ in range(3)]
        room = await two(ann, account)
        await adapter.idle()
        # Three in an hour for one person, whatever their rooms turn out to be.
        gone = [one for one in (*crowded, *direct) if await membership(bob, one, account) == "leave"]
        assert len(gone) == 3

        async with (
            (await homeserver_of_test.register("eve")).listening() as eve,
            (await homeserver_of_test.register("mal")).listening() as mal,
        ):
            first = await eve.create_room(account)
            await eve.sees("I do not know you yet")
            await eve.until(lambda: eve.members.get(first, {}).get(account.user_id) == "leave")
            again = await eve.create_room(account)
            # And four in a minute for all of them together.
            last = await mal.create_room(account)
            await ann.say(room, "!mcp")
            await ann.sees("MCP Servers")
            await adapter.idle()
            assert await membership(eve, again, account) == "invite"
            assert await membership(mal, last, account) == "invite"
            assert len(eve.from_others()) == 1


async def test_people_of_other_homeservers_and_the_shut_out_are_not_visited(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    home = home_for(tmp_path, account, ann)
    people = People(load(None, home))
    await people.allow(f"matrix:{bob.user_id}", LOCAL)
    await people.deny(f"matrix:{bob.user_id}", LOCAL)
    async with bot(home) as adapter:
        denied = await bob.create_room(account)
        remote = await bob.create_room(account, ann, direct=False)
        content = {"membership": "invite", "is_direct": True}
        event = InviteMemberEvent({}, "@eve:elsewhere.test", account.user_id, "invite", "leave", content)
        await adapter._on_invite(MatrixInvitedRoom(remote, account.user_id), event)
        await adapter.idle()

        assert await membership(bob, denied, account) == "invite"
        assert await membership(bob, remote, account) == "invite"
        assert bob.from_others() == []


async def membership(person: Member, room: str, account: Member) -> str:
    return str((await person.state(room, "m.room.member", account.user_id))["membership"])


async def rooms_of(account: Member) -> list[str]:
    return list((await account.api("GET", "/_matrix/client/v3/joined_rooms"))["joined_rooms"])


async def test_an_invitation_from_before_the_first_start_is_followed(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    room = await ann.create_room(account)
    await ann.say(room, "!mcp")
    strangers = await bob.create_room(account)

    async with bot(home_for(tmp_path, account, ann)):
        await ann.until(lambda: ann.members.get(room, {}).get(account.user_id) == "join")
        await ann.sees("MCP Servers")
        assert (await bob.sees("I do not know you yet")).room == strangers


async def test_what_people_said_before_the_bot_came_is_history(
    tmp_path: Path, ann: Member, account: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.matrix.adapter._BEFORE_JOINING_SECONDS", -1.0)
    room = await ann.create_room()
    await ann.say(room, "!mcp help")
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        await asyncio.sleep(1.5)
        await ann.invite(room, account)
        await ann.until(lambda: ann.members.get(room, {}).get(account.user_id) == "join")
        await asyncio.sleep(1.5)
        await ann.say(room, "!mcp")

        await ann.sees("MCP Servers")
        await adapter.idle()
        assert not [one for one in ann.from_others() if "logout" in one.text]


async def test_private_things_go_to_a_room_of_two_that_the_bot_made_and_uses_again(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    home = home_for(tmp_path, account, ann)
    group = await ann.create_room(bob, account)
    await bob.join(group)
    async with bot(home):
        await ann.until(lambda: ann.members.get(group, {}).get(account.user_id) == "join")
        await ann.say(group, "!mcp files")
        answer = await ann.sees("Command: never-started")
        await ann.sees("Sent you the answer in private.")

        assert answer.room != group
        assert answer.msgtype == "m.text"
        await ann.until(lambda: ann.members.get(answer.room) == {ann.user_id: "join", account.user_id: "join"})
        assert (await ann.state(answer.room, "m.room.history_visibility"))["history_visibility"] == "invited"
        # Ann cannot let anybody in.
        await ann.invite(answer.room, bob, fine=(403,))
        direct = await account.api("GET", f"/_matrix/client/v3/user/{account.user_id}/account_data/m.direct")
        assert direct == {ann.user_id: [answer.room]}
        assert [one.msgtype for one in bob.from_others() if one.sender == account.user_id] == ["m.notice"]
        assert "never-started" not in "".join(one.text for one in bob.from_others())

    async with bot(home):
        await ann.say(group, "!mcp weather")
        again = await ann.sees("Variables")
        assert again.room == answer.room

    await ann.leave(answer.room)
    ann.accepts = False
    async with bot(home):
        await ann.say(group, "!mcp files")
        await ann.until(lambda: answer.room in ann.invited_to[1:])


async def test_a_room_that_is_no_longer_for_two_is_not_told_and_not_edited(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        room = await two(ann, account)
        await ann.say(room, "!mcp files")
        shown = await ann.sees("Command: never-started")
        await ann.invite(room, bob)
        await bob.join(room)
        await ann.until(lambda: ann.members.get(room, {}).get(bob.user_id) == "join")
        assert adapter._client is not None
        async with asyncio.timeout(PATIENCE):
            while adapter._client.rooms[room].joined_count != 3:
                await asyncio.sleep(0.02)

        told = notice(account, ann, room)
        await adapter.notify(told)
        edited = Notice(told.principal, told.chat, told.reply, message=_ref(room, ann, shown.event_id))
        await adapter.notify(edited)

        assert (await ann.sees("ada@example.com")).room != room
        assert not [one for one in bob.from_others() if "ada@example.com" in one.text]


def _ref(room: str, person: Member, event_id: str) -> Any:
    from gateway.invocations import MessageRef

    return MessageRef("matrix", {"room": room, "user": person.user_id, "private": True, "event": event_id})


async def test_an_encrypted_room_is_refused_once_and_says_what_to_do(
    tmp_path: Path, ann: Member, bob: Member, account: Member
) -> None:
    sealed = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x" * 40, "session_id": "s", "sender_key": "k"}
    content = {**sealed, "device_id": "D"}
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        room = await ann.create_room(account, encrypted=True)
        await ann.until(lambda: ann.members.get(room, {}).get(account.user_id) == "join")
        await ann.invite(room, bob)
        await bob.join(room)
        await bob.send(room, content, "m.room.encrypted")
        await ann.send(room, content, "m.room.encrypted")

        said = await ann.sees("This room is encrypted")
        other = await ann.sees("This room is for you and me alone")
        assert (said.room, other.room != room) == (room, True)
        assert "accept the invitation" in said.text

        await ann.send(room, content, "m.room.encrypted")
        await ann.say(other.room, "!mcp")
        await ann.sees("MCP Servers")
        await adapter.idle()
        assert len([one for one in ann.from_others() if one.room == room]) == 1


# -- what it hears -------------------------------------------------------------------------------


async def test_notices_emotes_edits_and_other_words_are_not_for_it(
    tmp_path: Path, ann: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        room = await two(ann, account)
        await ann.say(room, "!mcp help", "m.notice")
        await ann.say(room, "!mcp help", "m.emote")
        wrong = await ann.say(room, "!mcplease")
        await ann.edit(room, wrong, "!mcp help")
        await ann.say(room, "https://example.org/?code=1&state=2")
        await ann.say(room, "!mcp")

        await ann.sees("MCP Servers")
        await adapter.idle()
        assert len(ann.from_others()) == 1


async def test_a_thread_is_answered_in_the_thread_and_a_quotation_is_not_read(
    tmp_path: Path, ann: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)):
        room = await two(ann, account)
        root = await ann.say(room, "about servers")
        thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}
        await ann.say(room, "/mcp", **thread)
        listed = await ann.sees("MCP Servers")
        quoted = {"m.relates_to": {"m.in_reply_to": {"event_id": listed.event_id}}}
        await ann.say(room, "> <@bot:matrix.test> MCP Servers\n\n!mcp help", **quoted)

        await ann.sees("!mcp logout")
        event = await ann.event(room, listed.event_id)
        assert event["content"]["m.relates_to"] == {"rel_type": "m.thread", "event_id": root}


async def test_a_restart_answers_what_came_meanwhile_and_nothing_twice(
    tmp_path: Path, ann: Member, account: Member
) -> None:
    home = home_for(tmp_path, account, ann)
    async with bot(home):
        room = await two(ann, account)
        await ann.say(room, "!mcp")
        await ann.sees("MCP Servers")
    (kept,) = (home / "matrix").glob("*.json")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700

    await ann.say(room, "!mcp help")
    async with bot(home) as adapter:
        await ann.sees("!mcp logout")
        await adapter.idle()
        assert len([one for one in ann.from_others() if "MCP Servers" in one.text]) == 1

    kept.write_text(f'{{"version":9,"id":"{kept.stem}","token":"s0_0_0_0_0_0_0_0_0_unknown"}}')
    async with bot(home):
        await ann.say(room, "!mcp weather")
        await ann.sees("Variables")


# -- secrets -------------------------------------------------------------------------------------


async def test_a_key_is_deleted_from_the_room_before_it_is_used(
    tmp_path: Path, ann: Member, account: Member, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with bot(home_for(tmp_path, account, ann, secrets_in_chat=True)):
        room = await two(ann, account)
        await ann.say(room, "!mcp key weather")
        asked = await ann.sees("weather needs WEATHER_KEY")
        await ann.sees("Sent you the answer in private.")
        assert asked.room != room

        said = await ann.say(asked.room, "sk-canary-1234567890")

        await ann.sees("could not be tried")
        assert (await ann.event(asked.room, said))["content"] == {}
        # The question is answered: the next words are nobody's key.
        later = await ann.say(asked.room, "just chatting")
        await ann.say(asked.room, "!mcp")
        await ann.sees("MCP Servers")
        assert (await ann.event(asked.room, later))["content"]["body"] == "just chatting"
        assert "canary" not in caplog.text


# -- what breaks ---------------------------------------------------------------------------------


async def test_a_revoked_token_ends_the_run_with_what_to_do(tmp_path: Path, ann: Member, account: Member) -> None:
    home = home_for(tmp_path, account, ann)
    async with Gateway.from_config(home=home) as gateway:
        running = asyncio.create_task(MatrixAdapter(gateway).run())
        room = await two(ann, account)
        await account.logout()

        with pytest.raises(ConfigError) as ended:
            await asyncio.wait_for(running, PATIENCE)
        with pytest.raises(ConfigError) as refused:
            await MatrixAdapter(gateway).run()

    assert room
    for error in (ended.value, refused.value):
        assert "M_UNKNOWN_TOKEN" in str(error)
        assert "set gateway.matrix.token" in str(error)
        assert account.token not in str(error)


async def test_a_rate_limit_is_waited_for(
    tmp_path: Path, homeserver_of_test: Homeserver, ann: Member, account: Member
) -> None:
    async with bot(home_for(tmp_path, account, ann)):
        room = await two(ann, account)
        await homeserver_of_test.limit_rate(account.user_id, per_second=1, burst=1)
        for _ in range(3):
            await ann.say(room, "!mcp help")

        await ann.until(lambda: len([one for one in ann.from_others() if "!mcp logout" in one.text]) == 3)


async def test_an_outage_is_one_line_and_over_when_it_is_over(
    tmp_path: Path, ann: Member, account: Member, caplog: pytest.LogCaptureFixture
) -> None:
    async with cable(account.url) as line, bot(home_for(tmp_path, account, ann, url=line.url)):
        room = await two(ann, account)
        line.cut()
        await ann.say(room, "!mcp")
        async with asyncio.timeout(PATIENCE):
            while "the homeserver does not answer" not in caplog.text:
                await asyncio.sleep(0.05)
        line.mend()

        await ann.sees("MCP Servers")
        ours = [one.message for one in caplog.records if one.name.startswith("adapters") and one.levelname == "WARNING"]
        assert len(ours) == 2
        assert ours[1] == "the homeserver answers again"


async def test_a_message_that_cannot_be_sent_is_one_line_and_no_end(
    tmp_path: Path, ann: Member, account: Member, caplog: pytest.LogCaptureFixture
) -> None:
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        await adapter.notify(notice(account, ann, "!gone:matrix.test"))
        await ann.sees("ada@example.com")

        gone = ChatRef("matrix", {"room": "!gone:matrix.test", "user": ann.user_id, "private": False})
        await adapter.notify(Notice(Principal("matrix", ann.user_id), gone, Reply((Text("notes: signed in."),))))

        assert "was refused: the homeserver answers M_FORBIDDEN" in caplog.text


async def test_a_process_that_only_delivers_does_not_sync(tmp_path: Path, ann: Member, account: Member) -> None:
    async with Gateway.from_config(home=home_for(tmp_path, account, ann)) as gateway:
        adapter = MatrixAdapter(gateway)
        async with adapter.connected():
            reply = Reply((Text("notes: signed in"),), audience=Audience.CALLER)
            assert await adapter.notify(Notice(Principal("matrix", ann.user_id), ChatRef("matrix"), reply))
            await ann.sees("notes: signed in")
            assert not adapter.listening.is_set()


async def test_who_cannot_be_reached_in_private_is_told_so_where_they_asked(
    tmp_path: Path, ann: Member, bob: Member, account: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(**room: Any) -> RoomCreateError:
        # As of a homeserver where only admins make rooms.
        return RoomCreateError("not here", "M_FORBIDDEN")

    group = await ann.create_room(bob, account)
    await bob.join(group)
    async with bot(home_for(tmp_path, account, ann)) as adapter:
        await ann.until(lambda: ann.members.get(group, {}).get(account.user_id) == "join")
        assert adapter._client is not None
        monkeypatch.setattr(adapter._client, "room_create", refuse)
        await ann.say(group, "!mcp files")

        assert (await ann.sees("my invitation to a private room is refused")).room == group


# -- in somebody else's client -------------------------------------------------------------------


async def test_in_a_hosts_client_what_is_ours_can_be_told_and_history_is_left_alone(
    tmp_path: Path, ann: Member, account: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = await ann.create_room(account)
    await account.join(room)
    await ann.say(room, "!mcp help")
    await asyncio.sleep(1.2)
    monkeypatch.setattr("adapters.matrix.adapter._HISTORY_SECONDS", 1.0)
    client = AsyncClient(account.url, account.user_id)
    client.restore_login(account.user_id, "HOST", account.token)
    heard: list[str] = []
    async with Gateway.from_config(home=home_for(tmp_path, account, ann, secrets_in_chat=True)) as gateway:
        adapter = MatrixAdapter(gateway)
        adapter.install(client)

        async def agent(room: Any, event: Any) -> None:
            if not await adapter.claims(room, event):
                heard.append(event.body)

        client.add_event_callback(agent, RoomMessageText)
        syncing = asyncio.create_task(client.sync_forever(timeout=1000, full_state=True))
        await client.synced.wait()
        monkeypatch.setattr("adapters.matrix.adapter._HISTORY_SECONDS", 300.0)
        await ann.say(room, "!mcp")
        await ann.sees("MCP Servers")
        await ann.say(room, "!mcp key weather")
        await ann.sees("Two ways")
        await ann.say(room, await unreadable_address(gateway))
        await ann.sees("cannot be read")
        await ann.say(room, "how are you?")
        async with asyncio.timeout(PATIENCE):
            while "how are you?" not in heard:
                await asyncio.sleep(0.02)
        await adapter.stop()
        await ann.say(room, "!mcp test files")
        await asyncio.sleep(0.5)

        syncing.cancel()
        await asyncio.gather(syncing, return_exceptions=True)
        await client.close()
    assert not [one for one in heard if one in ("!mcp", "!mcp key weather", "!mcp help") or "code-canary" in one]
    assert not [one for one in ann.from_others() if "!mcp logout" in one.text or "connected" in one.text]


# -- doctor --------------------------------------------------------------------------------------


async def test_doctor_says_what_is_wrong(tmp_path: Path, ann: Member, account: Member) -> None:
    home = home_for(tmp_path, account, ann)
    async with Gateway.from_config(home=home) as gateway:
        (fine,) = await MatrixAdapter(gateway).check()
        assert fine.mark == GOOD
        assert fine.text.startswith(f"{account.user_id} on {account.url} answers in ")

        await account.logout()
        (refused,) = await MatrixAdapter(gateway).check()
        assert refused.mark == BAD
        assert "M_UNKNOWN_TOKEN" in refused.text
        assert account.token not in refused.text

    nowhere = home_for(tmp_path / "2", account, url=f"http://127.0.0.1:{free_port()}")
    async with Gateway.from_config(home=nowhere) as gateway:
        (away,) = await MatrixAdapter(gateway).check()
        assert (away.mark, "does not answer" in away.text) == (WARN, True)
        with pytest.raises(Unreachable):
            await MatrixAdapter(gateway).run()


async def test_doctor_warns_when_nobody_is_served(tmp_path: Path, account: Member) -> None:
    async with Gateway.from_config(home=home_for(tmp_path, account)) as gateway:
        assert [one.mark for one in await MatrixAdapter(gateway).check()] == [GOOD, WARN]
