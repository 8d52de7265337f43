"""Matrix as a chat platform: `install` into somebody's nio client, or `run` one of our own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import nio

from adapters.base import Adapter, Finding, Sleep
from adapters.matrix.calls import FAILURES, call, refusal_of
from adapters.matrix.incoming import PLATFORM, Incoming, place, read
from adapters.matrix.options import MatrixOptions
from adapters.matrix.render import TEXT_MAX, Rendered, render
from adapters.matrix.rooms import STATE_EVENTS, Rooms
from adapters.matrix.syncing import SyncToken, sync_forever
from adapters.refusals import EditWindowClosed, Elsewhere, Later, Misconfigured, PrivateDeliveryUnavailable, Refused
from adapters.symbols import GOOD, WARN
from gateway import grammar, sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Ignored, Reply, SecretPrompt, Text
from mcp_auth.limits import Rate

if TYPE_CHECKING:
    from gateway.gateway import Gateway

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
_CLIENT = nio.AsyncClientConfig(
    encryption_enabled=False, max_limit_exceeded=5, max_timeouts=3, backoff_factor=0.5, request_timeout=30
)


class MatrixAdapter(Adapter[MatrixOptions]):
    """`/mcp` and `!mcp` on Matrix. `install` needs no section `gateway.matrix`."""

    platform = PLATFORM
    title = "Matrix"
    options_type = MatrixOptions
    failures = FAILURES
    # It writes whole answers at DEBUG.
    wire = ("nio.responses",)
    talkative = ("nio", "aiohttp", "peewee")
    outage = WARN
    # A host's other callbacks hear every message, so a secret is asked for in our own process only.
    capabilities = Capabilities(edit_window=None, text_max=TEXT_MAX, button_url_max=0)
    _client: nio.AsyncClient | None = None
    _rooms: Rooms | None = None

    def __init__(self, gateway: Gateway, *, options: MatrixOptions | None = None, sleep: Sleep = asyncio.sleep) -> None:
        super().__init__(gateway, options=options, sleep=sleep)
        # Set when whatever is said from now on is heard.
        self.listening = asyncio.Event()
        self._questions: dict[tuple[str, str], SecretPrompt] = {}
        self._told: BoundedDict[str, float] = BoundedDict(_REMEMBERED)
        self._joined: dict[str, float] = {}
        self._visited: set[str] = set()

    # -- the two ways to run -----------------------------------------------------------------

    def install(self, client: nio.AsyncClient) -> None:
        """Answer `/mcp` and `!mcp` in the rooms of a client that somebody else logs in and syncs.

        nio calls every callback for every event: ask `claims` in your own, and leave alone what is ours. Invitations
        stay the host's. Encrypted rooms work when the client can read them. The gateway starts with the first message;
        `await stop()` before `client.close()`.

        Raises:
            RuntimeError: it is installed already.
        """
        self._use(client)
        self._listen(client, self._on_recent_message)

    async def stop(self) -> None:
        await super().stop()
        # A notice that is under way would open the client's connection again.
        self._client = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        client, me = await self._log_in()
        self.log.info("matrix: %s on %s", me, self.options.homeserver)
        try:
            self.capabilities = replace(self.capabilities, secret_input=True)
            self._use(client)
            yield
        finally:
            await client.close()

    async def receive(self) -> None:
        client = self._nio
        client.add_event_callback(self._on_invite, nio.InviteMemberEvent)
        token = SyncToken(self.gateway.backend, self.gateway.config.home, self.options.homeserver, str(client.user_id))
        await sync_forever(client, token, lambda: self._listen(client, self._on_message), self.sleep)

    async def claims(self, room: nio.MatrixRoom, event: Any) -> bool:
        """Is this event ours, so that no other callback should look at it?"""
        incoming = read(room, event) if isinstance(event, nio.RoomMessageText) else None
        if incoming is None:
            return False
        return await self._command(incoming) is not None or self._question(incoming) is not None

    async def examine(self) -> list[Finding]:
        started = time.monotonic()
        client, me = await self._log_in()
        await client.close()
        took = round((time.monotonic() - started) * 1000)
        return [Finding(GOOD, f"{me} on {self.options.homeserver} answers in {took} ms")]

    def refusal(self, error: Exception) -> Refused:
        return refusal_of(error)

    async def _log_in(self) -> tuple[nio.AsyncClient, str]:
        """A client, and whose token it has."""
        homeserver, token = self.options.homeserver, self.options.token
        client = nio.AsyncClient(homeserver.rstrip("/"), config=_CLIENT, proxy=self.options.proxy)
        client.access_token = token
        try:
            me = await call(client.whoami(), nio.WhoamiResponse)
        except (Refused, ValueError) as error:
            await client.close()
            if isinstance(error, Later | Misconfigured):
                raise
            why = error.message if isinstance(error, Refused) else type(error).__name__
            raise Later(
                f"{homeserver} does not answer as a homeserver does ({why}).",
                next_step="check gateway.matrix.homeserver",
            ) from None
        client.restore_login(me.user_id, me.device_id or "", token)
        return client, str(me.user_id)

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        data, prompt = chat.data, reply.prompt
        if prompt is not None and not self._places.owns(data["room"]):
            # Only in a room of ours can the answer be deleted.
            sent = await self.deliver_private(self.principal(data["user"]), reply, None)
            await self._send(data, Reply((Text(reply.summary or sentences.PRIVATE_ANSWER),)))
            return sent
        sent = await self._send(data, reply)
        if prompt is not None:
            self._questions[data["room"], data["user"]] = prompt
        return sent

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        if via is not None and via.data["user"] == principal.user and await self._is_private(via.data):
            return await self.reply(via, reply)
        room = await self._places.with_person(principal.user)
        return await self.reply(place(room, principal.user, private=True), reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        data = message.data
        if data["private"] and not await self._is_private(data):
            raise EditWindowClosed
        content = self._render(reply).replacing(data["event"], _msgtype(data))
        try:
            await self._put(data["room"], content)
        except (Later, Misconfigured):
            raise
        except Refused as error:
            raise EditWindowClosed(error.message) from None
        return message

    async def _is_private(self, where: dict[str, Any]) -> bool:
        """Whether what began between two is still between two: somebody may have come in since."""
        return bool(where["private"]) and await self._places.is_private(where["room"], where["user"])

    async def _send(self, where: dict[str, Any], reply: Reply) -> MessageRef:
        content = self._render(reply).content(_msgtype(where))
        if where.get("thread"):
            content["m.relates_to"] = {"rel_type": "m.thread", "event_id": where["thread"]}
        try:
            sent = await self._put(where["room"], content)
        except Elsewhere as error:
            if where["private"]:
                raise PrivateDeliveryUnavailable(why=error.message) from None
            raise
        return MessageRef(PLATFORM, {**where, "event": sent.event_id})

    async def _put(self, room: str, content: dict[str, object]) -> Any:
        sending = self._nio.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        return await call(sending, nio.RoomSendResponse)

    def _render(self, reply: Reply) -> Rendered:
        return render(reply, now=self.clock())

    # -- what arrives ------------------------------------------------------------------------

    def _use(self, client: nio.AsyncClient) -> None:
        self.attach()
        self._client = client
        self._rooms = Rooms(client)

    def _listen(self, client: nio.AsyncClient, on_message: Any) -> None:
        on_state = self._places.on_state
        ours = (on_message, self._on_unreadable, self._on_invite, on_state)
        client.add_event_callback(on_message, nio.RoomMessageText)
        client.add_event_callback(self._on_unreadable, nio.MegolmEvent)
        client.add_event_callback(on_state, STATE_EVENTS)

        def undo() -> None:
            client.event_callbacks = [one for one in client.event_callbacks if one.func not in ours]

        self.undo.append(undo)
        self.listening.set()

    async def _on_recent_message(self, room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
        incoming = read(room, event)
        if incoming is not None and incoming.age < _HISTORY_SECONDS:
            await self._take(incoming)

    async def _on_message(self, room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
        incoming = read(room, event)
        if incoming is not None:
            await self._take(incoming)

    async def _take(self, incoming: Incoming) -> None:
        """Quick: the next event waits until all callbacks of this one are done."""
        since = self._joined.get(incoming.room, 0.0) - _BEFORE_JOINING_SECONDS
        if incoming.room in self._visited or time.time() - incoming.age < since:
            # What people said to each other before the bot came.
            return
        text = await self._command(incoming)
        question = self._question(incoming) if text is None else None
        if text is not None:
            self.spawn(self.answer(incoming.invocation(text)))
        elif question is not None:
            del self._questions[incoming.room, incoming.user]
            self.spawn(self._take_secret(incoming, question))

    async def _command(self, incoming: Incoming) -> str | None:
        """The command in this message. None: there is none for us."""
        command = grammar.after_prefix(incoming.text)
        if command is None and await self.gateway.claims(incoming.text):
            return incoming.text
        return command

    def _question(self, incoming: Incoming) -> SecretPrompt | None:
        """The secret that was asked for in that room, where the next message of the person is the answer."""
        question = self._questions.get((incoming.room, incoming.user))
        return question if question is not None and question.expires_at > time.time() else None

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:
        client, room = self._nio, invocation.chat.data["room"]
        self.spawn_nicety(lambda: client.room_typing(room, typing_state=True, timeout=20_000))

    async def look_around(self, invocation: Invocation) -> Invocation:
        where = invocation.chat.data
        is_private = await self._places.is_private(where["room"], where["user"])
        return replace(invocation, chat=ChatRef(PLATFORM, {**where, "private": is_private}), private=is_private)

    async def _take_secret(self, incoming: Incoming, question: SecretPrompt) -> None:
        """The answer to a question for a secret: delete it, then use it."""
        deleted = True
        try:
            await call(self._nio.room_redact(incoming.room, incoming.event_id), nio.RoomRedactResponse)
        except Refused as error:
            self.log.warning("a message with a secret could not be deleted: %s", error)
            deleted = False
        here = place(incoming.room, incoming.user, private=True)
        await self.take_secret(self.principal(incoming.user), here, question.id, incoming.text, deleted=deleted)

    async def _on_unreadable(self, room: nio.MatrixRoom, event: nio.MegolmEvent) -> None:
        """Somebody wrote in an encrypted room that this client cannot read."""
        person, now = self.principal(event.sender), time.monotonic()
        # Once an hour and room is enough.
        is_told = now - self._told.get(room.room_id, -_TOLD_SECONDS) < _TOLD_SECONDS
        if self._nio.olm is None and self.is_allowed(person) and not is_told:
            self._told[room.room_id] = now
            self.spawn(self._refuse_encrypted(room.room_id, person))

    async def _refuse_encrypted(self, room: str, person: Principal) -> None:
        invite = await self.deliver_private(person, Reply((Text(sentences.ROOM_READABLE),)), via=None)
        self.log.info("an encrypted room was refused; %s is answered in %s", person.user, invite.data["room"])
        await self._send(place(room, person.user, private=False).data, Reply((Text(sentences.ROOM_ENCRYPTED),)))

    async def _on_invite(self, room: nio.MatrixRoom, event: nio.InviteMemberEvent) -> None:
        """Invitations are no history: those from before the first start count."""
        if event.membership != "invite" or event.state_key != self._nio.user_id:
            return
        if self.is_allowed(self.principal(event.sender)):
            self.spawn(self._follow(room))
        elif event.content.get("is_direct") is True:
            self.spawn(self._visit(room, event.sender))

    async def _follow(self, room: nio.MatrixRoom) -> None:
        """Join where somebody who is served asks, and stay."""
        self._joined[room.room_id] = time.time()
        await call(self._nio.join(room.room_id), nio.JoinResponse)

    async def _visit(self, room: nio.MatrixRoom, stranger: str) -> None:
        """Tell a stranger the code to be let in with, in the direct room that they made, and leave it.

        Only people of the bot's own homeserver: their rooms are there already, so nothing is fetched from another.
        """
        principal = self.principal(stranger)
        name = room.user_name(stranger) or stranger
        event_id = f"invitation {room.room_id} {time.time_ns()}"
        here = place(room.room_id, stranger, private=True)
        invocation = Invocation(principal, here, "", True, event_id, name)
        if (
            stranger.partition(":")[2] != str(self._nio.user_id).partition(":")[2]
            or room.room_id in self._visited
            or self.gateway.people.is_denied(principal)
            or isinstance(self.gateway.decide(invocation, self.capabilities), Ignored)
            or self.gateway.auth.limits.take(_VISITS_EACH, stranger)
            or self.gateway.auth.limits.take(_VISITS, PLATFORM)
        ):
            return
        self._visited.add(room.room_id)
        try:
            await call(self._nio.join(room.room_id), nio.JoinResponse)
            try:
                # Who is in it is known to those who are in it.
                if await self._places.is_private(room.room_id, stranger):
                    await self.run_invocation(invocation)
            except PrivateDeliveryUnavailable:
                self.log.info("a stranger's room was closed before it could be answered in")
            finally:
                await self._places.leave(room.room_id)
        finally:
            self._visited.discard(room.room_id)

    @property
    def _nio(self) -> nio.AsyncClient:
        """Raises Later: there is no client yet, or no longer."""
        if self._client is None:
            raise Later("there is no connection to the homeserver")
        return self._client

    @property
    def _places(self) -> Rooms:
        """Raises Later: as `_nio`."""
        if self._client is None or self._rooms is None:
            raise Later("there is no connection to the homeserver")
        return self._rooms


def _msgtype(where: dict[str, Any]) -> str:
    """Among others a notice: nobody is rung up, and bots do not answer each other.

    Alone with the person a text, because clients do not ring for a notice.
    """
    return "m.text" if where["private"] else "m.notice"
