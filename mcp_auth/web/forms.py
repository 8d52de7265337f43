"""The forms of our pages, and the cookies by which a browser is known again where it has no script."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mcp_auth.kinds import kind_of
from mcp_auth.links import tickets
from mcp_auth.net.rules import is_loopback_url
from mcp_auth.records import Linked, SignIn
from mcp_auth.web.guards import BODY_SECONDS

_MAX_BODY = 64 * 1024
# The field with a form's token, in the forms behind Continue.
OURS = "ours"
# Longer than any sign-in: the cookie must be there when the authorization server sends the browser back.
_COOKIE_SECONDS = 3600


class Forms:
    """Of the pages below one public address."""

    def __init__(self, public_url: str | None) -> None:
        plain_http = public_url is not None and is_loopback_url(public_url)
        # Without TLS a browser takes no `__Host-` cookie; on loopback nobody listens in.
        self._secure = not plain_http
        self._cookies = "slash-mcp" if plain_http else "__Host-slash-mcp"

    def cookie_name(self, record: Linked) -> str:
        return f"{self._cookies}-{tickets.secret_name(kind_of(record).letter, record.id, record.created_at)}"

    def form_cookie_name(self, record: Linked) -> str:
        return f"{self.cookie_name(record)}-form"

    def form_cookie(self, request: Request, record: Linked) -> str | None:
        value = _cookie(request, self.form_cookie_name(record))
        return value if tickets.is_secret(value) else None

    def kept_cookie(self, request: Request, record: Linked | None) -> str | None:
        """The secret of a browser without script, where one is bound."""
        if record is None or record.binding is None or record.binding.kept_in != "cookie":
            return None
        secret = (_cookie(request, self.cookie_name(record)) or "").partition(".")[0]
        return secret if tickets.is_secret(secret) else None

    def kept_ticket(self, request: Request, record: SignIn | None) -> str | None:
        """The ticket of the page that a browser without script continued on."""
        ticket = (_cookie(request, self.cookie_name(record)) or "").partition(".")[2] if record is not None else ""
        return ticket if tickets.slot_of(ticket) is not None else None

    def is_own_form(self, request: Request, record: Linked, token: str) -> bool:
        """Whether a form with this token was sent by our own page in this very browser."""
        if is_foreign(request):
            return False
        return tickets.is_form_token(token, self.form_cookie(request, record), request.path_params["ticket"])

    def carried(self, request: Request, record: Linked, secret: str) -> dict[str, str] | None:
        """What goes from form to form in a browser without script; None: a script keeps it."""
        if is_scripted(record):
            return None
        cookie = self.form_cookie(request, record) or ""
        return {"secret": secret, OURS: tickets.form_token(cookie, request.path_params["ticket"])}

    def set_cookie(self, answer: Response, name: str, value: str) -> None:
        answer.set_cookie(
            name, value, max_age=_COOKIE_SECONDS, path="/", secure=self._secure, httponly=True, samesite="lax"
        )


def _cookie(request: Request, name: str) -> str | None:
    """The one cookie of exactly this name, when it can be ours.

    Starlette strips what Unicode calls white space from names, so that a neighbouring host could set what reads as
    `__Host-...` here (RFC 6265 section 5.4 leaves nothing to strip but one space). Two of a name: one was tossed in.
    """
    sent = [pair.strip(" \t") for header in request.headers.getlist("cookie") for pair in header.split(";")]
    values = [value for sent_name, _, value in (pair.partition("=") for pair in sent) if sent_name == name]
    return values[0] if len(values) == 1 else None


async def read_form(request: Request) -> dict[str, str]:
    """A small urlencoded form; what stands in it twice counts as not given.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    except ClientDisconnect:
        raise HTTPException(400) from None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise HTTPException(400) from None
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def is_foreign(request: Request) -> bool:
    """Whether another site, or another port of this host, sends it: browsers say so."""
    # A page under `no-referrer` sends the origin as "null", so only another site's is telling.
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def is_scripted(record: Linked) -> bool:
    """Whether the browser that is bound keeps its secret in a script's storage."""
    return record.binding is not None and record.binding.kept_in == "storage"


def is_carried(record: Linked) -> bool:
    """Whether the secret of the browser that is bound goes from form to form."""
    return record.binding is not None and record.binding.kept_in == "forms"


def posted_secret(given: Mapping[str, str]) -> str | None:
    secret = given.get("secret")
    return secret if tickets.is_secret(secret) else None
