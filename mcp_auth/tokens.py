"""The token endpoint: requests with the right client authentication, and answers of every kind."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mcp_auth.errors import TokenRequestFailed
from mcp_auth.http import Answer, Http
from mcp_auth.network import NetworkRules
from mcp_auth.records import Registration, ServerMetadata, Tokens

if TYPE_CHECKING:
    from mcp.client.auth.oauth2 import OAuthContext

# The hard deadline of a token request in seconds; leases live longer than this.
TOKEN_TIMEOUT = 20.0
_SECRET_PARAMETERS = ("code", "code_verifier", "refresh_token")


@dataclass(frozen=True, slots=True)
class TokenError:
    """A complete answer that is no token. `error` is the OAuth code, or None; `retry_after` is in seconds."""

    status: int
    error: str | None
    description: str | None = None
    retry_after: float | None = None

    def sentence(self) -> str:
        """What happened, in words fit for a person. Text of the server is cut and cleaned."""
        what = self.error or f"HTTP {self.status}"
        return f"{what}: {self.description}" if self.description else what


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """Tokens, and what the `id_token` says of the account (for display only)."""

    tokens: Tokens
    account: str | None


async def request_tokens(
    http: Http,
    rules: NetworkRules,
    metadata: ServerMetadata,
    registration: Registration,
    form: dict[str, str],
    *,
    now: float,
    timeout: float = TOKEN_TIMEOUT,
) -> TokenAnswer | TokenError:
    """POST one token request (RFC 6749 sections 4.1.3 and 6) and read the answer.

    Raises:
        Unreachable: it was not sent. LostAnswer: the outcome is unknown. TokenRequestFailed: the
            registration names a method of authentication that cannot be used.
    """
    answer = await _post(http, rules, metadata.token_endpoint, registration, form, timeout)
    sent = [form.get(name) for name in _SECRET_PARAMETERS] + [registration.client_secret]
    return _read(answer, [secret for secret in sent if secret], now)


async def revoke_token(
    http: Http, rules: NetworkRules, metadata: ServerMetadata, registration: Registration, token: str, hint: str
) -> bool:
    """Revoke one token (RFC 7009). True when the server said that it is done.

    Raises:
        Unreachable: no answer.
    """
    if metadata.revocation_endpoint is None:
        return False
    form = {"token": token, "token_type_hint": hint}
    answer = await _post(http, rules, metadata.revocation_endpoint, registration, form, TOKEN_TIMEOUT)
    document = _object(answer)
    return answer.status == 200 and not (document and document.get("error"))


async def _post(
    http: Http, rules: NetworkRules, url: str, registration: Registration, form: dict[str, str], timeout: float
) -> Answer:
    data, headers = _authenticated(registration, form)
    return await http.fetch(rules, "POST", url, headers=headers, form=data, timeout=timeout)


def _authenticated(registration: Registration, form: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    from mcp.client.auth import OAuthTokenError

    data = {**form, "client_id": registration.client_id}
    try:
        return _context(registration).prepare_token_auth(data, {})
    except OAuthTokenError:
        raise TokenRequestFailed(
            "The client is registered with a way of authentication that is not supported.",
            next_step="set oauth.token_endpoint_auth_method in the configuration",
        ) from None


@lru_cache(maxsize=64)
def _context(registration: Registration) -> OAuthContext:
    """The SDK's way of authenticating this client; its models take longer to make than a request takes to send."""
    from mcp.client.auth.oauth2 import OAuthContext
    from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata

    return OAuthContext(
        server_url="",
        client_metadata=OAuthClientMetadata(redirect_uris=None),
        storage=_NoStorage(),
        redirect_handler=None,
        callback_handler=None,
        client_info=OAuthClientInformationFull(
            client_id=registration.client_id,
            client_secret=registration.client_secret,
            token_endpoint_auth_method=registration.token_endpoint_auth_method,
            issuer=registration.issuer,
        ),
    )


class _NoStorage:
    """`OAuthContext` wants a storage; only its client authentication is used here, which needs none."""

    async def get_tokens(self) -> None:
        return None

    async def set_tokens(self, tokens: object) -> None:
        raise NotImplementedError("tokens are stored by mcp_auth.stores")

    async def get_client_info(self) -> None:
        return None

    async def set_client_info(self, client_info: object) -> None:
        raise NotImplementedError("registrations are stored by mcp_auth.stores")


def _read(answer: Answer, secrets: list[str], now: float) -> TokenAnswer | TokenError:
    document = _object(answer)
    # Slack and others answer errors with HTTP 200: the body decides, not the status.
    if document is None or answer.status not in (200, 201) or "error" in document or "access_token" not in document:
        return _error(answer, document or {}, secrets, now)
    access_token = document["access_token"]
    token_type = document.get("token_type", "Bearer")
    if not _is_token(access_token) or not isinstance(token_type, str) or token_type.lower() != "bearer":
        return TokenError(answer.status, None, "the answer holds no bearer token")
    refresh_token = document.get("refresh_token")
    scope = document.get("scope")
    expires_in = _seconds(document.get("expires_in"))
    return TokenAnswer(
        Tokens(
            access_token=access_token,
            refresh_token=refresh_token if _is_token(refresh_token) else None,
            expires_at=None if expires_in is None else now + expires_in,
            obtained_at=now,
            scope=scope if isinstance(scope, str) and scope else None,
        ),
        _account(document.get("id_token")),
    )


def _error(answer: Answer, document: dict[str, Any], secrets: list[str], now: float) -> TokenError:
    error = document.get("error")
    code = error if isinstance(error, str) and 0 < len(error) <= 60 and error.isascii() and error.isprintable() else ""
    description = document.get("error_description")
    return TokenError(
        status=answer.status,
        error=code if code and _without(secrets, code) == code else None,
        description=plain(_without(secrets, description), 200) if isinstance(description, str) else None,
        retry_after=_retry_after(answer.headers.get("retry-after"), now),
    )


def plain(text: str, limit: int) -> str | None:
    """Text of a foreign server, cut and without control or formatting characters; None when nothing is left."""
    cleaned = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(cleaned.split())[:limit] or None


def _is_token(value: object) -> bool:
    """A header-safe, non-empty string: RFC 6750 allows visible ASCII only."""
    return isinstance(value, str) and value != "" and all(33 <= ord(c) <= 126 for c in value)


def _seconds(value: object) -> float | None:
    """`expires_in`: a number, or a string of one as some servers send. Nonsense counts as not given."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 100 * 365 * 86400 else None


def _without(secrets: list[str], text: str) -> str:
    """A server's words without what we sent: some servers repeat it, and their words reach chats and logs."""
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, "***")
    return text


def _retry_after(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def _object(answer: Answer) -> dict[str, Any] | None:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _account(id_token: object) -> str | None:
    """Who signed in, for display only: it came straight from the issuer over TLS and is not verified again."""
    if not isinstance(id_token, str) or id_token.count(".") != 2:
        return None
    payload = id_token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    for name in ("email", "preferred_username", "name", "sub"):
        if isinstance(claims.get(name), str):
            return plain(claims[name], 80)
    return None
