"""Slack on loopback: enough of it for slack-bolt and slack_sdk to run unchanged against.

What it speaks, and the documentation it follows (docs.slack.dev):

- Web API (`/apis/web-api`, `/reference/methods/...`): `auth.test`, `apps.connections.open`, `chat.postMessage`,
  `chat.postEphemeral`, `chat.update`, `conversations.open`, `views.open`, `views.update`, `oauth.v2.access`. JSON or
  form bodies, the token in the Authorization header, `ok`/`error` answers, 429 with `Retry-After`, scopes.
- Socket Mode (`/apis/events-api/using-socket-mode`): one-use WebSocket URLs, `hello`, envelopes of the types
  `slash_commands`, `interactive` and `events_api`, their acknowledgement within 3 s with an optional payload,
  `disconnect`, redelivery of what was not acknowledged.
- HTTP request URLs (`/authentication/verifying-requests-from-slack`): signed with the v0 signature over the raw body,
  retries with `X-Slack-Retry-Num`.
- Slash commands, `block_actions` and `view_submission` payloads, the Events API's `message` and `app_mention`
  (`/interactivity/...`, `/reference/events/...`), Slack Connect's foreign users.
- `response_url` (`/interactivity/handling-user-interaction`): 5 uses within 30 minutes. The one of a press replaces its
  message with `replace_original`; the one of a slash command has no message to replace, so every use posts a new one
  (slackapi/bolt-python#1268, slackapi/bolt-js#2287).
- Block Kit (`/reference/block-kit/...`): section, header, context, divider, actions, input, rich_text with sections;
  text objects, buttons and plain-text inputs, with every length limit and without any field that Slack does not list.
  Slack states no limit for rich text or for a message's blocks together (`msg_blocks_too_long`); here they are those
  of a section and about a third of the longest text.

Whatever Slack would refuse is refused with Slack's error code and noted in `refused`; what it would only warn about, or
do to a person's disadvantage (a link preview, a mention), is noted in `faults`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import urlencode

from aiohttp import ClientSession, WSMsgType, web

from tests.patience import PATIENCE

# Slack's own is three seconds. What must not hold an acknowledgement up is held up by tests, and not measured.
ACK_SECONDS = PATIENCE
TRIGGER_SECONDS = 3.0
RESPONSE_URL_SECONDS = 30 * 60
RESPONSE_URL_USES = 5
SIGNATURE_SECONDS = 5 * 60

_MESSAGE_BLOCKS = 50
_MODAL_BLOCKS = 100
_MESSAGE_TEXT = 40_000
_BLOCKS_TEXT = 13_000
_RICH_TEXT = 3000


class Refusal(Exception):
    """Slack's error code for a request, and what was wrong with it."""

    def __init__(self, code: str, why: str = "", **more: Any) -> None:
        super().__init__(f"{code}: {why}" if why else code)
        self.code = code
        self.why = why
        self.more = more


# -- who and what there is -------------------------------------------------------------------


@dataclass
class Workspace:
    """A team with our app installed (or, for Slack Connect, without: `token` is None)."""

    id: str
    name: str
    enterprise: str | None
    token: str | None
    bot_user: str
    bot_id: str
    scopes: set[str]
    revoked: str | None = None  # the error that every call with its token gets

    @property
    def installed(self) -> bool:
        return self.token is not None


@dataclass
class User:
    id: str
    name: str
    workspace: Workspace
    is_bot: bool = False
    takes_messages: bool = True  # False: a direct message cannot be opened


@dataclass
class Channel:
    """`kind`: channel, im (with the bot), or dm (between two people)."""

    id: str
    name: str
    kind: str
    members: set[str]
    home: Workspace
    messages: list[Message] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [message.shown for message in self.messages]


@dataclass
class Message:
    """`only_for`: the one person who sees it (an ephemeral message). `versions`: what was shown, oldest first."""

    channel: Channel
    ts: str
    author: str
    payload: dict[str, Any]
    thread: str | None = None
    only_for: str | None = None
    edits: int = 0
    versions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """What a person reads, top to bottom, without markup."""
        blocks = self.payload.get("blocks")
        return read(blocks) if blocks else self.payload.get("text", "")

    def buttons(self) -> list[dict[str, Any]]:
        return [element for _, element in _buttons_of(self.payload.get("blocks") or [])]

    def button(self, label: str) -> dict[str, Any]:
        found = [one for one in self.buttons() if one["text"]["text"] == label]
        assert len(found) == 1, f"{label!r} is not one of {[one['text']['text'] for one in self.buttons()]}"
        return found[0]


@dataclass
class View:
    """An open modal of one person."""

    id: str
    user: User
    team: Workspace
    payload: dict[str, Any]
    hash: str
    open: bool = True
    errors: dict[str, str] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """What stands in it, errors at its inputs included."""
        return "\n".join([read(self.payload["blocks"]), *self.errors.values()])


@dataclass
class Delivery:
    """One payload as it went to the app, and what the app answered in time. `payload`: the acknowledgement's."""

    kind: str
    body: dict[str, Any]
    acknowledged: bool
    payload: dict[str, Any] | None = None
    seconds: float = 0.0
    status: int = 200


@dataclass
class _ResponseUrl:
    user: User
    channel: Channel
    message: Message | None  # None: a slash command's; there is nothing to replace
    expires_at: float
    uses: int = 0


@dataclass(frozen=True)
class Call:
    """One request of the app. `body` as it was decoded."""

    method: str
    body: dict[str, Any]
    token: str | None


def read(blocks: list[dict[str, Any]]) -> str:
    """The text of Block Kit as a person sees it: markup undone, one block after the other."""
    lines: list[str] = []
    for block in blocks:
        match block["type"]:
            case "section" if "text" in block:
                lines.append(_read_text(block["text"]))
            case "section":
                lines += [_read_text(one) for one in block["fields"]]
            case "header":
                lines.append(_read_text(block["text"]))
            case "context":
                lines += [_read_text(one) for one in block["elements"]]
            case "input":
                lines.append(_read_text(block["label"]))
            case "rich_text":
                lines += [_read_rich(section) for section in block["elements"]]
    return "\n".join(lines)


def _read_text(text: dict[str, Any]) -> str:
    if text["type"] == "plain_text":
        return str(text["text"])
    bare = re.sub(r"<([^>|]+)(?:\|([^>]*))?>", lambda found: found[2] or found[1], text["text"])
    bare = re.sub(r"[*`]", "", bare)
    return bare.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _read_rich(section: dict[str, Any]) -> str:
    return "".join(one["url"] if one["type"] == "link" else one["text"] for one in section["elements"])


def _buttons_of(blocks: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    found = []
    for block in blocks:
        found += [(block, element) for element in block.get("elements", []) if element["type"] == "button"]
        if block.get("accessory", {}).get("type") == "button":
            found.append((block, block["accessory"]))
    return found


# -- the platform ----------------------------------------------------------------------------


class Slack:
    """Runs in the test's own event loop: `async with Slack() as slack`.

    Args:
        clock: epoch seconds; by default it stands still. `advance` moves it for what expires.
    """

    app_id = "A0SLASHMCP"
    app_token = "xapp-1-A0SLASHMCP-1-canaryapptoken"
    signing_secret = "canary-signing-secret-0123456789"
    command_names: tuple[str, ...] = ("/mcp",)

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        started = time.time()
        self._clock = clock or (lambda: started)
        self._offset = 0.0
        self._ids = itertools.count(1)
        self._ts = itertools.count(1)
        self.workspaces: dict[str, Workspace] = {}
        self.users: dict[str, User] = {}
        self.channels: dict[str, Channel] = {}
        self.views: dict[str, View] = {}
        self.calls: list[Call] = []
        self.refused: list[str] = []
        self.faults: list[str] = []
        self.mentions: list[str] = []
        self.unfurled: list[str] = []
        self.app_token_error: str | None = None
        self.down = False
        self.request_url: str | None = None  # given: HTTP mode, payloads are posted there
        self.redeliver = True
        self._limits: dict[str, list[int]] = {}
        self._failures: dict[str, list[int]] = {}
        self._held: dict[str, asyncio.Event] = {}
        self._forbidden: dict[str, str] = {}
        self._triggers: dict[str, tuple[User, float, bool]] = {}
        self._response_urls: dict[str, _ResponseUrl] = {}
        self._tickets: set[str] = set()
        self._sockets: list[web.WebSocketResponse] = []
        self._unacknowledged: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._connected = asyncio.Event()
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.port = 0

    # -- running -----------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=2**22)
        application.router.add_route("POST", "/api/{method}", self._api)
        application.router.add_route("GET", "/link/", self._socket)
        application.router.add_route("POST", "/{kind:commands|actions}/{team}/{number}/{secret}", self._respond)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for socket in self._sockets:
            await socket.close()
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/"

    @property
    def now(self) -> float:
        return self._clock() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds

    async def until(self, fits: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """What `fits` gives once it is true; it is asked again after everything that the app did."""
        async with asyncio.timeout(timeout):
            while not (found := fits()):
                self._changed.clear()
                try:
                    await asyncio.wait_for(self._changed.wait(), 0.05)
                except TimeoutError:
                    continue
            return found

    async def connected(self, timeout: float = PATIENCE) -> None:
        """The app has an open Socket Mode connection."""
        await asyncio.wait_for(self._connected.wait(), timeout)

    # -- setting the scene -------------------------------------------------------------------

    def workspace(
        self, name: str = "acme", *, enterprise: str | None = None, installed: bool = True, scopes: str | None = None
    ) -> Workspace:
        number = next(self._ids)
        team = f"T{number:03}{name.upper()}"
        granted = scopes if scopes is not None else "commands,chat:write,im:write,im:history,app_mentions:read"
        workspace = Workspace(
            team,
            name,
            enterprise,
            f"xoxb-{number}-canarybottoken{number}" if installed else None,
            f"U{number:03}BOT",
            f"B{number:03}BOT",
            set(granted.split(",")),
        )
        self.workspaces[team] = workspace
        bot = User(workspace.bot_user, "slash-mcp", workspace, is_bot=True)
        self.users[bot.id] = bot
        return workspace

    def user(self, name: str, workspace: Workspace, **more: Any) -> User:
        user = User(f"U{next(self._ids):03}{name.upper()}", name, workspace, **more)
        self.users[user.id] = user
        return user

    def channel(self, name: str, home: Workspace, *members: User, with_bot: bool = True) -> Channel:
        people = {one.id for one in members} | ({home.bot_user} if with_bot else set())
        channel = Channel(f"C{next(self._ids):03}{name.upper()}", name, "channel", people, home)
        self.channels[channel.id] = channel
        return channel

    def conversation(self, one: User, other: User) -> Channel:
        """The direct messages between two people; the bot does not read them."""
        channel = Channel(f"D{next(self._ids):03}PEERS", "directmessage", "dm", {one.id, other.id}, one.workspace)
        self.channels[channel.id] = channel
        return channel

    def direct(self, user: User, workspace: Workspace | None = None) -> Channel:
        """The direct messages between a person and the bot of a workspace (the person's own, unless told)."""
        home = workspace or user.workspace
        for channel in self.channels.values():
            if channel.kind == "im" and channel.home is home and channel.members == {user.id, home.bot_user}:
                return channel
        channel = Channel(f"D{next(self._ids):03}", "directmessage", "im", {user.id, home.bot_user}, home)
        self.channels[channel.id] = channel
        return channel

    def seen_by(self, user: User, channel: Channel | None = None) -> list[Message]:
        """Every message of the app that this person can read, oldest first."""
        places = [channel] if channel is not None else list(self.channels.values())
        found = [
            message
            for place in places
            if user.id in place.members or place is channel
            for message in place.messages
            if self.users[message.author].is_bot and message.only_for in (None, user.id)
        ]
        return sorted(found, key=lambda message: message.ts)

    def public(self, channel: Channel) -> list[Message]:
        """What everybody in the channel reads."""
        return [one for one in channel.messages if one.only_for is None and self.users[one.author].is_bot]

    def limit(self, method: str, *, times: int = 1, retry_after: int = 1) -> None:
        """The next calls of a method are answered with 429."""
        self._limits.setdefault(method, []).extend([retry_after] * times)

    def fail(self, method: str, *, times: int = 1, status: int = 503) -> None:
        """The next calls of a method end in a server error; status 0: the connection breaks off."""
        self._failures.setdefault(method, []).extend([status] * times)

    def forbid(self, method: str, error: str) -> None:
        """Every call of a method is refused with this error."""
        self._forbidden[method] = error

    def hold(self, method: str) -> asyncio.Event:
        """Calls of a method are answered once the event is set."""
        self._held[method] = asyncio.Event()
        return self._held[method]

    def called(self, method: str) -> list[dict[str, Any]]:
        return [call.body for call in self.calls if call.method == method]

    # -- what people do ----------------------------------------------------------------------

    async def types(self, user: User, text: str, channel: Channel | None = None, *, again: int = 0) -> Delivery:
        """A slash command, `/mcp auth` as typed. `again`: how often the same payload is delivered a second time."""
        place = channel or self.direct(user)
        command, _, rest = text.partition(" ")
        assert command in self.command_names, f"{command} is not a command of this app"
        home = user.workspace
        body = {
            "token": "verification-is-deprecated",
            "team_id": home.id,
            "team_domain": home.name,
            "channel_id": place.id,
            "channel_name": "directmessage" if place.kind in ("im", "dm") else place.name,
            "user_id": user.id,
            "user_name": user.name,
            "command": command,
            "text": _escaped(rest.strip()),
            "api_app_id": self.app_id,
            "is_enterprise_install": "false",
            "response_url": self._response_url("commands", user, place, None),
            "trigger_id": self._trigger(user),
        }
        if home.enterprise is not None:
            body |= {"enterprise_id": home.enterprise, "enterprise_name": f"{home.enterprise} org"}
        return await self._deliver("slash_commands", body, again=again)

    async def says(
        self,
        user: User,
        text: str,
        channel: Channel | None = None,
        *,
        thread: Message | str | None = None,
        again: int = 0,
        subtype: str | None = None,
        events: tuple[str, ...] | None = None,
        installed_in: Workspace | None = None,
    ) -> list[Delivery]:
        """A message. `@bot` in the text becomes the mention of the channel's bot, which the app is told of.

        Args:
            events: the event types that the app is subscribed to here; by default `message` in direct messages with
                the bot and `app_mention` elsewhere.
            installed_in: the workspace whose app gets the event, when it is not the channel's home.
        """
        place = channel or self.direct(user)
        app_home = installed_in or place.home
        written = _written(text).replace("@bot", f"<@{app_home.bot_user}>")
        message = self._put(place, user.id, {"text": written}, thread=thread)
        mentioned = f"<@{app_home.bot_user}>" in written
        wanted = events
        if wanted is None:
            wanted = ("message",) if place.kind == "im" else ("app_mention",) if mentioned else ()
        deliveries = []
        for kind in wanted:
            event = self._message_event(kind, user, place, message, subtype)
            deliveries.append(await self._event(event, user, place, app_home, again=again))
        return deliveries

    async def edits(self, user: User, message: Message, text: str, app_home: Workspace | None = None) -> Delivery:
        """A person edits a message of theirs: the `message_changed` event, which carries the old and the new text."""
        home = app_home or message.channel.home
        before = self._message_event("message", user, message.channel, message, None)
        message.payload = {"text": _written(text).replace("@bot", f"<@{home.bot_user}>")}
        after = self._message_event("message", user, message.channel, message, None)
        event = {
            "type": "message",
            "subtype": "message_changed",
            "hidden": True,
            "channel": message.channel.id,
            "channel_type": "im" if message.channel.kind == "im" else "channel",
            "message": after,
            "previous_message": before,
            "ts": self._next_ts(),
            "event_ts": self._next_ts(),
        }
        return await self._event(event, user, message.channel, home)

    async def presses(
        self, user: User, message: Message, label: str, *, again: int = 0, installed_in: Workspace | None = None
    ) -> Delivery:
        """A button, by its label."""
        pressed = message.button(label)
        block = next(block for block, element in _buttons_of(message.payload["blocks"]) if element is pressed)
        home = installed_in or message.channel.home
        action = {
            "action_id": pressed["action_id"],
            "block_id": block["block_id"],
            "text": pressed["text"],
            "type": "button",
            "action_ts": self._next_ts(),
        }
        if "value" in pressed:
            action["value"] = pressed["value"]
        if "url" in pressed:
            action["url"] = pressed["url"]
        body: dict[str, Any] = {
            "type": "block_actions",
            "user": {"id": user.id, "username": user.name, "name": user.name, "team_id": user.workspace.id},
            "api_app_id": self.app_id,
            "token": "verification-is-deprecated",
            "container": {
                "type": "message",
                "message_ts": message.ts,
                "channel_id": message.channel.id,
                "is_ephemeral": message.only_for is not None,
            },
            "trigger_id": self._trigger(user),
            "team": {"id": home.id, "domain": home.name},
            "enterprise": None,
            "is_enterprise_install": False,
            "channel": {"id": message.channel.id, "name": message.channel.name},
            "state": {"values": {}},
            "response_url": self._response_url("actions", user, message.channel, message),
            "actions": [action],
        }
        if home.enterprise is not None:
            body["team"] |= {"enterprise_id": home.enterprise, "enterprise_name": f"{home.enterprise} org"}
            body["enterprise"] = {"id": home.enterprise, "name": f"{home.enterprise} org"}
        if message.thread is not None:
            body["container"]["thread_ts"] = message.thread
        if message.only_for is None:
            body["message"] = {
                "type": "message",
                "user": message.author,
                "ts": message.ts,
                "app_id": self.app_id,
                "text": message.payload.get("text", ""),
                "blocks": message.payload["blocks"],
            }
            if message.thread is not None:
                body["message"]["thread_ts"] = message.thread
        return await self._deliver("interactive", body, again=again)

    async def submits(self, user: User, view: View, value: str | None = None) -> Delivery:
        """A modal, submitted with `value` in its one input, if it has one. The view shows what the app answered."""
        assert view.open, "the modal is closed"
        assert "submit" in view.payload, "this modal has nothing to press"
        inputs = [block for block in view.payload["blocks"] if block["type"] == "input"]
        assert len(inputs) == (value is not None), f"this modal has {len(inputs)} inputs"
        state = {}
        for block in inputs:
            element = block["element"]
            _check_typed(element, value or "")
            state[block["block_id"]] = {element["action_id"]: {"type": element["type"], "value": value}}
        body = {
            "type": "view_submission",
            "team": {"id": view.team.id, "domain": view.team.name},
            "user": {"id": user.id, "username": user.name, "name": user.name, "team_id": user.workspace.id},
            "api_app_id": self.app_id,
            "token": "verification-is-deprecated",
            "trigger_id": self._trigger(user),
            "view": {**self._view_object(view), "state": {"values": state}},
            "response_urls": [],
            "is_enterprise_install": False,
            "enterprise": None,
        }
        if view.team.enterprise is not None:
            body["enterprise"] = {"id": view.team.enterprise, "name": f"{view.team.enterprise} org"}
        delivery = await self._deliver("interactive", body)
        if delivery.acknowledged:
            self._take_submission(view, delivery.payload)
        return delivery

    def closes(self, view: View) -> None:
        """The person closes the modal. The app is told only where it asked for it (`notify_on_close`)."""
        view.open = False

    def view_of(self, user: User) -> View | None:
        """The modal that this person has before them."""
        return next((view for view in self.views.values() if view.user is user and view.open), None)

    # -- connections -------------------------------------------------------------------------

    async def disconnect(self, reason: str = "refresh_requested") -> None:
        """Slack asks every connection to reconnect, and closes it a moment later."""
        old = list(self._sockets)
        self._connected.clear()
        for socket in old:
            await socket.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "wss-111"}})

    async def cut(self) -> None:
        """The network goes away: open connections break without a goodbye, and new ones are not accepted."""
        self.down = True
        self._connected.clear()
        for socket in list(self._sockets):
            transport = socket._req.transport if socket._req is not None else None
            if transport is not None:
                transport.abort()

    def restore(self) -> None:
        self.down = False

    # -- delivery ----------------------------------------------------------------------------

    async def _deliver(self, kind: str, body: dict[str, Any], *, again: int = 0) -> Delivery:
        """To the app, as often as Slack would; `again`: that many duplicates of what was acknowledged already."""
        envelope = secrets.token_hex(16)
        delivery = await self._send(kind, body, envelope, attempt=0)
        for attempt in range(1, again + 1):
            await self._send(kind, body, envelope, attempt=attempt)
        if not delivery.acknowledged:
            self.faults.append(f"{kind} was not acknowledged within {ACK_SECONDS:.0f} s (operation_timeout)")
        return delivery

    async def _send(self, kind: str, body: dict[str, Any], envelope: str, attempt: int) -> Delivery:
        if self.request_url is not None:
            return await self._post(kind, body, attempt)
        await self.connected()
        waiting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._unacknowledged[envelope] = waiting
        message: dict[str, Any] = {
            "envelope_id": envelope,
            "payload": body,
            "type": kind,
            "accepts_response_payload": kind != "events_api",
        }
        if attempt:
            message |= {"retry_attempt": attempt, "retry_reason": "timeout"}
        started = time.monotonic()
        await self._sockets[-1].send_json(message)
        try:
            answer = await asyncio.wait_for(waiting, ACK_SECONDS)
        except TimeoutError:
            return Delivery(kind, body, False)
        finally:
            self._unacknowledged.pop(envelope, None)
        payload = answer.get("payload")
        if payload is not None and kind == "events_api":
            self.faults.append("an event was answered with a payload, which Slack does not accept")
        return Delivery(kind, body, True, payload, time.monotonic() - started)

    async def _post(self, kind: str, body: dict[str, Any], attempt: int) -> Delivery:
        if kind == "slash_commands":
            raw, content = urlencode(body), "application/x-www-form-urlencoded"
        elif kind == "interactive":
            raw, content = urlencode({"payload": json.dumps(body)}), "application/x-www-form-urlencoded"
        else:
            raw, content = json.dumps(body), "application/json"
        headers = {"Content-Type": content, **self.signature(raw)}
        if attempt:
            headers |= {"X-Slack-Retry-Num": str(attempt), "X-Slack-Retry-Reason": "http_timeout"}
        started = time.monotonic()
        assert self.request_url is not None
        async with ClientSession() as session:
            try:
                async with asyncio.timeout(ACK_SECONDS):
                    async with session.post(self.request_url, data=raw, headers=headers) as response:
                        text = await response.text()
                        ok = response.status == 200
                        is_json = response.content_type == "application/json" and bool(text)
                        payload = json.loads(text) if is_json else None
            except TimeoutError:
                return Delivery(kind, body, False)
        return Delivery(kind, body, ok, payload, time.monotonic() - started, response.status)

    def signature(self, raw: str, *, at: float | None = None, secret: str | None = None) -> dict[str, str]:
        """The headers of a signed request."""
        timestamp = str(int(self._clock() if at is None else at))
        base = f"v0:{timestamp}:{raw}".encode()
        digest = hmac.new((secret or self.signing_secret).encode(), base, hashlib.sha256).hexdigest()
        return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={digest}"}

    async def _event(
        self, event: dict[str, Any], user: User, place: Channel, home: Workspace, *, again: int = 0
    ) -> Delivery:
        body: dict[str, Any] = {
            "token": "verification-is-deprecated",
            "team_id": home.id,
            "context_team_id": home.id,
            "context_enterprise_id": home.enterprise,
            "api_app_id": self.app_id,
            "event": event,
            "type": "event_callback",
            "event_id": f"Ev{next(self._ids):08}",
            "event_time": int(self._clock()),
            "authorizations": [
                {
                    "enterprise_id": home.enterprise,
                    "team_id": home.id,
                    "user_id": home.bot_user,
                    "is_bot": True,
                    "is_enterprise_install": False,
                }
            ],
            "is_ext_shared_channel": any(self.users[one].workspace is not home for one in place.members),
            "event_context": f"4-{place.id}",
        }
        if home.enterprise is not None:
            body["enterprise_id"] = home.enterprise
        return await self._deliver("events_api", body, again=again)

    def _message_event(
        self, kind: str, user: User, place: Channel, message: Message, subtype: str | None
    ) -> dict[str, Any]:
        event: dict[str, Any] = {
            "type": kind,
            "user": user.id,
            "text": message.payload["text"],
            "ts": message.ts,
            "team": user.workspace.id,
            "channel": place.id,
            "event_ts": message.ts,
            "client_msg_id": f"00000000-0000-4000-8000-{int(float(message.ts)):012}",
        }
        if kind == "message":
            event["channel_type"] = "im" if place.kind == "im" else "channel"
        if message.thread is not None:
            event["thread_ts"] = message.thread
        if user.workspace is not place.home:
            event |= {
                "user_team": user.workspace.enterprise or user.workspace.id,
                "source_team": user.workspace.enterprise or user.workspace.id,
            }
        if user.is_bot:
            event |= {"bot_id": user.workspace.bot_id, "bot_profile": {"id": user.workspace.bot_id, "name": user.name}}
            del event["client_msg_id"]
        if subtype is not None:
            event["subtype"] = subtype
            if subtype == "bot_message":
                event |= {"bot_id": "B0WORKFLOW"}
                del event["user"]
        return event

    # -- Socket Mode -------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        if self.down:
            return _broken(request)
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            self.refused.append("a Socket Mode URL was used twice, or is not ours")
            return web.Response(status=404)
        self._tickets.remove(ticket)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        await socket.send_json(
            {
                "type": "hello",
                "num_connections": len(self._sockets),
                "debug_info": {"host": "wss-111", "build_number": 1, "approximate_connection_time": 18060},
                "connection_info": {"app_id": self.app_id},
            }
        )
        self._connected.set()
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._acknowledged(json.loads(message.data))
        finally:
            self._sockets.remove(socket)
            if not self._sockets:
                self._connected.clear()
        return socket

    def _acknowledged(self, answer: dict[str, Any]) -> None:
        if not set(answer) <= {"envelope_id", "payload"} or "envelope_id" not in answer:
            self.faults.append(f"an acknowledgement has the keys {sorted(answer)}")
            return
        waiting = self._unacknowledged.get(answer["envelope_id"])
        if waiting is None:
            self.faults.append("an acknowledgement came too late, or for nothing")
        elif not waiting.done():
            waiting.set_result(answer)
        self._changed.set()

    # -- the Web API -------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        if self.down:
            return _broken(request)
        if method in self._held:
            await self._held[method].wait()
        if self._failures.get(method):
            status = self._failures[method].pop(0)
            return _broken(request) if status == 0 else web.Response(status=status, text="upstream trouble")
        if self._limits.get(method):
            retry_after = self._limits[method].pop(0)
            headers = {"Retry-After": str(retry_after)}
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        body: dict[str, Any] = {}
        workspace: Workspace | None = None
        try:
            body = await _decoded(request)
            self.calls.append(Call(method, body, token if scheme == "Bearer" else None))
            handler = self._METHODS.get(method)
            if handler is None:
                raise Refusal("unknown_method", f"this server does not speak {method}")
            if method in self._forbidden:
                raise Refusal(self._forbidden[method])
            if "token" in body:
                raise Refusal("invalid_auth", "the token stands in the body instead of the Authorization header")
            if method == "apps.connections.open":
                answer = self._connections_open(token)
            elif method == "oauth.v2.access":
                answer = self._oauth_access(request, body)
            else:
                workspace = self._authenticated(token)
                answer = handler(self, workspace, body)
        except Refusal as refusal:
            self.refused.append(f"{method}: {refusal}")
            answer = {"ok": False, "error": refusal.code, **refusal.more}
        headers = {}
        if workspace is not None:
            headers["x-oauth-scopes"] = ",".join(sorted(workspace.scopes))
        self._changed.set()
        return web.json_response(answer, headers=headers)

    def _authenticated(self, token: str) -> Workspace:
        if not token:
            raise Refusal("not_authed")
        for workspace in self.workspaces.values():
            if workspace.token == token:
                if workspace.revoked is not None:
                    raise Refusal(workspace.revoked)
                return workspace
        raise Refusal("invalid_auth", "no workspace has this token")

    def _connections_open(self, token: str) -> dict[str, Any]:
        if self.app_token_error is not None:
            raise Refusal(self.app_token_error)
        if token != self.app_token:
            code = "not_allowed_token_type" if token.startswith("xox") else "invalid_auth"
            raise Refusal(code, "apps.connections.open wants the app-level token (xapp-...)")
        ticket = secrets.token_hex(8)
        self._tickets.add(ticket)
        return {"ok": True, "url": f"ws://127.0.0.1:{self.port}/link/?ticket={ticket}&app_id={self.app_id}"}

    def _oauth_access(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        workspace = self.workspaces.get(body.get("code", ""))
        if workspace is None or not workspace.installed:
            raise Refusal("invalid_code")
        return {
            "ok": True,
            "app_id": self.app_id,
            "authed_user": {"id": next(one.id for one in self.users.values() if one.workspace is workspace)},
            "scope": ",".join(sorted(workspace.scopes)),
            "token_type": "bot",
            "access_token": workspace.token,
            "bot_user_id": workspace.bot_user,
            "team": {"id": workspace.id, "name": workspace.name},
            "enterprise": None,
            "is_enterprise_install": False,
        }

    def _auth_test(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        answer = {
            "ok": True,
            "url": f"https://{workspace.name}.slack.com/",
            "team": workspace.name,
            "user": "slash-mcp",
            "team_id": workspace.id,
            "user_id": workspace.bot_user,
            "bot_id": workspace.bot_id,
            "is_enterprise_install": False,
        }
        return answer if workspace.enterprise is None else {**answer, "enterprise_id": workspace.enterprise}

    def _post_message(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        self._needs(workspace, "chat:write")
        _only_keys(body, _POST_KEYS | {"unfurl_links", "unfurl_media", "reply_broadcast"})
        channel = self._channel_for(workspace, body)
        if workspace.bot_user not in channel.members:
            raise Refusal("not_in_channel")
        self._check_message(body)
        self._preview(body)
        thread = body.get("thread_ts")
        message = self._put(channel, workspace.bot_user, _content(body), thread=thread)
        return {"ok": True, "channel": channel.id, "ts": message.ts, "message": {"ts": message.ts, **message.payload}}

    def _post_ephemeral(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        self._needs(workspace, "chat:write")
        _only_keys(body, _POST_KEYS | {"user"})
        channel = self._channel_for(workspace, body)
        if workspace.bot_user not in channel.members:
            raise Refusal("not_in_channel")
        if not body.get("user"):
            raise Refusal("invalid_arguments", "user is required")
        if body["user"] not in channel.members:
            raise Refusal("user_not_in_channel")
        self._check_message(body)
        message = self._put(channel, workspace.bot_user, _content(body), thread=body.get("thread_ts"))
        message.only_for = body["user"]
        return {"ok": True, "message_ts": message.ts}

    def _update_message(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        self._needs(workspace, "chat:write")
        _only_keys(body, (_POST_KEYS - {"thread_ts"}) | {"ts", "reply_broadcast"})
        channel = self._channel_for(workspace, body)
        message = next((one for one in channel.messages if one.ts == body.get("ts") and one.only_for is None), None)
        if message is None:
            raise Refusal("message_not_found", "ephemeral messages are not found either")
        if message.author != workspace.bot_user:
            raise Refusal("cant_update_message")
        self._check_message(body)
        self._replace(message, _content(body))
        return {"ok": True, "channel": channel.id, "ts": message.ts, "text": body.get("text", "")}

    def _open_conversation(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        self._needs(workspace, "im:write")
        _only_keys(body, {"users", "channel", "return_im"})
        user = self.users.get(body.get("users", ""))
        if user is None:
            raise Refusal("user_not_found")
        if user.is_bot:
            raise Refusal("cannot_dm_bot")
        if not user.takes_messages:
            raise Refusal("user_disabled")
        channel = self.direct(user, workspace)
        return {"ok": True, "channel": {"id": channel.id}}

    def _open_view(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        _only_keys(body, {"trigger_id", "view"})
        user = self._exchange(body.get("trigger_id", ""))
        view = View(f"V{next(self._ids):08}", user, workspace, self._checked_view(body), secrets.token_hex(4))
        view.versions.append(view.payload)
        self.views[view.id] = view
        return {"ok": True, "view": self._view_object(view)}

    def _update_view(self, workspace: Workspace, body: dict[str, Any]) -> dict[str, Any]:
        _only_keys(body, {"view_id", "external_id", "hash", "view"})
        view = self.views.get(body.get("view_id", ""))
        if view is None or not view.open:
            raise Refusal("not_found")
        if "hash" in body and body["hash"] != view.hash:
            raise Refusal("hash_conflict")
        self._show_view(view, self._checked_view(body))
        return {"ok": True, "view": self._view_object(view)}

    def _channel_for(self, workspace: Workspace, body: dict[str, Any]) -> Channel:
        """A channel id, or a person's id for the direct messages with them."""
        name = body.get("channel", "")
        channel = self.channels.get(name)
        if channel is None or (channel.home is not workspace and workspace.bot_user not in channel.members):
            raise Refusal("channel_not_found")
        if channel.kind == "dm" or (channel.kind == "im" and workspace.bot_user not in channel.members):
            raise Refusal("channel_not_found")
        return channel

    @staticmethod
    def _needs(workspace: Workspace, scope: str) -> None:
        if scope not in workspace.scopes:
            raise Refusal("missing_scope", scope, needed=scope, provided=",".join(sorted(workspace.scopes)))

    _METHODS: ClassVar[dict[str, Callable[..., dict[str, Any]]]] = {
        "auth.test": _auth_test,
        "apps.connections.open": _connections_open,
        "oauth.v2.access": _oauth_access,
        "chat.postMessage": _post_message,
        "chat.postEphemeral": _post_ephemeral,
        "chat.update": _update_message,
        "conversations.open": _open_conversation,
        "views.open": _open_view,
        "views.update": _update_view,
    }

    # -- response URLs -----------------------------------------------------------------------

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        method = "response_url"
        if self.down:
            return _broken(request)
        if self._failures.get(method):
            status = self._failures[method].pop(0)
            return _broken(request) if status == 0 else web.Response(status=status, text="upstream trouble")
        if self._limits.get(method):
            headers = {"Retry-After": str(self._limits[method].pop(0))}
            return web.Response(status=429, text="ratelimited", headers=headers)
        try:
            body = await _decoded(request)
            self.calls.append(Call(method, body, None))
            self._use_response_url(request.path, body)
        except Refusal as refusal:
            self.refused.append(f"{method}: {refusal}")
            status = 404 if refusal.code in ("expired_url", "used_url") else 400
            return web.json_response({"ok": False, "error": refusal.code}, status=status)
        finally:
            self._changed.set()
        return web.Response(text="ok")

    def _use_response_url(self, path: str, body: dict[str, Any]) -> None:
        known = self._response_urls.get(path)
        if known is None or self.now >= known.expires_at:
            raise Refusal("expired_url")
        if known.uses >= RESPONSE_URL_USES:
            raise Refusal("used_url", "a response_url can be used five times")
        known.uses += 1
        _only_keys(body, {"text", "blocks", "response_type", "replace_original", "delete_original", "thread_ts"})
        if body.get("delete_original"):
            if known.message is not None:
                known.message.channel.messages.remove(known.message)
            return
        self._check_message(body)
        if body.get("replace_original") and known.message is not None:
            self._replace(known.message, _content(body))
            return
        bot = known.channel.home.bot_user if known.channel.kind != "dm" else known.user.workspace.bot_user
        message = self._put(known.channel, bot, _content(body), thread=body.get("thread_ts"))
        if body.get("response_type", "ephemeral") == "ephemeral":
            message.only_for = known.user.id

    def _response_url(self, kind: str, user: User, channel: Channel, message: Message | None) -> str:
        path = f"/{kind}/{user.workspace.id}/{next(self._ids)}/{secrets.token_urlsafe(16)}"
        self._response_urls[path] = _ResponseUrl(user, channel, message, self.now + RESPONSE_URL_SECONDS)
        return f"http://127.0.0.1:{self.port}{path}"

    # -- triggers and views ------------------------------------------------------------------

    def _trigger(self, user: User) -> str:
        trigger = f"{next(self._ids)}.{next(self._ids)}.{secrets.token_hex(16)}"
        self._triggers[trigger] = (user, self.now + TRIGGER_SECONDS, False)
        return trigger

    def _exchange(self, trigger: str) -> User:
        known = self._triggers.get(trigger)
        if known is None:
            raise Refusal("invalid_trigger_id")
        user, expires_at, used = known
        if used:
            raise Refusal("exchanged_trigger_id")
        if self.now >= expires_at:
            raise Refusal("expired_trigger_id")
        self._triggers[trigger] = (user, expires_at, True)
        return user

    def _take_submission(self, view: View, answer: dict[str, Any] | None) -> None:
        """What Slack does with the acknowledgement of a submitted modal."""
        view.errors = {}
        if not answer:
            view.open = False
            return
        action = answer.get("response_action")
        match action:
            case "clear":
                view.open = False
            case "update":
                try:
                    self._show_view(view, self._checked_view(answer))
                except Refusal as refusal:
                    self.refused.append(f"response_action update: {refusal}")
            case "errors":
                inputs = {block["block_id"] for block in view.payload["blocks"] if block["type"] == "input"}
                errors = answer.get("errors") or {}
                view.errors = errors
                if not errors or not set(errors) <= inputs:
                    self.faults.append(f"errors for {sorted(errors)}, but the inputs are {sorted(inputs)}")
            case _:
                self.faults.append(f"response_action {action!r}")

    def _show_view(self, view: View, payload: dict[str, Any]) -> None:
        view.payload = payload
        view.versions.append(payload)
        view.hash = secrets.token_hex(4)

    def _view_object(self, view: View) -> dict[str, Any]:
        return {
            "id": view.id,
            "team_id": view.team.id,
            "app_id": self.app_id,
            "app_installed_team_id": view.team.id,
            "bot_id": view.team.bot_id,
            "hash": view.hash,
            "private_metadata": "",
            "callback_id": "",
            "state": {"values": {}},
            **view.payload,
        }

    def _checked_view(self, body: dict[str, Any]) -> dict[str, Any]:
        view = body.get("view")
        if not isinstance(view, dict):
            raise Refusal("invalid_arguments", "view is required")
        check_view(view)
        return view

    # -- messages ----------------------------------------------------------------------------

    def _put(
        self, channel: Channel, author: str, payload: dict[str, Any], *, thread: Message | str | None = None
    ) -> Message:
        parent = thread.ts if isinstance(thread, Message) else thread
        if parent is not None and not any(one.ts == parent for one in channel.messages):
            raise Refusal("thread_not_found")
        message = Message(channel, self._next_ts(), author, payload, parent, versions=[payload])
        channel.messages.append(message)
        return message

    @staticmethod
    def _replace(message: Message, payload: dict[str, Any]) -> None:
        message.payload = payload
        message.versions.append(payload)
        message.edits += 1

    def _next_ts(self) -> str:
        return f"1790000000.{next(self._ts):06}"

    def _check_message(self, body: dict[str, Any]) -> None:
        if not body.get("text") and not body.get("blocks"):
            raise Refusal("no_text")
        if len(body.get("text") or "") > _MESSAGE_TEXT:
            raise Refusal("msg_too_long")
        if not body.get("text"):
            self.faults.append("missing_text_in_message: no fallback for notifications and screen readers")
        check_blocks(body.get("blocks") or [], _MESSAGE_BLOCKS, inputs=False)
        if len(read(body.get("blocks") or [])) > _BLOCKS_TEXT:
            raise Refusal("msg_blocks_too_long")
        marked = [body.get("text") or "", *_mrkdwn_of(body.get("blocks") or [])]
        for text in marked:
            self.mentions += re.findall(r"<[@!#][^>]*>", text)

    def _preview(self, body: dict[str, Any]) -> None:
        """Slack opens links to draw previews, unless it is told not to."""
        if body.get("unfurl_links") is False and body.get("unfurl_media") is False:
            return
        shown = json.dumps([body.get("text"), body.get("blocks")])
        self.unfurled += re.findall(r"https?://[^\s\"<>|]+", shown)


# -- what Slack checks -----------------------------------------------------------------------

# https://docs.slack.dev/reference/methods/chat.postMessage
_POST_KEYS = {"channel", "text", "blocks", "thread_ts", "parse", "link_names", "mrkdwn", "metadata"}
_POST_KEYS |= {"as_user", "attachments", "icon_emoji", "icon_url", "markdown_text", "username"}


def check_blocks(blocks: list[dict[str, Any]], limit: int, *, inputs: bool) -> None:
    """Block Kit's rules (docs.slack.dev/reference/block-kit/blocks).

    Raises:
        Refusal: `invalid_blocks`, and which rule.
    """
    if not isinstance(blocks, list):
        raise Refusal("invalid_blocks_format", "blocks is no list")
    if len(blocks) > limit:
        raise Refusal("invalid_blocks", f"{len(blocks)} blocks, {limit} are allowed")
    block_ids: list[str] = []
    action_ids: list[str] = []
    for number, block in enumerate(blocks):
        checker = _BLOCKS.get(block.get("type", ""))
        if checker is None or (block["type"] == "input" and not inputs):
            raise Refusal("invalid_blocks", f"a block of type {block.get('type')!r} is not allowed here")
        if "block_id" in block:
            _length(block["block_id"], 1, 255, "block_id")
            block_ids.append(block["block_id"])
        else:
            # Slack gives every block an id; the ones that were not given come back in payloads all the same.
            block["block_id"] = f"b{number}"
        checker(block, action_ids)
    for ids, name in ((block_ids, "block_id"), (action_ids, "action_id")):
        if len(ids) != len(set(ids)):
            raise Refusal("invalid_blocks", f"a {name} stands twice")


def check_view(view: dict[str, Any]) -> None:
    """A modal's rules (docs.slack.dev/reference/views/modal-views). Raises Refusal."""
    _keys(
        view,
        {"type", "title", "blocks"},
        {"close", "submit", "private_metadata", "callback_id", "clear_on_close", "notify_on_close", "external_id"},
        "a modal",
    )
    if view["type"] != "modal":
        raise Refusal("invalid_arguments", "only modals are spoken here")
    for part in ("title", "close", "submit"):
        if part in view:
            _text(view[part], 24, plain=True)
    _length(view.get("private_metadata", ""), 0, 3000, "private_metadata")
    _length(view.get("callback_id", ""), 0, 255, "callback_id")
    check_blocks(view["blocks"], _MODAL_BLOCKS, inputs=True)
    if any(block["type"] == "input" for block in view["blocks"]) and "submit" not in view:
        raise Refusal("invalid_arguments", "a modal with an input needs submit")


def _section(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type"}, {"text", "fields", "accessory", "block_id", "expand"}, "a section")
    if "text" not in block and "fields" not in block:
        raise Refusal("invalid_blocks", "a section needs text or fields")
    if "text" in block:
        _text(block["text"], 3000)
    fields = block.get("fields", [])
    if "fields" in block and not 1 <= len(fields) <= 10:
        raise Refusal("invalid_blocks", "a section has 1 to 10 fields")
    for one in fields:
        _text(one, 2000)
    if "accessory" in block:
        _button(block["accessory"], action_ids)


def _header(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type", "text"}, {"block_id"}, "a header")
    _text(block["text"], 150, plain=True)


def _divider(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type"}, {"block_id"}, "a divider")


def _context(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type", "elements"}, {"block_id"}, "a context")
    if not 1 <= len(block["elements"]) <= 10:
        raise Refusal("invalid_blocks", "a context has 1 to 10 elements")
    for element in block["elements"]:
        _text(element, 3000)


def _actions(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type", "elements"}, {"block_id"}, "actions")
    if not 1 <= len(block["elements"]) <= 25:
        raise Refusal("invalid_blocks", "actions have 1 to 25 elements")
    for element in block["elements"]:
        _button(element, action_ids)


def _input(block: dict[str, Any], action_ids: list[str]) -> None:
    _keys(block, {"type", "label", "element"}, {"block_id", "hint", "optional", "dispatch_action"}, "an input")
    _text(block["label"], 2000, plain=True)
    if "hint" in block:
        _text(block["hint"], 2000, plain=True)
    element = block["element"]
    if element.get("type") != "plain_text_input":
        raise Refusal("invalid_blocks", "only plain_text_input is spoken here")
    optional = {"initial_value", "multiline", "min_length", "max_length", "focus_on_load", "placeholder"}
    _keys(element, {"type", "action_id"}, optional, "a plain_text_input")
    if "placeholder" in element:
        _text(element["placeholder"], 150, plain=True)
    if not 1 <= element.get("max_length", 3000) <= 3000 or not 0 <= element.get("min_length", 0) <= 3000:
        raise Refusal("invalid_blocks", "min_length and max_length end at 3000")
    _action_id(element, action_ids)


def _rich_text(block: dict[str, Any], action_ids: list[str]) -> None:
    """Texts with styles, where no character is markup."""
    _keys(block, {"type", "elements"}, {"block_id"}, "rich_text")
    for section in block["elements"]:
        if section.get("type") != "rich_text_section":
            raise Refusal("invalid_blocks", "only rich_text_section is spoken here")
        _keys(section, {"type", "elements"}, set(), "a rich_text_section")
        if not section["elements"]:
            raise Refusal("invalid_blocks", "a rich_text_section has no elements")
        for element in section["elements"]:
            _rich_element(element)


def _rich_element(element: dict[str, Any]) -> None:
    match element.get("type"):
        case "text":
            _keys(element, {"type", "text"}, {"style"}, "a rich text")
            _length(element["text"], 1, _RICH_TEXT, "text")
        case "link":
            _keys(element, {"type", "url"}, {"text", "style", "unsafe"}, "a rich link")
            _length(element["url"], 1, _RICH_TEXT, "url")
        case other:
            raise Refusal("invalid_blocks", f"a rich text element of type {other!r} is not spoken here")
    style = element.get("style", {"bold": True})
    if not style or not set(style) <= {"bold", "italic", "strike", "code"}:
        raise Refusal("invalid_blocks", f"the style {style}")


_BLOCKS: dict[str, Callable[[dict[str, Any], list[str]], None]] = {
    "section": _section,
    "header": _header,
    "divider": _divider,
    "context": _context,
    "actions": _actions,
    "input": _input,
    "rich_text": _rich_text,
}


def _button(element: dict[str, Any], action_ids: list[str]) -> None:
    if element.get("type") != "button":
        raise Refusal("invalid_blocks", "only buttons are spoken here")
    _keys(element, {"type", "text", "action_id"}, {"url", "value", "style", "accessibility_label"}, "a button")
    _text(element["text"], 75, plain=True)
    _length(element.get("accessibility_label", "x"), 1, 75, "accessibility_label")
    _length(element.get("value", "x"), 1, 2000, "value")
    if "url" in element:
        _length(element["url"], 1, 3000, "url")
        if not re.fullmatch(r"https?://[!-~]+", element["url"]):
            raise Refusal("invalid_blocks", "a button's url is no URL")
    if element.get("style", "primary") not in ("primary", "danger"):
        raise Refusal("invalid_blocks", "style is primary or danger")
    _action_id(element, action_ids)


def _action_id(element: dict[str, Any], action_ids: list[str]) -> None:
    _length(element["action_id"], 1, 255, "action_id")
    action_ids.append(element["action_id"])


def _text(text: Any, limit: int, *, plain: bool = False) -> None:
    if not isinstance(text, dict) or text.get("type") not in ("plain_text", "mrkdwn"):
        raise Refusal("invalid_blocks", "a text object has the type plain_text or mrkdwn")
    is_plain = text["type"] == "plain_text"
    if plain and not is_plain:
        raise Refusal("invalid_blocks", "this text has to be plain_text")
    _keys(text, {"type", "text"}, {"emoji"} if is_plain else {"verbatim"}, "a text object")
    _length(text["text"], 1, limit, "text")
    if not is_plain:
        _escapes(text["text"])


def _escapes(text: str) -> None:
    """`& < >` are control characters of mrkdwn: alone they have to be escaped."""
    bare = re.sub(r"<(https?://[^<>|\s]+|[@!#][^<>]+)(\|[^<>]*)?>", "", text)
    if "<" in bare or ">" in bare or re.search(r"&(?!(amp|lt|gt);)", bare):
        raise Refusal("invalid_blocks", f"unescaped control character in {bare[:80]!r}")


def _length(value: Any, least: int, most: int, name: str) -> None:
    if not isinstance(value, str) or not least <= len(value) <= most:
        size = len(value) if isinstance(value, str) else type(value).__name__
        raise Refusal("invalid_blocks", f"{name} has {size} characters, {least} to {most} are allowed")


def _keys(thing: dict[str, Any], required: set[str], optional: set[str], name: str) -> None:
    missing, unknown = required - set(thing), set(thing) - required - optional
    if missing or unknown:
        raise Refusal("invalid_blocks", f"{name}: missing {sorted(missing)}, unknown {sorted(unknown)}")


def _only_keys(body: dict[str, Any], known: set[str]) -> None:
    # bolt adds the workspace to every request, for organisations that installed the app as a whole.
    unknown = set(body) - known - {"team_id"}
    if unknown:
        raise Refusal("invalid_arguments", f"unknown arguments {sorted(unknown)}")


def _content(body: dict[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in ("text", "blocks") if body.get(key)}


def _mrkdwn_of(blocks: list[dict[str, Any]]) -> list[str]:
    found: list[str] = []

    def walk(thing: Any) -> None:
        if isinstance(thing, dict):
            if thing.get("type") == "mrkdwn":
                found.append(thing["text"])
            for value in thing.values():
                walk(value)
        elif isinstance(thing, list):
            for value in thing:
                walk(value)

    walk(blocks)
    return found


def _check_typed(element: dict[str, Any], value: str) -> None:
    """Slack's own client enforces these before anything is sent."""
    assert element.get("min_length", 0) <= len(value) <= element.get("max_length", 3000), "Slack would not submit this"
    assert "\n" not in value or element.get("multiline"), "a single-line input holds one line"


async def _decoded(request: web.Request) -> dict[str, Any]:
    kind = request.content_type
    if kind == "application/json":
        try:
            body = await request.json()
        except json.JSONDecodeError:
            raise Refusal("invalid_json") from None
        if not isinstance(body, dict):
            raise Refusal("json_not_object")
        return body
    if kind in ("application/x-www-form-urlencoded", "application/octet-stream"):
        # Without a body slack_sdk sends no content type; aiohttp reads that as octet-stream.
        return {**dict(request.query), **{key: str(value) for key, value in (await request.post()).items()}}
    raise Refusal("invalid_post_type", kind)


def _broken(request: web.Request) -> web.StreamResponse:
    """The connection breaks off without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response(status=503)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _written(text: str) -> str:
    """A person's text as Slack stores it: control characters escaped, addresses in angle brackets."""
    return re.sub(r"https?://[^\s<>]+", lambda found: f"<{found[0]}>", _escaped(text))
