"""WhatsApp's side of the Cloud API on loopback: what a bot's client library talks to, and who sends its webhooks.

Spoken, after the pages under https://developers.facebook.com/documentation/business-messaging/whatsapp:

- `POST /<version>/<phone number id>/messages` (reference "Messages", guides "Text messages", "Interactive reply buttons
  messages", "Interactive list messages", "Interactive call-to-action URL button messages", "Mark messages as read",
  "Typing indicators"). Lengths, counts, required members and uniqueness are checked as those pages state them; a
  member that they do not name is refused. The length of a button's URL is not documented for these messages; the
  templates' 2000 is taken.
- `GET /<version>/<phone number id>?fields=` (reference "Phone number") and `GET /<version>/me/permissions` (Graph API).
- Errors by the page "Error codes": the error object with its code; the HTTP status is the one that the page gives.
- The 24-hour rule ("Customer service windows"): 131047, as an answer or, as mostly in production, by a status webhook.
- Webhooks ("messages webhook reference", "Webhook security"): text, button and list answers, statuses, several in one
  delivery; `X-Hub-Signature-256` over the raw bytes; the verification GET. Identifiers after "Business-scoped user
  IDs": `user_id` always, `wa_id` unless the person hides the number, no `contacts` with a failed status.

Not spoken: media, templates, flows, calls, groups.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
import hmac
import itertools
import json
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.patience import PATIENCE
from tests.servers.oauth import LostResponse

WINDOW_SECONDS = 24 * 3600
_ERRORS = {
    2: (503, "Service temporarily unavailable"),
    10: (403, "Application does not have permission for this action"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    190: (401, "Error validating access token: Session has expired"),
    80007: (429, "Rate limit issues"),
    130429: (429, "Rate limit hit"),
    131000: (500, "Something went wrong"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131047: (400, "Re-engagement message"),
    131051: (400, "Unsupported message type"),
    131056: (429, "(Business Account, Consumer Account) pair rate limit hit"),
}


class Refused(Exception):
    """The request is not what the documentation asks for."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


@dataclass
class Person:
    """Somebody with WhatsApp. `wrote_at`: when they last wrote, which opens the 24 hours."""

    wa_id: str
    user_id: str
    name: str = "Ada"
    hides_number: bool = False
    unreachable: bool = False
    wrote_at: float | None = None

    @property
    def contact(self) -> dict[str, Any]:
        number = {} if self.hides_number else {"wa_id": self.wa_id}
        return {"profile": {"name": self.name}, "user_id": self.user_id, **number}


ADA = "16505551234"


@dataclass
class Sent:
    """One message that was accepted, as it arrived."""

    id: str
    to: Person
    payload: dict[str, Any]

    @property
    def text(self) -> str:
        """What the person reads."""
        if self.payload["type"] == "text":
            return str(self.payload["text"]["body"])
        shown = self.payload["interactive"]
        parts = [shown.get("header", {}).get("text"), shown["body"]["text"], shown.get("footer", {}).get("text")]
        return "\n".join(part for part in parts if part)

    @property
    def url(self) -> str | None:
        """The address behind the URL button."""
        parameters = self.payload.get("interactive", {}).get("action", {}).get("parameters", {})
        return str(parameters["url"]) if "url" in parameters else None

    @property
    def choices(self) -> dict[str, str]:
        """Title -> id of everything to tap that answers."""
        action = self.payload.get("interactive", {}).get("action", {})
        replies = [button["reply"] for button in action.get("buttons", ())]
        rows = [row for section in action.get("sections", ()) for row in section["rows"]]
        return {one["title"]: one["id"] for one in (*replies, *rows)}


@dataclass
class CloudApi:
    """The server. `faults` are used up before the real thing: an error code, `drop` (the connection breaks before
    anything happened) or `lost` (it breaks after the message was accepted)."""

    base_url: str
    phone_id: str = "106540352242922"
    waba_id: str = "102290129340398"
    token: str = field(default_factory=lambda: f"EAAG{secrets.token_hex(24)}")
    app_secret: str = field(default_factory=lambda: secrets.token_hex(16))
    verify_token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    webhook: str = ""
    permissions: tuple[str, ...] = ("whatsapp_business_messaging", "whatsapp_business_management")
    window_errors: str = "webhook"  # or "response"
    statuses: bool = False  # tell of every message that it was sent and delivered
    people: dict[str, Person] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    read: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[int | str] = field(default_factory=list)
    requests: int = 0
    clock: Callable[[], float] = time.time
    _ids: Any = field(default_factory=lambda: itertools.count(1))
    _received: set[str] = field(default_factory=set)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.person(ADA, "US.13491208655302741918")

    def reset(self) -> None:
        """As new, at the same address and with the same webhook."""
        self.__dict__.update(CloudApi(self.base_url, webhook=self.webhook).__dict__)

    def person(self, wa_id: str, user_id: str, **more: Any) -> Person:
        known = Person(wa_id, user_id, **more)
        self.people[wa_id] = self.people[user_id] = known
        return known

    @property
    def ada(self) -> Person:
        return self.people[ADA]

    # -- what a test sees ----------------------------------------------------------------------

    async def message(self, containing: str, timeout: float = PATIENCE) -> Sent:
        """The first message with these words, waited for."""
        return await self._first(lambda one: containing in one.text, timeout)

    async def link(self, timeout: float = PATIENCE) -> Sent:
        """The first message with a URL button, waited for."""
        return await self._first(lambda one: one.url is not None, timeout)

    async def _first(self, fits: Callable[[Sent], bool], timeout: float) -> Sent:
        async with asyncio.timeout(timeout):
            while True:
                for one in self.sent:
                    if fits(one):
                        return one
                self._arrived.clear()
                await self._arrived.wait()

    async def settled(self) -> None:
        """Until every status webhook is delivered."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    # -- what people do ------------------------------------------------------------------------

    async def verify(self, token: str | None = None) -> httpx2.Response:
        """What happens when "Verify and save" is pressed in the App Dashboard."""
        query = {"hub.mode": "subscribe", "hub.challenge": "1158201444", "hub.verify_token": token or self.verify_token}
        async with httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
            return await client.get(self.webhook, params=query)

    def text(self, text: str, person: Person | None = None, id: str | None = None) -> dict[str, Any]:
        """A message as `messages` of a webhook holds it."""
        return self._message(person or self.ada, {"type": "text", "text": {"body": text}}, id)

    async def say(self, text: str, person: Person | None = None, id: str | None = None) -> httpx2.Response:
        return await self.deliver(self.text(text, person, id))

    async def tap(self, sent: Sent, title: str, person: Person | None = None) -> httpx2.Response:
        """Tap a reply button or a row of `sent`."""
        presser = person or sent.to
        kind = "button_reply" if sent.payload["interactive"]["type"] == "button" else "list_reply"
        answer = {"id": sent.choices[title], "title": title}
        content = {"type": "interactive", "interactive": {"type": kind, kind: answer}}
        context = {"context": {"from": "15550783881", "id": sent.id}}
        return await self.deliver(self._message(presser, {**content, **context}, None))

    async def deliver(self, *messages: dict[str, Any], **changes: Any) -> httpx2.Response:
        """One webhook with these messages."""
        for message in messages:
            writer = self.people[message["from_user_id"]]
            writer.wrote_at = self.clock()
            self._received.add(message["id"])
        contacts = {one["from_user_id"]: self.people[one["from_user_id"]].contact for one in messages}
        return await self.post(self._envelope({"contacts": list(contacts.values()), "messages": list(messages)}))

    async def post(self, update: dict[str, Any] | bytes, signature: str | None = None) -> httpx2.Response:
        """Deliver an update, signed as Meta signs it unless `signature` says otherwise ("" for none)."""
        body = update if isinstance(update, bytes) else json.dumps(update).encode()
        good = f"sha256={hmac.new(self.app_secret.encode(), body, hashlib.sha256).hexdigest()}"
        headers = {b"Content-Type": b"application/json"}
        if signature != "":
            headers[b"X-Hub-Signature-256"] = (good if signature is None else signature).encode("latin-1")
        async with httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
            return await client.post(self.webhook, content=body, headers=headers)

    def _message(self, person: Person, content: Mapping[str, Any], id: str | None) -> dict[str, Any]:
        number = {} if person.hides_number else {"from": person.wa_id}
        return {
            **number,
            "from_user_id": person.user_id,
            "id": id or self._new_id(person),
            "timestamp": str(int(self.clock())),
            **content,
        }

    def _new_id(self, person: Person) -> str:
        return f"wamid.HBgL{person.wa_id}VAgASGBQ{next(self._ids):04d}{secrets.token_hex(6).upper()}AA=="

    def _envelope(self, value: dict[str, Any]) -> dict[str, Any]:
        metadata = {"display_phone_number": "15550783881", "phone_number_id": self.phone_id}
        full = {"messaging_product": "whatsapp", "metadata": metadata, **value}
        entry = {"id": self.waba_id, "changes": [{"value": full, "field": "messages"}]}
        return {"object": "whatsapp_business_account", "entry": [entry]}

    # -- the API -------------------------------------------------------------------------------

    async def _messages(self, request: Request) -> Response:
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == "drop":
            return LostResponse()
        try:
            self._check_caller(request)
            if isinstance(fault, int):
                raise Refused(fault, "asked for by the test")
            if request.headers.get("content-type", "").partition(";")[0] != "application/json":
                raise Refused(100, "the body is not application/json")
            payload = json.loads(await request.body())
            answer = self._mark_read(payload) if payload.get("status") == "read" else self._accept(payload)
        except Refused as error:
            self.refused.append(f"{error.code}: {error.details}")
            return _error(error.code, error.details)
        return LostResponse() if fault == "lost" else JSONResponse(answer)

    def _check_caller(self, request: Request) -> None:
        if request.headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(190, "the access token is not the one of this business")
        if request.path_params.get("phone_id", self.phone_id) != self.phone_id:
            raise Refused(33, "there is no such phone number")

    def _mark_read(self, payload: dict[str, Any]) -> dict[str, Any]:
        _only(payload, "messaging_product", "status", "message_id", "typing_indicator")
        _equals(payload, "messaging_product", "whatsapp")
        if payload.get("message_id") not in self._received:
            raise Refused(131009, "message_id is no message that was received")
        if payload.get("typing_indicator", {"type": "text"}) != {"type": "text"}:
            raise Refused(131009, "typing_indicator.type must be text")
        self.read.append(payload)
        return {"success": True}

    def _accept(self, payload: dict[str, Any]) -> dict[str, Any]:
        check_message(payload)
        address = payload.get("to") or payload["recipient"]
        person = self.people.get(str(address).removeprefix("+"))
        if person is None:
            raise Refused(131030, "the recipient is not in the allowed list")
        closed = person.wrote_at is None or self.clock() - person.wrote_at > WINDOW_SECONDS
        if closed and self.window_errors == "response":
            raise Refused(131047, "more than 24 hours have passed since the recipient last replied")
        sent = Sent(self._new_id(person), person, copy.deepcopy(payload))
        if closed or person.unreachable:
            self._later(self._tell_failed(sent, 131047 if closed else 131026))
        else:
            self.sent.append(sent)
            self._arrived.set()
            if self.statuses:
                self._later(self._tell_delivered(sent))
        known_as = "wa_id" if "to" in payload else "user_id"
        contact = {"input": address, known_as: getattr(person, known_as)}
        return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": sent.id}]}

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell_failed(self, sent: Sent, code: int) -> None:
        _, title = _ERRORS[code]
        error = {"code": code, "title": title, "message": title, "error_data": {"details": title}}
        await self.post(self._envelope({"statuses": [{**self._status(sent, "failed"), "errors": [error]}]}))

    async def _tell_delivered(self, sent: Sent) -> None:
        for status in ("sent", "delivered"):
            told = {"contacts": [sent.to.contact], "statuses": [self._status(sent, status)]}
            await self.post(self._envelope(told))

    def _status(self, sent: Sent, status: str) -> dict[str, Any]:
        return {
            "id": sent.id,
            "status": status,
            "timestamp": str(int(self.clock())),
            "recipient_id": sent.to.wa_id,
            "recipient_user_id": sent.to.user_id,
        }

    async def _phone_number(self, request: Request) -> Response:
        self.requests += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault == "drop":
            return LostResponse()
        try:
            self._check_caller(request)
        except Refused as error:
            return _error(error.code, error.details)
        known = {
            "verified_name": "Lucky Shrub",
            "display_phone_number": "+1 555-078-3881",
            "quality_rating": "GREEN",
            "status": "CONNECTED",
            "platform_type": "CLOUD_API",
            "webhook_configuration": {"application": self.webhook},
        }
        asked = request.query_params.get("fields", "").split(",")
        return JSONResponse({"id": self.phone_id, **{name: known[name] for name in asked if name in known}})

    async def _granted(self, request: Request) -> Response:
        try:
            self._check_caller(request)
        except Refused as error:
            return _error(error.code, error.details)
        return JSONResponse({"data": [{"permission": name, "status": "granted"} for name in self.permissions]})

    def app(self) -> Starlette:
        routes = [
            Route("/{version}/me/permissions", self._granted, methods=["GET"]),
            Route("/{version}/{phone_id}/messages", self._messages, methods=["POST"]),
            Route("/{version}/{phone_id}", self._phone_number, methods=["GET"]),
        ]
        return Starlette(routes=routes)


@contextlib.asynccontextmanager
async def cloud_api() -> AsyncIterator[CloudApi]:
    bound = listening()
    api = CloudApi(f"http://127.0.0.1:{bound.getsockname()[1]}")
    async with serving(api.app(), bound):
        yield api
        await api.settled()


class Relay:
    """One address for the webhook, whoever answers there at the moment."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


@contextlib.asynccontextmanager
async def serving(app: Any, bound: socket.socket) -> AsyncIterator[None]:
    """An ASGI application on a socket, in this event loop."""
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, lifespan="off", interface="asgi3", timeout_graceful_shutdown=1)
    )
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        # Clients keep their connections; nobody waits for them.
        server.force_exit = server.should_exit = True
        await task


# -- what the documentation states -------------------------------------------------------------


def check_message(payload: dict[str, Any]) -> None:
    """Refuse what the pages in this module's header do not allow.

    Raises:
        Refused: with the member and its limit.
    """
    kind = payload.get("type", "text")
    allowed = ("messaging_product", "recipient_type", "to", "recipient", "type", "context", "biz_opaque_callback_data")
    _only(payload, *allowed, kind)
    _equals(payload, "messaging_product", "whatsapp")
    if payload.get("recipient_type", "individual") != "individual":
        raise Refused(131009, "recipient_type must be individual")
    if not isinstance(payload.get("to") or payload.get("recipient"), str):
        raise Refused(131008, "to or recipient is required")
    if kind == "text":
        _check_text(_member(payload, "text", dict))
    elif kind == "interactive":
        _check_interactive(_member(payload, "interactive", dict))
    else:
        raise Refused(131051, f"messages of type {kind} are not spoken here")


def _check_text(text: dict[str, Any]) -> None:
    _only(text, "body", "preview_url")
    _text(text, "body", 4096)
    if not isinstance(text.get("preview_url", False), bool):
        raise Refused(131009, "preview_url must be true or false")


def _check_interactive(shown: dict[str, Any]) -> None:
    _only(shown, "type", "header", "body", "footer", "action")
    body = _member(shown, "body", dict)
    _only(body, "text")
    _text(body, "text", 1024)
    if "footer" in shown:
        _text(_member(shown, "footer", dict), "text", 60)
    if "header" in shown:
        header = _member(shown, "header", dict)
        _equals(header, "type", "text")
        _text(header, "text", 60)
    action = _member(shown, "action", dict)
    checks = {"button": _check_buttons, "list": _check_list, "cta_url": _check_url_button}
    if shown.get("type") not in checks:
        raise Refused(131009, f"interactive.type {shown.get('type')} is not spoken here")
    checks[shown["type"]](action)


def _check_buttons(action: dict[str, Any]) -> None:
    _only(action, "buttons")
    buttons = _member(action, "buttons", list)
    if not 1 <= len(buttons) <= 3:
        raise Refused(131009, "1 to 3 buttons are allowed")
    for button in buttons:
        _only(button, "type", "reply")
        _equals(button, "type", "reply")
        reply = _member(button, "reply", dict)
        _only(reply, "id", "title")
        _text(reply, "title", 20)
        _id(reply, 256)
    _unique([button["reply"]["title"] for button in buttons], "the titles of buttons")
    _unique([button["reply"]["id"] for button in buttons], "the ids of buttons")


def _check_list(action: dict[str, Any]) -> None:
    _only(action, "button", "sections")
    _text(action, "button", 20)
    sections = _member(action, "sections", list)
    if not 1 <= len(sections) <= 10:
        raise Refused(131009, "1 to 10 sections are allowed")
    rows = []
    for section in sections:
        _only(section, "title", "rows")
        if len(sections) > 1 or "title" in section:
            _text(section, "title", 24)
        rows += _member(section, "rows", list)
    if not 1 <= len(rows) <= 10:
        raise Refused(131009, "1 to 10 rows in all sections are allowed")
    for row in rows:
        _only(row, "id", "title", "description")
        _text(row, "title", 24)
        _id(row, 200)
        if "description" in row:
            _text(row, "description", 72)
    _unique([row["id"] for row in rows], "the ids of rows")


def _check_url_button(action: dict[str, Any]) -> None:
    _only(action, "name", "parameters")
    _equals(action, "name", "cta_url")
    parameters = _member(action, "parameters", dict)
    _only(parameters, "display_text", "url")
    _text(parameters, "display_text", 20)
    url = _text(parameters, "url", 2000)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or any(c.isspace() for c in url):
        raise Refused(131009, "url must be an absolute http or https address")


def _member(holder: dict[str, Any], name: str, kind: type) -> Any:
    if name not in holder:
        raise Refused(131008, f"{name} is required")
    if not isinstance(holder[name], kind):
        raise Refused(131009, f"{name} is of the wrong type")
    return holder[name]


def _text(holder: dict[str, Any], name: str, most: int) -> str:
    value = str(_member(holder, name, str))
    if not value.strip() or len(value) > most:
        raise Refused(131009, f"{name} must have 1 to {most} characters, and has {len(value)}")
    return value


def _id(holder: dict[str, Any], most: int) -> None:
    value = _text(holder, "id", most)
    if value != value.strip():
        raise Refused(131009, "id must not begin or end with a space")


def _equals(holder: dict[str, Any], name: str, value: str) -> None:
    if _member(holder, name, str) != value:
        raise Refused(131009, f"{name} must be {value}")


def _only(holder: dict[str, Any], *names: str) -> None:
    unknown = holder.keys() - set(names)
    if unknown:
        raise Refused(100, f"unexpected: {', '.join(sorted(unknown))}")


def _unique(values: list[str], what: str) -> None:
    if len(set(values)) != len(values):
        raise Refused(131009, f"{what} must differ")


def _error(code: int, details: str) -> JSONResponse:
    status, title = _ERRORS[code]
    error = {
        "message": f"(#{code}) {title}",
        "type": "OAuthException",
        "code": code,
        "error_data": {"messaging_product": "whatsapp", "details": details},
        "fbtrace_id": secrets.token_urlsafe(8),
    }
    return JSONResponse({"error": error}, status_code=status)


_CODE = re.compile(r"```(.+?)```|`([^`]+)`", re.DOTALL)
_STYLES = [
    (re.compile(rf"(?<!\w)\{mark}(?=\S)([^\n]*?)(?<=\S)\{mark}(?!\w)"), style)
    for mark, style in (("*", "bold"), ("_", "italic"), ("~", "struck"))
]


def runs(text: str) -> list[tuple[str, str]]:
    """`text` in pieces with their style, after "How to format your messages" of WhatsApp's help: plain, bold, italic,
    struck, and code, in which no other mark counts."""
    pieces: list[tuple[str, str]] = []
    at = 0
    for code in _CODE.finditer(text):
        pieces += [*_styled(text[at : code.start()]), (code.group(1) or code.group(2), "code")]
        at = code.end()
    return [*pieces, *_styled(text[at:])]


def as_read(text: str) -> str:
    """The words without the marks."""
    return "".join(piece for piece, _ in runs(text))


def _styled(text: str) -> list[tuple[str, str]]:
    for pattern, style in _STYLES:
        found = pattern.search(text)
        if found:
            inner = [(piece, style if also == "plain" else also) for piece, also in _styled(found.group(1))]
            return [*_styled(text[: found.start()]), *inner, *_styled(text[found.end() :])]
    return [(text, "plain")] if text else []
