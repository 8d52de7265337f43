"""Discord on loopback: the REST API v10 and the gateway websocket, as far as a bot with slash commands uses them.

Followed: https://docs.discord.com/developers, pages "Receiving and Responding" (the callback within 3 s and only
once, its types, the token's 15 minutes, follow-ups), "Message Resource", "User Resource" (create DM), "Webhook
Resource" (edit and delete a message), "Application Commands" (list, bulk overwrite), "Application Resource" (current
application), "Gateway" and "Gateway Events" (hello, identify with intents, heartbeat, ready, resume, invalid session,
zlib-stream, close codes), "Rate Limits" (429 with retry_after, Via) and "Opcodes and Status Codes" (JSON error
codes). The limits of bodies are in discord_limits.py. Not spoken: files, components v2, selects, sharding, voice,
reactions, every resource not named here.

What Discord would refuse is refused with its status and error code, and also noted in `violations`: a test that did not
ask for it fails. Times follow `clock`, which a test moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import socket
import time
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from aiohttp import WSMsgType, web

from tests.patience import PATIENCE
from tests.platforms.discord_limits import (
    EPHEMERAL,
    SUPPRESS_EMBEDS,
    Invalid,
    check_choices,
    check_commands,
    check_message,
    check_modal,
)

ANSWER_SECONDS, TOKEN_SECONDS = 3.0, 900.0
FOLLOWUPS_OF_USER_INSTALLS = 5

GUILDS, GUILD_MESSAGES, DIRECT_MESSAGES, MESSAGE_CONTENT = 1 << 0, 1 << 9, 1 << 12, 1 << 15
PRIVILEGED = (1 << 1) | (1 << 8) | MESSAGE_CONTENT

COMMAND, COMPONENT, AUTOCOMPLETE, MODAL_SUBMIT = 2, 3, 4, 5
_ANSWERS = {
    COMMAND: {4, 5, 9, 12},
    COMPONENT: {4, 5, 6, 7, 9, 12},
    AUTOCOMPLETE: {8},
    MODAL_SUBMIT: {4, 5, 6, 7, 12},
}
# Closed direct messages cannot be known before.
_NOBODY_S_FAULT = frozenset({50007})
_USER_AGENT = re.compile(r"DiscordBot \(\S+ \S+\).*")
_ids = itertools.count(1)


@dataclass
class Clock:
    """Seconds since the epoch. It stands still unless it is moved: no answer is late because the machine is busy."""

    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(eq=False)
class User:
    id: int
    name: str
    bot: bool = False
    takes_dms: bool = True


@dataclass(eq=False)
class Place:
    """A channel: of a guild, a DM with the bot, or a private channel where only a user install brings the app."""

    id: int
    kind: str  # "guild", "dm" or "private"
    guild_id: int | None = None
    user: User | None = None


@dataclass(eq=False)
class Message:
    """`payloads`: what made it, then every edit. `ephemeral_to`: the only one who sees it."""

    id: int
    place: Place
    author: User
    payloads: list[dict[str, Any]]
    ephemeral_to: User | None = None
    loading: bool = False
    deleted: bool = False
    content: str = ""
    components: list[dict[str, Any]] = field(default_factory=list)
    embeds: list[dict[str, Any]] = field(default_factory=list)
    flags: int = 0

    @property
    def buttons(self) -> list[dict[str, Any]]:
        return [button for row in self.components for button in row["components"]]

    @property
    def text(self) -> str:
        """All that a person reads, the buttons in brackets."""
        labels = " ".join(f"[{button['label']}]" for button in self.buttons)
        return f"{self.content}\n{labels}".strip()

    def links(self) -> list[str]:
        """Every link that can be opened: of buttons, and in the text."""
        urls = [button["url"] for button in self.buttons if "url" in button]
        return urls + re.findall(r"https?://[^\s<>]+", self.content)


@dataclass(eq=False)
class Interaction:
    """What a user did, and what came back. `answer`: the callback's type once there is one."""

    id: int
    token: str
    kind: int
    user: User
    place: Place
    at: float
    installed: str
    source: Message | None = None
    answer: int | None = None
    modal: dict[str, Any] | None = None
    choices: list[dict[str, Any]] | None = None
    original: Message | None = None
    followups: list[Message] = field(default_factory=list)

    @property
    def messages(self) -> list[Message]:
        return ([self.original] if self.original is not None else []) + self.followups


@dataclass
class Fault:
    """How requests to a path go wrong, `times` times: a status with a body, or `drop`: the connection breaks."""

    path: re.Pattern[str]
    times: int
    status: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    before: bool = True  # False: the work is done and only the answer is lost


@dataclass
class Request:
    method: str
    path: str
    body: Any
    headers: dict[str, str]


class ApiError(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status, self.code, self.message = status, code, message


class DiscordServer:
    """One application with one bot, its guild, and the people who talk to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.token = f"MTk4.{secrets.token_urlsafe(6)}.{secrets.token_urlsafe(20)}"
        self.bot = User(_snowflake(), "slash-mcp", bot=True)
        self.application_id = _snowflake()
        self.privileged_allowed = False
        self.interactions_endpoint_url: str | None = None
        self.user_installs = True
        self.commands: list[dict[str, Any]] = []
        self.command_writes = 0
        self.guild_id = _snowflake()
        self.channel = Place(_snowflake(), "guild", guild_id=self.guild_id)
        self.places: dict[int, Place] = {self.channel.id: self.channel}
        self.users: dict[int, User] = {}
        self.messages: list[Message] = []
        self.interactions: dict[int, Interaction] = {}
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self.faults: list[Fault] = []
        self.sessions: dict[str, Session] = {}
        self.connections = 0
        self.refuse_connections = False
        self.heartbeat_ms = 41_250
        self._changed = asyncio.Event()

    @cached_property
    def _socket(self) -> socket.socket:
        """Bound at its first use, so that the addresses can be written down before anything runs."""
        return socket.create_server(("127.0.0.1", 0))

    @property
    def _address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def api_base(self) -> str:
        return f"http://{self._address}/api/v10"

    @property
    def gateway_url(self) -> str:
        return f"ws://{self._address}/"

    # -- running -----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[DiscordServer]:
        app = web.Application()
        app.router.add_get("/", self._gateway)
        app.router.add_route("*", "/api/v10/{path:.*}", self._rest)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.SockSite(runner, self._socket).start()
        try:
            yield self
        finally:
            for session in self.sessions.values():
                await session.cut()
            await runner.cleanup()

    async def until(self, condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Wait until `condition` gives something true, looked at after every change here; give it back."""
        async with asyncio.timeout(timeout):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found

    async def connected(self, timeout: float = PATIENCE) -> None:
        """Wait until a bot is identified on the gateway."""
        await self.until(lambda: any(one.socket is not None for one in self.sessions.values()), timeout)

    def fail(self, path: str, times: int = 1, **how: Any) -> None:
        """The next `times` requests whose path matches fail: `status=`, `drop` by default."""
        self.faults.append(Fault(re.compile(path), times, **how))

    def rate_limit(self, path: str, retry_after: float, times: int = 1) -> None:
        body = {"message": "You are being rate limited.", "retry_after": retry_after, "global": False}
        headers = {"Retry-After": str(retry_after), "X-RateLimit-Scope": "user", "Via": "1.1 google"}
        self.fail(path, times, status=429, body=body, headers=headers)

    async def cut_connections(self, *, forget: bool = False, code: int | None = None) -> None:
        """The network breaks under every gateway connection, or Discord closes it with `code`."""
        for session in list(self.sessions.values()):
            await session.cut(code)
        if forget:
            self.sessions.clear()

    # -- what people do ----------------------------------------------------------------------

    def user(self, name: str, **more: Any) -> User:
        user = User(_snowflake(), name, **more)
        self.users[user.id] = user
        return user

    def dm(self, user: User) -> Place:
        """The direct messages of this user and the bot."""
        found = next((one for one in self.places.values() if one.kind == "dm" and one.user is user), None)
        return found or self._place(Place(_snowflake(), "dm", user=user))

    def elsewhere(self) -> Place:
        """A private channel between other people: only whoever installed the app brings it there."""
        return self._place(Place(_snowflake(), "private"))

    def foreign_guild(self) -> Place:
        """A channel of a guild that the bot is no member of."""
        return self._place(Place(_snowflake(), "guild", guild_id=_snowflake()))

    async def slash(self, user: User, verb: str, place: Place | None = None, **options: str) -> Interaction:
        """Use `/mcp VERB` with options, as the registered command allows it."""
        command, subcommand = self._subcommand(verb)
        known = {one["name"]: one for one in subcommand.get("options") or []}
        missing = {name for name, one in known.items() if one.get("required")} - options.keys()
        assert options.keys() <= known.keys(), f"/mcp {verb} has no {options.keys() - known.keys()}"
        assert not missing, f"Discord would not let anybody send /mcp {verb} without {missing}"
        given = [{"name": name, "type": 3, "value": value} for name, value in options.items()]
        data = _command_data(command, verb, given)
        return await self._interact(COMMAND, user, place or self.channel, data)

    async def type(self, user: User, verb: str, option: str, text: str, place: Place | None = None) -> list[str]:
        """What is offered while `text` is typed into an option."""
        command, subcommand = self._subcommand(verb)
        assert any(one["name"] == option and one.get("autocomplete") for one in subcommand["options"])
        given = [{"name": option, "type": 3, "value": text, "focused": True}]
        interaction = await self._interact(
            AUTOCOMPLETE, user, place or self.channel, _command_data(command, verb, given)
        )
        await self.answered(interaction)
        return [choice["value"] for choice in interaction.choices or []]

    async def press(self, user: User, message: Message, label: str) -> Interaction:
        """Press a button of a message that this user sees."""
        assert not message.deleted
        assert message.ephemeral_to in (None, user), "this user does not see the message"
        button = next((one for one in message.buttons if one["label"] == label), None)
        assert button is not None, f"no button {label!r} in {message.text!r}"
        assert button["style"] != 5, "a link button sends nothing"
        data = {"custom_id": button["custom_id"], "component_type": 2, "id": 1}
        return await self._interact(COMPONENT, user, message.place, data, source=message)

    async def submit(self, shown: Interaction, *values: str) -> Interaction:
        """Fill the modal that an interaction opened, in order, and send it."""
        assert shown.modal is not None, "no modal was opened"
        components = []
        for component, value in zip(shown.modal["components"], values, strict=True):
            labelled = component["type"] == 18
            field_ = component["component"] if labelled else component["components"][0]
            assert len(value) <= (field_.get("max_length") or 4000), "Discord would not take so long a value"
            filled = {"type": 4, "id": 2, "custom_id": field_["custom_id"], "value": value}
            row = {"component": filled} if labelled else {"components": [filled]}
            components.append({"type": component["type"], "id": 1, **row})
        data = {"custom_id": shown.modal["custom_id"], "components": components}
        return await self._interact(MODAL_SUBMIT, shown.user, shown.place, data, source=shown.source)

    async def say(self, user: User, text: str, place: Place | None = None, **members: Any) -> Message:
        """A message of a person, or with `webhook_id=` of a webhook. `@bot` in the text is the bot's mention."""
        where = place or self.channel
        mentioned = "@bot" in text
        content = text.replace("@bot", f"<@{self.bot.id}>")
        message = Message(_snowflake(), where, user, [], content=content)
        self.messages.append(message)
        needs = DIRECT_MESSAGES if where.kind == "dm" else GUILD_MESSAGES
        for session in self.sessions.values():
            if not session.intents & needs:
                continue
            readable = where.kind == "dm" or mentioned or session.intents & MESSAGE_CONTENT
            sent = {**self._message_json(message), **members, "content": content if readable else ""}
            sent["mentions"] = [_user_json(self.bot)] if mentioned else []
            await session.dispatch("MESSAGE_CREATE", sent)
        return message

    async def deliver_again(self, event: Interaction | Message) -> None:
        """The gateway delivers an interaction or a message a second time, as it may after a resume."""
        for session in self.sessions.values():
            _, kind, data = next(one for one in session.sent if one[2].get("id") == str(event.id))
            await session.dispatch(kind, data)

    async def answered(self, interaction: Interaction, timeout: float = PATIENCE) -> Interaction:
        await self.until(lambda: interaction.answer is not None, timeout)
        return interaction

    async def reading(self, interaction: Interaction, words: str, timeout: float = PATIENCE) -> Message:
        """The message of this interaction that says `words`, waited for."""

        def found() -> Message | None:
            return next((one for one in interaction.messages if words in one.text and not one.deleted), None)

        try:
            message: Message = await self.until(found, timeout)
        except TimeoutError:
            shown = [one.text for one in interaction.messages]
            raise AssertionError(f"{words!r} was not said, but {shown}; violations: {self.violations}") from None
        return message

    async def posted(self, place: Place, words: str, timeout: float = PATIENCE) -> Message:
        """The bot's visible message in a channel that says `words`, waited for."""
        try:
            message: Message = await self.until(
                lambda: next((m for m in self.in_place(place) if words in m.text), None), timeout
            )
        except TimeoutError:
            raise AssertionError(f"{words!r} was not posted, but {[m.text for m in self.in_place(place)]}") from None
        return message

    def in_place(self, place: Place) -> list[Message]:
        """The bot's messages that everybody in the channel reads."""
        return [m for m in self.messages if m.place is place and m.author is self.bot and m.ephemeral_to is None]

    # -- interactions ------------------------------------------------------------------------

    async def _interact(
        self, kind: int, user: User, place: Place, data: dict[str, Any], source: Message | None = None
    ) -> Interaction:
        member_here = place.kind == "dm" or place.guild_id == self.guild_id
        installed = "guild" if member_here else "user"
        interaction = Interaction(
            _snowflake(), secrets.token_urlsafe(60), kind, user, place, self.clock(), installed, source
        )
        self.interactions[interaction.id] = interaction
        owners = {"1": str(user.id)} if installed == "user" else {"0": str(place.guild_id or 0)}
        payload: dict[str, Any] = {
            "id": str(interaction.id),
            "application_id": str(self.application_id),
            "type": kind,
            "token": interaction.token,
            "version": 1,
            "data": data,
            "channel_id": str(place.id),
            "channel": self._channel_json(place),
            "context": {"guild": 0, "dm": 1, "private": 2}[place.kind],
            "locale": "en-US",
            "entitlements": [],
            "authorizing_integration_owners": owners,
            "attachment_size_limit": 10_485_760,
            "app_permissions": "0",
        }
        if place.guild_id is not None:
            payload["guild_id"] = str(place.guild_id)
            payload["guild"] = {"id": str(place.guild_id), "features": [], "locale": "en-US"}
            payload["guild_locale"] = "en-US"
            payload["member"] = {**_member_json(), "user": _user_json(user), "permissions": "2048"}
        else:
            payload["user"] = _user_json(user)
        if source is not None:
            payload["message"] = self._message_json(source)
        for session in self.sessions.values():
            await session.dispatch("INTERACTION_CREATE", payload)
        return interaction

    def _callback(self, interaction_id: str, token: str, body: Any) -> dict[str, Any]:
        interaction = self.interactions.get(int(interaction_id))
        if interaction is None or interaction.token != token:
            raise ApiError(404, 10062, "Unknown interaction")
        if interaction.answer is not None:
            raise ApiError(400, 40060, "Interaction has already been acknowledged.")
        if self.clock() - interaction.at > ANSWER_SECONDS:
            raise ApiError(404, 10062, "Unknown interaction")
        kind, data = body.get("type"), body.get("data") or {}
        if kind not in _ANSWERS[interaction.kind] or (kind in (6, 7) and interaction.source is None):
            raise Invalid("type", f"{kind} is no answer to an interaction of type {interaction.kind}")
        self._take(interaction, kind, data)
        interaction.answer = kind
        self._note_change()
        message = interaction.original
        answer: dict[str, Any] = {"interaction": {"id": str(interaction.id), "type": interaction.kind}}
        if kind in (4, 5) and message is not None:
            answer["interaction"]["response_message_id"] = str(message.id)
            answer["interaction"]["response_message_loading"] = kind == 5
            answer["interaction"]["response_message_ephemeral"] = message.ephemeral_to is not None
        if kind == 4 and message is not None:
            answer["resource"] = {"type": 4, "message": self._message_json(message)}
        return answer

    def _take(self, interaction: Interaction, kind: int, data: Any) -> None:
        if kind == 9:
            check_modal(data)
            interaction.modal = data
        elif kind == 8:
            check_choices(data)
            interaction.choices = data["choices"]
        elif kind == 7:
            check_message(data, edit=True)
            assert interaction.source is not None
            _apply(interaction.source, data)
            interaction.original = interaction.source
        elif kind == 6:
            interaction.original = interaction.source
        elif kind == 5:
            if (data.get("flags") or 0) & ~EPHEMERAL:
                raise Invalid("data.flags", "only EPHEMERAL in a deferred answer")
            interaction.original = self._add(interaction, {"flags": data.get("flags", 0)}, loading=True)
        elif kind == 4:
            check_message(data, callback=True)
            interaction.original = self._add(interaction, data)

    def _with_token(self, token: str) -> Interaction:
        interaction = next(
            (one for one in self.interactions.values() if secrets.compare_digest(one.token, token)), None
        )
        if interaction is None or interaction.answer is None:
            raise ApiError(404, 10015, "Unknown Webhook")
        if self.clock() - interaction.at > TOKEN_SECONDS:
            raise ApiError(401, 50027, "Invalid Webhook Token")
        return interaction

    def _follow_up(self, token: str, body: Any) -> dict[str, Any]:
        interaction = self._with_token(token)
        check_message(body, callback=True)
        original = interaction.original
        if original is not None and original.loading:
            # "this endpoint will function as Edit Original ... The ephemeral flag will be ignored"
            _apply(original, body)
            self._note_change()
            return self._message_json(original)
        if interaction.installed == "user" and len(interaction.followups) >= FOLLOWUPS_OF_USER_INSTALLS:
            raise ApiError(400, 40094, "This interaction has reached the maximum number of follow up messages")
        message = self._add(interaction, body)
        interaction.followups.append(message)
        self._note_change()
        return self._message_json(message)

    def _of_interaction(self, token: str, which: str) -> Message:
        interaction = self._with_token(token)
        if which == "@original":
            found = interaction.original
        else:
            found = next((one for one in interaction.messages if str(one.id) == which), None)
        if found is None or found.deleted:
            raise ApiError(404, 10008, "Unknown Message")
        return found

    def _add(self, interaction: Interaction, data: dict[str, Any], *, loading: bool = False) -> Message:
        secret = bool((data.get("flags") or 0) & EPHEMERAL)
        message = Message(_snowflake(), interaction.place, self.bot, [], interaction.user if secret else None)
        _apply(message, data)
        message.loading = loading
        self.messages.append(message)
        return message

    # -- REST --------------------------------------------------------------------------------

    async def _rest(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(request)
        finally:
            self._note_change()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.requests.append(Request(request.method, path, body, dict(request.headers)))
        fault = next((one for one in self.faults if one.path.search(f"{request.method} /{path}")), None)
        if fault is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.faults.remove(fault)
            await asyncio.sleep(fault.delay)
            if fault.before and fault.status:
                return _json(fault.body, fault.status, fault.headers)
            if fault.before and not fault.delay:
                return _broken(request)
        try:
            answer = await self._route(request, path, body)
        except ApiError as error:
            if error.code not in _NOBODY_S_FAULT:
                self._note(f"{request.method} {_without_tokens(path)}: {error}")
            return _json({"message": error.message, "code": error.code}, error.status)
        except Invalid as error:
            self._note(f"{request.method} {_without_tokens(path)}: {error}")
            message = "Invalid Form Body" if error.code == 50035 else error.why
            errors = {error.path: {"_errors": [{"code": "INVALID", "message": error.why}]}}
            return _json({"message": message, "code": error.code, "errors": errors}, 400)
        if fault is not None and not fault.before:
            return _broken(request)
        return web.Response(status=204) if answer is None else _json(answer)

    async def _route(self, request: web.Request, path: str, body: Any) -> Any:
        headers = request.headers
        if not _USER_AGENT.fullmatch(headers.get("User-Agent", "")) and not path.startswith(
            ("interactions", "webhooks")
        ):
            raise ApiError(403, 0, "a bot's User-Agent is DiscordBot (url, version)")
        if body is not None and headers.get("Content-Type", "") != "application/json":
            raise Invalid("Content-Type", f"{headers.get('Content-Type')} instead of application/json")
        parts = path.split("/")
        match [request.method, *parts]:
            case ["POST", "interactions", interaction_id, token, "callback"]:
                answer = self._callback(interaction_id, token, body)
                return answer if request.query.get("with_response") in ("1", "true", "True") else None
            case ["POST", "webhooks", _, token]:
                return self._follow_up(token, body)
            case ["PATCH", "webhooks", _, token, "messages", which]:
                return self._edit(self._of_interaction(token, which), body)
            case ["GET", "webhooks", _, token, "messages", which]:
                return self._message_json(self._of_interaction(token, which))
            case ["DELETE", "webhooks", _, token, "messages", which]:
                self._of_interaction(token, which).deleted = True
                self._note_change()
                return None
        if headers.get("Authorization") != f"Bot {self.token}":
            raise ApiError(401, 0, "401: Unauthorized")
        return self._as_bot(request.method, parts, body)

    def _as_bot(self, method: str, parts: list[str], body: Any) -> Any:
        commands = f"applications/{self.application_id}/commands"
        match [method, *parts]:
            case ["GET", "users", "@me"]:
                return {**_user_json(self.bot), "verified": True, "mfa_enabled": False}
            case ["GET", "oauth2", "applications", "@me"] | ["GET", "applications", "@me"]:
                return self._application_json()
            case ["GET", "gateway", "bot"]:
                limit = {"total": 1000, "remaining": 999, "reset_after": 14_400_000, "max_concurrency": 1}
                return {"url": self.gateway_url, "shards": 1, "session_start_limit": limit}
            case ["GET", *rest] if "/".join(rest) == commands:
                return self.commands
            case ["PUT", *rest] if "/".join(rest) == commands:
                return self._write_commands(body)
            case ["POST", "users", "@me", "channels"]:
                return self._open_dm(body)
            case ["POST", "channels", channel, "messages"]:
                return self._post(channel, body)
            case ["PATCH", "channels", _, "messages", message_id]:
                found = next((one for one in self.messages if str(one.id) == message_id), None)
                if found is None or found.deleted or found.ephemeral_to is not None:
                    raise ApiError(404, 10008, "Unknown Message")
                if found.author is not self.bot:
                    raise ApiError(403, 50005, "Cannot edit a message authored by another user")
                return self._edit(found, body)
        raise ApiError(404, 0, "404: Not Found")

    def _edit(self, message: Message, body: Any) -> dict[str, Any]:
        check_message(body, edit=True)
        _apply(message, body)
        self._note_change()
        return self._message_json(message)

    def _write_commands(self, body: Any) -> list[dict[str, Any]]:
        check_commands(body)
        known = {command["name"]: command["id"] for command in self.commands}
        self.commands = [self._stored_command(one, known.get(one["name"])) for one in body]
        self.command_writes += 1
        self._note_change()
        return self.commands

    def _stored_command(self, command: dict[str, Any], known: str | None) -> dict[str, Any]:
        """As Discord gives it back: with an id, and without members that hold their default."""
        fixed = {"application_id": str(self.application_id), "version": str(_snowflake()), "type": 1}
        kept = {name: value for name, value in command.items() if value is not None}
        options = [_stored_option(one) for one in command.get("options") or []]
        return {"id": known or str(_snowflake()), **fixed, **kept, **({"options": options} if options else {})}

    def _open_dm(self, body: Any) -> dict[str, Any]:
        user = self.users.get(int(body.get("recipient_id", 0)))
        if user is None:
            raise ApiError(400, 50033, "Invalid Recipient(s)")
        return self._channel_json(self.dm(user))

    def _post(self, channel: str, body: Any) -> dict[str, Any]:
        place = self.places.get(int(channel))
        if place is None:
            raise ApiError(404, 10003, "Unknown Channel")
        if place.kind == "private" or (place.kind == "guild" and place.guild_id != self.guild_id):
            raise ApiError(403, 50001, "Missing Access")
        if place.user is not None and not place.user.takes_dms:
            raise ApiError(403, 50007, "Cannot send messages to this user")
        check_message(body)
        message = Message(_snowflake(), place, self.bot, [])
        _apply(message, body)
        self.messages.append(message)
        self._note_change()
        return self._message_json(message)

    # -- the gateway -------------------------------------------------------------------------

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        self.connections += 1
        if self.refuse_connections:
            return web.Response(status=503)
        compressed = request.query.get("compress") == "zlib-stream"
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        if request.query.get("v") != "10" or request.query.get("encoding") != "json":
            await socket.close(code=4012)
            return socket
        line = Line(socket, request, zlib.compressobj() if compressed else None)
        await line.send({"op": 10, "d": {"heartbeat_interval": self.heartbeat_ms, "_trace": []}})
        session: Session | None = None
        async for received in socket:
            if received.type is not WSMsgType.TEXT:
                await socket.close(code=4002)
                break
            message = json.loads(received.data)
            session = await self._receive(line, session, message)
            self._note_change()
        if session is not None and session.line is line:
            session.line = None
        return socket

    async def _receive(self, line: Line, session: Session | None, message: dict[str, Any]) -> Session | None:
        match message["op"]:
            case 1:
                await line.send({"op": 11})
            case 2 if session is None:
                return await self._identify(line, message["d"])
            case 6:
                return await self._resume(line, message["d"])
            case 2:
                await line.close(4005)
            case 3 | 4 | 8 if session is not None:
                pass
            case _:
                await line.close(4003 if session is None else 4001)
        return session

    async def _identify(self, line: Line, wanted: dict[str, Any]) -> Session | None:
        if wanted.get("token") != self.token:
            await line.close(4004)
            return None
        intents = wanted["intents"]
        if intents & PRIVILEGED and not self.privileged_allowed:
            await line.close(4014)
            return None
        assert {"os", "browser", "device"} <= wanted["properties"].keys()
        session = Session(secrets.token_hex(16), intents, line)
        self.sessions[session.id] = session
        ready = {
            "v": 10,
            "user": _user_json(self.bot),
            "guilds": [{"id": str(self.guild_id), "unavailable": True}],
            "session_id": session.id,
            "resume_gateway_url": self.gateway_url,
            "application": {"id": str(self.application_id), "flags": 0},
        }
        await session.dispatch("READY", ready)
        if intents & GUILDS:
            await session.dispatch("GUILD_CREATE", self._guild_json())
        return session

    async def _resume(self, line: Line, wanted: dict[str, Any]) -> Session | None:
        session = self.sessions.get(wanted.get("session_id", ""))
        if wanted.get("token") != self.token:
            await line.close(4004)
            return None
        if session is None:
            await line.send({"op": 9, "d": False})
            return None
        session.line = line
        for seq, event, data in [one for one in session.sent if one[0] > wanted["seq"]]:
            await line.send({"op": 0, "t": event, "s": seq, "d": data})
        await session.dispatch("RESUMED", {})
        return session

    # -- JSON --------------------------------------------------------------------------------

    def _subcommand(self, verb: str) -> tuple[dict[str, Any], dict[str, Any]]:
        command = next((one for one in self.commands if one["name"] == "mcp"), None)
        assert command is not None, "nobody registered /mcp"
        found = next((one for one in command["options"] if one["name"] == verb), None)
        assert found is not None, f"/mcp has no {verb}"
        return command, found

    def _place(self, place: Place) -> Place:
        self.places[place.id] = place
        return place

    def _channel_json(self, place: Place) -> dict[str, Any]:
        if place.kind == "guild":
            common = {"name": "general", "position": 0, "permission_overwrites": [], "nsfw": False, "parent_id": None}
            return {"id": str(place.id), "type": 0, "guild_id": str(place.guild_id), **common}
        recipients = [_user_json(place.user)] if place.user is not None else []
        kind = 1 if place.kind == "dm" else 3
        owner = {} if place.kind == "dm" else {"owner_id": str(self.bot.id), "name": None, "icon": None}
        return {"id": str(place.id), "type": kind, "recipients": recipients, **owner}

    def _guild_json(self) -> dict[str, Any]:
        everyone = {"id": str(self.guild_id), "name": "@everyone", "permissions": "2048", "position": 0, "color": 0}
        flags = {"hoist": False, "managed": False, "mentionable": False, "flags": 0, "colors": {"primary_color": 0}}
        return {
            "id": str(self.guild_id),
            "name": "guild",
            "owner_id": "1",
            "member_count": 3,
            "roles": [{**everyone, **flags}],
            "channels": [self._channel_json(self.channel)],
            "members": [{**_member_json(), "user": _user_json(self.bot)}],
            "threads": [],
            "presences": [],
            "voice_states": [],
            "emojis": [],
            "features": [],
        }

    def _application_json(self) -> dict[str, Any]:
        return {
            "id": str(self.application_id),
            "name": "slash-mcp",
            "description": "",
            "icon": None,
            "bot_public": False,
            "bot_require_code_grant": False,
            "owner": _user_json(User(1, "operator")),
            "verify_key": "00",
            "flags": (1 << 19) if self.privileged_allowed else 0,
            "interactions_endpoint_url": self.interactions_endpoint_url,
            "integration_types_config": {"0": {}, "1": {}} if self.user_installs else {"0": {}},
        }

    def _message_json(self, message: Message) -> dict[str, Any]:
        data = {
            "id": str(message.id),
            "channel_id": str(message.place.id),
            "author": _user_json(message.author),
            "content": message.content,
            "timestamp": datetime.now(UTC).isoformat(),
            "edited_timestamp": None,
            "tts": False,
            "mention_everyone": False,
            "mentions": [],
            "mention_roles": [],
            "attachments": [],
            "embeds": message.embeds,
            "components": message.components,
            "pinned": False,
            "type": 0,
            "flags": message.flags | (EPHEMERAL if message.ephemeral_to is not None else 0),
        }
        if message.place.guild_id is not None:
            data["guild_id"] = str(message.place.guild_id)
            if not message.author.bot:
                data["member"] = _member_json()
        return data

    def _note(self, violation: str) -> None:
        self.violations.append(violation)
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()


@dataclass(eq=False)
class Line:
    """One websocket connection, compressed as asked for (zlib-stream: one context, a sync flush per message)."""

    socket: web.WebSocketResponse
    request: web.Request
    compressor: Any

    async def send(self, message: dict[str, Any]) -> None:
        text = json.dumps(message)
        if self.compressor is None:
            await self.socket.send_str(text)
            return
        data = self.compressor.compress(text.encode()) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        await self.socket.send_bytes(data)

    async def close(self, code: int) -> None:
        await self.socket.close(code=code)


@dataclass(eq=False)
class Session:
    """A gateway session: outlives its connection, so that it can be resumed."""

    id: str
    intents: int
    line: Line | None
    sent: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)

    @property
    def socket(self) -> web.WebSocketResponse | None:
        return self.line.socket if self.line is not None else None

    async def dispatch(self, event: str, data: dict[str, Any]) -> None:
        seq = len(self.sent) + 1
        self.sent.append((seq, event, data))
        if self.line is not None:
            with contextlib.suppress(ConnectionError):
                # A line that just broke: the event is replayed by a resume.
                await self.line.send({"op": 0, "t": event, "s": seq, "d": data})

    async def cut(self, code: int | None = None) -> None:
        line, self.line = self.line, None
        if line is None:
            return
        if code is not None:
            await line.close(code)
        elif line.request.transport is not None:
            line.request.transport.abort()


def _apply(message: Message, data: dict[str, Any]) -> None:
    message.payloads.append(data)
    message.loading = False
    if "content" in data:
        message.content = data["content"] or ""
    if "components" in data:
        message.components = data["components"] or []
    if "embeds" in data:
        message.embeds = data["embeds"] or []
    if data.get("flags") is not None:
        message.flags = data["flags"] & SUPPRESS_EMBEDS


def _command_data(command: dict[str, Any], verb: str, options: list[dict[str, Any]]) -> dict[str, Any]:
    subcommand = {"name": verb, "type": 1, "options": options}
    return {"id": command["id"], "name": "mcp", "type": 1, "options": [subcommand]}


def _stored_option(option: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in option.items() if value not in (None, False, [], {})}
    if option.get("options"):
        kept["options"] = [_stored_option(one) for one in option["options"]]
    return kept


def _user_json(user: User) -> dict[str, Any]:
    look = {"discriminator": "0", "global_name": user.name.title(), "avatar": None}
    return {"id": str(user.id), "username": user.name, "bot": user.bot, **look}


def _member_json() -> dict[str, Any]:
    joined = "2024-01-01T00:00:00+00:00"
    return {"roles": [], "joined_at": joined, "deaf": False, "mute": False, "flags": 0, "nick": None, "avatar": None}


def _snowflake() -> int:
    """An id as Discord makes them: milliseconds since 2015, then a counter."""
    return ((int(time.time() * 1000) - 1_420_070_400_000) << 22) | (next(_ids) & 0x3FFFFF)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    # The library compares this header exactly: no charset after it.
    return web.Response(
        body=json.dumps(body).encode(), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


def _broken(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _without_tokens(path: str) -> str:
    return re.sub(r"[\w-]{60,}", "TOKEN", path)
