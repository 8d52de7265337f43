"""Replies as Matrix messages."""

from __future__ import annotations

import html
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.matrix.render import Rendered, render
from gateway import sentences
from gateway.commands import help_rows
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, ServerDetail, ServerList, Table, Text
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ServerStatus
from tests.platforms.synapse import _message

NOW = 1_800_000_000.0
NOTES = ServerStatus(
    "notes", "http", "https://notes.example/mcp", "all", AuthState.SIGN_IN_NEEDED, next=Next("auth", "notes")
)
LINK = "https://issuer.example/authorize?client_id=1&state=abc"
EVENT_MAX = 65_536


def shown(reply: Reply) -> Rendered:
    return render(reply, now=NOW)


def read(rendered: Rendered) -> str:
    """What a client shows of the HTML."""
    return _message("$1", "!1", "@bot", rendered.content("m.text")).text


def test_a_list_is_a_card_a_server_and_says_what_to_type() -> None:
    message = shown(
        Reply(
            (ServerList((NOTES,), sentences.HINT_AUTH),),
            buttons=(Button("Sign in", command="auth"),),
            title="MCP Servers",
        )
    )

    assert message.body.splitlines() == [
        "MCP Servers",
        "",
        "! notes",
        "   sign-in needed",
        "   https://notes.example/mcp  tools: all",
        "",
        "Use !mcp auth to authenticate servers",
    ]
    assert message.html == (
        "<strong>MCP Servers</strong><br><br>! <strong>notes</strong><br>&nbsp;&nbsp;&nbsp;sign-in needed<br>"
        "&nbsp;&nbsp;&nbsp;<code>https://notes.example/mcp</code>&nbsp;&nbsp;tools: all<br><br>"
        "Use !mcp auth to authenticate servers"
    )


def test_links_are_links_and_commands_stand_below_them() -> None:
    items = (
        ChecklistItem("notes", ItemState.LINK, "open this link within 10 minutes", link=LINK),
        ChecklistItem("weather", ItemState.KEY, "needs a key: KEY", command="key weather"),
        ChecklistItem("files", ItemState.FAILED, "unreachable", command="auth files"),
    )
    message = shown(Reply((Checklist(items, "The last page will not load."),)))

    assert message.body.splitlines() == [
        "! notes: open this link within 10 minutes",
        LINK,
        "! weather: needs a key: KEY",
        "   !mcp key weather",
        "✗ files: unreachable",
        "   !mcp auth files",
        "",
        "The last page will not load.",
    ]
    assert f'<a href="{html.escape(LINK)}">Sign in</a>' in message.html
    assert "<code>!mcp key weather</code>" in message.html


def test_a_button_is_what_to_type() -> None:
    message = shown(Reply((Text("Store it anyway?"),), buttons=(Button("Store it anyway", command="key-store abc"),)))

    assert message.body == "Store it anyway?\n\nStore it anyway: !mcp key-store abc"
    assert message.html.endswith("<br>Store it anyway: <code>!mcp key-store abc</code>")


def test_a_button_with_an_address_is_a_link() -> None:
    form = Button("Enter the key", url="https://bot.example/k/abc?x=1&y=2")
    message = shown(Reply((Text("weather needs a key."),), buttons=(form,)))

    assert message.body == "weather needs a key.\nEnter the key: https://bot.example/k/abc?x=1&y=2"
    assert message.html.endswith('<br><a href="https://bot.example/k/abc?x=1&amp;y=2">Enter the key</a>')


def test_commands_are_named_as_clients_let_them_through_and_addresses_stay() -> None:
    facts = (
        ("Address", "https://notes.example/mcp"),
        ("Command", "/opt/mcp /mcp-server"),
        ("Next", Next("auth", "notes")),
    )
    message = shown(Reply((ServerDetail(NOTES, facts),)))

    assert message.body.splitlines()[1:] == [
        "Address: https://notes.example/mcp",
        "Command: /opt/mcp /mcp-server",
        "Next: !mcp auth notes",
    ]


def test_help_is_commands_in_code() -> None:
    message = shown(Reply((Table(help_rows(admin=False)),), title=sentences.HELP_TITLE))

    assert message.body.startswith("What !mcp can do\n\n!mcp  every server and its status\n")
    assert "<code>!mcp auth SERVER</code>&nbsp;&nbsp;sign in to one server" in message.html


def test_our_own_code_is_code() -> None:
    message = shown(Reply((Text("on the host, `slash-mcp key <a>`; so"),)))

    assert message.html == "on the host, <code>slash-mcp key &lt;a&gt;</code>; so"


@pytest.mark.parametrize("words", ["<b>bold</b>", "a&b`c`", '<a href="x">', "@room", "[a](b)", "שרת", "*x*", "&nbsp;"])
def test_a_name_is_shown_as_it_is_and_is_no_markup(words: str) -> None:
    message = shown(Reply((ServerList((replace(NOTES, name=words),)),)))

    assert f"! {words}" in read(message).replace("\u00a0", " ")
    assert set(_tags(message.html)) <= {"strong", "br", "code"}


def test_nobody_is_notified_by_a_name() -> None:
    message = shown(Reply((ServerList((replace(NOTES, name="@room @ann:example.org"),)),)))

    assert message.content("m.text")["m.mentions"] == {}


def test_control_and_bidirectional_characters_are_gone() -> None:
    message = shown(Reply((ServerList((replace(NOTES, name="a\u202eb\x00c\nd"),)),)))

    assert "! abc d\n" in message.body


@pytest.mark.parametrize("name", ["server", "&" * 60, "שרת" * 20], ids=["plain", "escaped", "wide"])
def test_two_hundred_servers_fit_into_one_event_and_its_edit(name: str) -> None:
    servers = tuple(replace(NOTES, name=f"{name}-{number:03}") for number in range(200))
    message = shown(Reply((ServerList(servers, "Use /mcp auth"),), title="MCP Servers"))

    edit = message.replacing("$" + "e" * 43, "m.notice")
    kept = message.body.count("sign-in needed")
    assert len(json.dumps(edit, ensure_ascii=False).encode()) < EVENT_MAX - 2000
    assert f"… and {200 - kept} more. !mcp SERVER shows one." in message.body
    assert kept > 20


def test_an_edit_carries_the_new_text_and_shows_it_where_edits_are_unknown() -> None:
    edit = Rendered("new", "<strong>new</strong>").replacing("$1", "m.text")

    assert edit["body"] == "* new"
    assert edit["m.relates_to"] == {"rel_type": "m.replace", "event_id": "$1"}
    assert edit["m.new_content"] == Rendered("new", "<strong>new</strong>").content("m.text")


@given(st.text(max_size=60))
def test_no_text_of_a_server_becomes_markup(text: str) -> None:
    message = shown(Reply((Text(text),)))

    assert set(_tags(message.html)) <= {"code"}


def _tags(text: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.append(tag)

    Reader().feed(text)
    return found
