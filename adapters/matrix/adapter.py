"""Matrix as a chat platform: `install` into somebody's nio client, or `run` one of our own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import aiohttp
from nio import AsyncClient, AsyncClientConfig, InviteMemberEvent, MatrixRoom, MegolmEvent, RoomMessageText
from nio.responses import JoinResponse, RoomRedactResponse, RoomSendResponse, WhoamiError, WhoamiResponse

from adapters import log_filters
from adapters.base import Finding
from adapters.driver import Driver, nobody_served
from adapters.matrix.calls import TOKEN_OVER, call, refused
from adapters.matrix.options import MatrixOptions
from adapters.matrix.render import TEXT_MAX, Rendered, render
from adapters.matrix.rooms import STATE_EVENTS, Rooms
from adapters.matrix.syncing import SyncToken, sync_forever
from adapters.refusals import EditWindowClosed, NotSupported, PrivateDeliveryUnavailable
from adapters.symbols import BAD, GOOD, WARN
from adapters.tasks import NotSent, Tasks
from gateway import grammar, policy, sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Deferred, Ignored, Notice, Reply, SecretPrompt, Text
from mcp_auth.errors import ConfigError, Unreachable
from mcp_auth.limits import Rate

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_log = logging.getLogger(__name__)

PLATFORM = "matrix"
# In a host's client: what was written earlier is history, which a first sync repeats.
_HISTORY_SECONDS = 300.0
# Whoever invites the bot may have typed the command already.
_BEFORE_JOINING_SECONDS = 60.0
_TOLD_SECONDS = 3600.0
_REMEMBERED = 1000
# Invitations of strangers that are followed. Going into a room costs the homeserver more than an answer.
_VISITS = Rate("matrix_visits", 10, 60)
_VISITS_EACH = Rate("matrix_visits_each", 3, 3600)
# nio's own retries of one request; without numbers it goes on for ever.
_CLIENT = AsyncClientConfig(
    encryption_enabled=False, max_limit_exceeded=5, max_timeouts=3, backoff_factor=0.5, request_timeout=30
)
_TALKATIVE = ("nio", "aiohttp", "peewee")
# It writes whole answers at DEBUG.
_WIRE = "nio.responses"


class MatrixAdapter:
    """`/mcp` and `!mcp` on Matrix.

    Args:
        options: instead of the section `gateway.matrix`; `install` needs neither.
        sleep: waits that many seconds between two tries.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        options: MatrixOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._sleep = sleep
        self._driver = Driver(gateway, self)
        self._tasks = Tasks()
        self._client: AsyncClient | None = None
        self._rooms: Rooms | None = None
        self._questions: dict[tuple[str, str], _Question] = {}
        self._told: BoundedDict[str, float] = BoundedDict(_REMEMBERED)
        self._joined: dict[str, float] = {}
        self._visited: set[str] = set()
        self._alone = False
        self._undo: Callable[[], None] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """A host's other callbacks hear every message, so a secret is asked for in our own process only."""
        return Capabilities(edit_window=None, secret_input=self._alone, text_max=TEXT_MAX, button_url_max=0)

    # -- the two ways to run -----------------------------------------------------------------

    def install(self, client: AsyncClient) -> None:
        """Answer `/mcp` and `!mcp` in the rooms of a client that somebody else logs in and syncs.

        nio calls every callback for every event: ask `claims` in your own, and leave alone what is ours. Invitations
        stay the host's. Encrypted rooms work when the client can read them. The gateway starts with the first message;
        `await stop()` before `client.close()`.
        """
        self._attach(client, self._on_recent_message)

    async def stop(self) -> None:
        """Take no more messages and notices, and end what is being answered. Safe to call twice."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        await self._tasks.stop()
        # A notice that is under way would open the client's connection again.
        self._client = None

    async def run(self) -> None:
        """The bot of `gateway.matrix`, until cancelled.

        Raises:
            ConfigError: the configuration cannot be used, or the homeserver refuses the token.
            Unreachable: it does not answer.
        """
        log_filters.hide_payloads(_WIRE)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        options = self._settings()
        client = _client(options)
        try:
            me = await _who(client, options)
            self._alone = True
            token = SyncToken(self._gateway.config.home, options.homeserver, me.user_id)

            early: list[tuple[MatrixRoom, InviteMemberEvent]] = []

            async def keep(room: MatrixRoom, event: InviteMemberEvent) -> None:
                early.append((room, event))

            def begin() -> None:
                self._attach(client, self._on_message)
                client.event_callbacks = [one for one in client.event_callbacks if one.func is not keep]
                client.add_event_callback(self._on_invite, InviteMemberEvent)
                for invitation in early:
                    self._invited(*invitation)

            # Invitations are no history: those from before the first start count.
            client.add_event_callback(keep, InviteMemberEvent)
            _log.info("matrix: %s on %s", me.user_id, options.homeserver)
            await sync_forever(client, token, begin, self._sleep)
        finally:
            await self.stop()
            await client.close()

    async def claims(self, room: MatrixRoom, event: Any) -> bool:
        """Is this event ours, so that no other callback should look at it?"""
        return isinstance(event, RoomMessageText) and await self._read(room, event) is not None

    async def check(self) -> list[Finding]:
        try:
            options = self._settings()
        except ConfigError as error:
            return [Finding(BAD, str(error))]
        client = _client(options)
        started = time.monotonic()
        try:
            me = await _who(client, options)
        except ConfigError as error:
            return [Finding(BAD, str(error))]
        except Unreachable as error:
            return [Finding(WARN, str(error))]
        finally:
            await client.close()
        took = round((time.monotonic() - started) * 1000)
        findings = [Finding(GOOD, f"{me.user_id} on {options.homeserver} answers in {took} ms")]
        return findings + nobody_served(self._gateway, PLATFORM)

    # -- the contract ------------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        """Raises NotSent: it was given up; the log says why."""
        prompt = reply.prompt
        if prompt is not None and not self._places.owns(chat.data["room"]):
            # Only in a room of ours can the answer be deleted.
            sent = await self.deliver_private(Principal(PLATFORM, chat.data["user"]), reply, None)
            elsewhere = Reply((Text(reply.summary or sentences.PRIVATE_ANSWER),))
            await self._send(chat.data, render(elsewhere, now=time.time()))
            return sent
        sent = await self._send(chat.data, render(reply, now=time.time()))
        if prompt is not None:
            self._questions[chat.data["room"], chat.data["user"]] = _Question(prompt.id, prompt.expires_at)
        return sent

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        if via is not None and via.data["user"] == principal.user and await self._is_private(via.data):
            return await self.reply(via, reply)
        room = await self._places.with_person(principal.user)
        return await self.reply(ChatRef(PLATFORM, _place(room, principal.user, private=True)), reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        if data["private"] and not await self._is_private(data):
            raise EditWindowClosed
        content = render(reply, now=time.time()).replacing(data["event"], _msgtype(data))
        answer = await call(
            self._nio.room_send(data["room"], "m.room.message", content, ignore_unverified_devices=True)
        )
        if not isinstance(answer, RoomSendResponse):
            raise EditWindowClosed
        return message

    async def _is_private(self, place: dict[str, Any]) -> bool:
        """Whether what began between two is still between two: somebody may have come in since."""
        return bool(place["private"]) and await self._places.is_private(place["room"], place["user"])

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        # The question is a message whose answer is the next one: it is delivered as every private answer is.
        raise NotSupported

    async def _send(self, place: dict[str, Any], message: Rendered) -> MessageRef:
        content = message.content(_msgtype(place))
        if place.get("thread"):
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": place["thread"]}
        answer = await call(
            self._nio.room_send(place["room"], "m.room.message", content, ignore_unverified_devices=True)
        )
        if isinstance(answer, RoomSendResponse):
            return MessageRef(PLATFORM, {**place, "event": answer.event_id})
        if place["private"] and answer.status_code in ("M_FORBIDDEN", "M_NOT_FOUND"):
            raise PrivateDeliveryUnavailable
        _log.warning("a message was given up: the homeserver answers %s", answer.status_code)
        raise NotSent

    # -- what arrives ------------------------------------------------------------------------

    def _attach(self, client: AsyncClient, on_message: Any) -> None:
        if self._undo is not None:
            raise RuntimeError("this adapter is installed already; make another one for another client")
        log_filters.hide_payloads(_WIRE)
        self._client = client
        self._rooms = Rooms(client)
        client.add_event_callback(on_message, RoomMessageText)
        client.add_event_callback(self._on_unreadable, MegolmEvent)
        client.add_event_callback(self._rooms.on_state, STATE_EVENTS)
        unsubscribe = self._gateway.subscribe(PLATFORM, self._notify)

        ours = (on_message, self._on_unreadable, self._on_invite, self._rooms.on_state)

        def undo() -> None:
            client.event_callbacks = [one for one in client.event_callbacks if one.func not in ours]
            unsubscribe()

        self._undo = undo

    async def _on_recent_message(self, room: MatrixRoom, event: RoomMessageText) -> None:
        if _age(event) < _HISTORY_SECONDS:
            await self._on_message(room, event)

    async def _on_message(self, room: MatrixRoom, event: RoomMessageText) -> None:
        """Quick: the next event waits until all callbacks of this one are done."""
        if room.room_id in self._visited:
            return
        if time.time() - _age(event) < self._joined.get(room.room_id, 0.0) - _BEFORE_JOINING_SECONDS:
            # What people said to each other before the bot came.
            return
        found = await self._read(room, event)
        if isinstance(found, _Question):
            del self._questions[room.room_id, event.sender]
            self._tasks.start(self._take_secret(room, event, found))
        elif found is not None:
            self._tasks.start(self._answer(room, event, found))

    async def _read(self, room: MatrixRoom, event: RoomMessageText) -> str | _Question | None:
        """The command in this message, or the question that it answers. None: it is not for us."""
        if event.sender == room.own_user_id or _relation(event).get("rel_type") == "m.replace":
            return None
        text = _words(event)
        command = grammar.after_prefix(text)
        if command is not None:
            return command
        if await self._gateway.claims(text):
            return text
        question = self._questions.get((room.room_id, event.sender))
        return question if question is not None and question.expires_at > time.time() else None

    async def _answer(self, room: MatrixRoom, event: RoomMessageText, text: str) -> None:
        principal = Principal(PLATFORM, event.sender)
        place = _place(room.room_id, event.sender, private=False)
        if _relation(event).get("rel_type") == "m.thread":
            place["thread"] = _relation(event).get("event_id")
        name = room.user_name(event.sender) or event.sender
        invocation = Invocation(principal, ChatRef(PLATFORM, place), text, False, event.event_id, name)
        decision = self._gateway.decide(invocation, self.capabilities)
        if isinstance(decision, Ignored):
            return
        if isinstance(decision, Deferred):
            self._tasks.start(self._show_typing(room.room_id))
        place["private"] = await self._places.is_private(room.room_id, event.sender)
        await self._driver.run_invocation(replace(invocation, private=place["private"]))

    async def _take_secret(self, room: MatrixRoom, event: RoomMessageText, question: _Question) -> None:
        """The answer to a question for a secret: delete it, then use it."""
        deleted = await self._deleted(room.room_id, event.event_id)
        principal = Principal(PLATFORM, event.sender)
        reply = await self._gateway.submit_secret(principal, question.prompt_id, _words(event))
        if not deleted:
            reply = replace(reply, blocks=(Text(sentences.SECRET_STAYS, tone="warning"), *reply.blocks))
        await self.reply(ChatRef(PLATFORM, _place(room.room_id, event.sender, private=True)), reply)

    async def _deleted(self, room_id: str, event_id: str) -> bool:
        try:
            return isinstance(await call(self._nio.room_redact(room_id, event_id)), RoomRedactResponse)
        except NotSent:
            return False

    async def _on_unreadable(self, room: MatrixRoom, event: MegolmEvent) -> None:
        """Somebody wrote in an encrypted room that this client cannot read."""
        if self._nio.olm is None and self._is_allowed(event.sender) and not self._was_told(room.room_id):
            self._tasks.start(self._refuse_encrypted(room, event.sender))

    async def _refuse_encrypted(self, room: MatrixRoom, user: str) -> None:
        invite = await self.deliver_private(
            Principal(PLATFORM, user), Reply((Text(sentences.ROOM_READABLE),)), via=None
        )
        _log.info("an encrypted room was refused; %s is answered in %s", user, invite.data["room"])
        await self._send(
            _place(room.room_id, user, private=False), render(Reply((Text(sentences.ROOM_ENCRYPTED),)), now=time.time())
        )

    async def _on_invite(self, room: MatrixRoom, event: InviteMemberEvent) -> None:
        self._invited(room, event)

    def _invited(self, room: MatrixRoom, event: InviteMemberEvent) -> None:
        if event.membership == "invite" and event.state_key == self._nio.user_id:
            if self._is_allowed(event.sender):
                self._tasks.start(self._follow(room))
            elif event.content.get("is_direct") is True:
                self._tasks.start(self._visit(room, event.sender))

    async def _follow(self, room: MatrixRoom) -> None:
        """Join where somebody who is served asks, and stay."""
        self._joined[room.room_id] = time.time()
        answer = await call(self._nio.join(room.room_id))
        if not isinstance(answer, JoinResponse):
            _log.warning("an invitation could not be followed: the homeserver answers %s", answer.status_code)

    async def _visit(self, room: MatrixRoom, stranger: str) -> None:
        """Tell a stranger the code to be let in with, in the direct room that they made, and leave it.

        Only people of the bot's own homeserver: their rooms are there already, so nothing is fetched from another.
        """
        principal = Principal(PLATFORM, stranger)
        place = _place(room.room_id, stranger, private=True)
        name = room.user_name(stranger) or stranger
        event_id = f"invitation {room.room_id} {time.time_ns()}"
        invocation = Invocation(principal, ChatRef(PLATFORM, place), "", True, event_id, name)
        if (
            _server_of(stranger) != _server_of(self._nio.user_id)
            or room.room_id in self._visited
            or self._gateway.people.is_denied(principal)
            or isinstance(self._gateway.decide(invocation, self.capabilities), Ignored)
            or self._gateway.auth.limits.take(_VISITS_EACH, stranger)
            or self._gateway.auth.limits.take(_VISITS, PLATFORM)
        ):
            return
        self._visited.add(room.room_id)
        try:
            if isinstance(await call(self._nio.join(room.room_id)), JoinResponse):
                await self._answer_and_leave(invocation, room.room_id)
        finally:
            self._visited.discard(room.room_id)

    async def _answer_and_leave(self, invocation: Invocation, room_id: str) -> None:
        try:
            # Who is in it is known to those who are in it.
            if await self._places.is_private(room_id, invocation.principal.user):
                await self._driver.run_invocation(invocation)
        except PrivateDeliveryUnavailable:
            _log.info("a stranger's room was closed before it could be answered in")
        finally:
            await self._places.leave(room_id)

    async def _show_typing(self, room_id: str) -> None:
        await call(self._nio.room_typing(room_id, typing_state=True, timeout=20_000))

    async def _notify(self, notice: Notice) -> None:
        try:
            await self._driver.notify(notice)
        except NotSent:
            # The log has it.
            return

    def _is_allowed(self, user: str) -> bool:
        return policy.is_allowed(Principal(PLATFORM, user), self._gateway.config.gateway)

    def _was_told(self, room_id: str) -> bool:
        """Once an hour and room is enough."""
        now = time.monotonic()
        if now - self._told.get(room_id, -_TOLD_SECONDS) < _TOLD_SECONDS:
            return True
        self._told[room_id] = now
        return False

    # -- the client --------------------------------------------------------------------------

    def _settings(self) -> MatrixOptions:
        if self._options is None:
            self._options = self._gateway.platform_options(PLATFORM, MatrixOptions)
        return self._options

    @property
    def _nio(self) -> AsyncClient:
        """Raises NotSent: there is no client yet, or no longer."""
        if self._client is None:
            raise NotSent
        return self._client

    @property
    def _places(self) -> Rooms:
        """Raises NotSent: as `_nio`."""
        if self._client is None or self._rooms is None:
            raise NotSent
        return self._rooms


@dataclass(frozen=True, slots=True)
class _Question:
    """A secret that was asked for: the next message of the person in that room is the answer."""

    prompt_id: str
    expires_at: float


def _client(options: MatrixOptions) -> AsyncClient:
    client = AsyncClient(options.homeserver.rstrip("/"), config=_CLIENT, proxy=options.proxy)
    client.access_token = options.token
    return client


async def _who(client: AsyncClient, options: MatrixOptions) -> WhoamiResponse:
    """Whose token it is; from now on the client knows.

    Raises:
        ConfigError: the homeserver refuses the token.
        Unreachable: it does not answer as a homeserver does.
    """
    try:
        answer = await client.whoami()
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unreachable(
            f"The homeserver {options.homeserver} does not answer ({type(error).__name__}).",
            next_step="check gateway.matrix.homeserver",
        ) from None
    if isinstance(answer, WhoamiResponse):
        client.restore_login(answer.user_id, answer.device_id or "", options.token)
        return answer
    if isinstance(answer, WhoamiError) and answer.status_code in TOKEN_OVER:
        raise ConfigError(refused(answer)[0].upper() + refused(answer)[1:], key="gateway.matrix.token")
    raise Unreachable(
        f"{options.homeserver} does not answer as a homeserver does ({answer.status_code}).",
        next_step="check gateway.matrix.homeserver",
    )


def _place(room: str, user: str, *, private: bool) -> dict[str, Any]:
    return {"room": room, "user": user, "private": private}


def _msgtype(place: dict[str, Any]) -> str:
    """Among others a notice: nobody is rung up, and bots do not answer each other.

    Alone with the person a text, because clients do not ring for a notice.
    """
    return "m.text" if place["private"] else "m.notice"


def _server_of(user: str) -> str:
    return user.partition(":")[2]


def _words(event: RoomMessageText) -> str:
    """The text without the quotation that older clients put before an answer."""
    lines = event.body.split("\n")
    if "m.in_reply_to" in _relation(event):
        while lines and lines[0].startswith("> "):
            lines.pop(0)
    return "\n".join(lines).strip()


def _relation(event: RoomMessageText) -> dict[str, Any]:
    relation = event.source.get("content", {}).get("m.relates_to")
    return relation if isinstance(relation, dict) else {}


def _age(event: RoomMessageText) -> float:
    """Seconds since it was sent, by the homeserver's own count where it gives one."""
    age = event.source.get("unsigned", {}).get("age")
    return age / 1000 if isinstance(age, int | float) else time.time() - event.server_timestamp / 1000
