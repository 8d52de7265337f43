from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_auth.errors import CallbackRejected
from mcp_auth.oauth.authorization import AuthorizationResponse, parse_paste, parse_query, pasted_slot, slot_of

SLOT = "0123456789abcdef" * 2
STATE = f"{SLOT}.{'A' * 43}"
URI = "http://127.0.0.1:8765/callback"


@pytest.mark.parametrize(
    "text",
    [
        f"{URI}?code=abcd&state={STATE}",
        f"  <{URI}?code=abcd&state={STATE}>  ",
        f"127.0.0.1:8765/callback?code=abcd&state={STATE}",
        f"?code=abcd&state={STATE}",
        f"code=abcd&state={STATE}",
        f"state={STATE}&code=abcd",
        f"abcd#{STATE}",
    ],
)
def test_pain_20_paste_accepts_every_shape(text: str) -> None:
    answer = parse_paste(text)
    assert (answer.code, answer.state, answer.slot) == ("abcd", STATE, SLOT)


def test_pain_20_a_bare_code_is_a_code() -> None:
    assert parse_paste("4/0AeaYSHB_x-1") == AuthorizationResponse(code="4/0AeaYSHB_x-1")


@pytest.mark.parametrize("text", ["", "  ", "two words", "a", "http://[bad/?code=1", "x" * 9000])
def test_pain_20_anything_else_gets_an_answer_that_says_what_to_copy(text: str) -> None:
    with pytest.raises(CallbackRejected) as caught:
        parse_paste(text)
    assert "copy" in str(caught.value.next_step)


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
def test_a_parameter_that_stands_twice_is_refused(name: str) -> None:
    with pytest.raises(CallbackRejected, match="twice"):
        parse_query(f"code=abcd&state={STATE}&iss=a&error=b&{name}=other")


def test_a_bare_url_is_ours_only_by_its_state() -> None:
    assert pasted_slot(f"{URI}?code=abcd&state={STATE}") == SLOT
    for other in (
        "https://example.com/?code=1&state=xyz",
        "hello",
        f"code=abcd&state={STATE}",
        f"see {URI}?state={STATE}",
    ):
        assert pasted_slot(other) is None


def test_repr_shows_no_value() -> None:
    assert "abcd" not in repr(parse_query(f"code=abcd&state={STATE}"))


# Half surrogate pairs too: JSON carries them, so chats do.
ANY = st.characters()


@given(st.text(max_size=400) | st.text(ANY, max_size=40) | st.text("cod=&state#?%.+/:[]<>\x00\ud800é", max_size=60))
def test_any_text_is_an_answer_or_a_clear_no(text: str) -> None:
    for parse in (parse_paste, parse_query):
        try:
            assert isinstance(parse(text), AuthorizationResponse)
        except CallbackRejected as error:
            assert len(text.strip()) < 30 or text.strip() not in error.message
    pasted_slot(text)
    slot_of(text)


VALUES = st.text(min_size=1, max_size=80).filter(lambda s: s.strip() == s)


@given(code=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=80), iss=VALUES)
def test_parameters_come_back_as_they_were_sent(code: str, iss: str) -> None:
    try:
        query = urlencode({"code": code, "state": STATE, "iss": iss}, quote_via=quote)
    except UnicodeEncodeError:
        return
    assert parse_query(query) == AuthorizationResponse(code=code, state=STATE, iss=iss)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["code", "state", "iss", "error", "error_description", "Code", "x"]), st.text(max_size=9)
        ),
        max_size=7,
    )
)
def test_a_parameter_counts_when_it_stands_there_once(pairs: list[tuple[str, str]]) -> None:
    ours = [name for name, _ in pairs if name in ("code", "state", "iss", "error", "error_description")]
    query = urlencode(pairs)
    if len(set(ours)) < len(ours):
        with pytest.raises(CallbackRejected, match="twice"):
            parse_query(query)
        return
    values = dict(pairs)
    if values.get("code") and not all(" " <= c <= "~" for c in values["code"]):
        with pytest.raises(CallbackRejected):
            parse_query(query)
        return
    answer = parse_query(query)
    assert answer.code == (values.get("code") or None)
    assert answer.iss == values.get("iss")
    assert answer.error == (values.get("error") or None)


@given(st.from_regex(r"[ -~]{1,60}", fullmatch=True))
def test_every_code_that_a_server_may_give_comes_back_from_every_shape(code: str) -> None:
    # RFC 6749 appendix A.11
    query = urlencode({"code": code, "state": STATE})
    for text in (f"{URI}?{query}", f"?{query}", query, f"{URI}#{query}"):
        assert (parse_paste(text).code, parse_paste(text).state) == (code, STATE)
    assert pasted_slot(f"{URI}?{query}") == SLOT


@pytest.mark.parametrize("code", ["\ud800", "é", "a\x00", "a\nb", "\u202e"])
def test_a_code_that_no_server_may_give_is_refused(code: str) -> None:
    with pytest.raises(CallbackRejected):
        parse_query(f"state={STATE}&code={quote(code, errors='surrogatepass')}")
    with pytest.raises(CallbackRejected):
        parse_query(f"state={STATE}&code={code}")


def test_an_answer_may_be_as_long_as_the_limit_and_no_longer() -> None:
    start = f"{URI}?code=abcd&state={STATE}&x="
    fits = start + "x" * (8192 - len(start))
    assert parse_paste(fits).slot == pasted_slot(fits) == SLOT
    with pytest.raises(CallbackRejected):
        parse_paste(fits + "x")
    assert pasted_slot(fits + "x") is None
    query = "code=abcd&x=" + "x" * (8192 - len("code=abcd&x="))
    assert parse_query(query).code == "abcd"
    with pytest.raises(CallbackRejected, match="far too long"):
        parse_query(query + "x")


def test_an_empty_parameter_is_none_and_still_no_second_one() -> None:
    answer = parse_query("code=&state=&error=&error_description=&iss=")
    assert (answer.code, answer.state, answer.error, answer.error_description) == (None, None, None, None)
    # An issuer that is named and empty is a wrong one
    assert answer.iss == ""
    with pytest.raises(CallbackRejected, match="twice"):
        parse_query("code=&code=abcd")


@pytest.mark.parametrize("around", ["<{}>", '"{}"', "'{}'", "`{}`", " <{}> "])
def test_what_a_chat_writes_around_an_address_is_no_part_of_it(around: str) -> None:
    assert parse_paste(around.format(f"{URI}?code=abcd&state={STATE}")).state == STATE
