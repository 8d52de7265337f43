"""Replies as WhatsApp messages. What is rendered is also held against the loopback Cloud API's own checks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.whatsapp.render import BODY_MAX, LINK_MAX, TEXT_MAX, URL_MAX, Link, Outgoing, escape, render
from adapters.whatsapp.sending import tappable
from gateway import sentences
from gateway.commands import help_rows
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, ServerDetail, ServerList, Table, Text
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ServerStatus
from tests.platforms.whatsapp import as_read, check_message

NOW = 1_800_000_000.0
NOTES = ServerStatus(
    "notes", "http", "https://notes.example/mcp", "all", AuthState.SIGN_IN_NEEDED, next=Next("auth", "notes")
)
LINK = "https://issuer.example/authorize?state="
NOTE = "The last page will not load."
OPENS = "Opens in your browser, not inside another app."
SIGN_IN = Button("Sign in", command="auth")


def shown(reply: Reply) -> tuple[Outgoing, ...]:
    """The messages, each of which the Cloud API takes."""
    messages = render(reply, now=NOW, pack=lambda command: f"mcp:{command}")
    for message in messages:
        check_message(payload(message))
    return messages


def payload(message: Outgoing) -> dict[str, Any]:
    """As pywa sends it."""
    to = {"messaging_product": "whatsapp", "to": "16505551234"}
    below = tappable(message)
    if below is None:
        return {**to, "type": "text", "text": {"body": message.body}}
    if isinstance(below, list):
        kind, action = "button", {"buttons": [one.to_dict() for one in below]}
    else:
        kind, action = below._interactive_type.value, below.to_dict()
    if kind == "list":
        action = {**action, "sections": [{**one, "rows": list(one["rows"])} for one in action["sections"]]}
    footer = {"footer": {"text": message.footer}} if message.footer else {}
    interactive = {"type": kind, "body": {"text": message.body}, "action": action, **footer}
    return {**to, "type": "interactive", "interactive": interactive}


def link_to(name: str, link: str | None = None) -> ChecklistItem:
    return ChecklistItem(name, ItemState.LINK, "open this link within 10 minutes", link=link or LINK + name)


def test_a_list_is_a_card_a_server_and_each_can_be_chosen() -> None:
    my_server = replace(NOTES, name="my_server", auth=AuthState.KEY_SET)
    (message,) = shown(
        Reply((ServerList((NOTES, my_server), "Use /mcp auth"),), buttons=(SIGN_IN,), title="MCP Servers")
    )

    assert message.body.splitlines() == [
        "*MCP Servers*",
        "",
        "! *notes*",
        "   sign-in needed",
        "   `https://notes.example/mcp`  tools: all",
        "✓ *my_server*",
        "   key set",
        "   `https://notes.example/mcp`  tools: all",
        "",
        "Use /mcp auth",
    ]
    assert [(row.title, row.data, row.description) for row in message.rows] == [
        ("Sign in", "mcp:auth", None),
        ("notes", "mcp:status notes", "sign-in needed"),
        ("my_server", "mcp:status my_server", "key set"),
    ]
    assert message.menu == "Choose"


def test_one_link_is_the_button_of_the_checklist() -> None:
    (message,) = shown(Reply((Checklist((link_to("notes"),), NOTE),)))

    assert message == Outgoing(
        f"! *notes*: open this link within 10 minutes\n\n{NOTE}",
        link=Link("Sign in to notes", f"{LINK}notes"),
        footer=OPENS,
    )


def test_several_links_are_a_message_each_after_the_checklist() -> None:
    done = ChecklistItem("files", ItemState.DONE, "needs no sign-in")
    checklist, notes, mail = shown(Reply((Checklist((link_to("notes"), done, link_to("mail")), NOTE),)))

    assert checklist.body.splitlines()[1] == "✓ *files*: needs no sign-in"
    assert checklist.body.endswith(NOTE)
    assert checklist.link is None
    assert (notes.body, notes.link) == (
        "! *notes*: open this link within 10 minutes",
        Link("Sign in to notes", f"{LINK}notes"),
    )
    assert mail.link == Link("Sign in to mail", f"{LINK}mail")


def test_a_key_and_a_link_each_get_their_button() -> None:
    key = ChecklistItem("weather", ItemState.KEY, "needs a key: KEY", command="key weather")
    checklist, notes = shown(Reply((Checklist((link_to("notes"), key)),)))

    assert [(one.title, one.data) for one in checklist.buttons] == [("Enter the key", "mcp:key weather")]
    assert notes.link is not None


def test_a_form_is_a_link_beside_a_command_too() -> None:
    form, other = Button("Enter the key", url="https://bot.example/k/abc"), Button("Test", command="test weather")
    (alone,) = shown(Reply((Text("weather needs a key."),), buttons=(form,)))
    text, link = shown(Reply((Text("weather needs a key."),), buttons=(form, other)))

    assert alone.link == link.link == Link("Enter the key", "https://bot.example/k/abc")
    assert alone.body == text.body == "weather needs a key."
    assert (link.body, text.buttons[0].title) == ("Enter the key", "Test")


def test_more_links_than_a_chat_bears_stand_in_the_text_and_none_is_torn() -> None:
    items = tuple(link_to(f"server-{number}", f"{LINK}{number}{'x' * 600}") for number in range(12))
    messages = shown(Reply((Checklist(items, NOTE),)))

    assert [message.link for message in messages] == [None] * len(messages)
    lines = [line for message in messages for line in message.body.splitlines()]
    assert [item.link for item in items] == [line for line in lines if line.startswith("https://")]


def test_when_not_all_links_find_room_it_is_said_how_many_are_missing() -> None:
    items = tuple(link_to(f"server-{number:03}", f"{LINK}{number:03}{'x' * 1900}") for number in range(200))
    messages = shown(Reply((Checklist(items, NOTE),)))

    text = "\n".join(message.body for message in messages)
    whole = sum(str(item.link) in text.splitlines() for item in items)
    assert len(messages) == 4
    assert f"… and {200 - whole} more" in text


@pytest.mark.parametrize("length", [URL_MAX, URL_MAX + 1, LINK_MAX, LINK_MAX + 1])
def test_a_long_link_is_a_button_a_line_or_a_sentence_but_never_half_a_link(length: int) -> None:
    link = LINK + "x" * (length - len(LINK))
    (message,) = shown(Reply((Checklist((link_to("notes", link),)),)))

    if length <= URL_MAX:
        assert message.link == Link("Sign in to notes", link)
    elif length <= LINK_MAX:
        assert link in message.body.splitlines()
    else:
        assert "xxx" not in message.body
        assert "`slash-mcp auth notes` on the host" in message.body


@pytest.mark.parametrize("over", [0, 1])
def test_a_text_that_is_too_long_for_buttons_stands_before_them(over: int) -> None:
    text = "w" * (BODY_MAX + over)
    messages = shown(Reply((Text(text),), buttons=(Button("Test", command="test notes"),)))

    assert [message.body for message in messages] == ([text] if not over else [text, sentences.CHOOSE])
    assert [one.title for one in messages[-1].buttons] == ["Test"]


def test_a_text_is_never_longer_than_a_message() -> None:
    blocks = tuple(Text("w" * 1499) for _ in range(4))
    (message,) = shown(Reply(blocks))

    assert len(message.body) <= TEXT_MAX


def test_two_hundred_servers_are_one_message_and_ten_rows() -> None:
    servers = tuple(replace(NOTES, name=f"server-{number:03}") for number in range(200))
    text, choice = shown(Reply((ServerList(servers, "Use /mcp auth"),), buttons=(SIGN_IN,), title="MCP Servers"))

    kept = text.body.count("*server-")
    assert f"… and {200 - kept} more. /mcp SERVER shows one." in text.body
    assert len(text.body) > TEXT_MAX - 200
    assert [row.title for row in choice.rows] == ["Sign in", *(f"server-{number:03}" for number in range(9))]


@pytest.mark.parametrize("count", [1, 3, 4, 10, 12])
def test_up_to_three_commands_are_buttons_and_more_are_rows(count: int) -> None:
    items = tuple(
        ChecklistItem(f"s{number}", ItemState.FAILED, "unreachable", command=f"auth s{number}")
        for number in range(count)
    )
    (message,) = shown(Reply((Checklist(items),)))

    assert len(message.buttons) == (count if count <= 3 else 0)
    assert len(message.rows) == (min(count, 10) if count > 3 else 0)
    # Whoever finds no button finds the command.
    assert message.body.count("/mcp auth s") == max(0, count - 10)


def test_labels_that_become_the_same_when_cut_are_rows() -> None:
    names = ("a-long-name-of-a-server-1", "a-long-name-of-a-server-2")
    items = tuple(ChecklistItem(name, ItemState.KEY, "needs a key", command=f"key {name}") for name in names)
    (message,) = shown(Reply((Checklist(items),)))

    assert message.buttons == ()
    assert [row.description for row in message.rows] == [f"Enter the key for {name}" for name in names]


def test_a_detail_has_bold_labels_and_one_button() -> None:
    facts = (("Address", "https://notes.example/mcp"), ("Next", "/mcp auth notes"))
    (message,) = shown(Reply((ServerDetail(NOTES, facts),), buttons=(Button("Sign in", command="auth notes"),)))

    assert message.body.splitlines() == ["! *notes*", "*Address:* https://notes.example/mcp", "*Next:* /mcp auth notes"]
    assert [one.data for one in message.buttons] == ["mcp:auth notes"]


def test_help_is_commands_in_code() -> None:
    (message,) = shown(Reply((Table(help_rows(admin=False)),), title=sentences.HELP_TITLE))

    assert message.body.startswith("*What /mcp can do*\n\n`/mcp`  every server and its status\n")


@pytest.mark.parametrize(
    "name",
    ["*star*_line_", "_private_", "~gone~", "my_server", "a&b`c`", "`", "```", "שרת", "@everyone", "> quote", "- item"],
)
def test_a_name_is_read_as_it_is(name: str) -> None:
    (message,) = shown(Reply((ServerList((replace(NOTES, name=name),)),)))

    assert name.replace("```", "ˋˋˋ") in as_read(message.body)


def test_control_and_bidirectional_characters_are_gone() -> None:
    (message,) = shown(Reply((ServerList((replace(NOTES, name="a\u202eb\x00c\nd"),)),)))

    assert "! *abc d*" in message.body
    assert message.rows[0].title == "abc d"


def test_our_own_code_stays_code() -> None:
    assert escape("on the host, `slash-mcp key a_b`; _or_ *so*") == "on the host, `slash-mcp key a_b`; `_or_` `*so*`"


@given(st.text(alphabet="ab _*~`", max_size=40))
def test_whatever_a_server_says_is_read_as_it_is(text: str) -> None:
    """Backticks excepted: in pairs they show what is between them as code, alone they become their look-alike."""
    assert as_read(escape(text)).replace("`", "").replace("ˋ", "") == text.replace("`", "")
