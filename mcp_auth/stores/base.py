"""The storage port: versioned records of several kinds, found again by plain columns; leases; a clock.

A backend is a handful of methods (`Backend`); what is stored, and under which keys, is written once, above it
(`Store` and its views). One contract suite runs over every backend.

`put_if` and `delete_if` compare the version inside the record: the write happens only when the stored version equals
`record.version` (0: nothing stored), and the stored record then has `version + 1`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import msgspec

from mcp_auth.errors import Busy, RecordDamaged, StoreError
from mcp_auth.kinds import LinkKind, kind_of
from mcp_auth.outcome import Next
from mcp_auth.records import Grant, KeyForm, Linked, Record, ServerProfile, SignIn, Stored, Untold, grant_key
from mcp_auth.states import ENDED, OPEN, due_at

if TYPE_CHECKING:
    import logging

R = TypeVar("R", bound=Record)
L = TypeVar("L", SignIn, KeyForm)
E = TypeVar("E", bound=object)

# Owner, server, and the server's URL as it is configured.
Place = tuple[str, str, str]
_KEYS_KEPT = 4_096


class Columns(msgspec.Struct, frozen=True):
    """What a backend may look for without opening a record. An engine keeps the texts as keyed hashes.

    `due_at`: when somebody has to look at the record again, because a link ends, a claim is over, or a token is to be
    refreshed. `codes`: digests of the codes that its page shows or has shown.
    """

    is_open: bool = False
    due_at: float | None = None
    owner: str | None = None
    principal: str | None = None
    codes: tuple[str, ...] = ()


class Query(msgspec.Struct, frozen=True):
    """Which records of a kind: those of which everything that is given holds. `before`: due by then."""

    is_open: bool = False
    before: float | None = None
    owner: str | None = None
    principal: str | None = None
    code: str | None = None

    def matches(self, columns: Columns) -> bool:
        return (
            (columns.is_open or not self.is_open)
            and (self.before is None or (columns.due_at is not None and columns.due_at <= self.before))
            and (self.owner is None or columns.owner == self.owner)
            and (self.principal is None or columns.principal == self.principal)
            and (self.code is None or self.code in columns.codes)
        )


def _no_columns(record: Any) -> Columns:
    return Columns()


class Kind(msgspec.Struct, Generic[R], frozen=True):
    """One kind of record.

    Args:
        name: an engine's name for it, and its folder in a home; `folder`: another one.
        type: of the records; `key`: under which one is stored.
        columns: of a record.
        is_durable: a write outlives a power cut. Without it, the newest may be taken back.
        is_precious: a damaged record is an error and stays; of other kinds it counts as missing and gives way.
        is_indexed: what is open and what is due is asked for often, so a backend keeps an index.
    """

    name: str
    type: type[R]
    key: Callable[[R], str]
    columns: Callable[[R], Columns] = _no_columns
    is_durable: bool = True
    is_precious: bool = False
    is_indexed: bool = False
    folder: str | None = None


class Held(msgspec.Struct, frozen=True):
    """A lease that is held. `fence` grows with each holder; `deadline`: until when it is ours, by `Backend.now`."""

    fence: int
    deadline: float


class Backend(Protocol):
    """What an engine has to do. From every call it raises StoreError, Busy, or nothing."""

    async def get(self, kind: Kind[R], key: str) -> R | None:
        """The record, a copy.

        Raises:
            RecordDamaged: of a precious kind, and no record. StoreError: it is there and cannot be read.
        """
        ...

    def peek(self, kind: Kind[R], key: str) -> R | None:
        """As `get`, without waiting for anything: a backend that has to wait for its engine gives what it knew last."""
        ...

    async def get_many(self, kind: Kind[R], keys: Sequence[str]) -> list[R | StoreError | None]:
        """Each as by `get`, errors in their places."""
        ...

    async def put_if(self, kind: Kind[R], record: R, untold: Untold | None = None) -> R | None:
        """The record as stored, or None when somebody was faster.

        `untold`: a row of the outbox that is written with it, whatever stands in its place. A backend without
        transactions writes the row first; who delivers it looks whether it came true (`Outbox`).
        """
        ...

    async def delete_if(self, kind: Kind[R], record: R) -> bool: ...

    async def find(self, kind: Kind[R], query: Query) -> list[R]:
        """Every record that `query` fits. What is damaged or cannot be read is left out and logged."""
        ...

    async def changes(self, kind: Kind[R], since: object) -> tuple[object, list[str] | None]:
        """Where the changes of an indexed kind are now, and the keys of those after `since`, an earlier such place.

        None: anything may have changed, as at first, with `since` None.
        """
        ...

    async def set_aside(self, kind: Kind[R], key: str) -> bool:
        """Keep a damaged record under another name, so that a new one can take its place. False: there is none."""
        ...

    async def salt(self, *, make: bool) -> bytes | None:
        """32 secret bytes of this store, made by whoever is first and never changed. None: not made yet."""
        ...

    def lease(self, name: str, *, ttl: float, wait: float) -> AbstractAsyncContextManager[Held]:
        """Exclusive right to do what `name` stands for, across tasks, processes and replicas.

        Args:
            ttl: seconds after which a holder that died loses it (kernel locks: at once).
            wait: seconds to wait for somebody else.

        Raises:
            Busy: not had within `wait`.
        """
        ...

    def now(self) -> float:
        """Seconds since the epoch, by the clock that all users of this store share."""
        ...

    async def close(self) -> None: ...


# -- the kinds -------------------------------------------------------------------------------


def _columns_of_grant(grant: Grant) -> Columns:
    return Columns(due_at=grant.refresh_at, owner=grant.owner)


def _columns_of_link(link: SignIn | KeyForm) -> Columns:
    binding = link.binding
    codes = binding.voided if binding is not None else ()
    if binding is not None and binding.code is not None:
        codes = (*codes, binding.code)
    return Columns(
        is_open=link.status in OPEN,
        due_at=due_at(link),
        owner=link.owner,
        principal=link.origin.principal,
        codes=codes,
    )


# Asked for every server of every listing.
@lru_cache(maxsize=_KEYS_KEPT)
def connection_key(server_url: str) -> str:
    return hashlib.sha256(server_url.encode()).hexdigest()


@lru_cache(maxsize=_KEYS_KEPT)
def slot_of(salt: bytes, owner: str, server: str) -> str:
    import hmac

    return hmac.digest(salt, grant_key(owner, server).encode(), "sha256").hex()[:32]


GRANTS = Kind("grants", Grant, lambda grant: grant_key(grant.owner, grant.server), _columns_of_grant, is_precious=True)
# A power cut may take the newest of these back: a sign-in begins again, a server is asked again.
SIGN_INS = Kind("sign-ins", SignIn, lambda one: one.id, _columns_of_link, is_durable=False, is_indexed=True)
KEY_FORMS = Kind("key-forms", KeyForm, lambda one: one.id, _columns_of_link, is_durable=False, is_indexed=True)
CONNECTIONS = Kind("connections", ServerProfile, lambda one: connection_key(one.server_url), is_durable=False)


OUTBOX: Kind[Untold] = Kind(
    "outbox",
    Untold,
    lambda row: row.id,
    lambda row: Columns(is_open=True, due_at=max(row.at, row.claimed_until), principal=row.origin.principal),
    is_durable=False,
    is_indexed=True,
)

# -- the views -------------------------------------------------------------------------------


class View(Generic[R]):
    """The records of one kind."""

    def __init__(self, backend: Backend, kind: Kind[R]) -> None:
        self._backend = backend
        self._kind = kind

    async def put_if(self, record: R) -> R | None:
        return await self._backend.put_if(self._kind, record)

    async def delete_if(self, record: R) -> bool:
        return await self._backend.delete_if(self._kind, record)

    async def due(self, before: float) -> list[R]:
        """Those that somebody has to look at by then."""
        return await self._backend.find(self._kind, Query(before=before))


class Records(View[R]):
    """Those that are asked for by their key."""

    async def get(self, key: str) -> R | None:
        return await self._backend.get(self._kind, key)

    async def list(self) -> Sequence[R]:
        """All of them. What is damaged or cannot be read is left out and logged."""
        return await self._backend.find(self._kind, Query())


class Grants(View[Grant]):
    """What owners hold. `owner` and `server` are checked by `mcp_auth.records.grant_key`.

    `written`: another object after every change made through this instance; what was read before may be out of date.
    """

    def __init__(self, backend: Backend, kind: Kind[Grant] = GRANTS) -> None:
        super().__init__(backend, kind)
        self.written = object()

    async def get(self, owner: str, server: str, server_url: str) -> Grant | None:
        """The grant, or None. One that is bound to another server URL is returned as it is: the caller decides.

        `server_url` (the configured one) binds what is adopted from a mirror.

        Raises:
            RecordDamaged: it exists and is no grant. StoreError: it exists and cannot be read.
        """
        try:
            return await self._backend.get(self._kind, grant_key(owner, server))
        except RecordDamaged as error:
            raise named(error, server) from None

    async def get_many(self, places: Sequence[Place]) -> list[Grant | StoreError | None]:
        """Each as by `get`, errors in their places."""
        found = await self._backend.get_many(self._kind, [grant_key(owner, server) for owner, server, _ in places])
        return [named(one, place[1]) for one, place in zip(found, places, strict=True)]

    async def put_if(self, grant: Grant, untold: Untold | None = None) -> Grant | None:
        try:
            return await self._put(grant, untold)
        except RecordDamaged as error:
            raise named(error, grant.server) from None
        finally:
            self.written = object()

    async def delete_if(self, grant: Grant) -> bool:
        try:
            return await self._delete(grant)
        except RecordDamaged as error:
            raise named(error, grant.server) from None
        finally:
            self.written = object()

    async def _put(self, grant: Grant, untold: Untold | None) -> Grant | None:
        return await self._backend.put_if(self._kind, grant, untold)

    async def _delete(self, grant: Grant) -> bool:
        return await super().delete_if(grant)

    async def set_damaged_aside(self, owner: str, server: str) -> bool:
        """As `Backend.set_aside`."""
        return await self._backend.set_aside(self._kind, grant_key(owner, server))

    async def list(self, owner: str | None = None) -> list[Grant]:
        """All grants, or one owner's. Damaged ones are left out and logged."""
        return await self._backend.find(self._kind, Query(owner=owner))

    async def news_of(self, grant: Grant, now: float) -> Untold | None:
        """The row that goes with a grant which only a person can make work again; None: nobody's chat is known."""
        origin = grant.origin
        if origin is None:
            # Of version 0.1.0: its last sign-in knows.
            last = await Links(self._backend, SIGN_INS).latest(grant.owner, grant.server)
            origin = last.origin if last is not None else None
        if origin is None or origin.chat is None:
            return None
        row = f"grant-{grant_key(grant.owner, grant.server)[:32]}-{grant.version}"
        return Untold(id=row, about="grant", origin=origin, at=now, server=grant.server, owner=grant.owner)

    @asynccontextmanager
    async def lease(self, owner: str, server: str, *, ttl: float, wait: float) -> AsyncIterator[Held]:
        """Exclusive right to change the credentials of (owner, server), as by `Backend.lease`.

        Raises:
            Busy: not had within `wait`.
        """
        lease = self._backend.lease(f"grant-{grant_key(owner, server)}", ttl=ttl, wait=wait)
        try:
            held = await lease.__aenter__()
        except Busy:
            raise Busy(f"{server} is being changed by somebody else.", next_step="try again") from None
        try:
            yield held
        finally:
            await lease.__aexit__(None, None, None)


class Links(Records[L]):
    """Sign-ins, or key forms: there is one slot for each (owner, server). An end is written with its news."""

    async def put_if(self, record: L) -> L | None:
        return await self._backend.put_if(self._kind, record, news_of(record))

    async def changes(self, since: object) -> tuple[object, list[str] | None]:
        """As `Backend.changes`."""
        return await self._backend.changes(self._kind, since)

    async def slot(self, owner: str, server: str) -> str:
        """The id of the slot of (owner, server): stable, and not to be guessed from outside this store."""
        salt = await self._backend.salt(make=True)
        if salt is None:
            raise AssertionError("a salt is made")
        return slot_of(salt, owner, server)

    async def latest(self, owner: str, server: str) -> L | None:
        """What the slot of (owner, server) holds; what cannot be read counts as nothing.

        Writes nothing, also where nothing was ever written.
        """
        return (await self.get_many([(owner, server, "")]))[0]

    async def get_many(self, places: Sequence[Place]) -> list[L | None]:
        """Each as by `latest`."""
        salt = await self._backend.salt(make=False)
        if salt is None:
            return [None] * len(places)
        slots = [slot_of(salt, owner, server) for owner, server, _ in places]
        return without_errors(await self._backend.get_many(self._kind, slots))

    async def open(self, *, owner: str | None = None, principal: str | None = None, code: str | None = None) -> list[L]:
        """Those that were open when somebody last wrote them; see `mcp_auth.states.as_of`.

        Args:
            principal: who began them. code: the digest of a code that their page shows or has shown.
        """
        query = Query(is_open=True, owner=owner, principal=principal, code=code)
        return await self._backend.find(self._kind, query)


class ServerProfiles(View[ServerProfile]):
    """What is known of servers, by their URL."""

    async def get(self, server_url: str) -> ServerProfile | None:
        """What is known of a server; what is damaged or cannot be read counts as nothing."""
        return (await self.get_many([("", "", server_url)]))[0]

    async def get_many(self, places: Sequence[Place]) -> list[ServerProfile | None]:
        """Each as by `get`."""
        keys = [connection_key(url) for _, _, url in places]
        return without_errors(await self._backend.get_many(self._kind, keys))


class Outbox(Records[Untold]):
    """What somebody has to hear. A row may stand here a moment before it is true, or be of a write that was cut off."""

    async def add(self, row: Untold) -> None:
        """Keep what is about nothing else that is stored."""
        await self.put_if(row)

    async def claim(self, row: Untold, now: float, seconds: float) -> Untold | None:
        """The right to say it, for so long. None: somebody else has it."""
        if row.claimed_until > now:
            return None
        return await self.put_if(msgspec.structs.replace(row, claimed_until=now + seconds))


class Store:
    """Everything that is stored, over one backend."""

    def __init__(self, backend: Backend, grants: Grants | None = None) -> None:
        self.backend = backend
        self.grants = grants or Grants(backend)
        self.sign_ins = Links(backend, SIGN_INS)
        self.key_forms = Links(backend, KEY_FORMS)
        self.profiles = ServerProfiles(backend, CONNECTIONS)
        self.outbox = Outbox(backend, OUTBOX)

    def links(self, kind: LinkKind) -> Links[Any]:
        """The view of one kind of link."""
        return cast("Links[Any]", getattr(self, kind.view))

    async def get_many(self, places: Sequence[Place]) -> list[Stored]:
        """What the three have of each place, in the order of `places`: a listing asks for all its servers at once.

        What cannot be read is the `trouble` of its place.
        """
        return joined(
            await self.grants.get_many(places),
            await self.sign_ins.get_many(places),
            await self.profiles.get_many(places),
        )

    async def close(self) -> None:
        await self.backend.close()


_answering: ContextVar[str | None] = ContextVar("answering", default=None)


@contextmanager
def answering(principal: str) -> Iterator[None]:
    """What this principal began and what ends here, in this task and in those that it starts, is told by its reply: no
    row of the outbox is written."""
    token = _answering.set(principal)
    try:
        yield
    finally:
        _answering.reset(token)


def news_id(record: Linked) -> str:
    """The row that is written with the end of this record."""
    return f"{kind_of(record).verb}-{record.id}-{int(record.created_at * 1000)}"


def news_of(record: Linked) -> Untold | None:
    """What somebody has to hear of a record that is about to be stored."""
    origin = record.origin
    if record.status not in ENDED or origin.chat is None or _answering.get() == origin.principal:
        return None
    about = kind_of(record).about
    ended: dict[str, Any] = {about: record}
    return Untold(
        id=news_id(record),
        about=about,
        origin=origin,
        at=record.ended_at or record.expires_at,
        server=record.server,
        owner=record.owner,
        **ended,
    )


def joined(
    grants: Sequence[Grant | StoreError | None],
    sign_ins: Sequence[SignIn | None],
    connections: Sequence[ServerProfile | None],
) -> list[Stored]:
    """What `Store.get_many` returns, of its parts."""
    return [
        # Of a grant that is damaged the rest is known all the same; who cannot be read is not half known.
        Stored(None, sign_in, connection, grant)
        if isinstance(grant, RecordDamaged)
        else Stored(trouble=grant)
        if isinstance(grant, StoreError)
        else Stored(grant, sign_in, connection)
        for grant, sign_in, connection in zip(grants, sign_ins, connections, strict=True)
    ]


def named(found: E, server: str) -> E:
    """`found`, and if it is a damaged grant's error, with the next step."""
    if isinstance(found, RecordDamaged):
        found.next_step = Next("auth", server)
    return found


def without_errors(found: Sequence[R | StoreError | None]) -> list[R | None]:
    """What cannot be read counts as missing, and is logged."""
    kept: list[R | None] = []
    for one in found:
        if isinstance(one, StoreError):
            log().warning("%s It counts as missing.", one.message)
        kept.append(None if isinstance(one, StoreError) else one)
    return kept


def log() -> logging.Logger:
    # Imported where there is something to say: the listing starts without it.
    import logging

    return logging.getLogger("mcp_auth.stores")
