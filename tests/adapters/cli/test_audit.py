"""`slash-mcp audit`: what happened, on a terminal and for programs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from adapters.cli.cli import main
from mcp_auth.audit import Audit, Event
from tests.homes import write_home


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = write_home(tmp_path, {"notes": {"url": "https://notes.example/mcp", "auth": "oauth"}})
    now = time.time()
    week, hour = Audit(home, lambda: now - 7 * 86400), Audit(home, lambda: now - 3600)
    week.write(Event.SIGN_IN_BEGUN, who="telegram:1", server="notes", owner="shared")
    week.write(Event.SIGN_IN_ENDED, who="telegram:1", server="notes", owner="shared", outcome="done")
    hour.write(Event.COMMAND_REFUSED, who="telegram:2", server="mail", outcome="logout")
    hour.write(Event.KEY_SET, who="cli:local", server="mail", owner="person:ann")
    hour.write(Event.ALLOWED, who="telegram:1", whom="telegram:3")
    return home


def run(home: Path, *arguments: str) -> int:
    return main(["--home", str(home), "audit", *arguments])


def test_it_reads_like_a_diary_with_the_newest_at_the_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home) == 0
    lines = [line[21:] for line in capsys.readouterr().out.splitlines()]

    assert lines == [
        "telegram:1  notes               sign-in begun",
        "telegram:1  notes               sign-in done",
        "telegram:2  mail                refused: /mcp logout",
        "cli:local   mail of person:ann  key set",
        "telegram:1                      let in telegram:3",
    ]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("--since", "2h"), 3),
        (("--since", "2w"), 5),
        (("--since", "2h", "--server", "MAIL"), 2),
        (("--server", "notes"), 2),
        (("-n", "1"), 1),
        (("-n", "0"), 5),
        (("--since", "2020-01-01", "-n", "4"), 4),
        (("--since", "2020-01-01T10:00:00+02:00"), 5),
    ],
)
def test_what_is_shown_can_be_narrowed(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], count: int
) -> None:
    assert run(home, *arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == count


def test_programs_get_the_lines_as_they_are_kept(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "--json") == 0
    assert capsys.readouterr().out == (home / "audit.jsonl").read_text()


def test_nothing_is_said_in_words(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "--server", "unheard-of") == 0
    assert run(write_home(tmp_path / "other", {}), "--json") == 0
    assert capsys.readouterr().out == "Nothing of that is recorded.\n"


@pytest.mark.parametrize("since", ["yesterday", "5 parsecs", "2026-99-99", "9999999d"])
def test_a_time_that_is_none_is_refused_with_an_example(
    home: Path, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    assert run(home, "--since", since) == 1
    assert "slash-mcp audit --since 24h" in capsys.readouterr().err


def test_attack_what_stands_in_the_file_does_not_reach_the_terminal_raw(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given somebody else wrote into the file."""
    with (home / "audit.jsonl").open("a") as file:
        file.write(
            json.dumps({"time": "2026-11-25T10:00:00Z", "what": "allowed", "who": "\x1b[2Ja\nb", "whom": "\x07"})
        )

    assert run(home) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert len(out.splitlines()) == 6


def test_every_event_has_words() -> None:
    from datetime import UTC, datetime

    from gateway.sentences import happened
    from mcp_auth.audit import AuditLine

    for event in Event:
        assert happened(AuditLine(time=datetime.now(UTC), what=event))


@pytest.mark.parametrize("arguments", [(), ("--json",)], ids=["table", "json"])
def test_a_line_that_another_program_wrote_moves_no_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """What we write holds nothing of that kind; whoever can write the file could."""
    name = "telegram:1\x9b2J\u202etxt\u2066\x85"
    line = {"time": "2026-11-28T10:00:00Z", "what": "key_set", "who": name, "server": "notes"}
    with (home / "audit.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")

    assert run(home, *arguments) == 0

    shown = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in shown)
    if arguments:
        assert json.loads(shown.splitlines()[-1])["who"] == name
