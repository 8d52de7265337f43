"""`slash-mcp people`, `allow` and `deny`, as they are typed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from adapters.cli.cli import main
from gateway.invocations import Principal
from gateway.people import People
from mcp_auth.config.load import load
from tests.homes import write_home

NOTES = {"notes": {"url": "https://notes.example/mcp", "auth": "oauth"}}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_home(tmp_path, NOTES, {"allow": ["telegram:1"], "admins": ["telegram:1"]})


def run(home: Path, *arguments: str) -> int:
    return main(["--home", str(home), *arguments])


def test_a_person_is_let_in_listed_and_shut_out(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = asyncio.run(People(load(None, home)).ask(Principal("telegram", "2"), "Bob \x1b[31m"))
    assert code is not None

    assert run(home, "people") == 0
    assert "telegram:2  pending, calls themselves Bob [31m, 60 minutes left" in capsys.readouterr().out
    assert run(home, "allow", code.lower()) == 0
    assert "Next: slash-mcp people" in capsys.readouterr().out
    assert run(home, "people", "--json") == 0
    listed = {one["principal"]: one for one in json.loads(capsys.readouterr().out)["people"]}
    assert (listed["telegram:1"]["standing"], listed["telegram:1"]["admin"]) == ("configured", True)
    assert (listed["telegram:2"]["standing"], listed["telegram:2"]["by"]) == ("paired", "cli:local")
    assert run(home, "deny", "telegram:2") == 0
    assert run(home, "people") == 0
    assert "telegram:2  denied" in capsys.readouterr().out


def test_a_wrong_code_is_a_failure_with_the_next_step(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home, "allow", "ACDEFGHJ") == 1
    assert "Next: ask the person" in capsys.readouterr().err
    assert run(home, "deny", "telegram:99") == 1
    assert "Next: slash-mcp people" in capsys.readouterr().err


def test_a_second_person_without_admins_is_refused_by_the_name_of_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = write_home(tmp_path, NOTES, {"allow": ["telegram:1"]})

    assert run(home, "allow", "telegram:2") == 1
    assert "gateway.admins is missing" in capsys.readouterr().err


def test_nobody_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_home(tmp_path, NOTES), "people") == 0
    assert "Nobody but the operator" in capsys.readouterr().out


def test_as_works_for_a_paired_person(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = write_home(tmp_path, NOTES, {"identity": "per_user"})
    assert run(home, "--as", "telegram:2", "list") == 1
    run(home, "allow", "telegram:2")

    assert run(home, "--as", "telegram:2", "list") == 0

    # To clean up, the operator can still act for who was shut out.
    run(home, "deny", "telegram:2")
    capsys.readouterr()
    assert run(home, "--as", "telegram:2", "logout", "notes") == 1
    assert "was not signed in" in capsys.readouterr().out
