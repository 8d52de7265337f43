"""The storage port: versioned records, and leases. One contract suite runs over every backend.

`put_if` and `delete_if` compare the version inside the record: the write happens only when the
stored version equals `record.version` (0: nothing stored), and the stored record then has
`version + 1`. They return the record as stored, or None when somebody was faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from mcp_auth.errors import RecordDamaged, StoreError
from mcp_auth.records import Connection, Grant, KeyForm, SignIn, Stored

# Owner, server, and the server's URL as it is configured.
Place = tuple[str, str, str]


class GrantStore(Protocol):
    @property
    def written(self) -> object:
        """Another object after every change made through this instance: what was read before may be out of date."""
        ...

    async def get(self, owner: str, server: str, server_url: str) -> Grant | None:
        """The grant, or None. One that is bound to another server URL is returned as it is: the caller decides.

        `server_url` (the configured one) binds what is adopted from a mirror.

        Raises:
            RecordDamaged: it exists and is no grant. StoreError: it exists and cannot be read.
        """
        ...

    async def set_damaged_aside(self, owner: str, server: str) -> bool:
        """Keep a damaged grant under another name, so that a new one can take its place. False: there is none."""
        ...

    async def put_if(self, grant: Grant) -> Grant | None: ...

    async def delete_if(self, grant: Grant) -> bool: ...

    async def list(self, owner: str | None = None) -> list[Grant]:
        """All grants, or one owner's. Damaged ones are left out and logged."""
        ...


class SignInStore(Protocol):
    async def slot(self, owner: str, server: str) -> str:
        """The id of the slot of (owner, server): stable, and not to be guessed from outside this store."""
        ...

    async def get(self, id: str) -> SignIn | None: ...

    async def latest(self, owner: str, server: str) -> SignIn | None:
        """What the slot of (owner, server) holds. Writes nothing, also where nothing was ever written."""
        ...

    async def put_if(self, sign_in: SignIn) -> SignIn | None: ...

    async def list(self) -> list[SignIn]:
        """Every slot's latest sign-in, ended ones included."""
        ...


class KeyFormStore(Protocol):
    """The slots are those of `SignInStore`, in a space of their own."""

    async def get(self, id: str) -> KeyForm | None: ...

    async def put_if(self, form: KeyForm) -> KeyForm | None: ...

    async def list(self) -> list[KeyForm]: ...


class ConnectionStore(Protocol):
    async def get(self, server_url: str) -> Connection | None: ...

    async def put_if(self, connection: Connection) -> Connection | None: ...


class Store(Protocol):
    """One backend. `owner` and `server` are checked by `mcp_auth.records.grant_key`."""

    @property
    def grants(self) -> GrantStore: ...

    @property
    def sign_ins(self) -> SignInStore: ...

    @property
    def key_forms(self) -> KeyFormStore: ...

    @property
    def connections(self) -> ConnectionStore: ...

    async def get_many(self, places: Sequence[Place]) -> list[Stored]:
        """What the three have of each place, in the order of `places`: a listing asks for all its servers at once.

        What cannot be read is the `trouble` of its place.
        """
        ...

    def lease(self, owner: str, server: str, *, ttl: float, wait: float) -> AbstractAsyncContextManager[None]:
        """Exclusive right to change the credentials of (owner, server), across tasks, processes and replicas.

        Args:
            ttl: seconds after which a holder that died loses it (kernel locks: at once).
            wait: seconds to wait for somebody else.

        Raises:
            Busy: not had within `wait`.
        """
        ...

    async def close(self) -> None: ...


async def one_by_one(store: Store, places: Sequence[Place]) -> list[Stored]:
    """`Store.get_many` for a store that has no quicker way."""
    return [await _get_one(store, *place) for place in places]


async def _get_one(store: Store, owner: str, server: str, server_url: str) -> Stored:
    grant, damaged = None, None
    try:
        try:
            grant = await store.grants.get(owner, server, server_url)
        except RecordDamaged as error:
            damaged = error
        sign_in = await store.sign_ins.latest(owner, server)
        return Stored(grant, sign_in, await store.connections.get(server_url), damaged)
    except StoreError as error:
        return Stored(trouble=error)
