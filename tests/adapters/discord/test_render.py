"""Replies as Discord messages, at the edges of what Discord takes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from adapters.discord.render import render
from gateway import sentences
from gateway.commands import help_rows
from gateway.invocations import Principal
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
from tests.platforms.discord_limits import check_message

NOW = 1_800_000_000.0
ADA = Principal("discord", "42")
NOTES = ServerStatus(
    "notes", "http", "https://notes.example/mcp", "all", AuthState.SIGN_IN_NEEDED, next=Next("auth", "notes")
)


def show(reply: Reply, *servers: str) -> dict[str, Any]:
    """Rendered, and accepted by Discord's rules."""
    payload = render(reply, owner=ADA, servers=servers or ("notes",), now=NOW)
    check_message(payload)
    return payload


def buttons_of(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return [button for row in payload["components"] for button in row["components"]]


def link(length: int) -> str:
    start = "https://as.example/authorize?state="
    return start + "s" * (length - len(start))


def item(name: str, url: str) -> ChecklistItem:
    return ChecklistItem(name, ItemState.LINK, "open this link within 10 minutes", link=url)


def test_the_list() -> None:
    ready = ServerStatus(
        "files",
        "stdio",
        "npx -y files",
        "2 selected",
        AuthState.NONE_NEEDED,
        connection=ConnectionStatus(ConnectionState.READY, ("a", "b"), 12),
    )
    reply = Reply(
        (ServerList((NOTES, ready), "Use /mcp auth to authenticate servers"),),
        buttons=(Button("Sign in", command="auth"),),
        title="MCP Servers",
    )
    payload = show(reply)
    assert payload["content"].splitlines() == [
        "**MCP Servers**",
        "",
        "! **notes**",
        "   sign-in needed",
        "   `https://notes.example/mcp`  tools: all",
        "✓ **files**",
        "   none needed, ready (2 tools, 12 ms)",
        "   `npx -y files`  tools: 2 selected",
        "",
        "Use /mcp auth to authenticate servers",
    ]
    (sign_in,) = buttons_of(payload)
    assert (sign_in["style"], sign_in["label"]) == (1, "Sign in")


def test_the_detail_of_one_server() -> None:
    reply = Reply((ServerDetail(NOTES, (("Issuer", "https://as.example/_x_"), ("Auth", "sign-in needed"))),))
    assert show(reply)["content"].splitlines() == [
        "! **notes**",
        "**Issuer: **<https://as.example/_x_>",
        "**Auth: **sign-in needed",
    ]


def test_a_checklist_has_a_link_button_a_key_button_and_another_try() -> None:
    checklist = Checklist(
        (
            item("notes", link(300)),
            ChecklistItem("weather", ItemState.KEY, "needs a key: KEY", command="key weather"),
            ChecklistItem("dead", ItemState.FAILED, "dead cannot be reached.", command="auth dead"),
            ChecklistItem("done", ItemState.DONE, "signed in, 3 tools"),
        ),
        "Then paste.",
    )
    payload = show(Reply((checklist,), buttons=(Button("Enter the address", command="paste"),)), "weather", "dead")
    assert payload["content"].splitlines() == [
        "! **notes**: open this link within 10 minutes",
        "! **weather**: needs a key: KEY",
        "✗ **dead**: dead cannot be reached.",
        "✓ **done**: signed in, 3 tools",
        "",
        "Then paste.",
    ]
    shown = [(one["style"], one["label"]) for one in buttons_of(payload)]
    assert shown == [
        (5, "Sign in to notes"),
        (1, "Enter the key for weather"),
        (2, "Try dead again"),
        (2, "Enter the address"),
    ]


def test_help_shows_what_discord_lets_people_type() -> None:
    content = show(Reply((Table(help_rows(admin=False)),), title=sentences.HELP_TITLE))["content"]
    assert "`/mcp status`  every server" in content
    assert "`/mcp status SERVER`" in content
    assert "`/mcp paste`  finish" in content
    assert "`/mcp`" not in content


def test_a_prompt_has_a_button_that_opens_its_form() -> None:
    prompt = SecretPrompt("AbC_-123defg", "weather", "KEY", "weather needs KEY (header).", NOW + 600)
    payload = show(Reply((Text("Nothing was entered.", tone="bad"), prompt)))
    assert payload["content"] == "✗ Nothing was entered.\n\nweather needs KEY (header)."
    assert [one["label"] for one in buttons_of(payload)] == ["Enter the key"]


@pytest.mark.parametrize(("length", "on_button"), [(511, True), (512, True), (513, False)])
def test_a_link_of_512_characters_is_a_button_and_a_longer_one_stands_in_the_text(length: int, on_button: bool) -> None:
    payload = show(Reply((Checklist((item("notes", link(length)),)),)))
    urls = [one["url"] for one in buttons_of(payload) if "url" in one]
    assert (urls == [link(length)]) is on_button
    assert (f"<{link(length)}>" in payload["content"]) is not on_button


def test_long_links_beyond_the_content_are_asked_for_one_by_one() -> None:
    names = tuple(f"server{at}" for at in range(5))
    payload = show(Reply((Checklist(tuple(item(name, link(800)) for name in names), "note"),)), *names)
    assert payload["content"].count(link(800)) == 2
    assert [one["label"] for one in buttons_of(payload)] == [f"Sign in to {name}" for name in names[2:]]
    assert all("custom_id" in one for one in buttons_of(payload))


def test_a_link_that_fits_nowhere_is_never_cut() -> None:
    fits, too_long = (show(Reply((Checklist((item("notes", link(at)),), "n" * 150),))) for at in (1600, 1601))
    assert f"<{link(1600)}>" in fits["content"]
    assert "https://as.example" not in too_long["content"]
    assert "**notes**: its link is too long for this chat. Next: " in too_long["content"]
    assert too_long["components"] == []


@pytest.mark.parametrize("count", [5, 6, 25, 26, 60])
def test_buttons_stand_in_rows_of_five_and_are_25_at_most(count: int) -> None:
    names = tuple(f"s{at}" for at in range(count))
    payload = show(Reply((Checklist(tuple(item(name, link(100) + name) for name in names)),)), *names)
    assert len(buttons_of(payload)) <= 25
    assert all(len(row["components"]) == 5 for row in payload["components"][:-1])


def test_two_hundred_servers_fit_and_the_rest_is_counted() -> None:
    servers = tuple(
        ServerStatus(f"server-{at}", "http", f"https://{at}.example/mcp", "all", AuthState.SIGN_IN_NEEDED)
        for at in range(200)
    )
    payload = show(Reply((ServerList(servers, "Use /mcp auth"),), title="MCP Servers"))
    assert 1800 < len(payload["content"]) <= 2000
    shown = payload["content"].count("sign-in needed")
    assert f"… and {200 - shown} more. /mcp status SERVER shows one." in payload["content"]
    assert payload["content"].endswith("Use /mcp auth")


@pytest.mark.parametrize("extra", [-1, 0, 1, 500])
def test_a_text_is_2000_characters_at_most(extra: int) -> None:
    half = "x" * 996
    reply = Reply((Text(half), Text("y" * (1001 + extra))))
    assert len(show(reply)["content"]) <= 2000


def test_characters_beyond_the_basic_plane_count_twice() -> None:
    content = show(Reply((Text("😀" * 1400),)))["content"]
    assert len(content.encode("utf-16-le")) // 2 <= 2000


HOSTILE = {
    "bold": "**bold** __under__ ~~gone~~ ||spoiler||",
    "code": "`code` ```block```",
    "masked": "[click](https://evil.example) [a](b) **[x](y)**",
    "mention": "<@123456789012345678> <@&1> <#2> @everyone @here <:emoji:1> <t:1:R> </mcp:1>",
    "heading": "# big\n> quote\n- list",
    "bidi": "abc\u202egnp.exe\u2066x\u2069",
    "control": "a\x00b\x1b[31mc\r\nd",
    "link": "see https://evil.example/a_b?c=<script>",
}


@pytest.mark.parametrize("name", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_names_have_no_effect(name: str) -> None:
    server = ServerStatus(name, "http", name, name, AuthState.REAUTHORIZATION_NEEDED, detail=name, account=name)
    reply = Reply(
        (ServerList((server,)), Text(name), ServerDetail(server, (("Account", name),))),
        buttons=(Button(name, command=f"auth {name}" if " " not in name else "auth"),),
        title=name,
    )
    content = show(reply, name)["content"]
    plain = _outside_code(content)
    for mark in ("@everyone", "@here", "<@", "<#", "<:", "<t:", "</"):
        assert mark not in plain.replace("\\<", "")
    assert not any(ord(c) < 32 and c != "\n" for c in content)
    assert not any(c in "\u202e\u2066\u2069" for c in content)
    assert re.search(r"(?<!\\)\[", plain) is None


def test_a_masked_link_shows_its_brackets() -> None:
    content = show(Reply((Text("[click](https://evil.example) and [b](c)"),)))["content"]
    assert content == "\\[click](<https://evil.example)> and \\[b](c)"


def test_a_long_name_is_cut_on_its_button_and_never_in_the_button_s_data() -> None:
    name = "n" * 300
    payload = show(Reply((Text("x"),), buttons=(Button(name, command=f"auth {name}"),)), name)
    (button,) = buttons_of(payload)
    assert len(button["label"]) == 80
    assert name[:20] not in button["custom_id"]


def test_the_same_command_twice_is_one_button() -> None:
    payload = show(Reply((Text("x"),), buttons=(Button("a", command="auth notes"), Button("b", command="auth notes"))))
    assert [one["label"] for one in buttons_of(payload)] == ["a"]


def _outside_code(content: str) -> str:
    return "\n".join("".join(line.split("`")[::2]) for line in content.splitlines())


# A name that would ring for everybody.
QUIET = '"\\*a\\* @\u200beveryone"'


@pytest.mark.parametrize(
    ("step", "known", "typed"),
    [
        (Next("auth", "notes"), "</mcp auth:7> notes", "/mcp auth notes"),
        (Next("auth"), "</mcp auth:7>", "/mcp auth"),
        # A command with subcommands cannot be sent bare, and an address is entered into a form.
        (Next("list"), "</mcp status:7>", "/mcp status"),
        (Next("list", arguments=("SERVER",)), "</mcp status:7> SERVER", "/mcp status SERVER"),
        (Next("paste", arguments=("ADDRESS",)), "</mcp paste:7>", "/mcp paste"),
        (
            Next("test", "*a* @everyone"),
            '</mcp test:7> "\\*a\\* @\u200beveryone"',
            '/mcp test "\\*a\\* @\u200beveryone"',
        ),
        (Next("doctor"), "slash-mcp doctor", "slash-mcp doctor"),
    ],
)
def test_a_command_can_be_clicked_once_its_id_is_known(step: Next, known: str, typed: str) -> None:
    reply = Reply((Text("It failed", next_step=step),))
    for command_id, command in (("7", known), (None, typed)):
        payload = render(reply, owner=ADA, servers=("notes",), now=NOW, command_id=command_id)
        check_message(payload)
        assert payload["content"] == f"It failed. Next: {command}"


def test_no_text_of_a_server_becomes_a_command() -> None:
    hostile = Reply((Text("It answers </mcp logout:7> notes", next_step=Next("auth", "</mcp logout:7>")),))
    payload = render(hostile, owner=ADA, servers=("notes",), now=NOW, command_id="7")
    assert payload["content"] == ('It answers \\</mcp logout:7> notes. Next: </mcp auth:7> "\\</mcp logout:7>"')
