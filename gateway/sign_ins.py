"""Watches sign-ins and key forms that a chat began, and turns their ends into edited checklists and notices.

An end may happen in this process (a callback, a paste) or in any other of the same store, so the store is
looked at once a second, and only while something is open.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

from gateway import error_reports, sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Audience, Button, Checklist, ChecklistItem, ItemState, Notice, Reply, Text, text
from gateway.surfaces import Part, Words, in_chat
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import McpAuthError, StoreError
from mcp_auth.kinds import KINDS, SIGN_IN, LinkKind, kind_of
from mcp_auth.net.sites import browser_host, issued_elsewhere
from mcp_auth.outcome import Outcome, Step
from mcp_auth.records import SHARED, Linked, Requester, SignIn, Untold, sha256
from mcp_auth.states import OPEN
from mcp_auth.status import ConnectionState
from mcp_auth.stores.base import answering, news_id

if TYPE_CHECKING:
    from gateway.replies import Data
    from mcp_auth.changes import Change
    from mcp_auth.core import McpAuth

_log = logging.getLogger("gateway")
TEST_TIMEOUT = 30.0
_MOMENT = 1.0
_POLL_SECONDS = 1.0
_LAST_WORDS_SECONDS = 3.0
# Whoever began a sign-in tells of its end, with the checklist; after so long, anybody who can.
_GRACE_SECONDS = 3.0
# Longer than it takes to ask the server, and the platform to take a message.
_CLAIM_SECONDS = 90.0
# What nobody could say for so long is no news any more.
_KEPT_SECONDS = 30 * 86_400.0
# A board is forgotten with its last link; this bounds those whose platform never confirms a delivery.
_BOARDS_KEPT = 1000


@dataclass(frozen=True, slots=True)
class End:
    """How a sign-in or a key form ended: `outcome` for the person who began, `public` for a shared chat.

    `more`: said to that person too, and not on the checklist. `line`: stands there instead of the outcome. `data`: the
    same for a program.
    """

    server: str
    state: ItemState
    outcome: Outcome
    public: str
    more: tuple[Part, ...] = ()
    line: str | None = None
    data: Data | None = None

    def item(self) -> ChecklistItem:
        """Its line on a checklist."""
        command = None if self.ok else f"auth {self.server}"
        sentence, step = self.line or self.outcome.sentence, self.outcome.next_step
        return ChecklistItem(self.server, self.state, sentence, command=command, next_step=step, data=self.data)

    @property
    def ok(self) -> bool:
        return self.state is ItemState.DONE

    @property
    def said(self) -> Words | Outcome:
        return (self.outcome.text, *self.more) if self.more else self.outcome


@dataclass(slots=True)
class Board:
    """One checklist message and what stands on it; kept while a link on it is open.

    `message` is set when the invocation's last reply stands there. Until then the replies themselves bring
    the changes, and an edit beside them could overtake a newer one. `shown`: where they stand so far. `button` belongs
    to the note: a form for what the note asks for.
    """

    invocation: Invocation
    items: dict[str, ChecklistItem]
    note: Words | None = None
    message: MessageRef | None = None
    shown: MessageRef | None = None
    changed: bool = False
    complete: bool = False
    button: Button | None = None

    def set(self, item: ChecklistItem) -> None:
        self.items[item.server] = item
        self.changed = True

    def reply(self, *, final: bool = True) -> Reply:
        """The checklist as it is now."""
        self.changed = False
        self.complete = final
        items = tuple(self.items.values())
        links = sum(item.state is ItemState.LINK for item in items)
        note = self.note if links else None
        return Reply(
            blocks=(Checklist(items, note),),
            buttons=(self.button,) if note and self.button else (),
            audience=Audience.CALLER,
            final=final,
            summary=sentences.links_summary(links),
            ok=all(item.state is not ItemState.FAILED for item in items),
        )

    @property
    def is_open(self) -> bool:
        return any(item.state in (ItemState.LINK, ItemState.PREPARING, ItemState.KEY) for item in self.items.values())


_Slot = tuple[LinkKind, str]


@dataclass(slots=True)
class _Followed:
    record: Linked
    boards: list[Board] = field(default_factory=list)


class SignInWatcher:
    """Follows sign-ins until they end and emits notices.

    What somebody has to hear stands in the outbox of the store, beside its cause; here it is claimed and said. A
    checklist is edited by whoever has it.

    Args:
        emit: called in the event loop with every notice; returns what is done when it is sent.
        reaches: whether this process can say something on a platform. serves: whether somebody is let in by now.
    """

    def __init__(
        self,
        auth: McpAuth,
        emit: Callable[[Notice], list[asyncio.Future[None]]],
        reaches: Callable[[str], bool],
        serves: Callable[[Principal], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._auth = auth
        self._store = auth.store
        self._emit = emit
        self._reaches = reaches
        self._serves = serves
        self._clock = clock
        self._followed: dict[_Slot, _Followed] = {}
        self._boards: BoundedDict[tuple[str, str], Board] = BoundedDict(_BOARDS_KEPT)
        # How far the changes of the store were looked at, and what has to be looked at all the same.
        self._places: dict[LinkKind, object] = {}
        self._fresh: set[_Slot] = set()
        self._wake = asyncio.Event()
        self._ends: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._undo: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._alone = False

    async def start(self, *, alone: bool = False) -> None:
        """Listen for changes. `alone`: of what is begun here; what others began, and their news, are left to others."""
        self._loop = asyncio.get_running_loop()
        self._undo = self._auth.on_change(self._on_change)
        self._alone = alone
        if not alone:
            await self._recall()
        self._runner = asyncio.create_task(self._run(), name="sign-in watcher")

    async def _recall(self) -> None:
        known: list[Linked] = []
        try:
            for kind in KINDS:
                known += await self._store.links(kind).list()
        except StoreError as error:
            # Commands answer all the same, and say what is wrong with the store.
            _log.warning("open sign-ins cannot be watched: %s", error)
        for record in known:
            if record.status in OPEN and record.origin.chat is not None:
                self._followed.setdefault(_slot(record), _Followed(record))
        self._recall_boards([cast("SignIn", record) for record in known if kind_of(record) is SIGN_IN])
        self._wake.set()

    async def stop(self) -> None:
        """Stop watching. An end that is being told right now gets a moment: nobody tells it after a restart."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        if self._ends:
            await asyncio.wait(self._ends, timeout=_LAST_WORDS_SECONDS)
        tasks = [*self._ends, *([self._runner] if self._runner is not None else [])]
        self._runner = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def is_idle(self) -> bool:
        """Nothing is followed, and nothing that ended waits to be told."""
        return not self._followed and not self._ends

    def follow(self, record: Linked, board: Board | None) -> None:
        """Tell the record's chat when it ends, and keep `board` up to date."""
        known = self._followed.get(_slot(record))
        if known is None or not _is_same(known.record, record):
            known = self._followed[_slot(record)] = _Followed(record)
        known.record = record
        self._fresh.add(_slot(record))
        if board is not None and board not in known.boards:
            known.boards.append(board)
        self._wake.set()

    def keep(self, board: Board) -> None:
        """Remember a board until its message is known (`delivered`) and its last link is over."""
        self._boards[_event(board.invocation)] = board

    def delivered(self, invocation: Invocation, message: MessageRef) -> None:
        """The reply to this invocation now stands in this message."""
        board = self._boards.get(_event(invocation))
        if board is None:
            return
        board.shown = message
        if not board.complete:
            return
        board.message = message
        self._show(board)

    def key_stored(self, principal: Principal, server: str) -> None:
        """This principal's checklists no longer ask for the key of this server."""
        for board in list(self._boards.values()):
            item = board.items.get(server)
            if board.invocation.principal == principal and item is not None and item.state is ItemState.KEY:
                board.set(ChecklistItem(server, ItemState.DONE, sentences.KEY_STORED))
                self._show(board)

    @contextlib.asynccontextmanager
    async def answering(self, principal: Principal) -> AsyncIterator[None]:
        """While a command of this principal ends sign-ins, its reply tells the outcome and no notice does."""
        try:
            with answering(str(principal)):
                yield
        finally:
            await self._settle_ended(str(principal))
            self._wake.set()

    async def settle(self, record: Linked) -> End:
        """The outcome of what ended, for a reply. Its boards are brought up to date."""
        followed = self._followed.pop(_slot(record), None) or _Followed(record)
        row = await self._claim(await self._store.outbox.get(news_id(record)))
        if row is not None:
            await self._store.outbox.delete_if(row)
        ended = await self._end(followed, record)
        self._show_end(followed, ended)
        return ended

    def _recall_boards(self, known: list[SignIn]) -> None:
        """The checklists of the process before this one, as far as links on them are open."""
        for message in {_encoded(one.origin.message): one.origin.message for one in known}.values():
            its_own = [one for one in known if one.origin.message == message]
            followed = [self._followed[_slot(one)] for one in its_own if _slot(one) in self._followed]
            if message is None or not followed:
                continue
            board = _recalled(message, its_own, self._clock())
            self.keep(board)
            for one in followed:
                one.boards.append(board)

    # -- the loop ----------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._look()
            except StoreError as error:
                _log.warning("the store of sign-ins cannot be read: %s", error.code)
                await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> None:
        """Take what ended, and what somebody has to hear."""
        await self._auth.sweep()
        await self._take_changes()
        for slot in self._fresh & self._followed.keys():
            await self._look_at(slot, self._followed[slot])
        self._fresh.clear()
        for row in [] if self._alone else await self._store.outbox.due(self._clock()):
            if self._clock() > row.at + _KEPT_SECONDS:
                await self._store.outbox.delete_if(row)
            elif self._is_mine(row):
                self._begin(self._deliver(row))

    async def _take_changes(self) -> None:
        """Which of the followed were written since the last look, by whomever."""
        for kind in KINDS:
            self._places[kind], keys = await self._store.links(kind).changes(self._places.get(kind))
            changed: Iterable[_Slot] = self._followed if keys is None else [(kind, key) for key in keys]
            self._fresh |= {slot for slot in changed if slot[0] is kind}

    async def _look_at(self, slot: _Slot, followed: _Followed) -> None:
        current = await self._stored(followed.record)
        if current is not None and _is_same(current, followed.record):
            followed.record = current
            if current.status in OPEN:
                return
        self._followed.pop(slot, None)
        if current is not None and not _is_same(current, followed.record):
            self._replaced(followed)
        else:
            self._begin(self._announce(followed))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        async def done() -> None:
            try:
                await work
            except McpAuthError as error:
                # It stands in the outbox until it is said.
                _log.warning("what ended could not be told: %s", error.code)

        task = asyncio.create_task(done())
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _stored(self, record: Linked) -> Linked | None:
        return await self._store.links(kind_of(record)).get(record.id)

    async def _announce(self, followed: _Followed) -> None:
        """Bring the checklists up to date, and tell whoever has to hear of it, unless somebody else does."""
        ended = await self._end(followed, followed.record)
        self._show_end(followed, ended)
        row = await self._store.outbox.get(news_id(followed.record))
        if row is not None and self._can_say(row) and (row := await self._claim(row)) is not None:
            await self._tell(row, ended)

    # -- the outbox --------------------------------------------------------------------------

    def _is_mine(self, row: Untold) -> bool:
        """Whether it can be said here, and nobody is nearer to it."""
        if not self._can_say(row):
            return False
        # Whoever follows it says it with the checklist.
        ended = row.ended
        return ended is None or (_slot(ended) not in self._followed and self._clock() >= row.at + _GRACE_SECONDS)

    def _can_say(self, row: Untold) -> bool:
        chat = _chat_of(row.origin.chat)[0] if row.origin.chat else Principal.parse(row.origin.principal)
        return self._reaches(chat.platform)

    async def _claim(self, row: Untold | None) -> Untold | None:
        return None if row is None else await self._store.outbox.claim(row, self._clock(), _CLAIM_SECONDS)

    async def _deliver(self, row: Untold) -> None:
        claimed = await self._claim(row) if await self._came_true(row) else None
        if claimed is None:
            return
        ended = row.ended
        await self._tell(claimed, None if ended is None else await self._end(_Followed(ended), ended))

    async def _came_true(self, row: Untold) -> bool:
        """Whether what it is written with was written too; if its writer died before, it goes after a while."""
        ended, is_true = row.ended, True
        if ended is not None:
            current = await self._stored(ended)
            is_true = current is None or not _is_same(current, ended) or current.status not in OPEN
        elif row.about == "grant":
            grant = await self._store.grants.get(row.owner, row.server, "")
            is_true = grant is not None and grant.reauthorization_told
        elif row.about == "person":
            is_true = self._serves(Principal.parse(row.origin.principal))
        if not is_true and self._clock() > row.at + _CLAIM_SECONDS:
            await self._store.outbox.delete_if(row)
        return is_true

    async def _tell(self, row: Untold, ended: End | None) -> None:
        """Say it, wait until it is said, and take it out of the outbox."""
        sent: list[asyncio.Future[None]] = []
        if ended is not None:
            sent += self._notify(row.origin, ended.said, ended.public, ok=ended.ok)
            if ended.ok and row.sign_in is not None:
                sent += await self._tell_owner(row.sign_in, (ended.outcome.text, *ended.more))
            elif ended.ok:
                self.key_stored(Principal.parse(row.origin.principal), row.server)
        elif row.about == "grant":
            status = await self._auth.status(row.server, row.owner)
            dead = sentences.grant_dead(row.server, status, self._clock())
            sent += self._notify(row.origin, dead, sentences.grant_dead_public(row.server), ok=False)
        elif row.about == "person":
            chat, _ = _chat_of(row.origin.chat or {})
            sent += self._say(Principal.parse(row.origin.principal), sentences.LET_IN, chat)
        elif row.text is not None:
            sent += self._say(Principal.parse(row.origin.principal), row.text)
        await asyncio.gather(*sent)
        await self._store.outbox.delete_if(row)

    async def _settle_ended(self, principal: str) -> None:
        for followed in list(self._followed.values()):
            if followed.record.origin.principal != principal:
                continue
            current = await self._stored(followed.record)
            if current is not None and current.status not in OPEN and _is_same(current, followed.record):
                await self.settle(current)

    async def _end(self, followed: _Followed, record: Linked) -> End:
        try:
            if record.status != "done":
                return _not_done(record)
            if kind_of(record) is SIGN_IN:
                return await self._done(cast("SignIn", record), followed.boards)
            return _key_done(record)
        except McpAuthError as error:
            return _failed(record.server, sentences.error(error), error)
        except Exception as error:  # noqa: BLE001 - the chat must hear of the end, whatever happens here
            return _failed(record.server, sentences.unexpected(error_reports.note(error)))

    async def _done(self, sign_in: SignIn, boards: list[Board]) -> End:
        server, owner, now = sign_in.server, sign_in.owner, self._clock()
        # A moment at least: a server that is asked for none would be called unreachable.
        ends = [board.invocation.deadline - time.monotonic() for board in boards if board.invocation.deadline]
        limit = min([TEST_TIMEOUT, *(max(_MOMENT, left) for left in ends)])
        connection = await self._auth.confirm_works(server, owner, timeout=limit)
        if connection.state is ConnectionState.REFUSED:
            return _failed(server, sentences.refused_after_sign_in(server, connection))
        status = await self._auth.status(server, owner)
        outcome = Outcome("signed_in", sentences.signed_in(status, connection), server)
        more: tuple[Part, ...] = ()
        if status.expires_at is not None and not status.refreshable:
            more = (". ", *sentences.no_refresh_token(server, status.expires_at, now))
        data = msgspec.structs.replace(status, connection=connection)
        return End(server, ItemState.DONE, outcome, sentences.public_end(server, ok=True), more, data=data)

    # -- what is shown -----------------------------------------------------------------------

    def _show_end(self, followed: _Followed, ended: End) -> None:
        for board in followed.boards:
            board.set(ended.item())
            self._show(board)

    def _replaced(self, followed: _Followed) -> None:
        for board in followed.boards:
            server = followed.record.server
            board.set(ChecklistItem(server, ItemState.CANCELLED, sentences.REPLACED))
            self._show(board)

    def _show(self, board: Board) -> None:
        if board.changed and board.message is not None:
            invocation = board.invocation
            self._emit(Notice(invocation.principal, invocation.chat, board.reply(), board.message))
        if board.message is not None and not board.is_open:
            self._boards.pop(_event(board.invocation), None)

    def _notify(self, origin: Requester, said: Words | Outcome, public: str, *, ok: bool) -> list[asyncio.Future[None]]:
        if origin.chat is None:
            return []
        chat, private = _chat_of(origin.chat)
        shown = text(said if private else public, "good" if ok else "warning")
        audience = Audience.CALLER if private else Audience.CHAT
        principal = Principal.parse(origin.principal)
        return self._emit(Notice(principal, chat, Reply((shown,), audience=audience, ok=ok)))

    async def _tell_owner(self, sign_in: SignIn, text: tuple[Part, ...]) -> list[asyncio.Future[None]]:
        """A new connection is never news to its owner: who else answers for it hears of it too, in private."""
        origin = sign_in.origin
        private = origin.chat is not None and _chat_of(origin.chat)[1]
        sent: list[asyncio.Future[None]] = []
        for principal in _owners(sign_in.owner, self._auth.config.gateway):
            is_same = str(principal) == origin.principal
            if is_same and (private or origin.chat is None):
                continue
            said = sentences.new_connection(text, by_other=not is_same)
            if is_same and origin.chat is not None:
                sent += self._say(principal, said, _chat_of(origin.chat)[0])
            elif self._reaches(principal.platform):
                sent += self._say(principal, said)
            else:
                row = f"text-{sign_in.id}-{sha256(str(principal))[:32]}"
                to = Requester(principal=str(principal))
                await self._store.outbox.add(
                    Untold(id=row, about="text", origin=to, at=self._clock(), text=in_chat(said))
                )
        return sent

    def _say(self, principal: Principal, text: Words, chat: ChatRef | None = None) -> list[asyncio.Future[None]]:
        reply = Reply((Text(text, tone="good"),), audience=Audience.CALLER)
        return self._emit(Notice(principal, chat or ChatRef(principal.platform), reply))

    def _on_change(self, change: Change) -> None:
        if self._loop is not None:
            # A change may be reported from a thread of the host application.
            self._loop.call_soon_threadsafe(self._wake.set)


def requester_of(invocation: Invocation, board: Board | None = None) -> Requester:
    """Who asked, and where a notice about the end goes. `board`: what a later process is to edit then."""
    chat = None
    if invocation.command is None:
        chat = {"platform": invocation.chat.platform, "data": invocation.chat.data, "private": invocation.private}
    message = None
    if board is not None and board.shown is not None:
        items = [
            [item.server, item.state, item.sentence, item.command, msgspec.to_builtins(item.next_step)]
            for item in board.items.values()
        ]
        message = {"data": board.shown.data, "items": items}
    return Requester(
        principal=str(invocation.principal), display_name=invocation.display_name, chat=chat, message=message
    )


def _recalled(message: dict[str, Any], known: list[SignIn], now: float) -> Board:
    """The checklist that `requester_of` kept, with the sign-ins on it as they are now."""
    origin = known[0].origin
    chat, private = _chat_of(origin.chat or {})
    event = f"recalled {_encoded(message['data'])}"
    invocation = Invocation(Principal.parse(origin.principal), chat, "", private, event, origin.display_name)
    board = Board(invocation, {}, message=MessageRef(chat.platform, message["data"]), complete=True)
    sign_ins = {one.server: one for one in known}
    # Version 0.1.0 kept no next step of its own.
    for server, state, sentence, command, *rest in message["items"]:
        if state == ItemState.PREPARING:
            board.set(_recalled_item(server, sign_ins.get(server), now))
        else:
            step = msgspec.convert(rest[0], Step | None) if rest else None
            board.set(ChecklistItem(server, ItemState(state), sentence, command=command, next_step=step))
    board.changed = False
    return board


def _recalled_item(server: str, sign_in: SignIn | None, now: float) -> ChecklistItem:
    again = f"auth {server}"
    if sign_in is None:
        return ChecklistItem(server, ItemState.FAILED, sentences.NO_LINK, command=again)
    if sign_in.status in OPEN:
        until = sign_in.expires_at
        # Of a link of our own only the hash is stored, and what it leads to works in one browser only.
        link = sign_in.authorization_url if sign_in.binding is None else None
        text = sentences.link_again(until, now)
        if link:
            text = sentences.link_ready(until, now, browser_host(sign_in.metadata), issued_elsewhere(sign_in.metadata))
        return ChecklistItem(server, ItemState.LINK, text, link=link, command=again, expires_at=until)
    if sign_in.status == "done":
        return ChecklistItem(server, ItemState.DONE, sentences.SIGNED_IN)
    return _not_done(sign_in).item()


def _encoded(message: dict[str, Any] | None) -> str:
    return json.dumps(message, sort_keys=True)


def _chat_of(stored: dict[str, Any]) -> tuple[ChatRef, bool]:
    return ChatRef(stored.get("platform", ""), stored.get("data") or {}), stored.get("private") is True


def _event(invocation: Invocation) -> tuple[str, str]:
    return invocation.principal.platform, invocation.event_id


def _slot(record: Linked) -> _Slot:
    return kind_of(record), record.id


def _is_same(one: Linked, other: Linked) -> bool:
    # A slot is used again by the next sign-in of the same owner and server.
    return one.created_at == other.created_at


def _owners(owner: str, gateway: GatewayOptions) -> list[Principal]:
    """Who answers for an owner's credentials: the person's accounts; for shared ones the admins."""
    if owner == SHARED:
        return [Principal.parse(text) for text in gateway.admins]
    kind, _, name = owner.partition(":")
    found = gateway.people.get(name, ()) if kind == "person" else (name,)
    return [Principal.parse(text) for text in found]


def _not_done(record: Linked) -> End:
    server = record.server
    if record.status == "cancelled":
        public = sentences.public_end(server, ok=False, cancelled=True)
        cancelled = record.result or Outcome("cancelled", public)
        shown = Outcome("cancelled", public)
        return End(server, ItemState.CANCELLED, shown, public, line=sentences.CANCELLED, data=cancelled)
    return _failed(server, sentences.sign_in_ended(server, record.result))


def _key_done(form: Linked) -> End:
    stored = form.result.sentence if form.result else f"{sentences.KEY_STORED}."
    outcome = Outcome("key_stored", stored, form.server)
    return End(form.server, ItemState.DONE, outcome, sentences.public_key(form.server), line=sentences.KEY_STORED)


def _failed(server: str, why: Outcome, data: Data | None = None) -> End:
    return End(server, ItemState.FAILED, why, sentences.public_end(server, ok=False), data=data or why)
