"""Replies as Telegram payloads, each checked by the rules of the Bot API."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adapters.buttons import pack
from adapters.telegram.render import Payload, render
from gateway import sentences
from gateway.invocations import Principal
from gateway.replies import (
    Block,
    Button,
    Checklist,
    ChecklistItem,
    ItemState,
    Reply,
    SecretPrompt,
    ServerDetail,
    ServerList,
    Table,
    Text,
)
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState, ServerStatus
from tests.platforms import telegram_rules as rules

NOW = 1_800_000_000.0
ADA = Principal("telegram", "1")
NOTES = ServerStatus(
    "notes", "http", "https://notes.example/mcp", "all", AuthState.SIGN_IN_NEEDED, next=Next("auth", "notes")
)
LINK = "https://issuer.example/authorize?state=" + "s" * 40


def shown(reply: Reply, *servers: str) -> Payload:
    """The payload, after Telegram's rules have passed it."""
    payload = render(reply, owner=ADA, servers=servers or ("notes",), now=NOW)
    rules.check_text(payload.text, entities(payload))
    for markup in (payload.keyboard, payload.arguments()["reply_markup"]):
        if markup is not None:
            rules.check_markup(markup.to_dict())
    return payload


def entities(payload: Payload) -> list[dict[str, Any]]:
    return [one.to_dict() for one in payload.entities]


def marked(payload: Payload) -> list[tuple[str, str]]:
    data = payload.text.encode("utf-16-le")
    return [
        (one.type, data[one.offset * 2 : (one.offset + one.length) * 2].decode("utf-16-le")) for one in payload.entities
    ]


def keyboard(payload: Payload) -> list[list[dict[str, Any]]]:
    rows: list[list[dict[str, Any]]] = payload.keyboard.to_dict()["inline_keyboard"] if payload.keyboard else []
    return rows


def link_item(name: str, link: str = LINK) -> ChecklistItem:
    return ChecklistItem(name, ItemState.LINK, "open this link within 10 minutes", link=link)


def test_a_list() -> None:
    hint = Button("Sign in", command="auth")
    payload = shown(Reply((ServerList((NOTES,), sentences.HINT_AUTH),), (hint,), title="MCP Servers"))

    assert payload.text == (
        "MCP Servers\n"
        "\n"
        "! notes\n"
        "   sign-in needed\n"
        "   https://notes.example/mcp  tools: all\n"
        "\n"
        "Use /mcp auth to authenticate servers"
    )
    assert marked(payload) == [("bold", "MCP Servers"), ("bold", "notes"), ("code", "https://notes.example/mcp")]
    assert keyboard(payload) == [[{"text": "Sign in", "callback_data": pack("auth", ADA, ["notes"])}]]


def test_a_checklist() -> None:
    items = (
        link_item("notes"),
        ChecklistItem("weather", ItemState.KEY, "needs a key: WEATHER_KEY", command="key weather"),
        ChecklistItem("files", ItemState.DONE, "needs no sign-in"),
        ChecklistItem("gone", ItemState.FAILED, "cannot be reached", command="auth gone"),
    )
    payload = shown(Reply((Checklist(items, "The last page will not load."),)), "notes", "weather", "files", "gone")

    assert payload.text == (
        "! notes: open this link within 10 minutes\n"
        "! weather: needs a key: WEATHER_KEY\n"
        "✓ files: needs no sign-in\n"
        "✗ gone: cannot be reached\n"
        "\n"
        "The last page will not load."
    )
    assert [[button["text"] for button in row] for row in keyboard(payload)] == [
        ["Sign in to notes"],
        ["Enter the key for weather"],
        ["Try gone again"],
    ]
    assert keyboard(payload)[0][0]["url"] == LINK
    assert payload.arguments()["link_preview_options"].is_disabled


def test_a_detail_and_a_table() -> None:
    detail = shown(Reply((ServerDetail(NOTES, (("Auth", "sign-in needed"), ("Next", "/mcp auth notes"))),)))
    table = shown(Reply((Table((("/mcp auth", "sign in"), ("/mcp help", "this list"))),), title="Help"))

    assert detail.text == "! notes\nAuth: sign-in needed\nNext: /mcp auth notes"
    assert marked(detail) == [("bold", "notes"), ("bold", "Auth: "), ("bold", "Next: ")]
    assert table.text == "Help\n\n/mcp auth  sign in\n/mcp help  this list"
    assert marked(table) == [("bold", "Help"), ("code", "/mcp auth"), ("code", "/mcp help")]


def test_a_question_for_a_secret_waits_for_a_reply() -> None:
    prompt = SecretPrompt("p1", "weather", "WEATHER_KEY", "weather needs WEATHER_KEY.", NOW + 600)
    payload = shown(Reply((Text("The server refuses this key.", tone="bad"), prompt), (Button("x", command="auth"),)))

    assert payload.text == f"✗ The server refuses this key.\n\nweather needs WEATHER_KEY.\n\n{sentences.SECRET_REPLY}"
    assert payload.arguments()["reply_markup"].to_dict() == {"force_reply": True}
    assert payload.asks is prompt
    assert "p1" not in payload.text


def test_a_host_that_telegram_has_no_buttons_for_stands_in_the_text() -> None:
    link = "http://intranet/authorize?state=abc"
    payload = shown(Reply((Checklist((link_item("notes", link),)),)))

    assert keyboard(payload) == []
    assert ("code", link) in marked(payload)


def test_a_link_too_long_for_a_button_stands_in_the_text_whole() -> None:
    link = f"{LINK}{'x' * 2500}"
    payload = shown(Reply((Checklist((link_item("notes", link),)),)))

    assert keyboard(payload) == []
    assert link in payload.text


def test_names_beyond_the_first_plane_keep_entities_in_place() -> None:
    payload = shown(Reply((ServerList((replace(NOTES, name="👩‍🚀🚀"), NOTES)),)))

    assert ("bold", "notes") in marked(payload)
    assert marked(payload)[-1] == ("code", "https://notes.example/mcp")


def test_mentions_and_commands_of_strangers_are_only_text() -> None:
    payload = shown(Reply((Text("ask @admin_of_all or /logout, not ada@example.com; /mcp auth works, a/b too"),)))

    assert marked(payload) == [("code", "@admin_of_all"), ("code", "/logout")]
    found = rules.check_text(payload.text, entities(payload))
    assert [one["type"] for one in found if one["type"] == "mention"] == []


@pytest.mark.parametrize("count", [30, 100, 200])
def test_many_servers_fit_and_those_left_out_are_counted(count: int) -> None:
    names = [f"server-{number:03}" for number in range(count)]
    listed = shown(Reply((ServerList(tuple(replace(NOTES, name=name) for name in names), "Use /mcp auth"),)), *names)
    checklist = shown(Reply((Checklist(tuple(link_item(name) for name in names), "Note."),)), *names)

    assert listed.text.endswith("Use /mcp auth")
    assert sum(name in listed.text for name in names) == count or "more. /mcp SERVER" in listed.text
    assert checklist.text.endswith("Note.")
    assert sum(len(row) for row in keyboard(checklist)) == min(count, 100)


def test_every_choice_of_a_suggestion_can_be_pressed() -> None:
    names = ("notes", "my server", "x" * 90)
    buttons = tuple(Button(command, command=command) for command in ("auth notes", '"my server"', "x" * 90))

    assert len(keyboard(shown(Reply((Text("Which one?"),), buttons), *names))) == 3


_TEXT = st.text(max_size=300)
_BLOCKS: st.SearchStrategy[Block] = st.one_of(
    st.builds(Text, _TEXT),
    st.lists(_TEXT, max_size=60).map(lambda names: ServerList(tuple(replace(NOTES, name=name) for name in names))),
    st.lists(_TEXT, max_size=60).map(lambda names: Checklist(tuple(link_item(name) for name in names))),
)


@given(st.lists(_BLOCKS, min_size=1, max_size=4))
def test_whatever_it_says_telegram_takes_it(blocks: list[Block]) -> None:
    shown(Reply((Text("There is something to say."), *blocks)))
