"""The answer of an authorization server, as it comes back: a redirect's parameters, or what a person pastes. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, urlsplit

from mcp_auth.errors import CallbackRejected

_MAX = 8192
_NAMES = ("code", "state", "iss", "error", "error_description", "error_uri")
# RFC 6749 appendix A.11. Anything else could not be sent on.
_SENDABLE = re.compile(r"[\x20-\x7e]*")
_CODE = re.compile(r"[\x21-\x7e]{4,4096}")
_STATE = re.compile(r"([0-9a-f]{32})\.[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True, repr=False)
class AuthorizationResponse:
    """The parameters that count (RFC 6749 section 4.1.2, RFC 9207). `redirect_uri`: where they arrived, no query.

    `repr` shows none of the values.
    """

    code: str | None = None
    state: str | None = None
    iss: str | None = None
    error: str | None = None
    error_description: str | None = None
    redirect_uri: str | None = None

    def __repr__(self) -> str:
        given = [name for name in self.__slots__ if getattr(self, name) is not None]
        return f"AuthorizationResponse({', '.join(given)})"

    @property
    def slot(self) -> str | None:
        """The slot that the `state` names, or None when it is not a state of ours."""
        return slot_of(self.state)


@dataclass(frozen=True, slots=True)
class Binding:
    """What is known of the one who brings the answer.

    `principal`: who pasted it in a chat. None: it arrived at the endpoint, where `redirect_uri` is checked.
    `browser`: the secret of the browser in which it arrived there; a sign-in that began with a link of ours wants the
    right one. `last`: the one-time secret of a last page that was sent. `identity`: who is proven to sit there.
    """

    principal: str | None = None
    browser: str | None = field(default=None, repr=False)
    last: str | None = field(default=None, repr=False)
    identity: str | None = None


def slot_of(state: str | None) -> str | None:
    """The slot in a `state` of our form, else None."""
    match = _STATE.fullmatch(state) if state else None
    return match.group(1) if match else None


def parse_query(query: str, redirect_uri: str | None = None) -> AuthorizationResponse:
    """The answer in a query string.

    Raises:
        CallbackRejected: a parameter stands in it twice, it is far too long, or its code cannot be one.
    """
    if len(query) > _MAX:
        raise CallbackRejected("That address is far too long to be an answer of an authorization server.")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50, errors="replace")
    except ValueError:
        raise CallbackRejected("That address has far too many parameters.") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in _NAMES:
            continue
        if name in values:
            raise CallbackRejected(f"The parameter {name} stands in the address twice, so it is not trusted.")
        values[name] = value
    if not _SENDABLE.fullmatch(values.get("code", "")):
        raise CallbackRejected("The code in that address holds characters that no code has.")
    return AuthorizationResponse(
        code=values.get("code") or None,
        state=values.get("state") or None,
        iss=values.get("iss"),
        error=values.get("error") or None,
        error_description=values.get("error_description") or None,
        redirect_uri=redirect_uri,
    )


def parse_paste(text: str) -> AuthorizationResponse:
    """What a person pastes: the whole address, its query, `code#state`, or the bare code.

    Raises:
        CallbackRejected: it is none of these.
    """
    text = text.strip().strip("<>\"'`").strip()
    if not text or len(text) > _MAX or any(c.isspace() for c in text):
        raise CallbackRejected(
            "That is not the address of the last page.",
            next_step="copy the whole address from the browser's address bar, from http to its end",
        )
    url = _as_url(text)
    if url is not None:
        # A few servers answer in the fragment; the query wins when both are there.
        return parse_query(url.query or url.fragment, f"{url.scheme}://{url.netloc}{url.path}")
    query = text[1:] if text.startswith("?") else text
    if re.search(r"(^|&)(code|error|state)=", query):
        return parse_query(query)
    code, hash_sign, state = text.partition("#")
    if hash_sign and _CODE.fullmatch(code) and slot_of(state):
        return AuthorizationResponse(code=code, state=state)
    if _CODE.fullmatch(text) and "://" not in text:
        return AuthorizationResponse(code=text)
    raise CallbackRejected(
        "That is not the address of the last page.",
        next_step="copy the whole address from the browser's address bar, from http to its end",
    )


def pasted_slot(text: str) -> str | None:
    """The slot that a bare text names when it is a whole redirect URL with a state of our form, else None.

    Never raises: any message of a chat may be asked about.
    """
    text = text.strip().strip("<>")
    if len(text) > _MAX or not text.lower().startswith(("http://", "https://")) or any(c.isspace() for c in text):
        return None
    try:
        return parse_paste(text).slot
    except CallbackRejected:
        return None


def _as_url(text: str) -> SplitResult | None:
    if not text.lower().startswith(("http://", "https://", "localhost", "127.0.0.1", "[::1]")):
        return None
    if not text.lower().startswith("http"):
        text = f"http://{text}"
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        raise CallbackRejected("That address cannot be read.", next_step="copy it once more, whole") from None
    return url
