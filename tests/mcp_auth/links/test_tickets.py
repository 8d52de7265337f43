"""Tickets and codes: readable, typed in any way, and compared by hash."""

from __future__ import annotations

import pytest

from mcp_auth.links import tickets
from mcp_auth.links.tickets import is_same, new_code, typed_code
from mcp_auth.records import sha256


def test_a_code_has_eight_characters_and_none_that_look_alike() -> None:
    codes = {new_code() for _ in range(500)}

    assert len(codes) == 500
    assert all(len(code) == 8 and typed_code(code) == code for code in codes)
    shown = set("".join(codes))
    for alike in ("0O", "1IL", "2Z", "5S", "8B", "UV"):
        assert not shown & set(alike), alike


@pytest.mark.parametrize("typed", ["ACDE-FGHJ", "acdefghj", "  ACDE FGHJ  ", "acde\u2013fghj"])
def test_a_code_is_understood_however_it_is_typed(typed: str) -> None:
    assert is_same(typed_code(typed) or "", sha256("ACDEFGHJ"))


@pytest.mark.parametrize("typed", ["", "ACDEFGH", "ACDEFGHJK", "ACDEFGHI", "\u00df" * 8, "telegram:1", "A" * 10_000])
def test_what_is_no_code_is_none(typed: str) -> None:
    assert typed_code(typed) is None


def test_a_browser_keeps_what_belongs_to_one_record_under_a_name_of_its_own() -> None:
    slot = "0" * 32
    names = [
        tickets.secret_name("a", slot, 1000.0),
        tickets.secret_name("k", slot, 1000.0),
        tickets.secret_name("a", slot, 1000.001),
        tickets.secret_name("a", "1" * 32, 1000.0),
    ]
    assert len(set(names)) == 4
    assert names[0] == "a-00000000000000000000000000000000-1000000"


def test_a_last_page_is_its_secret_and_its_code_together() -> None:
    page = tickets.last_page("secret", "code")
    assert tickets.is_last_page("secret", "code", page)
    assert not tickets.is_last_page("secret", "another", page)
    assert not tickets.is_last_page("another", "code", page)
    assert not tickets.is_last_page("secret", "code", None)


SLOT = "0123456789abcdef" * 2


def test_a_ticket_names_its_slot() -> None:
    made = {tickets.new_ticket(SLOT) for _ in range(20)}
    assert len(made) == 20
    assert {tickets.slot_of(ticket) for ticket in made} == {SLOT}
    assert {len(ticket) for ticket in made} == {64}


@pytest.mark.parametrize(
    "odd",
    [
        "{}\n",
        "\n{}",
        " {}",
        "{}AAAA",
        "{}====",
        "{}!",
        "{0:.63}",
        "{0:.60}",
        "{0:.60}AAA=",
        "{0:.63}+",
        "{0:.63}/",
        "{0:.63}\u00e9",
        "{0:.63}\uff21",
        "",
        "../../etc/passwd",
    ],
)
def test_what_has_not_the_form_of_a_ticket_names_no_slot(odd: str) -> None:
    """`base64` alone would take many of them: it skips what it does not know."""
    assert tickets.slot_of(odd.format(tickets.new_ticket(SLOT))) is None


@pytest.mark.parametrize(
    "odd",
    [
        "{}\n",
        "{}A",
        "{0:.42}",
        "{0:.42}=",
        "{0:.42}+",
        "{0:.42}/",
        "{0:.42} ",
        "{0:.42}\u00e9",
        "{0:.42};",
        "",
        "x" * 9000,
    ],
)
def test_what_has_not_the_form_of_a_secret_is_none(odd: str) -> None:
    assert tickets.is_secret(tickets.new_secret())
    assert not tickets.is_secret(odd.format(tickets.new_secret()))
    assert not tickets.is_secret(None)


@pytest.mark.parametrize("cookie", ["", "x", "\u00e9" * 43, "A" * 44])
def test_a_form_token_to_a_cookie_of_another_form_counts_for_nothing(cookie: str) -> None:
    """Whoever can plant a cookie can make its token, too; ours at least have the form of ours."""
    assert not tickets.is_form_token(tickets.form_token(cookie, "ticket"), cookie, "ticket")
    assert not tickets.is_form_token("", None, "ticket")
    good = tickets.new_secret()
    assert tickets.is_form_token(tickets.form_token(good, "ticket"), good, "ticket")
    assert not tickets.is_form_token(tickets.form_token(good, "other"), good, "ticket")
