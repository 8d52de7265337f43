"""What each known word of a token endpoint means for the grant, alone and in an answer with HTTP 400."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_auth.oauth import tokens
from mcp_auth.oauth.server_json import json_object
from mcp_auth.oauth.token_words import as_word, sentence_as_word
from mcp_auth.oauth.tokens import Meaning, _meaning, error_code, error_text
from tests.mcp_auth.token_shapes import COSTLY

WORDS: dict[Meaning, str] = {
    "ended": """
        invalid_grant invalid_token bad_refresh_token invalid_refresh_token refresh_token_invalid
        refresh_token_invalid_or_expired invalid_or_expired_refresh_token invalid_or_expired_token
        unknown_refresh_token refresh_token_expired_or_revoked token_expired_or_revoked invalid_auth
        expired_refresh_token refresh_token_expired refresh_token_revoked refresh_token_not_found
        refresh_token_already_used refresh_token_reused session_not_found session_expired expired_token
        token_expired token_revoked revoked_token token_inactive token_already_exchanged authorization_not_found
        account_inactive interaction_required login_required consent_required
    """,
    "registration": """
        invalid_client unauthorized_client incorrect_client_credentials invalid_client_id bad_client_secret
        client_not_found unknown_client
    """,
    "for_now": """
        temporarily_unavailable server_error slow_down authorization_pending use_dpop_nonce invalid_dpop_proof
        rate_limited ratelimited rate_limit rate_limit_exceeded too_many_requests over_request_rate_limit
        request_timeout timeout service_unavailable unavailable internal_error internal_server_error fatal_error
        unexpected_failure accesslimited team_added_to_org
    """,
    "refused": "invalid_request invalid_scope unsupported_grant_type access_denied anything_else",
}


@pytest.mark.parametrize(
    ("word", "meaning"), [(word, meaning) for meaning, words in WORDS.items() for word in words.split()]
)
def test_a_word_means_the_same_for_every_server(word: str, meaning: Meaning) -> None:
    assert as_word(word) == word
    assert _meaning(400, {"error": word}) == meaning


CODE_TAILS = ("type", "__type", "status", "category", "reason")


@pytest.mark.parametrize(
    "member", [*("error", "errors", "code", "error_code", "errorCode", "errorcode", "ERROR"), *CODE_TAILS]
)
def test_a_word_counts_under_every_name_that_servers_use(member: str) -> None:
    assert _meaning(400, {member: "invalid_grant"}) == "ended"
    assert _meaning(400, {"error": {member: "invalid_grant"}}) == "ended"


@pytest.mark.parametrize("member", ["error_description", "errorSummary", "Message", "msg", "detail", "title"])
def test_a_sentence_that_is_only_such_a_word_counts_too_unless_the_server_is_in_trouble(member: str) -> None:
    assert _meaning(400, {member: "Invalid grant."}) == "ended"
    assert _meaning(503, {member: "Invalid grant."}) == "for_now"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_in_trouble_nothing_is_said_of_the_client_and_no_is_no_answer(status: int) -> None:
    assert _meaning(status, {"error": "invalid_client"}) == "for_now"
    assert _meaning(status, {}) == "for_now"
    assert _meaning(status, {"error": "invalid_grant"}) == "ended"


@pytest.mark.parametrize("name", COSTLY)
def test_an_answer_of_any_size_is_looked_at_in_a_few_steps(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    document: dict[str, Any] | None = json_object(COSTLY[name])
    assert document is not None
    seen = 0

    def counted(text: str) -> str:
        nonlocal seen
        seen += len(text)
        return sentence_as_word(text)

    # Characters that are read closely, and not seconds
    monkeypatch.setattr(tokens, "sentence_as_word", counted)
    monkeypatch.setattr(tokens, "as_word", counted)
    tokens._member.cache_clear()
    assert _meaning(400, document) == "refused"
    error_code(document), error_text(document)
    assert seen < 10_000
