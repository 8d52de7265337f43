"""What the gateway answers, as far as no authorization server takes part. Real McpAuth, real sockets."""

from __future__ import annotations

import asyncio
import http.server
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adapters.testing import unreadable_address
from gateway.invocations import Capabilities, Principal
from gateway.replies import Audience, Deferred, Ignored, Immediate, ItemState, Modal, ServerList, Table, TextModal
from gateway.surfaces import in_chat
from mcp_auth.config.models import Server
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ConnectionState
from mcp_auth.stores.files import FileStore
from tests.gateway.chat import FULL, TELEGRAM, Chat, configure, item, open_gateway, prompt_of, words
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

KEY = "sk-canary-0123456789"
REDIRECT = "http://127.0.0.1:8765/callback?code=CANARYCODE&state=x.y"


class KeyedHandler(http.server.BaseHTTPRequestHandler):
    """401 without the right key; enough of a server for trying a key."""

    keys: tuple[str, ...] = (f"Bearer {KEY}",)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status = 200 if not self.keys or self.headers.get("Authorization") in self.keys else 401
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def keyed_url() -> Iterator[str]:
    yield from _serve(KeyedHandler)


@pytest.fixture
def careless_url() -> Iterator[str]:
    yield from _serve(type("CarelessHandler", (KeyedHandler,), {"keys": ()}))


def _serve(handler: type[KeyedHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
    server.shutdown()
    server.server_close()


DEAD_URL = "http://127.0.0.1:9/mcp"


def keyed(url: str) -> Server:
    return Server(name="weather", url=url, headers={"Authorization": "Bearer ${WEATHER_KEY}"})


def sign_in_server(name: str = "notes") -> Server:
    return Server(name=name, url=DEAD_URL, auth="oauth")


# -- people and events -----------------------------------------------------------------------


async def test_a_strangers_secret_is_not_taken(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, keyed(DEAD_URL))) as gateway:
        reply = await gateway.submit_secret(Principal("telegram", "666"), "whatever-id", KEY)

        assert not reply.ok
        assert KEY not in repr(reply)


async def test_the_same_event_is_answered_once(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server())) as gateway:
        chat = Chat(gateway)

        first = await chat.say("help", event_id="42")
        second = await chat.say("help", event_id="42")

        assert len(first) == 1
        assert second == []
        assert gateway.decide(chat.invocation("help", event_id="42")) == Ignored()


async def test_the_gateway_starts_with_the_first_invocation(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, sign_in_server()))

    replies = await Chat(gateway).say("")

    assert len(replies) == 1
    await gateway.stop()
    await gateway.stop()


# -- list and detail -------------------------------------------------------------------------


async def test_the_list_comes_at_once_and_is_replaced_by_live_results(tmp_path: Path) -> None:
    open_server = Server(name="open", url=DEAD_URL)
    async with open_gateway(configure(tmp_path, sign_in_server(), open_server)) as gateway:
        first, second = await Chat(gateway).say("")

        shown = first.blocks[0]
        assert isinstance(shown, ServerList)
        assert [(one.name, one.auth, one.next) for one in shown.servers] == [
            ("notes", AuthState.SIGN_IN_NEEDED, Next("auth", "notes")),
            ("open", AuthState.NONE_NEEDED, Next("test", "open")),
        ]
        assert not first.final
        live = second.blocks[0]
        assert isinstance(live, ServerList)
        assert live.servers[1].connection.state is ConnectionState.UNREACHABLE
        assert second.final


async def test_without_edits_there_is_one_reply_from_local_state(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, Server(name="open", url=DEAD_URL))) as gateway:
        replies = await Chat(gateway, capabilities=Capabilities()).say("")

        assert [reply.final for reply in replies] == [True]
        assert "not_checked" in words(replies[0])


async def test_live_results_never_start_a_command(tmp_path: Path) -> None:
    touched = tmp_path / "started"
    command = Server(
        name="files",
        command=sys.executable,
        args=("-c", f"open({str(touched)!r}, 'w')"),
        transport="stdio",
    )
    async with open_gateway(configure(tmp_path, command)) as gateway:
        for typed in ("", "files"):
            assert [reply.final for reply in await Chat(gateway).say(typed)] == [True], "nothing is waited for"

        assert not touched.exists()


async def test_the_list_offers_a_sign_in_when_any_server_needs_one(tmp_path: Path) -> None:
    done = Server(name="open", command="cat", transport="stdio")
    for servers, offered in (((done,), False), ((done, sign_in_server()), True), ((done, keyed(DEAD_URL)), True)):
        async with open_gateway(configure(tmp_path, *servers)) as gateway:
            (reply, *_) = await Chat(gateway).say("")
            assert [button.command for button in reply.buttons] == (["auth"] if offered else [])


async def test_live_results_of_all_servers_are_asked_for_at_once(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.protected = False
    answered = oauth.knobs.mcp_gate = threading.Event()
    many = [Server(name=f"s{number}", url=oauth.url, headers={"X": "y"}) for number in range(6)]
    async with open_gateway(configure(tmp_path, *many)) as gateway:
        asked = asyncio.create_task(Chat(gateway).say(""))
        async with asyncio.timeout(PATIENCE):
            while oauth.in_flight < 6:
                await asyncio.sleep(0.005)
        answered.set()
        replies = await asked

    assert oauth.most_in_flight == 6
    assert words(replies[-1]).count("key_set ready") == 6


async def test_a_server_that_takes_only_a_key_is_never_listed_as_open(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given an entry with neither auth nor headers, for a server that answers 401 and publishes no OAuth metadata
    oauth.knobs.prm_path, oauth.knobs.well_known, oauth.knobs.api_key = None, "none", KEY
    async with open_gateway(configure(tmp_path, Server(name="notes", url=oauth.url))) as gateway:
        chat = Chat(gateway)
        found = words((await chat.say(""))[-1])
        assert found == "notes misconfigured refused"
        # Later lists say so at once, and look again
        assert [words(reply) for reply in await chat.say("")] == ["notes misconfigured not_checked", found]
        assert "headers" in words((await chat.say("test notes"))[-1])
        line = item((await chat.say("auth notes"))[-1], "notes")
        assert (line.state, "offers no sign-in" in line.text) == (ItemState.FAILED, True)
        # When it learns OAuth, the same command begins a sign-in
        oauth.knobs.prm_path, oauth.knobs.well_known, oauth.knobs.api_key = "path", "oauth", None
        assert item((await chat.say("auth"))[-1], "notes").state is ItemState.LINK


async def test_the_list_hangs_on_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a server that accepts and never answers, the list is final when its time is over."""
    monkeypatch.setattr("gateway.handlers.listing.PROBES_SECONDS", 0.4)
    monkeypatch.setattr("gateway.handlers.listing._FIRST_RESULTS_SECONDS", 0.1)
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(30), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    async with open_gateway(configure(tmp_path, Server(name="slow", url=f"http://127.0.0.1:{port}/mcp"))) as gateway:
        replies = await asyncio.wait_for(Chat(gateway).say(""), PATIENCE)

        assert replies[-1].final
        assert "slow none_needed unreachable" in words(replies[-1])
    silent.close()


async def test_details_are_for_the_caller_and_name_the_next_command(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server())) as gateway:
        (reply,) = await Chat(gateway).say("NOT")

        assert reply.audience is Audience.CALLER
        assert reply.summary
        assert "Auth: sign-in needed" in words(reply)
        assert [button.command for button in reply.buttons] == ["auth notes"]


async def test_an_empty_configuration_says_how_to_add_a_server(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path)) as gateway:
        for typed in ("", "auth"):
            (reply,) = await Chat(gateway).say(typed)
            assert "slash-mcp add" in words(reply)


async def test_help_shows_every_command(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path)) as gateway:
        (reply,) = await Chat(gateway).say("help")

        (table,) = reply.blocks
        assert isinstance(table, Table)
        assert {"/mcp auth", "/mcp key SERVER", "/mcp logout SERVER"} <= {in_chat(row[0]) for row in table.rows}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("autj", "/mcp auth"),
        ("blargh wibble", "/mcp help"),
        ("logout not", "/mcp logout notes"),
        ("logout", "/mcp logout notes"),
        ("paste", "/mcp paste ADDRESS"),
        ("confirm 123456", "no sign-in needs one"),
        ("cancel", "No sign-in is open"),
        ("logout notes", "was not signed in"),
        ("paste nonsense", "Next:"),
        (f"paste {REDIRECT}", "begin again"),
        ("key notes", "needs no key"),
        ("key", "No server lacks a key"),
        ("key-store AAAAAAAAAAAA", "over"),
        ("test notes", "Next: /mcp auth notes"),
    ],
)
async def test_every_command_answers(tmp_path: Path, typed: str, said: str) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server())) as gateway:
        replies = await Chat(gateway).say(typed)

        assert said in words(replies[-1])
        assert replies[-1].final


async def test_an_unforeseen_error_is_one_sentence_and_a_reference_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store breaks in a way that nobody foresaw, with a secret in the error's text."""
    async with open_gateway(configure(tmp_path, sign_in_server())) as gateway:

        async def broken(*args: Any) -> None:
            raise RuntimeError(f"secret {KEY}")

        monkeypatch.setattr(gateway.auth.store.grants, "get_many", broken)
        with caplog.at_level(logging.DEBUG):
            (reply,) = await Chat(gateway).say("")

        reference = words(reply).split()[-1].rstrip(".")
        assert reference in caplog.text
        assert "RuntimeError" in caplog.text
        assert KEY not in caplog.text
        assert KEY not in repr(reply)


# -- sign-in: who may, and failures ----------------------------------------------------------


async def test_a_failed_start_is_a_line_of_the_checklist_with_a_reason(tmp_path: Path) -> None:
    servers = (sign_in_server(), keyed(DEAD_URL))
    async with open_gateway(configure(tmp_path, *servers)) as gateway:
        first, *_, last = await Chat(gateway).say("auth")

        assert item(first, "notes").state is ItemState.PREPARING
        assert item(last, "notes").state is ItemState.FAILED
        assert "cannot be reached" in item(last, "notes").text
        assert item(last, "notes").command == "auth notes"
        assert item(last, "weather").state is ItemState.KEY
        assert item(last, "weather").command == "key weather"
        assert last.audience is Audience.CALLER


async def test_auth_for_a_server_without_sign_in_says_so(tmp_path: Path) -> None:
    command = Server(name="files", command="cat", transport="stdio")
    off = Server(name="off", url=DEAD_URL, auth="oauth", enabled=False)
    broken = Server(name="broken", problem="config.yaml:3: url and command exclude each other")
    async with open_gateway(configure(tmp_path, command, off, broken)) as gateway:
        reply = (await Chat(gateway).say("auth files off broken"))[-1]

        assert "needs no sign-in" in item(reply, "files").text
        assert "disabled" in item(reply, "off").text
        assert "config.yaml:3" in item(reply, "broken").text


async def test_pain_3_sign_in_from_a_chat_is_refused_for_several_people_and_the_sentence_says_why(
    tmp_path: Path,
) -> None:
    config = configure(tmp_path, sign_in_server(), allow=("telegram:1", "telegram:2"), admins=("telegram:1",))
    async with open_gateway(config) as gateway:
        reply = (await Chat(gateway, TELEGRAM).say("auth"))[-1]

        text = item(reply, "notes").text
        assert item(reply, "notes").state is ItemState.FAILED
        assert "forwarded link" in text
        assert "slash-mcp auth notes" in text


async def test_only_admins_change_a_shared_server(tmp_path: Path) -> None:
    config = configure(
        tmp_path, sign_in_server(), keyed(DEAD_URL), allow=("telegram:1", "telegram:2"), admins=("telegram:1",)
    )
    async with open_gateway(config) as gateway:
        bob = Chat(gateway, Principal("telegram", "2"))

        for typed in ("auth notes", "key weather", "logout notes", "cancel notes"):
            assert "only an admin" in words((await bob.say(typed))[-1]), typed


# -- paste -----------------------------------------------------------------------------------


async def test_an_address_pasted_where_others_read_is_not_used(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server(), allow=("telegram:1",))) as gateway:
        (reply,) = await Chat(gateway, TELEGRAM, private=False).say(REDIRECT)

        assert "private" in words(reply)
        assert "CANARYCODE" not in repr(reply)


async def test_paste_is_off_for_several_people(tmp_path: Path) -> None:
    config = configure(tmp_path, sign_in_server(), allow=("telegram:1", "telegram:2"), admins=("telegram:1",))
    async with open_gateway(config) as gateway:
        (reply,) = await Chat(gateway, TELEGRAM).say(REDIRECT)

        assert "allow_paste" in words(reply)


async def test_a_form_for_the_address_is_offered_to_whoever_may_paste(tmp_path: Path) -> None:
    form = Capabilities(edit_window=900, modal=True)
    alone = open_gateway(configure(tmp_path, sign_in_server(), allow=("telegram:1",)))
    several = {"allow": ("telegram:1", "telegram:2"), "identity": "per_user"}
    team = open_gateway(configure(tmp_path, sign_in_server(), **several))

    bare = Chat(alone, TELEGRAM, capabilities=form).invocation("paste")
    (refused,) = await Chat(team, TELEGRAM, capabilities=form).say("paste")

    assert alone.decide(bare, form) == TextModal("paste")
    assert alone.decide(bare, FULL) == Immediate(Audience.CHAT)
    assert team.decide(bare, form) == Immediate(Audience.CHAT)
    assert "more than one person" in words(refused)
    await alone.stop()
    await team.stop()


async def test_a_form_for_the_code_is_offered_where_pages_show_codes(tmp_path: Path) -> None:
    form = Capabilities(edit_window=900, modal=True)
    public = open_gateway(
        configure(tmp_path, sign_in_server(), allow=("telegram:1",), public_url="https://bot.example.com")
    )
    loopback = open_gateway(configure(tmp_path, sign_in_server(), allow=("telegram:1",)))
    bare = Chat(public, TELEGRAM, capabilities=form).invocation("confirm")

    assert public.decide(bare, form) == TextModal("confirm")
    assert loopback.decide(bare, form) == Immediate(Audience.CHAT)
    await public.stop()
    await loopback.stop()


async def test_only_addresses_of_our_own_sign_ins_are_claimed(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server())) as gateway:
        assert not await gateway.claims("hello there")
        assert not await gateway.claims("https://example.com/?state=1")
        assert not await gateway.claims(f"http://127.0.0.1:8765/callback?code=a&state={'0' * 32}.{'a' * 43}")


async def test_an_address_is_claimed_while_nobody_can_tell_whose_it_is(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, sign_in_server()), FileStore(tmp_path)) as gateway:
        address = await unreadable_address(gateway)

        assert await gateway.claims(address)
        assert not await gateway.claims("https://example.com/?state=1")


# -- keys ------------------------------------------------------------------------------------


async def test_a_key_is_tried_and_stored(tmp_path: Path, keyed_url: str) -> None:
    async with open_gateway(configure(tmp_path, keyed(keyed_url))) as gateway:
        chat = Chat(gateway)
        checklist = (await chat.say("auth"))[-1]
        assert item(checklist, "weather").state is ItemState.KEY

        (asked,) = await chat.say("key weather")
        prompt = prompt_of(asked)
        stored = await gateway.submit_secret(chat.principal, prompt.id, KEY)

        assert asked.audience is Audience.CALLER
        assert prompt.variable == "WEATHER_KEY"
        assert "works" in words(stored)
        assert KEY not in repr([asked, stored])
        assert KEY in (tmp_path / ".env").read_text()
        assert (await gateway.auth.status("weather")).auth is AuthState.KEY_SET
        edit = await chat.edit("key stored")
        assert item(edit.reply, "weather").state is ItemState.DONE

        again = await gateway.submit_secret(chat.principal, prompt.id, KEY)
        assert "over" in words(again)


async def test_a_refused_key_is_not_stored_and_may_be_entered_again_a_few_times(tmp_path: Path, keyed_url: str) -> None:
    async with open_gateway(configure(tmp_path, keyed(keyed_url))) as gateway:
        chat = Chat(gateway)
        prompt = prompt_of((await chat.say("key"))[0])

        for _ in range(4):
            refused = await gateway.submit_secret(chat.principal, prompt.id, "wrong-key-value")
            assert "refuses this key" in words(refused)
            assert prompt_of(refused).id == prompt.id
        last = await gateway.submit_secret(chat.principal, prompt.id, "wrong-key-value")
        after = await gateway.submit_secret(chat.principal, prompt.id, KEY)

        assert "Next: /mcp key weather" in words(last)
        assert "over" in words(after)
        assert not (tmp_path / ".env").exists()


async def test_a_good_key_after_a_refused_one_is_stored(tmp_path: Path, keyed_url: str) -> None:
    async with open_gateway(configure(tmp_path, keyed(keyed_url))) as gateway:
        chat = Chat(gateway)
        prompt = prompt_of((await chat.say("key"))[0])

        await gateway.submit_secret(chat.principal, prompt.id, "wrong-key-value")
        await gateway.submit_secret(chat.principal, prompt.id, "   ")
        stored = await gateway.submit_secret(chat.principal, prompt.id, KEY)

        assert "works" in words(stored)


async def test_an_unreachable_server_asks_whether_to_store_anyway(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, keyed(DEAD_URL), allow=("telegram:1",))) as gateway:
        chat = Chat(gateway)
        prompt = prompt_of((await chat.say("key weather"))[0])

        asked = await gateway.submit_secret(chat.principal, prompt.id, KEY)
        (button,) = asked.buttons
        assert "Store it anyway?" in words(asked)
        assert not (tmp_path / ".env").exists()
        assert button.command is not None
        assert KEY not in repr(asked)

        (foreign,) = await Chat(gateway, TELEGRAM).say(button.command)
        assert not (tmp_path / ".env").exists()
        (stored,) = await chat.say(button.command)
        (again,) = await chat.say(button.command)

        assert "somebody else" in words(foreign)
        assert "stored, not verified" in words(stored)
        assert KEY in (tmp_path / ".env").read_text()
        assert "over" in words(again)


async def test_no_difference_to_a_keyless_request_is_said(tmp_path: Path, careless_url: str) -> None:
    async with open_gateway(configure(tmp_path, keyed(careless_url))) as gateway:
        chat = Chat(gateway)
        prompt = prompt_of((await chat.say("key weather"))[0])

        stored = await gateway.submit_secret(chat.principal, prompt.id, KEY)

        assert "stored, not verified" in words(stored)


async def test_a_question_lives_ten_minutes_and_belongs_to_one_person(tmp_path: Path, keyed_url: str) -> None:
    now = [1000.0]
    config = configure(tmp_path, keyed(keyed_url), allow=("telegram:1",))
    async with open_gateway(config, clock=lambda: now[0]) as gateway:
        chat = Chat(gateway)
        prompt = prompt_of((await chat.say("key weather"))[0])

        foreign = await gateway.submit_secret(TELEGRAM, prompt.id, KEY)
        now[0] += 601
        late = await gateway.submit_secret(chat.principal, prompt.id, KEY)

        assert "somebody else" in words(foreign)
        assert "over" in words(late)
        assert not (tmp_path / ".env").exists()


async def test_two_variables_are_asked_one_after_the_other_and_tried_together(tmp_path: Path, keyed_url: str) -> None:
    server = Server(
        name="weather", url=keyed_url, headers={"Authorization": "Bearer ${WEATHER_KEY}", "X-Team": "${WEATHER_TEAM}"}
    )
    async with open_gateway(configure(tmp_path, server)) as gateway:
        chat = Chat(gateway)
        first = prompt_of((await chat.say("key weather"))[0])

        second = prompt_of(await gateway.submit_secret(chat.principal, first.id, KEY))
        stored = await gateway.submit_secret(chat.principal, second.id, "blue")

        assert (first.variable, second.variable) == ("WEATHER_KEY", "WEATHER_TEAM")
        assert "works" in words(stored)


async def test_a_chat_without_a_secret_input_names_the_three_ways(tmp_path: Path) -> None:
    config = configure(tmp_path, keyed(DEAD_URL), allow=("telegram:1",))
    async with open_gateway(config) as gateway:
        (reply,) = await Chat(gateway, TELEGRAM).say("key weather")

        for way in ("slash-mcp key weather", "gateway.public_url", "gateway.telegram.secrets_in_chat"):
            assert way in words(reply)


async def test_a_modal_is_offered_only_where_the_configuration_allows_it(tmp_path: Path) -> None:
    closed = configure(tmp_path, keyed(DEAD_URL), allow=("telegram:1",))
    opened = configure(
        tmp_path, keyed(DEAD_URL), allow=("telegram:1",), platforms={"telegram": {"secrets_in_chat": True}}
    )
    for config, expected in ((closed, Immediate(Audience.CALLER)), (opened, Modal("weather"))):
        gateway = open_gateway(config)
        chat = Chat(gateway, TELEGRAM)
        assert gateway.decide(chat.invocation("key weather"), FULL) == expected
        await gateway.stop()


async def test_pain_17_a_key_typed_into_the_chat_is_not_stored(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, keyed(DEAD_URL))) as gateway:
        (reply,) = await Chat(gateway).say(f"key weather {KEY}")

        assert KEY not in repr(reply)
        assert "not stored" in words(reply)
        assert not (tmp_path / ".env").exists()


async def test_what_the_network_is_needed_for_is_deferred(tmp_path: Path) -> None:
    gateway = open_gateway(configure(tmp_path, sign_in_server()))
    chat = Chat(gateway)

    assert gateway.decide(chat.invocation("")) == Immediate(Audience.CHAT)
    assert gateway.decide(chat.invocation("notes")) == Immediate(Audience.CALLER)
    assert gateway.decide(chat.invocation("auth")) == Deferred(Audience.CALLER)
    assert gateway.decide(chat.invocation("logout notes")) == Deferred(Audience.CHAT)
    assert gateway.decide(replace(chat.invocation("key notes"), principal=TELEGRAM)) == Immediate(Audience.CALLER)
    await gateway.stop()


async def test_a_bare_key_asks_for_what_is_missing_and_a_named_one_for_everything(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer ${WEATHER_KEY}", "X-Team": "${WEATHER_TEAM}", "X-Lang": "${WEATHER_LANG:-en}"}
    server = Server(name="weather", url=DEAD_URL, headers=headers)
    (tmp_path / ".env").write_text(f"WEATHER_KEY={KEY}\n")
    async with open_gateway(configure(tmp_path, server, sign_in_server())) as gateway:
        chat = Chat(gateway)
        # Which server it will be is not known yet, so no form can be opened for it
        assert gateway.decide(chat.invocation("key"), FULL) == Immediate(Audience.CALLER)
        assert prompt_of((await chat.say("key"))[-1]).variable == "WEATHER_TEAM"
        (tmp_path / ".env").write_text(f"WEATHER_KEY={KEY}\nWEATHER_TEAM=blue\n")
        assert "No server lacks a key" in words((await chat.say("key"))[-1])
        asked = prompt_of((await chat.say("key weather"))[-1])
        assert asked.variable == "WEATHER_KEY"


OPERATOR, ADMIN, OTHER = Principal("cli", "local"), TELEGRAM, Principal("telegram", "2")
_TITLE_LIST, _TITLE_HELP, _TITLE_PEOPLE = "MCP Servers", "What /mcp can do", "People"


@pytest.mark.parametrize(
    ("who", "private", "typed", "alone", "well", "title", "said"),
    [
        # For whoever reads the chat
        (OPERATOR, True, "", False, True, _TITLE_LIST, "notes sign_in_needed"),
        (OPERATOR, True, "help", False, True, _TITLE_HELP, "every server and its status"),
        (OPERATOR, True, "autj", False, False, None, "Did you mean /mcp auth?"),
        (OPERATOR, True, "blargh wibble", False, False, None, "/mcp help shows what there is"),
        (OPERATOR, True, "logout not", False, False, None, "wants the whole name"),
        (OPERATOR, True, "logout", False, False, None, "Which server?"),
        (OPERATOR, True, "paste", False, False, None, "Send the whole address"),
        (OPERATOR, True, "confirm ABCD", False, True, None, "public endpoint only"),
        (OPERATOR, True, "cancel", False, True, None, "No sign-in is open"),
        (OPERATOR, True, "logout notes", False, False, None, "was not signed in"),
        (OPERATOR, True, "key notes", False, False, None, "needs no key"),
        (OPERATOR, True, "key", False, False, None, "A key does not go through this chat"),
        (OPERATOR, True, f"key weather {KEY}", False, False, None, "not used and not stored"),
        (OPERATOR, True, "allow", False, False, None, "Send the code"),
        (ADMIN, True, "paste nonsense", False, False, None, "is off while more than one"),
        (ADMIN, True, "paste", False, False, None, "is off while more than one"),
        (ADMIN, False, "people", False, False, None, "decided in private"),
        (ADMIN, False, "allow AAAAAAAA", False, False, None, "decided in private"),
        (ADMIN, False, "deny telegram:2", False, False, None, "decided in private"),
        *((OTHER, True, f"{verb} notes", False, False, None, "only an admin") for verb in ("cancel", "logout", "key")),
        (OTHER, True, "key", False, False, None, "only an admin"),
        (OTHER, True, "cancel", False, False, None, "only an admin"),
        # For whoever asked
        (OPERATOR, True, "notes", True, True, "notes", "127.0.0.1:9/mcp"),
        (ADMIN, True, "notes", True, True, "notes", "Address: 127.0.0.1:9\n"),
        (OPERATOR, True, "paste nonsense", True, False, None, "does not say which sign-in"),
        (OPERATOR, True, "key-store AAAAAAAAAAAA", True, False, None, "This question is over"),
        (OPERATOR, True, "test notes", True, False, None, "Next: /mcp auth"),
        (OPERATOR, True, "people", True, True, _TITLE_PEOPLE, "telegram:1 configured, admin"),
        (OPERATOR, True, "allow AAAAAAAA", True, False, None, "No request has this code"),
        (OPERATOR, True, "deny telegram:9", True, False, None, "Nobody is known"),
        (OPERATOR, True, "deny telegram:2", True, True, None, "not served any more"),
        (ADMIN, True, "auth notes", True, False, None, "signing in from a chat is off"),
        (ADMIN, True, "people", True, True, _TITLE_PEOPLE, "telegram:2 configured"),
        (ADMIN, True, "deny telegram:2", True, False, None, "only the operator"),
        (OTHER, True, "auth notes", True, False, None, "only an admin"),
        (OTHER, True, "auth", True, False, None, "only an admin"),
        *(
            (OTHER, True, typed, True, False, None, "Only an admin")
            for typed in ("people", "allow X", "deny telegram:9")
        ),
    ],
)
async def test_what_is_for_one_person_is_said_to_that_one_and_what_went_wrong_is_no_success(
    tmp_path: Path, who: Principal, private: bool, typed: str, alone: bool, well: bool, title: str | None, said: str
) -> None:
    weather = Server(name="weather", url="http://127.0.0.1:9/w", headers={"Authorization": "Bearer ${WEATHER_KEY}"})
    people: dict[str, Any] = {"allow": ("telegram:1", "telegram:2"), "admins": ("telegram:1",)}
    async with open_gateway(configure(tmp_path, sign_in_server(), weather, **people)) as gateway:
        (reply,) = await Chat(gateway, who, private=private, capabilities=Capabilities()).say(typed)

    assert said in words(reply)
    assert reply.audience is (Audience.CALLER if alone else Audience.CHAT)
    assert reply.summary == ("Sent you the answer in private." if alone else None)
    assert (reply.ok, reply.final, reply.title and in_chat(reply.title)) == (well, True, title)


async def test_only_the_operator_at_the_terminal_asks_as_often_as_they_like(tmp_path: Path) -> None:
    async with open_gateway(configure(tmp_path, allow=("telegram:1",))) as gateway:
        for who, too_often in ((OPERATOR, False), (ADMIN, True)):
            replies = [(await Chat(gateway, who).say("help"))[-1] for _ in range(41)]
            assert ("too often" in words(replies[-1])) is too_often
            assert "too often" not in words(replies[39])


async def test_a_key_with_a_default_is_asked_for_only_where_there_is_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"X-Mode": "${WEATHER_MODE:-fast}", "Authorization": "Bearer ${WEATHER_KEY}"}
    both = Server(name="weather", url="http://127.0.0.1:9/w", headers=headers)
    alone = Server(name="news", url="http://127.0.0.1:9/n", headers={"X-Mode": "${WEATHER_MODE:-fast}"})
    async with open_gateway(configure(tmp_path, both, alone)) as gateway:
        chat = Chat(gateway)
        assert prompt_of((await chat.say("key weather"))[-1]).variable == "WEATHER_KEY"
        monkeypatch.setenv("WEATHER_KEY", KEY)
        # All are there: the one without a default may be another one now
        assert prompt_of((await chat.say("key weather"))[-1]).variable == "WEATHER_KEY"
        assert prompt_of((await chat.say("key news"))[-1]).variable == "WEATHER_MODE"
