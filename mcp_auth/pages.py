"""Our own pages: what is known, as HTML. No request is read here, and nothing is changed.

A page carries its style and script inside, allowed by their hashes, so that it needs no second request and works
under whatever path it is mounted.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from mcp_auth import page_texts as texts
from mcp_auth.network import shown_host
from mcp_auth.records import KeyForm, Linked, SignIn
from mcp_auth.sites import browser_host, issued_elsewhere
from mcp_auth.tickets import shown_code
from mcp_auth.tokens import plain

_MARKS = {"good": "M5 13l4.5 4.5L19 7", "bad": "M7 7l10 10M17 7L7 17", "note": "M12 6v8M12 18v.01"}
# One long token without a break would push a phone's page out of shape.
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Message:
    """A page that says how things stand. `tone`: good, bad or note. `command`: the next one, for the chat."""

    heading: str
    lines: tuple[str, ...]
    tone: str
    status: int = 200
    names: Mapping[str, str] | None = None
    facts: tuple[tuple[str, str], ...] = ()
    command: str | None = None
    closing: str | None = None
    # Seconds after which the page is asked for again.
    refresh: int | None = None


def message_page(message: Message) -> HTMLResponse:
    """A result, a refusal, or that something is not finished yet."""
    command, lines = message.command, [line for line in message.lines if line]
    if command is not None and not command.startswith("/mcp"):
        # A next step in words is a sentence of its own.
        lines.append(f"{command[0].upper()}{command[1:]}.")
        command = None
    return _render(
        "message.html",
        message.status,
        heading=message.heading,
        names=_shown(message.names or {}),
        tone=message.tone,
        mark=None if message.refresh else _MARKS[message.tone],
        lines=lines,
        facts=message.facts,
        command=command,
        closing=message.closing,
        refresh=message.refresh,
        state="working" if message.refresh else None,
        script=_script("wait.js") if message.refresh else None,
    )


def start_page(record: Linked, form: str, now: float, *, error: str | None = None, status: int = 200) -> HTMLResponse:
    """Who asked, for what, until when; and the button that goes on."""
    is_key = isinstance(record, KeyForm)
    name, place = texts.asked_by(record.origin.principal, plain(record.origin.display_name, _LONGEST_NAME) or "")
    facts: list[tuple[str, str, str]] = [
        (texts.WHO, name, place),
        (texts.WHERE, plain(record.server, _LONGEST_NAME) or "?", _address(record)),
    ]
    if isinstance(record, SignIn):
        elsewhere = issued_elsewhere(record.metadata)
        facts.append((texts.ISSUER, _browser_host(record), texts.issued_by(elsewhere) if elsewhere else ""))
    facts.append((texts.UNTIL, *texts.until(record.expires_at, now)))
    return _render(
        "start.html",
        status,
        heading=texts.KEY_HEADING if is_key else texts.SIGN_IN_HEADING,
        lead=texts.KEY_START_LEAD if is_key else texts.SIGN_IN_LEAD,
        names=_shown({"server": record.server, "host": _browser_host(record)}),
        facts=facts,
        form=form,
        error=error,
        has_form=True,
    )


def code_page(
    record: Linked,
    code: str | None,
    form: str,
    now: float,
    *,
    uses_code: bool = True,
    button: str | None = None,
    login: tuple[str, str] | None = None,
) -> HTMLResponse:
    """How to prove that it is you: the code (`code` None: the button that asks for a new one), a login, or both.

    `button`: opens the chat with the code in it. `login`: what the button of the platform's login says, and its URL.
    """
    name, place = texts.asked_by(record.origin.principal, plain(record.origin.display_name, _LONGEST_NAME) or "")
    return _render(
        "code.html",
        200,
        heading=texts.CODE_HEADING,
        lead=texts.CODE_LEAD if uses_code else texts.LOGIN_LEAD,
        names=_shown({"who": f"{name} ({place})" if place else name}),
        uses_code=uses_code,
        code=shown_code(code) if code else None,
        # Letter by letter, for those who hear the page.
        spelled=" ".join(code) if code else None,
        button=button,
        button_label=texts.confirm_in(record.origin.principal),
        login=login,
        waiting=texts.waiting(_waits_until(record, code), now),
        form=form,
        state="code" if code or not uses_code else None,
        script=_script("wait.js") if code or not uses_code else None,
        has_form=uses_code and code is None,
    )


def login_page(form: str, fields: Sequence[str], answer: Mapping[str, str]) -> HTMLResponse:
    """Back from a platform's login. Some send their answer behind a `#`, which only a script can read."""
    return _render(
        "login.html",
        200,
        heading=texts.LOGIN_HEADING,
        form=form,
        inputs=[(name, answer.get(name, "")) for name in fields],
        is_complete=bool(answer),
        script=None if answer else _script("login.js"),
        has_form=True,
    )


def go_page(sign_in: SignIn) -> HTMLResponse:
    """On to the authorization server. A page of its own: a redirect after a form would need its host in the policy."""
    return _render(
        "go.html",
        200,
        heading=texts.GO_HEADING,
        lead=texts.GO_LEAD,
        names=_shown({"host": _browser_host(sign_in)}),
        url=sign_in.authorization_url,
    )


def key_page(
    form: KeyForm,
    token: str,
    *,
    error: str | None = None,
    may_store: bool = False,
    where: str | None = None,
    status: int = 200,
) -> HTMLResponse:
    """The inputs. What was typed is never put back into them."""
    return _render(
        "key.html",
        status,
        heading=texts.KEY_HEADING,
        names=_shown({"server": form.server}),
        fields=form.fields,
        form=token,
        error=error,
        may_store=may_store,
        where=where,
        has_form=True,
    )


def _render(template: str, status: int, *, has_form: bool = False, **context: Any) -> HTMLResponse:
    given = {"tone": "", "mark": None, "state": None, "script": None, "refresh": None, "names": {}, **context}
    body = _templates().get_template(template).render(texts=texts, style=_style(), **given)
    return HTMLResponse(body, status, {"Content-Security-Policy": _policy(has_form, given["script"])})


def _policy(has_form: bool, script: Markup | None) -> str:
    parts = ["default-src 'none'", f"style-src '{_hash(_style())}'", "img-src data:"]
    if script is not None:
        parts += [f"script-src '{_hash(script)}'", "connect-src 'self'"]
    parts += ["form-action 'self'" if has_form else "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
    return "; ".join(parts)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("mcp_auth", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        auto_reload=False,
    )
    environment.filters["named"] = _named
    return environment


def _named(text: str, **names: str) -> Markup:
    """A sentence with its names filled in, each kept apart from the direction of the writing around it."""
    isolated = {name: Markup("<bdi>{}</bdi>").format(value) for name, value in names.items()}
    return escape(text).format(**isolated)


@cache
def _style() -> Markup:
    return Markup(_packaged("style.css"))  # noqa: S704 - our own file


@cache
def _script(name: str) -> Markup:
    return Markup(_packaged(name))  # noqa: S704 - our own file


def _packaged(name: str) -> str:
    return files("mcp_auth").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shown(names: Mapping[str, str]) -> dict[str, str]:
    return {name: plain(value, _LONGEST_NAME) or "?" for name, value in names.items()}


def _waits_until(record: Linked, code: str | None) -> float:
    """When the page stops waiting: with the code, or with the link."""
    if code is None or record.gate is None:
        return record.expires_at
    return min(record.expires_at, record.gate.code_expires_at)


def _address(record: Linked) -> str:
    return _host(record.server_url) if isinstance(record, SignIn) else ""


def _browser_host(record: Linked) -> str:
    return browser_host(record.metadata) if isinstance(record, SignIn) else ""


def _host(url: str) -> str:
    return shown_host(urlsplit(url).hostname or "")
