"""What comes from Telegram, read."""

from __future__ import annotations

import re

import pytest

from adapters.telegram.incoming import command, command_of, start_payload

SERVERS = ("notes", "my server", "x" * 200, "שרת")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("/mcp", ""),
        ("/MCP Auth", "Auth"),
        ("/mcp@the_bot auth notes", "auth notes"),
        ("/mcp@THE_BOT", ""),
        ("/mcp\nauth", "auth"),
        ("/mcp@other_bot auth", None),
        ("/mcpx", None),
        ("say /mcp", None),
        ("/start mcp", ""),
        ("/start mcp-confirm-K7QX-2M", "review-code K7QX-2M"),
        ("/start mcp-auth", "auth"),
        ("/start", None),
        ("/start mcpx", None),
        ("/start other", None),
        ("", None),
    ],
)
def test_commands(text: str, meant: str | None) -> None:
    assert command(text, "the_bot", SERVERS) == meant


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        ("", "mcp"),
        ("auth", "auth"),
        ("auth notes", "auth notes"),
        ('auth "my server"', 'auth "my server"'),
        ("notes", "status notes"),
        ("key notes", "key notes"),
        ("test שרת", "test שרת"),
        (f"auth {'x' * 200}", f"auth {'x' * 200}"),
        # Nothing that ends or deletes, nothing with a secret in it.
        ("logout notes", ""),
        ("cancel", ""),
        ("paste http://127.0.0.1/callback?code=canary&state=s", ""),
        ("auth notes 'my server'", "auth"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_deep_link_asks_again(asked: str, again: str) -> None:
    payload = start_payload(asked, SERVERS)

    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", payload)
    assert "canary" not in payload
    assert command_of(payload, SERVERS) == ("" if again == "mcp" else again)


@pytest.mark.parametrize("payload", ["mcp-logout-1f9a03c4", "mcp-cancel", "mcp-auth-00000000", "mcp-", "mcp-x-y-z"])
def test_a_foreign_deep_link_only_lists(payload: str) -> None:
    assert command_of(payload, SERVERS) == ""
