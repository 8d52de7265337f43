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
        "refresh_token_invalid",
        "refresh_token_is_invalid",  # Atlassian, in its description
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

# `token_type`, without blanks and in lower case. Slack names whose token it is.
BEARER_TYPES = frozenset({"", "bearer", "user", "bot"})

# Where an answer keeps the tokens when not at its top: Slack's user tokens.
NESTED_TOKENS = ("authed_user",)

# Where a word for the error stands, in an answer and in the `error` object inside one: RFC 6749 (`error`), Supabase
# (`error_code`), HubSpot (`status`), RFC 9457 (`type`).
CODE_MEMBERS = ("error", "code", "error_code", "errorCode", "errorcode", "type", "status", "reason")
# Where it is said in a sentence; one that is nothing but a word from above counts as that word.
TEXT_MEMBERS = ("error_description", "message", "msg", "detail", "title")


def as_word(text: str) -> str:
    """`BAD_REFRESH_TOKEN`, `oauth.v2.InvalidGrant`, `https://x.example/invalid-grant`, written as the words above."""
    return sentence_as_word(re.split(r"[/#:.]", text.strip().rstrip("/#:."))[-1])


def sentence_as_word(text: str) -> str:
    """`Refresh token expired.`, the whole of it, written as the words above."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", apart.lower()).strip("_")
