"""One spec a command: nothing that can be typed lacks one, and help, menus and the guide say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from gateway import grammar
from gateway.commands import SPECS, CommandSpec, help_rows, parse, shown, spec_of
from gateway.replies import Audience
from gateway.surfaces import Words, in_chat
from mcp_auth.limits import CODES, CONFIRMS

GUIDE = Path(__file__).parents[2] / "docs" / "mcp-authentication.md"
SERVERS = ["notes", "weather"]
# What stands in the help for an argument, and one that fits.
ARGUMENTS = {
    "[SERVER]": "notes",
    "SERVER": "notes",
    "ADDRESS": "https://x.example/?code=1&state=2",
    "CODE": "ACDE-FGHJ",
}
ARGUMENTS |= {"WHO": "telegram:2"}


def test_every_kind_of_command_has_one_spec() -> None:
    assert {spec.kind for spec in SPECS} == set(get_args(grammar.Command))
    assert len({spec.kind for spec in SPECS}) == len(SPECS)


@pytest.mark.parametrize("row", help_rows(admin=True), ids=lambda row: in_chat(row[0]))
def test_what_the_help_shows_is_what_the_grammar_reads(row: tuple[Words, str]) -> None:
    typed = in_chat(row[0])
    for word, argument in ARGUMENTS.items():
        typed = typed.replace(word, argument)
    command = parse(typed, SERVERS)
    assert row in spec_of(command).rows


@pytest.mark.parametrize("spec", list(shown()), ids=lambda spec: spec.verb)
def test_a_verb_of_the_menus_is_one_of_the_grammar(spec: CommandSpec) -> None:
    argument = {"server": "notes", "code": "ACDE-FGHJ", "who": "telegram:2"}
    typed = f"{spec.verb} {argument[spec.option.name]}" if spec.option is not None else f"{spec.verb}"
    command = parse(typed, SERVERS)
    # Its address is typed into a form of its own.
    expected = grammar.ArgumentMissing if spec.kind is grammar.Paste else spec.kind
    assert type(command) is expected
    if spec.option is not None and not spec.option.required:
        assert not isinstance(parse(f"{spec.verb}", SERVERS), grammar.ArgumentMissing)


def test_only_admins_read_of_what_only_admins_may_do() -> None:
    everybody, admins = help_rows(admin=False), help_rows(admin=True)
    assert admins[: len(everybody)] == everybody
    assert [in_chat(row[0]).split()[1] for row in admins[len(everybody) :]] == ["people", "allow", "deny"]


def test_links_keys_and_codes_are_for_the_caller_alone() -> None:
    private = {"Detail", "Auth", "Key", "KeyStoreAnyway", "Paste", "Confirm", "ReviewCode", "Test"}
    private |= {"Allow", "Deny", "ShowPeople"}
    assert {spec.kind.__name__ for spec in SPECS if spec.audience is Audience.CALLER} == private


def test_what_carries_a_code_is_counted() -> None:
    limits = {spec.kind.__name__: spec.limit for spec in SPECS if spec.limit is not None}
    assert limits == {"Allow": CODES, "Deny": CODES, "Paste": CODES, "Confirm": CONFIRMS, "ReviewCode": CONFIRMS}
    assert {spec.kind.__name__ for spec in SPECS if spec.is_proof} == {"Confirm", "ReviewCode"}


def test_what_asks_servers_is_slow() -> None:
    slow = {"Auth", "Paste", "Confirm", "ReviewCode", "Test", "Logout", "Cancel", "KeyStoreAnyway"}
    assert {spec.kind.__name__ for spec in SPECS if spec.slow} == slow


def test_the_table_of_the_guide_has_every_command() -> None:
    table = GUIDE.read_text(encoding="utf-8").partition("## Every command")[2]
    in_chats = set(re.findall(r"`/mcp ([a-z]+)\b", table))
    assert {spec.verb for spec in shown() if spec.kind is not grammar.Detail} <= in_chats
