"""A store in memory: for tests, and for programs that keep their own."""

from __future__ import annotations

import asyncio
import copy
import hmac
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import msgspec

from mcp_auth.errors import Busy
from mcp_auth.records import Connection, Grant, KeyForm, SignIn, Stored, grant_key
from mcp_auth.stores.base import Place, one_by_one

R = TypeVar("R", Grant, SignIn, KeyForm, Connection)


class MemoryStore:
    """Keeps everything until the process ends. Use one instance in one event loop."""

    def __init__(self) -> None:
        self.grants = MemoryGrants()
        self.sign_ins = MemorySignIns()
        self.key_forms = MemoryKeyForms()
        self.connections = MemoryConnections()
        self._locks: dict[str, asyncio.Lock] = {}

    async def get_many(self, places: Sequence[Place]) -> list[Stored]:
        return await one_by_one(self, places)

    @asynccontextmanager
    async def lease(self, owner: str, server: str, *, ttl: float, wait: float) -> AsyncIterator[None]:
        lock = self._locks.setdefault(grant_key(owner, server), asyncio.Lock())
        try:
            async with asyncio.timeout(wait):
                await lock.acquire()
        except TimeoutError:
            raise Busy(f"{server} is being changed by somebody else.", next_step="try again") from None
        try:
            yield
        finally:
            lock.release()

    async def close(self) -> None:
        """Nothing to close."""


class _Records(Generic[R]):
    """Versioned records under string keys. Every get is a copy, so that nobody edits what is stored."""

    def __init__(self) -> None:
        self._records: dict[str, R] = {}

    def read(self, key: str) -> R | None:
        record = self._records.get(key)
        return None if record is None else copy.copy(record)

    def write(self, key: str, record: R) -> R | None:
        stored = self._records.get(key)
        if (stored.version if stored is not None else 0) != record.version:
            return None
        kept = msgspec.structs.replace(record, version=record.version + 1)
        self._records[key] = kept
        return copy.copy(kept)

    def delete(self, key: str, version: int) -> bool:
        stored = self._records.get(key)
        if stored is None or stored.version != version:
            return False
        del self._records[key]
        return True

    def all(self) -> list[R]:
        return [copy.copy(record) for record in self._records.values()]


class MemoryGrants:
    def __init__(self) -> None:
        self._records: _Records[Grant] = _Records()
        self.written = object()

    async def get(self, owner: str, server: str, server_url: str) -> Grant | None:
        return self._records.read(grant_key(owner, server))

    async def put_if(self, grant: Grant) -> Grant | None:
        self.written = object()
        return self._records.write(grant_key(grant.owner, grant.server), grant)

    async def delete_if(self, grant: Grant) -> bool:
        self.written = object()
        return self._records.delete(grant_key(grant.owner, grant.server), grant.version)

    async def set_damaged_aside(self, owner: str, server: str) -> bool:
        return False

    async def list(self, owner: str | None = None) -> list[Grant]:
        return [grant for grant in self._records.all() if owner is None or grant.owner == owner]


class MemorySignIns:
    def __init__(self) -> None:
        self._records: _Records[SignIn] = _Records()
        self._salt = secrets.token_bytes(32)

    async def slot(self, owner: str, server: str) -> str:
        return hmac.digest(self._salt, grant_key(owner, server).encode(), "sha256").hex()[:32]

    async def get(self, id: str) -> SignIn | None:
        return self._records.read(id)

    async def latest(self, owner: str, server: str) -> SignIn | None:
        return self._records.read(await self.slot(owner, server))

    async def put_if(self, sign_in: SignIn) -> SignIn | None:
        return self._records.write(sign_in.id, sign_in)

    async def list(self) -> list[SignIn]:
        return self._records.all()


class MemoryKeyForms:
    def __init__(self) -> None:
        self._records: _Records[KeyForm] = _Records()

    async def get(self, id: str) -> KeyForm | None:
        return self._records.read(id)

    async def put_if(self, form: KeyForm) -> KeyForm | None:
        return self._records.write(form.id, form)

    async def list(self) -> list[KeyForm]:
        return self._records.all()


class MemoryConnections:
    def __init__(self) -> None:
        self._records: _Records[Connection] = _Records()

    async def get(self, server_url: str) -> Connection | None:
        return self._records.read(server_url)

    async def put_if(self, connection: Connection) -> Connection | None:
        return self._records.write(connection.server_url, connection)
