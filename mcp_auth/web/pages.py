"""Our own pages: what is known, as HTML. No request is read here, and nothing is changed.

A page carries its style and script inside, allowed by their hashes, so that it works under whatever path it is mounted.
What only one browser may see is shown by a shell: its script posts the secret that the browser keeps, and puts the
answer, the middle of a page as JSON, in its place.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, JSONResponse, Response

from mcp_auth.kinds import kind_of
from mcp_auth.links.tickets import secret_name, shown_code
from mcp_auth.net.sites import browser_host
from mcp_auth.oauth.tokens import plain
from mcp_auth.outcome import Next, Step
from mcp_auth.records import KeyForm, Linked, SignIn
from mcp_auth.requester import asked_by
from mcp_auth.web import page_texts as texts

# A next step in the words of the chat.
Typed = Callable[[Step], str]
_MARKS = {"good": "M5 13l4.5 4.5L19 7", "bad": "M7 7l10 10M17 7L7 17", "note": "M12 6v8M12 18v.01"}
# One long token without a break would push a phone's page out of shape.
_LONGEST_NAME = 80
_SCOPES_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `state`: what its script compares when it asks again. `onward`: where it goes by itself.

    `task` and `name`: what its script does (start, page, answer, login), and the name under which the browser keeps its
    secret. None: it has no script.
    """

    template: str
    status: int
    heading: str
    state: str
    context: Mapping[str, Any]
    tone: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None
    name: str | None = None
    has_form: bool = False
    onward: str | None = None

    def response(self, *, as_json: bool, typed: Typed = str) -> Response:
        """The whole document, or its middle for the script of a shell."""
        return self.fragment(typed) if as_json else self.document(typed)

    def document(self, typed: Typed = str) -> HTMLResponse:
        script = _script() if self.task is not None else None
        policy = _policy(self.has_form, script)
        return HTMLResponse(self._html(script, typed), self.status, {"Content-Security-Policy": policy})

    def fragment(self, typed: Typed = str) -> JSONResponse:
        told = {
            "state": self.state,
            "title": self.title,
            "tone": self.tone,
            "main": self._html(None, typed, is_whole=False),
            "onward": self.onward,
        }
        return JSONResponse(told, self.status)

    @property
    def title(self) -> str:
        return _named(self.heading, **self.names).striptags()

    def _html(self, script: Markup | None, typed: Typed, *, is_whole: bool = True) -> str:
        given = {"mark": None, "refresh": None, **self.context}
        return (
            _templates()
            .get_template(self.template)
            .render(
                texts=texts,
                style=_style(),
                page=self,
                heading=self.heading,
                names=self.names,
                is_whole=is_whole,
                script=script,
                typed=typed,
                **given,
            )
        )


@dataclass(frozen=True, slots=True)
class Message:
    """A page that says how things stand. `tone`: good, bad or note. `command`: what to do next in the chat."""

    heading: str
    lines: tuple[str, ...]
    tone: str
    status: int = 200
    names: Mapping[str, str] | None = None
    facts: tuple[tuple[str, str], ...] = ()
    command: Step | None = None
    closing: str | None = None
    # Seconds after which the page is asked for again.
    refresh: int | None = None


def message_page(message: Message, state: str = "ended") -> Page:
    """A result, a refusal, or that something is not finished yet."""
    step = message.command
    is_command = isinstance(step, Next) and step.around == "{}"
    return Page(
        "message.html",
        message.status,
        message.heading,
        "working" if message.refresh else state,
        {
            "mark": None if message.refresh else _MARKS[message.tone],
            "lines": [line for line in message.lines if line],
            "facts": message.facts,
            "command": step if is_command else None,
            # In words: a sentence of its own.
            "advice": None if is_command else step,
            "closing": message.closing,
            "refresh": message.refresh,
        },
        tone=message.tone,
        names=_shown(message.names or {}),
    )


def shell_page(record: Linked, task: str) -> Page:
    """What only the bound browser may see: its script asks for it. `task`: page, or answer (back from a sign-in)."""
    heading = texts.WORKING_HEADING if task == "answer" else texts.SHELL_HEADING
    return Page("shell.html", 200, heading, "shell", {}, tone="note", task=task, name=_name(record))


@dataclass(frozen=True, slots=True)
class Start:
    """What the first page of one kind of link says. `facts` and `scopes`: beside who asked, where and until when."""

    heading: str
    lead: str
    # The server's own address, and the host to which the browser is sent.
    address: str = ""
    host: str = ""
    facts: tuple[tuple[str, str, str], ...] = ()
    # What is asked for, and whether that is new.
    scopes: tuple[tuple[str, bool], ...] = ()


def start_page(
    record: Linked, start: Start, form: str, secret: str, now: float, *, error: str | None = None, status: int = 200
) -> Page:
    """Who asked, for what, until when; and the button that goes on.

    `secret`: binds a browser without script. A script puts the one that it keeps in its place.
    """
    name, place = asked_by(record.origin.principal, plain(record.origin.display_name, _LONGEST_NAME) or "")
    facts = [
        (texts.WHO, name, place),
        (texts.WHERE, plain(record.server, _LONGEST_NAME) or "?", start.address),
        *start.facts,
        (texts.UNTIL, *texts.until(record.expires_at, now)),
    ]
    scopes = [(plain(scope, _LONGEST_NAME) or "?", is_new) for scope, is_new in start.scopes]
    return Page(
        "start.html",
        status,
        start.heading,
        "start",
        {
            "lead": start.lead,
            "facts": facts,
            "scopes": scopes[:_SCOPES_SHOWN],
            "more_scopes": texts.MORE_SCOPES.format(count=len(scopes) - _SCOPES_SHOWN)
            if len(scopes) > _SCOPES_SHOWN
            else "",
            "hidden": {"form": form, "secret": secret, "kept": ""},
            "error": error,
        },
        names=_shown({"server": record.server, "host": start.host}),
        task="start",
        name=_name(record),
        has_form=True,
    )


def code_page(
    record: Linked,
    code: str | None,
    now: float,
    *,
    uses_code: bool = True,
    button: str | None = None,
    login: tuple[str, str] | None = None,
    carried: Mapping[str, str] | None = None,
) -> Page:
    """How to prove that it is you: the code (`code` None: the button that asks for a new one), a login, or both.

    Args:
        button: opens the chat with the code in it.
        login: what the button of the platform's login says, and its URL.
        carried: goes along in the forms of a browser without script. None: a script looks whether it goes on.
    """
    is_over = uses_code and code is None
    return Page(
        "code.html",
        200,
        texts.CODE_HEADING,
        "code-over" if is_over else "code",
        {
            "lead": texts.LOGIN_LEAD if not uses_code else texts.CODE_LEAD if carried is None else texts.CODE_LEAD_FORM,
            "is_over": is_over,
            **_coded(record, code, button),
            "login": login,
            "waiting": texts.waiting(_waits_until(record, code), now),
            "hidden": carried or {},
        },
        names=_shown({"who": _who(record)}),
        has_form=carried is not None or is_over,
    )


def last_page(
    sign_in: SignIn, hidden: Mapping[str, str], code: str | None, *, button: str | None = None, error: str | None = None
) -> Page:
    """The authorization server has answered a browser without script: whose it is is asked now, and only here.

    `hidden`: the answer and the one-time secret. `code` None: no code is needed, or it has been sent.
    """
    return Page(
        "last.html",
        200,
        texts.CODE_HEADING if code is not None else texts.LAST_HEADING,
        "last",
        {
            **_coded(sign_in, code, button),
            "action": _last_action(sign_in, hidden),
            "hidden": hidden,
            "error": error,
        },
        names=_shown({"who": _who(sign_in), "server": sign_in.server}),
        has_form=True,
    )


def _last_action(sign_in: SignIn, hidden: Mapping[str, str]) -> str:
    """With its `state` an answer of ours is known before the form is read, however many addresses ask."""
    return f"{urlsplit(sign_in.redirect_uri).path}?{urlencode({'state': hidden.get('state', '')})}"


def login_page(record: Linked, fields: Sequence[str], answer: Mapping[str, str]) -> Page:
    """Back from a platform's login. Some send their answer behind a `#`, which only a script can read."""
    return Page(
        "login.html",
        200,
        texts.LOGIN_HEADING,
        "login",
        {"inputs": [(name, answer.get(name, "")) for name in fields], "is_complete": bool(answer)},
        task="login",
        name=_name(record),
    )


def go_page(sign_in: SignIn) -> Page:
    """On to the authorization server. A page of its own: a redirect after a form would need its host in the policy."""
    return Page(
        "go.html",
        200,
        texts.GO_HEADING,
        "go",
        {"lead": texts.GO_LEAD, "url": sign_in.authorization_url},
        names=_shown({"host": browser_host(sign_in.metadata)}),
        onward=sign_in.authorization_url,
    )


def key_page(
    form: KeyForm,
    *,
    error: str | None = None,
    may_store: bool = False,
    where: str | None = None,
    carried: Mapping[str, str] | None = None,
    status: int = 200,
) -> Page:
    """The inputs. What was typed is never put back into them. `carried`: as in `code_page`."""
    return Page(
        "key.html",
        status,
        texts.KEY_HEADING,
        "key",
        {
            "fields": form.fields,
            "hidden": carried or {},
            "error": error,
            "may_store": may_store,
            "where": where,
        },
        names=_shown({"server": form.server}),
        has_form=True,
    )


def _coded(record: Linked, code: str | None, button: str | None) -> dict[str, Any]:
    return {
        "code": shown_code(code) if code else None,
        "confirm": Next("confirm", arguments=(shown_code(code),), is_secret=True) if code else None,
        # Letter by letter, for those who hear the page.
        "spelled": " ".join(code) if code else None,
        "button": button,
        "button_label": texts.confirm_in(record.origin.principal),
    }


def _policy(has_form: bool, script: Markup | None) -> str:
    parts = ["default-src 'none'", f"style-src '{_hash(_style())}'", "img-src data:"]
    if script is not None:
        parts += [f"script-src '{_hash(script)}'", "connect-src 'self'"]
    parts += ["form-action 'self'" if has_form else "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"]
    return "; ".join(parts)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("mcp_auth.web", "templates"),
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
def _script() -> Markup:
    return Markup(_packaged("page.js"))  # noqa: S704 - our own file


def _packaged(name: str) -> str:
    return files("mcp_auth.web").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shown(names: Mapping[str, str]) -> dict[str, str]:
    return {name: plain(value, _LONGEST_NAME) or "?" for name, value in names.items()}


def _waits_until(record: Linked, code: str | None) -> float:
    """When the page stops waiting: with the code, or with the link."""
    if code is None or record.binding is None:
        return record.expires_at
    return min(record.expires_at, record.binding.code_expires_at)


def _name(record: Linked) -> str:
    return secret_name(kind_of(record).letter, record.id, record.created_at)


def _who(record: Linked) -> str:
    name, place = asked_by(record.origin.principal, plain(record.origin.display_name, _LONGEST_NAME) or "")
    return f"{name} ({place})" if place else name
