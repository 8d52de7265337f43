"""A reply as lines and buttons, before any markup."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from adapters.layout import Line, fit, lay_out
from gateway.replies import (
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
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus

NOW = 1_800_000_000.0
NOTES = ServerStatus(
    "notes", "http", "https://notes.example/mcp", "all", AuthState.SIGN_IN_NEEDED, next=Next("auth", "notes")
)
LINK = "https://issuer.example/authorize?state=" + "s" * 40


def item(name: str = "notes", link: str = LINK) -> ChecklistItem:
    return ChecklistItem(name, ItemState.LINK, "open this link within 10 minutes", link=link)


def test_a_list_has_a_card_a_server_and_its_hint() -> None:
    ready = replace(
        NOTES,
        name="files",
        auth=AuthState.SIGNED_IN,
        connection=ConnectionStatus(ConnectionState.READY, ("read",), 12),
    )
    shown = lay_out(Reply((ServerList((NOTES, ready), "Use /mcp auth"),), title="MCP Servers"), now=NOW)

    assert shown.text.splitlines() == [
        "MCP Servers",
        "",
        "! notes",
        "   sign-in needed",
        "   https://notes.example/mcp  tools: all",
        "✓ files",
        "   signed in, ready (1 tool, 12 ms)",
        "   https://notes.example/mcp  tools: all",
        "",
        "Use /mcp auth",
    ]


def test_a_link_is_a_button_where_it_fits_and_text_where_it_does_not() -> None:
    reply = Reply((Checklist((item(),), "The last page will not load."),))

    on_button = lay_out(reply, now=NOW, button_url_max=512)
    in_text = lay_out(reply, now=NOW, button_url_max=20)

    assert [button.url for button in on_button.buttons] == [LINK]
    assert LINK not in on_button.text
    assert in_text.buttons == ()
    assert LINK in in_text.text.splitlines()


def test_links_that_the_text_has_no_room_for_can_be_asked_for_one_by_one() -> None:
    reply = Reply(
        (
            Checklist(
                (item("notes"), item("my tasks")),
            ),
        )
    )

    shown = lay_out(reply, now=NOW, button_url_max=20, links_in_text=1)

    assert shown.text.count(LINK) == 1
    assert shown.buttons == (Button("Sign in to my tasks", command='auth "my tasks"'),)


def test_no_link_is_lost_when_there_are_more_than_buttons() -> None:
    items = tuple(item(f"s{number}", f"{LINK}{number}") for number in range(10))
    reply = Reply((Checklist(items),), buttons=(Button("Cancel", command="cancel"),))

    shown = lay_out(reply, now=NOW, buttons_max=4)

    assert len(shown.buttons) == 4
    assert shown.buttons[-1].command == "cancel"
    reachable = {button.url for button in shown.buttons} | set(shown.text.splitlines())
    assert {one.link for one in items} <= reachable


def test_names_are_cleaned() -> None:
    hostile = replace(NOTES, name="a\u202eb\x1b[31m\nc")

    assert "\u202e" not in lay_out(Reply((ServerList((hostile,)),)), now=NOW).text
    assert "\x1b" not in lay_out(Reply((ServerDetail(hostile, (("Auth", "x\x07"),)),)), now=NOW).text


FORM = Reply((Text("Type the key there."),), buttons=(Button("Open the form", url="http://intranet/k/ticket"),))


@pytest.mark.parametrize(
    "room",
    [{"button_url_max": 0}, {"button_url_max": 10}, {"buttons_max": 0}, {"takes_url": lambda url: False}],
    ids=["no buttons with links", "a link too long", "no buttons", "a link that the platform refuses"],
)
def test_a_replys_own_link_stands_in_the_text_where_no_button_takes_it(room: dict[str, Any]) -> None:
    shown = lay_out(FORM, now=NOW, **room)

    assert shown.text.splitlines() == ["Type the key there.", "", "Open the form: http://intranet/k/ticket"]
    assert shown.lines[-1].spans[-1].style == "link"
    assert shown.buttons == ()


def test_tables_and_prompts_and_texts_have_their_words() -> None:
    blocks = (Table((("/mcp", "every server"),)), SecretPrompt("p", "notes", "KEY", "notes needs KEY", NOW), Text("Hi"))

    assert lay_out(Reply(blocks), now=NOW).text.splitlines() == [
        "/mcp  every server",
        "",
        "notes needs KEY",
        "",
        "Hi",
    ]


def size(line: Line) -> int:
    return len(line.text) + 1


@pytest.mark.parametrize("limit", [300, 1000, 4096])
def test_a_long_list_is_cut_between_servers_and_says_how_many_are_missing(limit: int) -> None:
    servers = tuple(replace(NOTES, name=f"server-{number}") for number in range(200))
    whole = lay_out(Reply((ServerList(servers, "Use /mcp auth"),), title="MCP Servers"), now=NOW)

    cut = fit(whole, size, limit)

    assert sum(map(size, cut.lines)) <= limit
    kept = sum(line.text.startswith("! server-") for line in cut.lines)
    assert f"{200 - kept} more" in cut.text
    assert sum(line.text.startswith("   sign-in") for line in cut.lines) == kept
    assert cut.lines[-1].text == "Use /mcp auth"


def test_what_fits_is_left_alone() -> None:
    whole = lay_out(Reply((Text("Hi"),)), now=NOW)

    assert fit(whole, size, 10) is whole


def test_one_text_that_is_too_long_by_itself_is_shortened() -> None:
    whole = lay_out(Reply((Text("word " * 200),)), now=NOW)

    cut = fit(whole, size, 100)

    assert sum(map(size, cut.lines)) <= 100
    assert cut.text.endswith("...")
