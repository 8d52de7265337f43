from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_auth.oauth.challenge import BearerChallenge, bearer_challenge


def test_www_authenticate_error_scope_is_not_read_as_scope() -> None:
    header = 'Bearer error_scope="wrong", scope="read write", resource_metadata="https://h/x?a=1,2"'
    assert bearer_challenge([header]) == BearerChallenge("read write", "https://h/x?a=1,2", None)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Bearer", BearerChallenge()),
        ('bearer SCOPE="a"', BearerChallenge(scope="a")),
        ('Basic realm="x, scope=y", Bearer scope="z"', BearerChallenge(scope="z")),
        ('Negotiate abc==, Bearer error="insufficient_scope"', BearerChallenge(error="insufficient_scope")),
        (r'Bearer realm="a\"b", scope="c"', BearerChallenge(scope="c")),
        ("Bearer resource_metadata=https://h/.well-known/x, scope=a", BearerChallenge("a", "https://h/.well-known/x")),
        ('Bearer scope = "spaced"', BearerChallenge(scope="spaced")),
        ('Bearer scope="first", scope="second"', BearerChallenge(scope="first")),
        ('Bearer scope=""', BearerChallenge()),
        # By no grammar, and yet sent
        ('Bearer realm="x"; error="invalid_token"; scope=a;', BearerChallenge(scope="a", error="invalid_token")),
        ("Bearer scope='read write', error='invalid_token'", BearerChallenge("read write", error="invalid_token")),
        ('Bearer error="invalid_token" scope="no commas"', BearerChallenge("no commas", error="invalid_token")),
        ('Bearer scope="never closed', BearerChallenge(scope="never closed")),
        # A quote is a character like others inside of a token
        ("Bearer scope=it's, error=o'clock", BearerChallenge("it's", error="o'clock")),
        # What is acted on counts before what is not
        ('Bearer error="x", Bearer error="invalid_token"', BearerChallenge(error="invalid_token")),
        ('Bearer error=" insufficient_scope "', BearerChallenge(error="insufficient_scope")),
        ('Bearer error="x", DPoP error="invalid_token"', BearerChallenge(error="x")),
        # Several in one challenge
        (
            'Bearer resource_metadata="https://h/1", scope=a, resource_metadata=/2',
            BearerChallenge("a", "https://h/1", None, ("/2",)),
        ),
        # RFC 6749 section 3.3: what is no scope is not asked for and not shown
        ('Bearer scope="read wr\x9b31mite \xad@x  files:*"', BearerChallenge(scope="read files:*")),
    ],
)
def test_bearer_challenge_is_read_by_the_grammar(header: str, expected: BearerChallenge) -> None:
    assert bearer_challenge([header]) == expected


@pytest.mark.parametrize("header", ["", "Basic realm=x", "Digest bearer=1", ",,,", "="])
def test_without_a_bearer_challenge_there_is_none(header: str) -> None:
    assert bearer_challenge([header]) is None


def test_the_bearer_challenge_may_stand_in_a_second_header() -> None:
    assert bearer_challenge(["Basic realm=x", "Bearer scope=a"]) == BearerChallenge(scope="a")


@given(st.text(max_size=300))
def test_any_header_is_survived(header: str) -> None:
    bearer_challenge([header])
    bearer_challenge([f"Bearer {header}"])


@given(st.text(st.characters(codec="ascii", exclude_characters='"\\', categories=("L", "N", "P", "S")), min_size=1))
def test_a_quoted_scope_comes_back_as_it_was_sent(scope: str) -> None:
    assert bearer_challenge([f'Bearer realm="x", scope="{scope}"']) == BearerChallenge(scope=scope)
