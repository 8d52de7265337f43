"""What an answer of a token endpoint says, part by part."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_auth.net.http import Answer
from mcp_auth.oauth.tokens import TokenError, TokenResponse, _read
from tests.homes import open_auth, signed_in
from tests.servers.oauth import OAuthServer

NOW = 1_000.0
_HUNDRED_YEARS = 100 * 365 * 86_400


def read(document: dict[str, Any], *, status: int = 200, sent: list[str] | None = None) -> TokenResponse | TokenError:
    answer = Answer(status, httpx2.Headers(), json.dumps(document).encode(), "https://as.example/token")
    return _read(answer, sent or [], NOW, is_spent=False)


def given(**members: Any) -> TokenResponse:
    answer = read({"access_token": "at", **members})
    assert isinstance(answer, TokenResponse)
    return answer


def refused(document: dict[str, Any], **options: Any) -> TokenError:
    answer = read(document, **{"status": 400, **options})
    assert isinstance(answer, TokenError)
    return answer


@pytest.mark.parametrize(
    ("expires_in", "lives"),
    [
        (3600, 3600),
        ("3600", 3600),
        (0, None),
        (0.5, 0.5),
        (_HUNDRED_YEARS - 1, _HUNDRED_YEARS - 1),
        (_HUNDRED_YEARS, None),
        (-1, None),
        (True, None),
        ("soon", None),
        ("nan", None),
        (10**400, None),
        ([3600], None),
        (None, None),
    ],
)
def test_a_lifetime_is_believed_within_a_hundred_years(expires_in: object, lives: float | None) -> None:
    tokens = given(expires_in=expires_in).tokens
    assert tokens.expires_at == (None if lives is None else NOW + lives)
    assert tokens.obtained_at == NOW


@pytest.mark.parametrize(
    ("token", "taken", "kept"),
    [
        ("!", "!", "!"),
        ("~", "~", "~"),
        (" at \n", "at", "at"),
        # It goes into a form and not into a header, and the one before it is spent.
        ("a b", None, "a b"),
        ("a\x7f", None, "a\x7f"),
        ("\u00e4", None, "\u00e4"),
        ("", None, None),
        (7, None, None),
    ],
)
def test_an_access_token_is_of_visible_ascii_and_a_refresh_token_is_kept_as_it_is(
    token: object, taken: str | None, kept: str | None
) -> None:
    answer = read({"access_token": token})
    assert (answer.tokens.access_token if isinstance(answer, TokenResponse) else None) == taken
    assert given(refresh_token=token).tokens.refresh_token == kept


def id_token(**claims: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


def test_an_account_is_shown_by_what_names_it_best() -> None:
    claims = {"name": "Ada", "sub": "7", "upn": "ada@corp", "preferred_username": "ada", "email": "ada@example.com"}
    while claims:
        name, best = list(claims.items())[-1]
        assert given(id_token=id_token(**claims)).account == best
        del claims[name]
    assert given(id_token=id_token(iss="https://as.example")).account is None


@pytest.mark.parametrize("length", range(1, 9))
def test_an_id_token_is_read_whatever_its_length(length: int) -> None:
    answer = given(id_token=id_token(sub="x" * length, iss="https://as.example"))
    assert (answer.account, answer.id_token_issuer) == ("x" * length, "https://as.example")


@pytest.mark.parametrize(
    ("code", "shown"),
    [("invalid_grant", True), ("x" * 60, True), ("x" * 61, False), ("\u00fcber", False), ("a\x1b[31m", False)],
)
def test_an_error_code_is_shown_when_it_is_a_short_word(code: str, shown: bool) -> None:
    error = refused({"error": code})
    assert error.error == (code if shown else None)
    assert error.is_oauth


def test_what_we_sent_is_not_repeated_in_a_sentence() -> None:
    error = refused({"error": "s3cret", "error_description": "no such code s3cret/1, s3cret%2F1"}, sent=["s3cret/1"])
    assert (error.error, error.description) == ("s3cret", "no such code ***, ***")
    assert refused({"error": "s3cret"}, sent=["s3cret"]).error is None


def test_the_sentence_is_of_what_says_something() -> None:
    document = {"error": "no", "error_description": " ", "message": "Look here.", "errors": [{"detail": "deeper"}]}
    assert refused(document).sentence() == "no: Look here."
    assert refused({"error": "no", "errors": [{"detail": "deeper"}]}).sentence() == "no: deeper"
    assert refused({}).sentence() == "HTTP 400"


def test_words_are_looked_for_three_levels_deep() -> None:
    assert refused({"a": {"b": {"c": {"error": "invalid_grant"}}}}).meaning == "ended"
    assert refused({"a": {"b": {"c": {"d": {"error": "invalid_grant"}}}}}).meaning == "refused"


@pytest.mark.parametrize(
    ("status", "gone"), [(404, True), (405, True), (410, True), (300, True), (399, True), (400, False), (500, False)]
)
def test_an_endpoint_may_have_gone(status: int, gone: bool) -> None:
    assert refused({}, status=status).is_gone is gone


def test_a_success_is_any_2xx_without_an_error() -> None:
    assert isinstance(read({"access_token": "at"}, status=299), TokenResponse)
    for document, status in (({"access_token": "at"}, 300), ({"access_token": "at"}, 199), ({"error": "x"}, 200)):
        assert isinstance(read(document, status=status), TokenError)
    assert "no access token" in refused({"token": "x"}, status=200).sentence()


@pytest.mark.parametrize(("scope", "kept"), [("a  b a", "a b"), (["a b", "c", 7, "a"], "a b c"), (7, None), ("", None)])
def test_scopes_are_text_or_a_list(scope: object, kept: str | None) -> None:
    assert given(scope=scope).tokens.scope == kept


async def test_a_sign_out_says_of_each_token_which_it_is(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        refresh, access = next(iter(oauth.refresh)), next(iter(oauth.access))
        await auth.logout("notes")
    hints = {seen.form["token"]: seen.form["token_type_hint"] for seen in oauth.requests("/revoke")}
    assert hints.items() <= {refresh: "refresh_token", access: "access_token"}.items()
    assert hints
