"""A store in memory: for tests, and for programs that keep their own."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from mcp_auth.errors import Busy, StoreError
from mcp_auth.records import Record, Untold
from mcp_auth.stores.base import OUTBOX, Held, Kind, Query, Store
from mcp_auth.stores.index import Index

R = TypeVar("R", bound=Record)


@dataclass
class _Shelf:
    """The records of one kind under their keys."""

    records: dict[str, Any] = field(default_factory=dict)
    index: Index = field(default_factory=Index)
    # How many changes there were, and which was the last of each record.
    count: int = 0
    changed: dict[str, int] = field(default_factory=dict)

    def put(self, kind: Kind[R], key: str, record: R | None) -> None:
        if record is None:
            del self.records[key]
        else:
            self.records[key] = record
        self.index.put(key, None if record is None else kind.columns(record))
        self.count += 1
        self.changed[key] = self.count


class MemoryBackend:
    """Keeps everything until the process ends. Every record that is given out is a copy."""

    def __init__(self) -> None:
        self._shelves: defaultdict[str, _Shelf] = defaultdict(_Shelf)
        self._salt: bytes | None = None
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._fence = 0

    async def get(self, kind: Kind[R], key: str) -> R | None:
        return self.peek(kind, key)

    def peek(self, kind: Kind[R], key: str) -> R | None:
        record: R | None = self._shelves[kind.name].records.get(key)
        return None if record is None else record.__copy__()

    async def get_many(self, kind: Kind[R], keys: Sequence[str]) -> list[R | StoreError | None]:
        return [await self.get(kind, key) for key in keys]

    async def put_if(self, kind: Kind[R], record: R, untold: Untold | None = None) -> R | None:
        if not self._is_current(kind, record):
            return None
        stored = msgspec.structs.replace(record, version=record.version + 1)
        self._shelves[kind.name].put(kind, kind.key(record), stored)
        if untold is not None:
            self._shelves[OUTBOX.name].put(OUTBOX, untold.id, msgspec.structs.replace(untold, version=1))
        return stored.__copy__()

    async def delete_if(self, kind: Kind[R], record: R) -> bool:
        key, shelf = kind.key(record), self._shelves[kind.name]
        if key not in shelf.records or not self._is_current(kind, record):
            return False
        shelf.put(kind, key, None)
        return True

    def _is_current(self, kind: Kind[R], record: R) -> bool:
        stored = self._shelves[kind.name].records.get(kind.key(record))
        return record.version == (stored.version if stored is not None else 0)

    async def find(self, kind: Kind[R], query: Query) -> list[R]:
        shelf = self._shelves[kind.name]
        found = [shelf.records[key] for key in shelf.index.find(query)]
        return [one.__copy__() for one in found if query.matches(kind.columns(one))]

    async def changes(self, kind: Kind[R], since: object) -> tuple[object, list[str] | None]:
        shelf = self._shelves[kind.name]
        if not isinstance(since, int):
            return shelf.count, None
        return shelf.count, [key for key, count in shelf.changed.items() if count > since]

    async def set_aside(self, kind: Kind[R], key: str) -> bool:
        return False

    async def salt(self, *, make: bool) -> bytes | None:
        if self._salt is None and make:
            self._salt = secrets.token_bytes(32)
        return self._salt

    @asynccontextmanager
    async def lease(self, name: str, *, ttl: float, wait: float) -> AsyncIterator[Held]:
        lock = self._locks[name]
        try:
            async with asyncio.timeout(wait):
                await lock.acquire()
        except TimeoutError:
            raise Busy(f"{name} is held by somebody else.", next_step="try again") from None
        self._fence += 1
        try:
            yield Held(self._fence, math.inf)
        finally:
            lock.release()

    def now(self) -> float:
        return time.time()

    async def close(self) -> None:
        """Nothing to close."""


class MemoryStore(Store):
    """Use one instance in one event loop."""

    def __init__(self) -> None:
        super().__init__(MemoryBackend())
