"""The default store: one JSON file a record, replaced whole, under kernel locks.

    <home>/grants/<sha256 of owner and server>.json      the truth about a grant
    <home>/sign-ins/<slot>.json                          the latest sign-in of (owner, server)
    <home>/key-forms/<slot>.json                         the latest key form of (owner, server); no key is in it
    <home>/connections/<sha256 of the server's URL>.json what is known of a server
    <home>/outbox/<row>.json                             what somebody has to hear
    <home>/mcp-tokens/                                   the mirror for Hermes (shared grants)

Each folder has its locks, and a log of changes where records are asked for by what they hold (`stores/index.py`).
The `read_*` methods need no event loop and import nothing heavy: `slash-mcp list` starts with them.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mcp_auth.errors import Busy, StoreError, TooManyOpenFiles, is_out_of_descriptors
from mcp_auth.records import Record, Stored, Untold
from mcp_auth.small_files import exists, read_small_file
from mcp_auth.stores.base import (
    CONNECTIONS,
    OUTBOX,
    SIGN_INS,
    Held,
    Kind,
    Place,
    Query,
    Store,
    connection_key,
    joined,
    log,
    slot_of,
    without_errors,
)
from mcp_auth.stores.durable import (
    WRITE_WAIT,
    Folder,
    in_thread,
    locked,
    make_folder,
    replace_file,
    set_aside,
    try_lock,
    until,
    version_of,
)
from mcp_auth.stores.hermes import MIRRORED, MirroredGrants

if TYPE_CHECKING:
    from mcp_auth.stores.index import ChangeLog

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class FileBackend:
    """Records under `home`. Opening writes nothing; folders are 0700 and files 0600 from their creation."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folders: dict[str, Folder[Any]] = {}
        self._logs: dict[str, ChangeLog[Any]] = {}
        self._salt_file = home / "sign-ins" / ".salt"
        self._salt: bytes | None = None

    def folder(self, kind: Kind[R]) -> Folder[R]:
        folder = self._folders.get(kind.name)
        if folder is None:
            folder = self._folders[kind.name] = Folder(self._home, kind)
            if kind.is_indexed:
                folder.changed = lambda key: self._log(kind).note(key)
        return folder

    def read_many(self, kind: Kind[R], keys: Sequence[str]) -> list[R | StoreError | None]:
        """As `get_many`. One look at the folder tells which files are still missing; only those that are there are
        looked at themselves."""
        folder = self.folder(kind)
        folder.absent.look()
        return [folder.read_unless_absent(key) for key in keys]

    def read_salt(self) -> bytes | None:
        if self._salt is None:
            try:
                salt, _ = read_small_file(self._salt_file)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if is_out_of_descriptors(error):
                    raise TooManyOpenFiles from None
                # No sign-in can be found without it. What holds of a home is said where one begins.
                log().warning("%s cannot be read (%s)", self._salt_file, error.strerror)
                return None
            if len(salt) == 32:
                self._salt = salt
        return self._salt

    def write(self, kind: Kind[R], record: R, untold: Untold | None = None, wait: float = WRITE_WAIT) -> R | None:
        """As `put_if`, where it may wait for the disk and for `wait` seconds for others."""
        folder, key = self.folder(kind), kind.key(record)
        with folder.locked(key, wait):
            if version_of(folder.read_for_write(key)) != record.version:
                return None
            stored = msgspec.structs.replace(record, version=record.version + 1)
            self.write_news(untold, synced=kind.is_durable, wait=wait)
            folder.replace(key, stored)
            return stored

    def write_news(self, untold: Untold | None, *, synced: bool, wait: float = WRITE_WAIT) -> None:
        """Before what it is about, and under the lock of that: a writer that dies in between leaves a row that did not
        come true, and never an end that nobody hears of."""
        if untold is not None:
            folder = self.folder(OUTBOX)
            with folder.locked(untold.id, wait):
                folder.replace(untold.id, msgspec.structs.replace(untold, version=1), synced=synced)

    # -- the port ----------------------------------------------------------------------------

    async def get(self, kind: Kind[R], key: str) -> R | None:
        return self.peek(kind, key)

    def peek(self, kind: Kind[R], key: str) -> R | None:
        return self.folder(kind).read(key)

    async def get_many(self, kind: Kind[R], keys: Sequence[str]) -> list[R | StoreError | None]:
        return self.read_many(kind, keys)

    async def put_if(self, kind: Kind[R], record: R, untold: Untold | None = None) -> R | None:
        return await _shortest(kind, lambda wait: self.write(kind, record, untold, wait))

    async def delete_if(self, kind: Kind[R], record: R) -> bool:
        folder, key = self.folder(kind), kind.key(record)

        def remove(wait: float) -> bool:
            with folder.locked(key, wait):
                before = folder.read_for_write(key)
                if before is None or before.version != record.version:
                    return False
                folder.remove(key)
            return True

        return await _shortest(kind, remove)

    async def find(self, kind: Kind[R], query: Query) -> list[R]:
        if not kind.is_indexed or not (query.is_open or query.before is not None):
            return await in_thread(lambda: self._look_through(kind, query))
        changes = self._log(kind)
        if changes.is_cold:
            return await in_thread(lambda: changes.find(query))
        return changes.find(query)

    async def changes(self, kind: Kind[R], since: object) -> tuple[object, list[str] | None]:
        return self._log(kind).since(since)

    async def set_aside(self, kind: Kind[R], key: str) -> bool:
        folder = self.folder(kind)
        if not folder.is_damaged(key):
            return False

        def rename() -> bool:
            with folder.locked(key):
                if not folder.is_damaged(key):
                    return False
                path = folder.path(key)
                log().warning("%s is damaged, and is kept as %s", path, set_aside(path).name)
                return True

        return await in_thread(rename)

    async def salt(self, *, make: bool) -> bytes | None:
        salt = self.read_salt()
        if salt is not None or not make:
            return salt
        with locked(self._salt_file.parent / ".locks" / "salt", ".salt"):
            # Of racing processes the first one's salt counts.
            if not exists(self._salt_file):
                replace_file(self._salt_file, os.urandom(32))
        salt = self.read_salt()
        if salt is None:
            raise StoreError(
                f"{self._salt_file} is damaged.", next_step="remove that file; open sign-ins have to begin again"
            )
        return salt

    @asynccontextmanager
    async def lease(self, name: str, *, ttl: float, wait: float) -> AsyncIterator[Held]:
        """A kernel lock, which the system takes back when its holder dies; so `ttl` is not needed here."""
        place = hashlib.sha256(name.encode()).hexdigest()[:32]
        path = make_folder(self._home / "leases") / f"{place}.lock"
        descriptor = await until(lambda: try_lock(path), time.monotonic() + wait, name)
        try:
            yield Held(fence=time.time_ns(), deadline=math.inf)
        finally:
            os.close(descriptor)

    def now(self) -> float:
        return time.time()

    async def close(self) -> None:
        """Nothing is held open between calls."""

    def _look_through(self, kind: Kind[R], query: Query) -> list[R]:
        folder = self.folder(kind)
        found = [one for one in map(folder.read_if_possible, folder.keys()) if one is not None]
        return [one for one in found if query.matches(kind.columns(one))]

    def _log(self, kind: Kind[R]) -> ChangeLog[R]:
        changes = self._logs.get(kind.name)
        if changes is None:
            from mcp_auth.stores.index import ChangeLog

            changes = self._logs[kind.name] = ChangeLog(self.folder(kind))
        return changes


async def _shortest(kind: Kind[Any], write: Callable[[float], T]) -> T:
    """A write that waits for no disk is shorter than the way to a thread, unless somebody holds its lock."""
    if not kind.is_durable:
        try:
            return write(0)
        except Busy:
            pass
    return await in_thread(lambda: write(WRITE_WAIT))


class FileStore(Store):
    """The store of a home, with the mirror for Hermes."""

    grants: MirroredGrants

    def __init__(self, home: Path) -> None:
        self._files = FileBackend(home)
        super().__init__(
            self._files,
            MirroredGrants(self._files, self._files.folder(MIRRORED), self._files.write_news, home / "mcp-tokens"),
        )

    def read_many(self, places: Sequence[Place]) -> list[Stored]:
        """As `get_many`; Hermes' files are left as they are."""
        files, salt = self._files, self._files.read_salt()
        slots = [] if salt is None else [slot_of(salt, owner, server) for owner, server, _ in places]
        keys = [connection_key(url) for _, _, url in places]
        return joined(
            [grant for grant, _ in self.grants.read_many(places)],
            [None] * len(places) if salt is None else without_errors(files.read_many(SIGN_INS, slots)),
            without_errors(files.read_many(CONNECTIONS, keys)),
        )
