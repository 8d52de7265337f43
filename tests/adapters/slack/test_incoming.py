"""Whose a payload is, and what it says."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.slack.incoming import (
    Installation,
    command_in,
    message_of,
    plain,
    principal_of_action,
    principal_of_command,
    principal_of_event,
)

WORDS = frozenset({"mcp", "tools"})
HOME = Installation("T1", None)
GRID = Installation("T1", "E1")


def event(**more: Any) -> dict[str, Any]:
    body = {"is_ext_shared_channel": more.pop("shared", False)}
    return {**body, "event": {"type": "app_mention", "user": "U1", "text": "hi", "team": "T1", "ts": "1.1", **more}}


@pytest.mark.parametrize(
    ("body", "user"),
    [
        ({"team_id": "T1", "user_id": "U1"}, "T1/U1"),
        ({"team_id": "T1", "enterprise_id": "E1", "user_id": "W1"}, "E1/W1"),
        ({"team_id": "T1", "user_id": "USLACKBOT"}, None),
        ({"team_id": "T1"}, None),
    ],
    ids=["team", "organisation", "slackbot", "nobody"],
)
def test_who_typed_a_command(body: dict[str, Any], user: str | None) -> None:
    principal = principal_of_command(body)

    assert (principal.user if principal else None) == user


@pytest.mark.parametrize(
    ("user", "team", "enterprise", "expected"),
    [
        ({"id": "U1", "team_id": "T1"}, {"id": "T1"}, None, "T1/U1"),
        ({"id": "U1", "team_id": "T1"}, {"id": "T1"}, {"id": "E1"}, "E1/U1"),
        ({"id": "U1", "team_id": "T9"}, {"id": "T1"}, None, "T9/U1"),
        ({"id": "U1", "team_id": "T9"}, {"id": "T1"}, {"id": "E1"}, "T9/U1"),
        ({"id": "U1", "team_id": "T1"}, None, {"id": "E1"}, "E1/U1"),
        ({}, {"id": "T1"}, None, None),
    ],
    ids=["team", "organisation", "foreign", "foreign-in-organisation", "org-wide", "nobody"],
)
def test_who_pressed(user: Any, team: Any, enterprise: Any, expected: str | None) -> None:
    principal = principal_of_action({"user": user, "team": team, "enterprise": enterprise})

    assert (principal.user if principal else None) == expected


@pytest.mark.parametrize(
    ("body", "home", "expected"),
    [
        (event(), HOME, "T1/U1"),
        (event(), GRID, "E1/U1"),
        (event(team="T2"), GRID, "E1/U1"),
        (event(shared=True), HOME, "T1/U1"),
        (event(shared=True, user_team="T1"), GRID, "E1/U1"),
        (event(shared=True, user_team="E1"), GRID, "E1/U1"),
        (event(shared=True, user_team="T9"), HOME, "T9/U1"),
        (event(shared=True, user_team="E9", team="T1"), GRID, "E9/U1"),
        (event(shared=True, team=None), HOME, None),
        (event(bot_id="B1"), HOME, None),
        (event(bot_profile={"id": "B1"}), HOME, None),
        (event(subtype="bot_message"), HOME, None),
        (event(user=None), HOME, None),
    ],
    ids=range(13),
)
def test_who_wrote(body: dict[str, Any], home: Installation, expected: str | None) -> None:
    principal = principal_of_event(body, home)

    assert (principal.user if principal else None) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mcp", ""),
        ("  /mcp auth notes ", "auth notes"),
        ("!MCP\nauth", "auth"),
        ("tools help", "help"),
        ("mcps are great", None),
        ("the mcp", None),
        ("//mcp", None),
        ("mcp, please", None),
        ("", None),
    ],
)
def test_what_stands_after_the_name(text: str, expected: str | None) -> None:
    assert command_in(text, WORDS) == expected


def test_addresses_and_control_characters_are_read_as_they_were_typed() -> None:
    assert plain("mcp paste <http://127.0.0.1:1/callback?code=a&amp;copy=1&amp;state=b>") == (
        "mcp paste http://127.0.0.1:1/callback?code=a&copy=1&state=b"
    )
    assert plain("<https://a.example|a.example> &lt;b&gt; &amp;lt;") == "https://a.example <b> &lt;"


def test_a_mention_of_somebody_else_is_none_of_ours() -> None:
    ours = message_of({"text": "<@UBOT> mcp auth", "ts": "1.1", "channel": "C1"}, "UBOT")
    other = message_of({"text": "<@UX> mcp auth", "ts": "1.1", "channel": "C1"}, "UBOT")

    assert ours is not None and other is not None
    assert (ours.mentions_bot, ours.text) == (True, "mcp auth")
    assert not other.mentions_bot


@pytest.mark.parametrize("where", ["message", "previous_message"])
def test_edited_and_deleted_messages_have_a_text_and_are_nobodys_command(where: str) -> None:
    found = message_of({"subtype": "message_changed", where: {"text": "mcp key x", "ts": "1.1"}, "channel": "D1"}, None)

    assert found is not None
    assert (found.text, found.fresh) == ("mcp key x", False)
    assert message_of({"subtype": "channel_join"}, None) is None
