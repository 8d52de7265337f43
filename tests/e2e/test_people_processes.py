"""Letting people in from the command line while a gateway runs: two processes, one home."""

from __future__ import annotations

import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway.gateway import Gateway
from gateway.invocations import Principal
from tests.e2e.processes import slash_mcp
from tests.gateway.chat import Chat, words
from tests.homes import write_home

pytestmark = pytest.mark.service

NOTES = {"notes": {"url": "http://127.0.0.1:9/mcp", "auth": "oauth"}}
TEAM = {"allow": ["telegram:1"], "admins": ["telegram:1"]}
DORA = Principal("telegram", "666")


async def test_a_stranger_is_let_in_and_shut_out_while_the_gateway_runs(tmp_path: Path) -> None:
    home = write_home(tmp_path, NOTES, TEAM)
    async with Gateway.from_config(home=home) as gateway:
        dora = Chat(gateway, DORA)
        (asked,) = await dora.say("", display_name="Dora")
        found = re.search(r"`slash-mcp (allow \w+)`", words(asked))
        assert found is not None

        # What the bot wrote is what the operator types.
        done = slash_mcp(home, *found[1].split())
        assert (done.returncode, "telegram:666 (Dora) is served" in done.stdout) == (0, True), done.stderr
        await dora.notice("let in")
        assert "notes" in words((await dora.say(""))[0])

        assert slash_mcp(home, "deny", "telegram:666").returncode == 0
        assert "notes" not in repr(await dora.say(""))

    audit = slash_mcp(home, "audit")
    assert [line.split(maxsplit=3)[2:] for line in audit.stdout.splitlines()] == [
        ["telegram:666", "asked to be let in"],
        ["cli:local", "let in telegram:666"],
        ["cli:local", "shut out telegram:666"],
    ]
    for name in ("people.json", "audit.jsonl"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


async def test_of_two_allow_commands_at_the_same_moment_one_succeeds(tmp_path: Path) -> None:
    """Given no admins, when two operators each let somebody else in, only one becomes the only person."""
    home = write_home(tmp_path, NOTES)

    with ThreadPoolExecutor() as pool:
        ends = list(pool.map(lambda who: slash_mcp(home, "allow", who), ("telegram:1", "telegram:2")))

    assert sorted(end.returncode for end in ends) == [0, 1]
    assert any("gateway.admins" in end.stderr for end in ends)


def test_a_gateway_with_too_many_people_does_not_start(tmp_path: Path) -> None:
    home = write_home(tmp_path, NOTES, TEAM)
    assert slash_mcp(home, "allow", "telegram:2").returncode == 0
    write_home(tmp_path, NOTES, {"allow": ["telegram:1"]})

    for command in ("serve", "chat"):
        done = slash_mcp(home, command)
        assert (done.returncode, "gateway.admins is missing" in done.stderr) == (2, True)
    assert "gateway.admins is missing" in slash_mcp(home, "doctor").stdout
