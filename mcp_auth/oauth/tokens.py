"""The token endpoint: requests with the right client authentication, and answers of every kind."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import parse_qsl, quote, urlsplit

from mcp_auth.errors import TokenRequestFailed
from mcp_auth.net.http import Answer, Http
from mcp_auth.net.responses import Seen, retry_after
from mcp_auth.net.rules import NetworkRules, shown_host
from mcp_auth.oauth.server_json import json_object
from mcp_auth.oauth.token_words import (
    BEARER_TYPES,
    CODE_MEMBERS,
    ENDS_GRANT,
    ENDS_REGISTRATION,
    FOR_NOW,
    FOR_NOW_STATUS,
    NESTED_TOKENS,
    NO_ERROR,
    TEXT_MEMBERS,
    as_word,
    sentence_as_word,
)
from mcp_auth.records import Registration, ServerMetadata, Tokens

if TYPE_CHECKING:
    from mcp.client.auth.oauth2 import OAuthContext

# The hard deadline of a token request in seconds; leases live longer than this.
TOKEN_TIMEOUT = 20.0
# How deep inside an answer its words are looked for.
_DEPTH = 3
# And among how many others on each level.
_WIDTH = 50
# What is longer is no word.
_LONGEST_WORD = 200
_SECRET_PARAMETERS = ("code", "code_verifier", "refresh_token")


# What an error means for the grant: `ended` and `registration` are final; `refused` is a definite no whose reason is
# not known to be final; `for_now` asks for patience.
Meaning = Literal["ended", "registration", "refused", "for_now"]


@dataclass(frozen=True, slots=True)
class TokenError:
    """A complete answer that is no token. `error` is the OAuth code, or None; `retry_after` is in seconds.

    `is_oauth`: it has the form of an OAuth error. `refresh_token`: a new one that stands in it all the same.
    """

    status: int
    error: str | None
    description: str | None = None
    retry_after: float | None = None
    meaning: Meaning = "for_now"
    is_oauth: bool = False
    refresh_token: str | None = field(default=None, repr=False)

    @property
    def is_gone(self) -> bool:
        """There is no token endpoint at this address, or not any more."""
        return self.status in (404, 405, 410) or 300 <= self.status < 400

    def sentence(self) -> str:
        """What happened, in words fit for a person. Text of the server is cut and cleaned."""
        what = self.error or f"HTTP {self.status}"
        return f"{what}: {self.description}" if self.description else what


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """Tokens, and what the `id_token` says of the account (for display only) and of its issuer."""

    tokens: Tokens
    account: str | None
    id_token_issuer: str | None = None


async def request_tokens(
    http: Http,
    rules: NetworkRules,
    metadata: ServerMetadata,
    registration: Registration,
    form: dict[str, str],
    *,
    now: float,
    timeout: float = TOKEN_TIMEOUT,
) -> TokenResponse | TokenError:
    """POST one token request (RFC 6749 sections 4.1.3 and 6) and read the answer.

    A refresh token is spent by the time of the answer. So new tokens in it are given back whatever else is wrong with
    it, with their `token_type` where that is none of bearer tokens.

    Raises:
        Unreachable: it was not sent. LostAnswer: the outcome is unknown. TokenRequestFailed: the
            registration names a method of authentication that cannot be used.
    """
    answer = await _post(http, rules, metadata.token_endpoint, registration, form, timeout)
    sent = [form.get(name) for name in _SECRET_PARAMETERS] + [registration.client_secret]
    return _read(answer, [secret for secret in sent if secret], now, is_spent=form.get("refresh_token") is not None)


async def revoke_token(
    http: Http, rules: NetworkRules, url: str, registration: Registration, token: str, hint: str
) -> bool:
    """Revoke one token at the revocation endpoint `url` (RFC 7009). True when the server said that it is done.

    Raises:
        Unreachable: no answer.
    """
    form = {"token": token, "token_type_hint": hint}
    answer = await _post(http, rules, url, registration, form, TOKEN_TIMEOUT)
    document = json_object(answer.body) or {}
    return 200 <= answer.status < 300 and not _is_error(document.get("error"))


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


def _read(answer: Answer, secrets: list[str], now: float, *, is_spent: bool) -> TokenResponse | TokenError:
    document = json_object(answer.body) or _form(answer.body) or {}
    holder = _holder(document)
    access_token = _token(holder.get("access_token"))
    refresh_token = _refresh_token(holder.get("refresh_token"))
    # Slack and others answer errors with HTTP 200: the body decides, not the status alone.
    is_good = 200 <= answer.status < 300 and not _is_error(document.get("error"))
    if access_token is None or access_token in secrets or not (is_good or is_spent):
        rescued = refresh_token if is_spent and refresh_token not in secrets else None
        kind = "is a web page" if _is_page(answer) else "holds no access token"
        said = f"its answer {kind}" if is_good else None
        return _error(answer, document, secrets, now, said=said, refresh_token=rescued)
    scheme = _scheme(holder.get("token_type"))
    if scheme is not None and not is_spent:
        return _error(answer, document, secrets, now, said=unusable(scheme))
    expires_in = _seconds(holder.get("expires_in"))
    tokens = Tokens(
        access_token=access_token,
        refresh_token=refresh_token,
        expires_at=None if expires_in is None else now + expires_in,
        obtained_at=now,
        scope=_scope(holder.get("scope")),
        token_type=scheme or "Bearer",
    )
    claims = _claims(holder.get("id_token") or document.get("id_token"))
    return TokenResponse(tokens, _account(claims), claims["iss"] if isinstance(claims.get("iss"), str) else None)


def _form(body: bytes) -> dict[str, Any] | None:
    """An answer in the form of a form, as GitHub gives it to whoever asks for nothing better; None: it is none."""
    try:
        form = dict(parse_qsl(body.decode(errors="replace").strip(), max_num_fields=50))
    except ValueError:
        return None
    # A page may hold anything that looks like a pair.
    is_form = all(re.fullmatch(r"[A-Za-z0-9_.-]+", name) for name in form)
    return form if is_form and {"access_token", "refresh_token", "error"} & form.keys() else None


def _redirect(answer: Answer) -> str | None:
    location = Seen.of(answer.status, answer.headers, answer.url).location
    host = shown_host(urlsplit(location).hostname or "") if location is not None else ""
    return f"it redirects to {host}" if host else None


def _is_page(answer: Answer) -> bool:
    return Seen.of(answer.status, answer.headers, answer.url).is_page


def unusable(scheme: str) -> str:
    """Why tokens of this `token_type` are of no use here."""
    return f"its tokens are of the type {scheme}, and only bearer tokens can be used"


def _holder(document: dict[str, Any]) -> dict[str, Any]:
    """The object with the tokens: the answer itself, or one inside it, which may also say more of the same token."""
    access_token = _token(document.get("access_token"))
    for name in NESTED_TOKENS:
        nested = document.get(name)
        if not isinstance(nested, dict) or _token(nested.get("access_token")) is None:
            continue
        if access_token is None:
            return nested
        if _token(nested.get("access_token")) == access_token:
            # Slack leaves the scope at the top empty.
            return {**nested, **{name: value for name, value in document.items() if value}}
    return document


def _scheme(token_type: object) -> str | None:
    """A `token_type` that is none of bearer tokens, fit to be shown; None: bearer."""
    if not token_type:
        return None
    if not isinstance(token_type, str):
        return "?"
    return None if "".join(token_type.split()).lower() in BEARER_TYPES else plain(token_type, 40) or "?"


def _error(
    answer: Answer,
    document: dict[str, Any],
    secrets: list[str],
    now: float,
    *,
    said: str | None = None,
    refresh_token: str | None = None,
) -> TokenError:
    code = error_code(document)
    shown = code if code and len(code) <= 60 and code.isascii() and code.isprintable() else None
    description = said or error_text(document) or _redirect(answer)
    return TokenError(
        status=answer.status,
        error=shown if shown and _without(secrets, shown) == shown else None,
        description=plain(_without(secrets, description), 200) if description else None,
        retry_after=retry_after(answer.headers.get("retry-after"), now),
        meaning=_meaning(answer.status, document),
        is_oauth=code is not None,
        refresh_token=refresh_token,
    )


def _meaning(status: int, document: dict[str, Any]) -> Meaning:
    """What an answer without tokens means for the grant. Words decide, wherever they stand; then the status does.

    A server in trouble is believed only the one code of the RFC, in its place: others may be about a part of it.
    """
    if status >= 500 or status in FOR_NOW_STATUS:
        return "ended" if document.get("error") == "invalid_grant" else "for_now"
    words = [as_word(word) for word in _said(document, CODE_MEMBERS) if len(word) <= _LONGEST_WORD]
    words += [sentence_as_word(text) for text in _said(document, TEXT_MEMBERS) if len(text) <= _LONGEST_WORD]
    # Atlassian calls the client unauthorized when it is the refresh token that is over: more exact words come first.
    words.sort(key=lambda word: word == "unauthorized_client")
    for word in words:
        if word in ENDS_GRANT:
            return "ended"
        if word in ENDS_REGISTRATION:
            return "registration"
        if word in FOR_NOW:
            return "for_now"
    return "refused" if status >= 300 or error_code(document) is not None else "for_now"


def error_text(document: dict[str, Any]) -> str | None:
    """What an answer says of an error in a sentence, under whichever name."""
    return next(_said(document, TEXT_MEMBERS), None)


def error_code(document: dict[str, Any]) -> str | None:
    """The OAuth error code: `error`, or what stands for it in an object of that name."""
    error = document.get("error")
    if isinstance(error, dict | list):
        error = next(_said({"error": error}, CODE_MEMBERS), None)
    return error if isinstance(error, str) and _is_error(error) else None


def _is_error(value: object) -> bool:
    """Whether what stands in `error` says that there is one."""
    if isinstance(value, str):
        return len(value) > _LONGEST_WORD or not value.isascii() or sentence_as_word(value) not in NO_ERROR
    if isinstance(value, dict):
        return len(value) > _WIDTH or any(map(_is_error, value.values()))
    if isinstance(value, list):
        return len(value) > _WIDTH or any(map(_is_error, value))
    return bool(value)


def _said(value: object, members: tuple[str, ...]) -> Iterator[str]:
    """What stands under these names in an answer, and in what is inside it; the outer ones first.

    No server needs many members to say no: what is beyond that is not looked at.
    """
    level: list[object] = [value]
    for _ in range(_DEPTH + 1):
        inside: list[object] = []
        for one in level[:_WIDTH]:
            if isinstance(one, dict):
                few = dict(islice(one.items(), _WIDTH))
                named = {_member(name): said for name, said in reversed(few.items())}
                for name in members:
                    said = named.get(name)
                    some = said[:_WIDTH] if isinstance(said, list) else [said]
                    yield from (text for text in some if _is_text(text))
                inside += few.values()
            elif isinstance(one, list):
                inside += one[:_WIDTH]
        level = [one for one in inside if isinstance(one, dict | list)]


@lru_cache(maxsize=512)
def _member(name: str) -> str:
    """The name of a member as `CODE_MEMBERS` has it."""
    return sentence_as_word(name[:_LONGEST_WORD])


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def plain(text: str, limit: int) -> str | None:
    """Text of a foreign server, cut and without control or formatting characters; None when nothing is left."""
    cleaned = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(cleaned.split())[:limit] or None


def _token(value: object) -> str | None:
    """A token that can stand in a header (RFC 6750 section 2.1: visible ASCII only), without blanks around it."""
    token = value.strip() if isinstance(value, str) else ""
    return token if token and token.isascii() and token.isprintable() and " " not in token else None


def _refresh_token(value: object) -> str | None:
    """A refresh token, which is sent in a form and so may hold anything (RFC 6749 appendix A.17 has blanks)."""
    return (value.strip() or None) if isinstance(value, str) else None


def _scope(value: object) -> str | None:
    """The scopes of an answer: text, with commas at GitHub and Slack, or a list of texts as some servers send.

    What cannot be shown is left out.
    """
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    split = [scope for text in texts if isinstance(text, str) for scope in re.split(r"[\s,]+", text)]
    scopes = [scope for scope in split if scope and scope.isprintable()]
    return " ".join(dict.fromkeys(scopes)) or None


def _seconds(value: object) -> float | None:
    """`expires_in`: a number, or a string of one as some servers send. Nonsense counts as not given.

    So does 0. By RFC 6749 section 5.1 such a token would have ended as it came; servers that send 0 mean one that never
    ends (VKontakte for offline access, Authlib's and GoToSocial's before they left it out). Where it has ended after
    all, the server's 401 says so and it is refreshed then: one request for nothing. Taken by the letter, an access
    without a refresh token would be lost at once, and one with it refreshed for every call.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 100 * 365 * 86400 else None


def _without(secrets: list[str], text: str) -> str:
    """A server's words without what we sent: some servers repeat it, and their words reach chats and logs."""
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            text = text.replace(form, "***")
    return text


def _claims(id_token: object) -> dict[str, Any]:
    """What an id token says; nothing when it cannot be read.

    It came straight from the token endpoint over TLS, which OpenID Connect Core 1.0 section 3.1.3.7 (item 6) takes in
    place of its signature.
    """
    if not isinstance(id_token, str) or id_token.count(".") != 2:
        return {}
    payload = id_token.split(".")[1]
    try:
        return json_object(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))) or {}
    except ValueError:
        return {}


def _account(claims: dict[str, Any]) -> str | None:
    """Who signed in, for display only: what names the account at its issuer before a name that its bearer chose."""
    for name in ("email", "preferred_username", "upn", "sub", "name"):
        if isinstance(claims.get(name), str):
            return plain(claims[name], 80)
    return None
