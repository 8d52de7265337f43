"""What token endpoints say, as data: words that end a grant, words that ask for patience, types of bearer tokens.

Gathered on 2026-11-28. Every word is written as `as_word` makes it: lower case, words joined by `_`.
"""

from __future__ import annotations

import re

# About the refresh token: it is spent, revoked or unknown, and no further request will change that.
ENDS_GRANT = frozenset(
    {
        "invalid_grant",  # RFC 6749 section 5.2
        "invalid_token",  # RFC 6750, from servers that take the refresh token for the bearer
        "bad_refresh_token",  # GitHub (with HTTP 200), HubSpot (`status`)
        "invalid_refresh_token",  # Slack
        "refresh_token_invalid",  # Atlassian, in its description
        "refresh_token_invalid_or_expired",
        "invalid_or_expired_refresh_token",
        "invalid_or_expired_token",
        "unknown_refresh_token",
        "refresh_token_expired_or_revoked",
        "token_expired_or_revoked",
        "expired_refresh_token",
        "refresh_token_expired",
        "refresh_token_revoked",
        "refresh_token_not_found",  # Supabase (`error_code`)
        "refresh_token_already_used",  # Supabase
        "refresh_token_reused",
        "session_not_found",  # Supabase
        "session_expired",  # Supabase
        "expired_token",
        "token_expired",  # Slack
        "token_revoked",  # Slack
        "invalid_auth",  # Slack
        "revoked_token",
        "token_inactive",
        "token_already_exchanged",  # Slack
        "authorization_not_found",  # Slack
        "account_inactive",  # Slack
        "interaction_required",  # OpenID Connect Core section 3.1.2.6, as Entra answers refreshes
        "login_required",
        "consent_required",
    }
)

# About our client: the registration is dead, and with it every grant that was made by it.
ENDS_REGISTRATION = frozenset(
    {
        "invalid_client",  # RFC 6749 section 5.2
        "unauthorized_client",
        "incorrect_client_credentials",  # GitHub
        "invalid_client_id",  # Slack
        "bad_client_secret",  # Slack
        "client_not_found",
        "unknown_client",
    }
)

# Trouble of the moment, whatever the HTTP status.
FOR_NOW = frozenset(
    {
        "temporarily_unavailable",  # RFC 6749 section 4.1.2.1
        "server_error",
        "slow_down",  # RFC 8628 section 3.5
        "authorization_pending",
        "use_dpop_nonce",  # RFC 9449 section 8: the request may be made again
        "invalid_dpop_proof",
        "rate_limited",
        "ratelimited",  # Slack
        "rate_limit",
        "rate_limit_exceeded",
        "too_many_requests",
        "over_request_rate_limit",  # Supabase
        "request_timeout",  # Slack, Supabase
        "timeout",
        "service_unavailable",  # Slack
        "unavailable",
        "internal_error",  # Slack
        "internal_server_error",
        "fatal_error",  # Slack
        "unexpected_failure",  # Supabase
        "accesslimited",  # Slack
        "team_added_to_org",  # Slack: a workspace on its way into an organisation
    }
)
FOR_NOW_STATUS = frozenset({408, 425, 429})

# `token_type`, without blanks and in lower case. Slack names whose token it is; `BearerToken` is Apigee's.
BEARER_TYPES = frozenset({"", "bearer", "bearertoken", "user", "bot"})

# Where an answer keeps the tokens when not at its top: Slack's user tokens, and envelopes (TikTok and Lark: `data`).
NESTED_TOKENS = ("authed_user", "data", "token", "tokens", "result")

# What stands in `error` where there is none.
NO_ERROR = frozenset({"", "0", "false", "no_error", "none", "null", "ok", "success", "undefined"})

# Where a word for the error stands, in an answer and in the `error` object inside one, each name as `sentence_as_word`
# makes it: RFC 6749 (`error`), Supabase (`error_code`), HubSpot (`status`, `category`), RFC 9457 (`type`).
CODE_MEMBERS = ("error", "errors", "code", "error_code", "errorcode", "type", "status", "category", "reason")
# Where it is said in a sentence; one that is nothing but a word from above counts as that word.
TEXT_MEMBERS = ("error_description", "error_message", "error_summary", "message", "msg", "detail", "title")

# What says nothing in a sentence: `The refresh token has been revoked.` is `refresh_token_revoked`.
_FILLERS = frozenset({"a", "an", "the", "this", "your", "is", "was", "has", "been", "provided", "given"})


def as_word(text: str) -> str:
    """`BAD_REFRESH_TOKEN`, `oauth.v2.InvalidGrant`, `https://x.example/invalid-grant`, written as the words above."""
    return sentence_as_word(re.split(r"[/#:.]", text.strip().rstrip("/#:."))[-1])


def sentence_as_word(text: str) -> str:
    """`Refresh token has expired.`, the whole of it, written as the words above."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)
    return "_".join(word for word in re.findall("[a-z0-9]+", apart.lower()) if word not in _FILLERS)
