"""slack-bolt and the adapter against Slack on loopback: what each person sees after what they do."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slack_bolt.async_app import AsyncApp
from slack_sdk.oauth.installation_store import Bot
from slack_sdk.oauth.installation_store.file import FileInstallationStore
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack import adapter as module
from adapters.slack.adapter import SlackAdapter
from adapters.slack.options import SlackOptions
from gateway.invocations import ChatRef, Principal
from gateway.replies import Notice, Reply, Text
from tests.adapters.slack.workspace import Scene, scene
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize, visit

DEAD = "http://127.0.0.1:9/mcp"
KEY = "sk-canary-0123456789"


def notes(oauth: OAuthServer) -> dict[str, Any]:
    return {"notes": {"url": oauth.url, "auth": "oauth"}}


async def test_the_list_is_for_the_one_who_typed_the_command(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        delivery = await world.slack.types(world.ada, "/mcp", world.general)
        shown = await world.sees("MCP Servers")

        assert delivery.payload is None
        assert "notes" in shown.shown
        assert shown.only_for == world.ada.id
        assert world.slack.public(world.general) == []


async def test_a_sign_in_from_a_slash_command(tmp_path: Path, oauth: OAuthServer) -> None:
    """The link stands on a button, its press lets the message be edited, and the end comes as a direct message too."""
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        checklist = await world.sees("open this link")
        link = checklist.button("Sign in to notes")["url"]
        await world.slack.presses(world.ada, checklist, "Sign in to notes")

        redirect = await asyncio.to_thread(authorize, link)
        await asyncio.to_thread(visit, redirect)

        await world.slack.until(lambda: "signed in" in checklist.shown)
        direct = world.slack.direct(world.ada)
        await world.slack.until(lambda: direct.messages and "signed in" in direct.messages[-1].shown)
        assert checklist.edits == 1
        assert world.slack.public(world.general) == []


async def test_a_mention_in_a_thread_is_answered_there_and_links_go_to_the_direct_messages(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.says(world.bob, "what about the notes?", world.general)
        (question,) = world.general.messages
        await world.slack.says(world.ada, "@bot mcp auth", world.general, thread=question)
        checklist = await world.sees("open this link")
        await world.slack.until(lambda: world.slack.public(world.general))
        (pointer,) = world.slack.public(world.general)

        assert checklist.channel is world.slack.direct(world.ada)
        assert pointer.shown == "Sent you the answer in private."
        assert pointer.thread == question.ts

        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])
        await asyncio.to_thread(visit, redirect)
        await world.slack.until(lambda: "signed in" in checklist.shown)
        await world.slack.until(
            lambda: "notes: signed in." in [one.shown[2:] for one in world.slack.public(world.general)]
        )


async def test_a_direct_message_is_edited_as_the_sign_in_goes_on(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.says(world.ada, "mcp auth notes")
        checklist = await world.sees("open this link")

        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])
        await asyncio.to_thread(visit, redirect)

        await world.slack.until(lambda: "signed in" in checklist.shown)
        assert checklist.channel is world.slack.direct(world.ada)
        assert [one for one in checklist.versions if "preparing" in str(one)]


# -- the host's own listeners ----------------------------------------------------------------


def listening(heard: list[str]) -> Callable[[AsyncApp], None]:
    """A host with an agent on every message, and listeners for everything else."""

    def prepare(app: AsyncApp) -> None:
        @app.event("message")
        async def on_message(event: dict[str, Any]) -> None:
            heard.append(f"message: {event.get('text') or event['message']['text']}")

        @app.event("app_mention")
        async def on_mention(event: dict[str, Any]) -> None:
            heard.append(f"mention: {event['text']}")

        @app.command("/mcp")
        async def on_command(ack: Any) -> None:
            heard.append("command")
            await ack()

        @app.action({"type": "block_actions"})
        async def on_action(ack: Any) -> None:
            heard.append("action")
            await ack()

    return prepare


async def test_the_hosts_listeners_hear_the_rest_and_nothing_of_ours(tmp_path: Path, oauth: OAuthServer) -> None:
    heard: list[str] = []
    async with scene(tmp_path, notes(oauth), prepare=listening(heard)) as world:
        slack, ada = world.slack, world.ada
        await slack.types(ada, "/mcp help", world.general)
        await slack.says(ada, "mcp key weather sk-oops")
        await slack.says(ada, "@bot mcp help", world.general, events=("message", "app_mention"))
        await slack.says(ada, "hello there")
        await slack.says(ada, "@bot what about mcp?", world.general)
        await world.sees("/mcp logout SERVER")
        await slack.until(lambda: len(heard) == 2)
        await world.quiet()

        assert heard == ["message: hello there", f"mention: <@{world.acme.bot_user}> what about mcp?"]


async def test_a_pasted_address_is_taken_before_the_host_reads_it_and_its_edit_too(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    heard: list[str] = []
    async with scene(tmp_path, notes(oauth), prepare=listening(heard)) as world:
        await world.slack.says(world.ada, "mcp auth notes")
        checklist = await world.sees("open this link")
        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])

        await world.slack.says(world.ada, redirect)
        await world.sees("notes: signed in")
        (pasted,) = [one for one in world.slack.direct(world.ada).messages if "callback" in one.payload["text"]]
        # Slack sends the message again when it has drawn a preview of the address.
        await world.slack.edits(world.ada, pasted, f"{redirect} ")
        await world.slack.says(world.ada, "https://example.com/callback?code=1&state=2")

        assert heard == ["message: <https://example.com/callback?code=1&amp;state=2>"]


async def test_an_address_pasted_where_others_read_is_not_used(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.says(world.ada, "mcp auth notes")
        checklist = await world.sees("open this link")
        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])

        await world.slack.says(world.ada, f"@bot mcp paste {redirect}", world.general)
        await world.slack.until(lambda: "delete the message" in str(world.general.texts))

        assert await world.gateway.auth.open_sign_ins()


async def test_a_slash_command_in_a_channel_may_carry_the_address(tmp_path: Path, oauth: OAuthServer) -> None:
    """Slack shows what was typed to nobody else."""
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        checklist = await world.sees("open this link")
        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])

        await world.slack.types(world.ada, f"/mcp paste {redirect}", world.general)

        await world.sees("notes: signed in")
        assert world.slack.public(world.general) == []


async def test_the_address_goes_into_a_form_that_a_button_opens(tmp_path: Path, oauth: OAuthServer) -> None:
    """In a channel nobody can write to the bot alone."""
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        checklist = await world.sees("open this link")
        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])
        await world.slack.presses(world.ada, checklist, "Enter the address")
        form = await world.form("Address of the last page")

        await world.slack.submits(world.ada, form, "https://example.com/nothing")
        assert form.errors
        await world.slack.submits(world.ada, form, redirect)

        assert "notes: signed in" in form.shown
        await world.slack.until(lambda: "signed in" in checklist.shown)


async def test_the_form_opens_from_the_command_too(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp paste", world.general)

        assert (await world.form("Address of the last page")).payload["submit"]["text"] == "Send"


async def test_what_cannot_be_judged_is_kept_from_the_host_and_the_answer_says_why(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    heard: list[str] = []
    async with scene(tmp_path, notes(oauth), prepare=listening(heard)) as world:
        slot = await world.gateway.auth.store.sign_ins.slot("shared", "notes")
        # A name that leads to itself cannot be looked at.
        loop = world.home / "sign-ins" / f"{slot}.json"
        loop.symlink_to(loop)

        await world.slack.says(world.ada, f"http://127.0.0.1:8765/callback?code=canary&state={slot}.{'x' * 43}")
        answer = await world.sees("cannot be read")

        assert "canary" not in str(answer.payload)
        assert heard == []


async def test_after_close_everything_is_the_hosts(tmp_path: Path, oauth: OAuthServer) -> None:
    heard: list[str] = []
    async with scene(tmp_path, notes(oauth), prepare=listening(heard)) as world:
        await world.adapter.stop()
        await world.adapter.stop()
        await world.slack.types(world.ada, "/mcp")

        assert heard == ["command"]


async def test_claims_tells_a_host_that_reads_first_what_to_skip(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        bot = world.acme.bot_user
        claims = world.adapter.claims

        assert await claims({"type": "app_mention", "text": f"<@{bot}> mcp auth", "channel": "C1"})
        assert await claims({"type": "message", "channel_type": "im", "text": "mcp", "channel": "D1"})
        assert not await claims({"type": "message", "channel_type": "channel", "text": "mcp", "channel": "C1"})
        assert not await claims({"type": "message", "channel_type": "im", "text": "hello", "channel": "D1"})
        assert not await claims({"type": "message", "subtype": "channel_join", "channel": "C1"})


# -- who asks --------------------------------------------------------------------------------


async def test_bots_are_not_answered_and_the_host_does_not_hear_them_either(tmp_path: Path, oauth: OAuthServer) -> None:
    heard: list[str] = []
    async with scene(tmp_path, notes(oauth), prepare=listening(heard)) as world:
        robot = world.slack.user("robot", world.acme, is_bot=True)
        world.general.members.add(robot.id)
        await world.slack.says(robot, "@bot mcp auth", world.general)
        await world.slack.says(world.ada, "@bot mcp auth", world.general, subtype="bot_message")
        await world.quiet()

        assert [one for one in world.general.messages if one.author == world.acme.bot_user] == []
        assert heard == []


async def test_a_press_by_somebody_else_is_refused_and_only_that_person_reads_it(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.says(world.ada, "@bot mcp", world.general)
        shown = await world.sees("MCP Servers")
        await world.slack.presses(world.bob, shown, "Sign in")
        refusal = await world.sees("made for somebody else", world.bob)

        assert refusal.only_for == world.bob.id
        assert not await world.gateway.auth.open_sign_ins()


async def test_a_button_of_a_server_that_is_gone_says_so(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp notes")
        shown = await world.sees("Transport")
        world.gateway.config.servers.pop("notes")

        await world.slack.presses(world.ada, shown, "Sign in")

        await world.sees("leads nowhere any more")


async def test_what_arrives_twice_is_answered_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp help", again=2)
        await world.slack.says(world.ada, "mcp help", again=2)
        await world.slack.says(world.ada, "@bot mcp help", world.general, events=("message", "app_mention"), again=1)
        await world.slack.until(lambda: len(world.slack.seen_by(world.ada)) == 3)
        shown = world.slack.seen_by(world.ada)[0]
        await world.quiet()
        assert len(world.slack.seen_by(world.ada)) == 3

        await world.slack.types(world.ada, "/mcp")
        listed = await world.sees("MCP Servers")
        await world.slack.presses(world.ada, listed, "Sign in", again=2)
        await world.sees("open this link")
        await world.quiet()

        assert shown.edits == 0
        assert len(world.slack.seen_by(world.ada)) == 5


async def test_a_foreign_team_in_a_shared_channel_is_its_own_tenant(tmp_path: Path, oauth: OAuthServer) -> None:
    """Given somebody of another workspace with whom a channel is shared: an id of ours is no id of theirs."""
    async with scene(tmp_path, notes(oauth)) as world:
        world.general.members.add(world.guest.id)
        await world.slack.says(world.guest, "@bot mcp auth notes", world.general)
        await world.slack.until(lambda: "I do not know you yet" in str(world.general.texts))

        assert not await world.gateway.auth.open_sign_ins()


async def test_a_foreign_person_who_is_allowed_signs_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth), allow="guest") as world:
        world.general.members.add(world.guest.id)
        await world.slack.says(world.guest, "@bot mcp", world.general)
        listed = await world.sees("MCP Servers", world.guest)
        await world.slack.presses(world.guest, listed, "Sign in")

        checklist = await world.sees("open this link", world.guest)
        assert checklist.channel is world.slack.direct(world.guest, world.acme)


async def test_in_an_organisation_a_person_is_one_whatever_the_way(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth), enterprise="E1GRID") as world:
        await world.slack.types(world.ada, "/mcp")
        listed = await world.sees("MCP Servers")
        await world.slack.presses(world.ada, listed, "Sign in")
        await world.sees("open this link")
        await world.slack.says(world.ada, "mcp help")
        await world.sees("/mcp logout SERVER")

        (sign_in,) = await world.gateway.auth.open_sign_ins()
        assert sign_in.origin.principal == f"slack:E1GRID/{world.ada.id}"


# -- several workspaces ----------------------------------------------------------------------


def installed_app(folder: Path) -> Callable[[Scene], AsyncApp]:
    def make(world: Scene) -> AsyncApp:
        store = FileInstallationStore(base_dir=str(folder / "installations"))
        for workspace in world.slack.workspaces.values():
            store.save_bot(
                Bot(
                    team_id=workspace.id,
                    bot_token=workspace.token or "",
                    bot_id=workspace.bot_id,
                    bot_user_id=workspace.bot_user,
                    installed_at=0.0,
                )
            )
        client = AsyncWebClient(base_url=world.slack.base_url)
        return AsyncApp(client=client, signing_secret="x", installation_store=store, installation_store_bot_only=True)

    return make


async def test_every_workspace_is_answered_with_its_own_token(tmp_path: Path, oauth: OAuthServer) -> None:
    make = installed_app(tmp_path)
    own = {"identity": "per_user"}
    async with scene(tmp_path, notes(oauth), make_app=make, allow="both", guest_installed=True, gateway=own) as world:
        zoe = world.guest
        for person in (world.ada, zoe):
            await world.slack.says(person, "mcp help")
            shown = await world.sees("/mcp logout SERVER", person)
            assert shown.author == person.workspace.bot_user

        # After a restart nothing is remembered: the token comes from the store.
        later = SlackAdapter(world.gateway)
        later.install(make(world))
        await later.deliver_private(Principal("slack", f"{zoe.workspace.id}/{zoe.id}"), Reply((Text("news"),)), None)
        news = await world.sees("news", zoe)
        assert news.author == zoe.workspace.bot_user
        await later.stop()


async def test_a_workspace_without_the_app_is_one_line_in_the_log(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene(tmp_path, notes(oauth), make_app=installed_app(tmp_path)) as world:
        chat = ChatRef("slack", {"team": "TGONE", "channel": "C1", "principal": "TGONE/U1"})

        await world.adapter.notify(Notice(Principal("slack", "TGONE/U1"), chat, Reply((Text("news"),))))

        assert "not installed in a workspace" in caplog.text


# -- answers that change ---------------------------------------------------------------------


async def test_live_results_that_come_in_time_make_one_message(tmp_path: Path) -> None:
    async with scene(tmp_path, {"open": {"url": DEAD}}, hold=PATIENCE) as world:
        await world.slack.types(world.ada, "/mcp", world.general)
        await world.sees("unreachable")
        await world.adapter.stop()

        assert len(world.slack.seen_by(world.ada)) == 1


async def test_what_takes_longer_is_shown_at_once_and_again_when_it_is_complete(tmp_path: Path) -> None:
    shown = asyncio.Event()

    async def hang_up_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shown.wait()
        writer.close()

    slow = await asyncio.start_server(hang_up_late, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}/mcp"
    async with scene(tmp_path, {"open": {"url": url}}, hold=0.05) as world:
        await world.slack.types(world.ada, "/mcp", world.general)
        first = await world.sees("none needed")
        assert "unreachable" not in first.shown
        shown.set()
        await world.sees("none needed, ")

        assert len(world.slack.seen_by(world.ada)) == 2
        assert len(world.slack.called("response_url")) == 2
    slow.close()


async def test_a_link_that_takes_its_time_is_one_message(tmp_path: Path, oauth: OAuthServer) -> None:
    """A "preparing" could not be replaced, and would stand there for ever."""
    found = oauth.knobs.mcp_gate = threading.Event()
    async with scene(tmp_path, notes(oauth), hold=0.0) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        await world.slack.until(lambda: oauth.in_flight)
        # Whatever was to be said by now is said before the answer to what comes next.
        await world.slack.types(world.ada, "/mcp help", world.general)
        await world.sees("What /mcp can do")
        found.set()
        await world.sees("open this link")
        await world.quiet()

        assert [one.shown.split(":")[0].split("\n")[0] for one in world.slack.seen_by(world.ada)] == [
            "What /mcp can do",
            "! notes",
        ]


async def test_who_waits_long_is_told_that_there_is_something_to_wait_for(tmp_path: Path, oauth: OAuthServer) -> None:
    found = oauth.knobs.mcp_gate = threading.Event()
    async with scene(tmp_path, notes(oauth), hold=0.0, wait=0.01) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        await world.sees("preparing the link")
        found.set()
        await world.sees("open this link")


async def test_what_is_known_of_one_server_does_not_wait_for_the_other(tmp_path: Path, oauth: OAuthServer) -> None:
    found = oauth.knobs.mcp_gate = threading.Event()
    servers = {**notes(oauth), "gone": {"url": DEAD, "auth": "oauth"}}
    async with scene(tmp_path, servers, hold=0.0) as world:
        await world.slack.types(world.ada, "/mcp auth", world.general)
        first = await world.sees("gone")
        assert "preparing the link" in first.shown
        found.set()
        await world.sees("open this link")

        assert len(world.slack.seen_by(world.ada)) == 2


async def test_an_edit_after_half_an_hour_is_left_and_the_news_comes_as_a_direct_message(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        checklist = await world.sees("open this link")
        await world.slack.presses(world.ada, checklist, "Sign in to notes")
        await world.quiet()
        world.slack.advance(31 * 60)

        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])
        await asyncio.to_thread(visit, redirect)

        direct = world.slack.direct(world.ada)
        await world.slack.until(lambda: direct.messages and "notes: signed in" in direct.messages[-1].shown)
        assert checklist.edits == 0


async def test_who_takes_no_direct_messages_is_told_through_the_command(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth), strict=False) as world:
        world.ada.takes_messages = False
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        checklist = await world.sees("open this link")

        redirect = await asyncio.to_thread(authorize, checklist.button("Sign in to notes")["url"])
        await asyncio.to_thread(visit, redirect)

        told = await world.sees("notes: signed in")
        assert told.only_for == world.ada.id
        assert "open this link" in checklist.shown
        assert world.slack.refused == ["conversations.open: user_disabled"]


async def test_a_mention_of_who_takes_no_direct_messages_is_answered_for_one_reader(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with scene(tmp_path, notes(oauth), strict=False) as world:
        world.ada.takes_messages = False
        await world.slack.says(world.ada, "@bot mcp auth notes", world.general)
        checklist = await world.sees("open this link")

        assert checklist.only_for == world.ada.id
        assert not [one for one in world.slack.public(world.general) if "http" in str(one.payload)]
        assert set(world.slack.refused) == {"conversations.open: user_disabled"}


# -- keys ------------------------------------------------------------------------------------


def weather(url: str) -> dict[str, Any]:
    return {"weather": {"url": url, "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}}}


OPT_IN = {"slack": {"secrets_in_chat": True}}


@pytest.fixture
def keyed(oauth: OAuthServer) -> OAuthServer:
    oauth.knobs.api_key = KEY
    return oauth


async def test_a_key_is_entered_in_a_form_and_a_wrong_one_is_marked_at_its_input(
    tmp_path: Path, keyed: OAuthServer
) -> None:
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN) as world:
        await world.slack.types(world.ada, "/mcp key weather", world.general)
        form = await world.form("WEATHER_KEY")

        wrong = await world.slack.submits(world.ada, form, "sk-wrong")
        assert wrong.payload is not None
        assert wrong.payload["response_action"] == "errors"
        assert "refuses this key" in form.shown

        await world.slack.submits(world.ada, form, KEY)
        assert "the key works and is stored" in form.shown
        assert world.slack.seen_by(world.ada) == []
        assert KEY in (world.home / ".env").read_text()


async def test_a_key_that_takes_its_time_leaves_the_form_open(
    tmp_path: Path, keyed: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SUBMISSION_SECONDS", 0.05)
    tried = keyed.knobs.mcp_gate = threading.Event()
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN) as world:
        await world.slack.types(world.ada, "/mcp key weather")
        form = await world.form("WEATHER_KEY")

        await world.slack.submits(world.ada, form, "sk-wrong")
        assert "One moment" in form.shown
        tried.set()
        form = await world.form("refuses this key")
        await world.slack.submits(world.ada, form, KEY)

        await world.form("the key works and is stored")


async def test_a_form_that_was_closed_meanwhile_is_answered_in_the_direct_messages(
    tmp_path: Path, keyed: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SUBMISSION_SECONDS", 0.05)
    tried = keyed.knobs.mcp_gate = threading.Event()
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN, strict=False) as world:
        await world.slack.types(world.ada, "/mcp key weather")
        form = await world.form("WEATHER_KEY")
        await world.slack.submits(world.ada, form, KEY)
        world.slack.closes(form)
        tried.set()

        await world.sees("the key works and is stored")
        assert world.slack.refused == ["views.update: not_found"]


async def test_two_variables_are_asked_one_after_the_other(tmp_path: Path, keyed: OAuthServer) -> None:
    servers = {"weather": {"url": keyed.url, "headers": {"Authorization": "Bearer ${KEY_A}", "X-B": "${KEY_B}"}}}
    async with scene(tmp_path, servers, gateway=OPT_IN) as world:
        await world.slack.types(world.ada, "/mcp key weather")
        form = await world.form("KEY_A")
        await world.slack.submits(world.ada, form, KEY)
        form = await world.form("KEY_B")
        await world.slack.submits(world.ada, form, "second")

        assert "the key works and is stored" in form.shown


async def test_a_key_that_cannot_be_tried_is_stored_on_the_persons_word(tmp_path: Path) -> None:
    async with scene(tmp_path, weather(DEAD), gateway=OPT_IN) as world:
        await world.slack.types(world.ada, "/mcp key weather")
        form = await world.form("WEATHER_KEY")
        await world.slack.submits(world.ada, form, KEY)
        assert form.payload["submit"]["text"] == "Store it anyway"

        await world.slack.submits(world.ada, form)

        assert "stored, not verified" in form.shown
        assert KEY in (world.home / ".env").read_text()


async def test_the_form_comes_from_a_button_where_a_message_asked(tmp_path: Path, keyed: OAuthServer) -> None:
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN) as world:
        await world.slack.says(world.ada, "@bot mcp key weather", world.general)
        asked = await world.sees("weather needs WEATHER_KEY")
        assert asked.channel is world.slack.direct(world.ada)
        await world.slack.presses(world.ada, asked, "Enter the key for weather")

        form = await world.form("WEATHER_KEY")
        await world.slack.submits(world.ada, form, KEY)
        assert "the key works and is stored" in form.shown


async def test_a_trigger_that_is_over_leaves_a_button_instead(tmp_path: Path, keyed: OAuthServer) -> None:
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN, strict=False) as world:
        world.slack.forbid("views.open", "expired_trigger_id")
        await world.slack.types(world.ada, "/mcp key weather")

        asked = await world.sees("weather needs WEATHER_KEY")
        assert asked.button("Enter the key for weather")


async def test_somebody_elses_form_takes_nothing(tmp_path: Path, keyed: OAuthServer) -> None:
    async with scene(tmp_path, weather(keyed.url), gateway=OPT_IN) as world:
        await world.slack.types(world.ada, "/mcp key weather")
        form = await world.form("WEATHER_KEY")

        await world.slack.submits(world.bob, form, KEY)

        assert "does not serve you" in form.shown
        assert not (world.home / ".env").exists()


async def test_without_the_operators_word_no_form_is_opened(tmp_path: Path, keyed: OAuthServer) -> None:
    async with scene(tmp_path, weather(keyed.url)) as world:
        await world.slack.types(world.ada, "/mcp key weather")

        await world.sees("secrets_in_chat")
        assert world.slack.views == {}


# -- failures --------------------------------------------------------------------------------


@pytest.mark.service
async def test_a_rate_limit_is_waited_for(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        world.slack.limit("chat.postMessage", times=1, retry_after=0)
        world.slack.limit("response_url", times=1, retry_after=0)
        await world.slack.says(world.ada, "mcp help")
        await world.slack.types(world.ada, "/mcp help")

        await world.slack.until(lambda: len(world.slack.seen_by(world.ada)) == 2)


@pytest.mark.service
@pytest.mark.parametrize("status", [0, 503], ids=["cut", "unavailable"])
async def test_a_short_outage_is_ridden_out(tmp_path: Path, oauth: OAuthServer, status: int) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        world.slack.fail("chat.postMessage", times=1, status=status)
        await world.slack.says(world.ada, "mcp help")

        await world.sees("/mcp logout SERVER")


async def test_a_long_outage_is_one_line_in_the_log_and_the_next_command_works(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.slack.workspaces._RETRIES", 0)
    async with scene(tmp_path, notes(oauth)) as world:
        with caplog.at_level(logging.WARNING):
            world.slack.fail("chat.postMessage", times=1, status=0)
            await world.slack.says(world.ada, "mcp help")
            await world.slack.until(lambda: "cannot be reached" in caplog.text)
        await world.slack.says(world.ada, "mcp help")

        await world.sees("/mcp logout SERVER")
        assert [one.levelname for one in caplog.records if one.name == "adapters.slack"] == ["WARNING"]


@pytest.mark.parametrize("error", ["token_revoked", "account_inactive", "not_in_channel", "missing_scope"])
async def test_a_refusal_by_slack_is_one_line_in_the_log(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    async with scene(tmp_path, notes(oauth), strict=False) as world:
        await world.slack.says(world.ada, "mcp help")
        await world.sees("/mcp logout SERVER")
        world.slack.forbid("chat.postMessage", error)
        await world.slack.says(world.ada, "mcp help")
        await world.slack.until(lambda: error in caplog.text)

        assert caplog.text.count(error) == 1


async def test_the_acknowledgement_waits_for_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    """Given that Slack's own API does not answer at all, when something arrives."""
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp help")
        await world.slack.until(lambda: len(world.slack.seen_by(world.ada)) == 1)
        release = world.slack.hold("chat.postMessage")

        (said,) = await world.slack.says(world.ada, "mcp help")
        assert said.acknowledged
        assert len(world.slack.seen_by(world.ada)) == 1

        release.set()
        await world.slack.until(lambda: len(world.slack.seen_by(world.ada)) == 2)


# -- what must never happen ------------------------------------------------------------------


async def test_no_response_url_is_stored_and_nothing_secret_is_logged(
    tmp_path: Path, keyed: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    """With every logger at its most talkative, the host's app and its library too."""
    servers = {**weather(keyed.url)}
    with caplog.at_level(logging.DEBUG):
        async with scene(tmp_path, servers, gateway=OPT_IN) as world:
            for name in list(logging.root.manager.loggerDict):
                caplog.set_level(logging.DEBUG, name)
            await world.slack.types(world.ada, "/mcp key weather", world.general)
            form = await world.form("WEATHER_KEY")
            await world.slack.submits(world.ada, form, KEY)
    assert "hidden by slash-mcp" in caplog.text
    assert "/commands/" not in caplog.text
    for secret in (KEY, "canarybottoken", "canaryapptoken"):
        assert secret not in caplog.text


async def test_a_stored_sign_in_knows_the_chat_and_no_response_url(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth)) as world:
        await world.slack.types(world.ada, "/mcp auth notes", world.general)
        await world.sees("open this link")
        (sign_in,) = await world.gateway.auth.open_sign_ins()

        assert sign_in.origin.chat is not None
        assert "/commands/" not in json.dumps(sign_in.origin.chat)
        kept = "".join(path.read_text(errors="replace") for path in world.home.rglob("*") if path.is_file())
        assert "/commands/" not in kept


async def test_the_command_has_the_name_that_the_workspace_gave_it(tmp_path: Path, oauth: OAuthServer) -> None:
    async with scene(tmp_path, notes(oauth), options=SlackOptions(command="/tools")) as world:
        world.slack.command_names = ("/tools",)
        await world.slack.types(world.ada, "/tools")
        listed = await world.sees("MCP Servers")
        await world.slack.says(world.ada, "tools help")

        assert "Use /tools auth" in listed.shown
        await world.sees("/tools logout SERVER")


def test_options_hide_their_secrets() -> None:
    options = SlackOptions(bot_token="xoxb-canary", app_token="xapp-canary", signing_secret="canary")

    assert "canary" not in repr(options)
