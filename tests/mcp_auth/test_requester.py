"""How a page or a chat names who asked."""

from __future__ import annotations

import pytest

from mcp_auth.requester import asked_by


@pytest.mark.parametrize(
    ("principal", "name", "said"),
    [
        ("telegram:123456789", "Ann", ("Ann", "Telegram …6789")),
        ("telegram:123456789", "", ("Telegram …6789", "")),
        ("slack:T024/U01ABCD", "Ann", ("Ann", "Slack …ABCD")),
        ("matrix:@ann:example.org", "Ann", ("Ann", "Matrix ….org")),
        ("pigeon:7", "Ann", ("Ann", "pigeon 7")),
        ("cli:local", "root", ("the operator", "the terminal")),
    ],
)
def test_who_asked_is_a_name_and_what_tells_two_of_that_name_apart(
    principal: str, name: str, said: tuple[str, str]
) -> None:
    assert asked_by(principal, name) == said
