"""What a button carries: short, bound to one person, and readable after a restart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.buttons import is_for, is_ours, pack, pack_prompt, prompt_of, unpack
from gateway import commands, grammar
from gateway.invocations import Principal

ANN = Principal("telegram", "1")
BOB = Principal("telegram", "2")
NAMES = ("notes", "my server", "x" * 200, "notes:two", "סרבר")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("verb", ["auth", "key", "test", "logout", "cancel", "status"])
def test_a_command_comes_back_as_it_was(verb: str, name: str) -> None:
    command = grammar.command_for(verb, name)

    data = pack(command, ANN, NAMES)

    assert len(data.encode()) <= 64
    assert name not in data
    assert unpack(data, NAMES) == command


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_servers_detail_comes_back_as_status(name: str) -> None:
    data = pack(commands.detail_for(name), ANN, NAMES)

    assert name not in data
    assert unpack(data, NAMES) == grammar.command_for("status", name)


def test_a_verb_stays_a_verb_although_a_server_has_its_name() -> None:
    names = ("auth", "notes")

    assert unpack(pack("auth", ANN, names), names) == "auth"
    assert unpack(pack(commands.detail_for("auth"), ANN, names), names) == "status auth"


def test_a_prompt_is_told_from_a_command() -> None:
    data = pack_prompt("AbC_-123defg", ANN)

    assert (prompt_of(data), unpack(data, NAMES)) == ("AbC_-123defg", None)
    assert is_for(data, ANN)
    assert not is_for(data, BOB)
    assert prompt_of(pack("auth notes", ANN, NAMES)) is None


def test_a_command_without_a_server_and_one_with_an_id_come_back() -> None:
    assert unpack(pack("auth", ANN, NAMES), NAMES) == "auth"
    assert unpack(pack("key-store AbC_-123defg", ANN, NAMES), NAMES) == "key-store AbC_-123defg"


def test_a_button_is_for_the_one_it_was_made_for() -> None:
    data = pack("auth notes", ANN, NAMES)

    assert is_for(data, ANN)
    assert not is_for(data, BOB)


def test_a_server_that_is_gone_leads_nowhere() -> None:
    assert unpack(pack("auth notes", ANN, NAMES), ("other",)) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="short id"):
        pack(f"paste {'x' * 80}", ANN, NAMES)


@given(st.text())
def test_any_data_may_come_back(data: str) -> None:
    assert unpack(data, NAMES) is None or is_ours(data)
    assert is_for(data, ANN) in (True, False)
