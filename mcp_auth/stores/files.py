"""The default store: one JSON file a record, replaced whole, under kernel locks.

    <home>/grants/<sha256 of owner and server>.json      the truth about a grant
    <home>/sign-ins/<slot>.json                          the latest sign-in of (owner, server)
    <home>/key-forms/<slot>.json                         the latest key form of (owner, server); no key is in it
    <home>/connections/<sha256 of the server's URL>.json what is known of a server
    <home>/mcp-tokens/                                   the mirror for Hermes (shared grants)

The `read_*` methods need no event loop and import nothing heavy: `slash-mcp list` starts with them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import msgspec

from mcp_auth.errors import (
    Busy,
    RecordDamaged,
    StoreError,
    TooManyOpenFiles,
    cannot_be_read,
    is_out_of_descriptors,
)
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED, Connection, Grant, KeyForm, SignIn, Stored, decode, encode, grant_key
from mcp_auth.small_files import FileTooLarge, NotRegularFile, exists, read_small_file
from mcp_auth.stores.durable import (
    WRITE_WAIT,
    acquired,
    begin_replace_file,
    create_file,
    is_settled,
    locked,
    make_folder,
    new_lock,
    remove_file,
    replace_file,
    set_aside,
    sweep,
)
from mcp_auth.stores.hermes import NO_FILE, HermesMirror, TokenFile

if TYPE_CHECKING:
    import logging

    from mcp_auth.stores.base import Place

R = TypeVar("R", Grant, SignIn, KeyForm, Connection)
A = TypeVar("A")
T = TypeVar("T")

_POLL = 0.02
# Hermes holds its lock for one refresh; who only writes does not wait for all of it.
_MIRROR_WAIT = 2.0
# The same of a folder. Some file systems (FAT) count whole seconds, and a folder has no other mark of a change.
_FOLDER_TICK_NS = 3_000_000_000
# Paths that are kept instead of being put together anew: more than a store has records that are in use.
_PATHS_KEPT = 4_096


class FileStore:
    """Records under `home`. Opening writes nothing; folders are 0700 and files 0600 from their creation."""

    def __init__(self, home: Path, *, mirror: bool = True) -> None:
        self._home = home
        self._mirror = HermesMirror(home / "mcp-tokens") if mirror else None
        self._grant_files: _Folder[Grant] = _Folder(home / "grants", Grant)
        # A power cut may take the newest of these back: a sign-in begins again, a server is asked again.
        self._sign_in_files: _Folder[SignIn] = _Folder(home / "sign-ins", SignIn, synced=False)
        self._key_form_files: _Folder[KeyForm] = _Folder(home / "key-forms", KeyForm, synced=False)
        self._connection_files: _Folder[Connection] = _Folder(home / "connections", Connection, synced=False)
        self._absent_grants = _Absent(home / "grants")
        self._absent_sign_ins = _Absent(home / "sign-ins")
        self._absent_connections = _Absent(home / "connections")
        self._absent_mirrors = _Absent(home / "mcp-tokens")
        self._salt_file = home / "sign-ins" / ".salt"
        self._salt: bytes | None = None
        self._complained: set[str] = set()
        self.grants = FileGrants(self)
        self.sign_ins = FileSignIns(self)
        self.key_forms = FileKeyForms(self)
        self.connections = FileConnections(self)

    # -- reading, without an event loop ------------------------------------------------------

    def read_grant(self, owner: str, server: str, server_url: str) -> Grant | None:
        """The grant, with what Hermes changed meanwhile when it is shared. Writes nothing.

        Raises:
            RecordDamaged: the file holds no grant. StoreError: it is there and cannot be read.
        """
        return self.read_with_mirror(owner, server, server_url)[0]

    def read_with_mirror(self, owner: str, server: str, server_url: str) -> tuple[Grant | None, bool]:
        """As `read_grant`, and whether Hermes' token file is missing, torn, or of before."""
        grant, mirror = self.read_truth(owner, server), self._mirror
        if mirror is None or owner != SHARED:
            return grant, False
        return _adopted(mirror, grant, server, server_url, mirror.token_file(server))

    def read_many(self, places: Sequence[Place]) -> list[tuple[Stored, bool]]:
        """What there is of each place, and whether Hermes' file of its grant has to be repaired.

        One look at each folder tells which files are still missing; only those that are there are looked at themselves.
        """
        salt = self._read_salt()
        for absent in (self._absent_grants, self._absent_sign_ins, self._absent_connections, self._absent_mirrors):
            absent.look()
        return [self._read_one(*place, salt) for place in places]

    def _read_one(self, owner: str, server: str, server_url: str, salt: bytes | None) -> tuple[Stored, bool]:
        grant, is_behind, sign_in, damaged = None, False, None, None
        try:
            try:
                grant, is_behind = self._read_grant(owner, server, server_url)
            except RecordDamaged as error:
                damaged = error
            if salt is not None:
                sign_in = _read_unless_absent(self._sign_in_files, self._absent_sign_ins, _slot(salt, owner, server))
            key = _connection_key(server_url)
            connection = _read_unless_absent(self._connection_files, self._absent_connections, key)
        except StoreError as error:
            return Stored(trouble=error), False
        return Stored(grant, sign_in, connection, damaged), is_behind

    def _read_grant(self, owner: str, server: str, server_url: str) -> tuple[Grant | None, bool]:
        """As `read_with_mirror`, without a look at what is known to be absent."""
        key, grant, mirror = grant_key(owner, server), None, self._mirror
        if key not in self._absent_grants:
            grant = self.read_truth(owner, server)
            if grant is None:
                self._absent_grants.add(key, self._grant_files.path(key))
        if mirror is None or owner != SHARED:
            return grant, False
        file = NO_FILE
        if server not in self._absent_mirrors:
            file = mirror.token_file(server)
            if file is NO_FILE:
                self._absent_mirrors.add(server, mirror.token_path(server))
        return _adopted(mirror, grant, server, server_url, file)

    def read_truth(self, owner: str, server: str) -> Grant | None:
        """The grant as it is stored here, without Hermes. Raises as `read_grant`."""
        path = self._grant_files.path(grant_key(owner, server))
        try:
            return self._grant_files.read(path)
        except (ValueError, StoreError) as error:
            if isinstance(error, StoreError) and not _leads_nowhere(path):
                raise
            raise RecordDamaged(
                f"{path} is damaged, or of a newer version; it was left as it is.", next_step=Next("auth", server)
            ) from None

    def set_damaged_aside(self, owner: str, server: str) -> bool:
        """Give a damaged grant another name, so that a new one can take its place. False: there is none."""
        path = self._grant_files.path(grant_key(owner, server))
        with self._grant_files.locked(path):
            try:
                self.read_truth(owner, server)
            except RecordDamaged:
                kept = set_aside(path)
                _log().warning("%s is damaged, and is kept as %s", path, kept.name)
                return True
        return False

    def read_sign_in(self, owner: str, server: str) -> SignIn | None:
        """The latest sign-in of (owner, server). A file that is damaged or cannot be read counts as none."""
        salt = self._read_salt()
        if salt is None:
            return None
        return self._sign_in_files.read_if_possible(self._sign_in_files.path(_slot(salt, owner, server)))

    def read_slot(self, slot: str) -> SignIn | None:
        return self._sign_in_files.read_or_none(self._sign_in_files.path(slot))

    def read_connection(self, server_url: str) -> Connection | None:
        """What is known of a server. A file that is damaged or cannot be read counts as nothing."""
        return self._connection_files.read_if_possible(self._connection_files.path(_connection_key(server_url)))

    # -- writing; called in threads ----------------------------------------------------------

    def write_grant(self, grant: Grant) -> Grant | None:
        write = self.begin_write_grant(grant)
        return write() if write is not None else None

    def begin_write_grant(self, grant: Grant, wait: float = WRITE_WAIT) -> Callable[[], Grant] | None:
        """All of a write but the waiting for the disk, which the returned function does. None: somebody was faster.

        The truth first, then the mirror. A mirror that cannot be written now is written by a later read. The locks are
        held until the returned function is through.

        Raises:
            Busy: somebody else holds a lock for longer than `wait`.
        """
        mirror = self._mirror if grant.owner == SHARED else None
        path = self._grant_files.path(grant_key(grant.owner, grant.server))
        # Where the tokens stay the same the mirror does, and nobody waits for Hermes.
        stays = mirror is None or mirror.has_tokens_of(grant)
        with ExitStack() as stack:
            held = stack.enter_context(
                self._mirror_held(None if stays else mirror, grant.server, min(wait, _MIRROR_WAIT))
            )
            if not (held or stays or wait):
                raise Busy(f"{grant.server} is being changed by Hermes.", next_step="try again")
            stack.enter_context(self._grant_files.locked(path, wait))
            before = self.read_truth(grant.owner, grant.server)
            if (before.version if before is not None else 0) != grant.version:
                return None
            stored = msgspec.structs.replace(grant, version=grant.version + 1)
            if mirror is not None:
                if mirror.is_newer(before, grant):
                    return None
                mirror.stamp(stored)
            put_in_place = self._grant_files.begin_replace(path, stored)
            locks = stack.pop_all()

        def write() -> Grant:
            with locks:
                put_in_place()
                self.grants.written = object()
                if mirror is not None and held:
                    self._write_mirror(mirror, stored)
            return stored

        return write

    def delete_grant(self, grant: Grant) -> bool:
        mirror = self._mirror if grant.owner == SHARED else None
        path = self._grant_files.path(grant_key(grant.owner, grant.server))
        with self._mirror_held(mirror, grant.server), self._grant_files.locked(path):
            before = self.read_truth(grant.owner, grant.server)
            if (before.version if before is not None else 0) != grant.version:
                return False
            # First the mirror: the other way round a crash would bring the grant back from it.
            was_mirrored = mirror is not None and mirror.delete(grant.server)
            self._grant_files.remove(path)
            self.grants.written = object()
        return before is not None or was_mirrored

    def all_grants(self, owner: str | None) -> list[Grant]:
        return [grant for grant in self._grant_files.all() if owner is None or grant.owner == owner]

    def repair_mirror(self, grant: Grant) -> None:
        """Write the mirror again, unless the grant has changed meanwhile."""
        mirror = self._mirror
        path = self._grant_files.path(grant_key(grant.owner, grant.server))
        with self._mirror_held(mirror, grant.server, wait=0) as held, self._grant_files.locked(path):
            if mirror is None or not held or self._grant_files.version(path) != grant.version:
                return
            if mirror.is_behind(grant, mirror.token_file(grant.server)):
                self._write_mirror(mirror, grant)

    @contextmanager
    def _mirror_held(self, mirror: HermesMirror | None, server: str, wait: float = _MIRROR_WAIT) -> Iterator[bool]:
        """Hermes' lock of this server for the time of one write; False when Hermes does not give it up."""
        if mirror is None:
            yield False
            return
        deadline = time.monotonic() + wait
        try:
            while not (held := mirror.try_hold(server)) and time.monotonic() < deadline:
                time.sleep(_POLL)
        except StoreError as error:
            self._complain(server, error)
            held = False
        try:
            yield held
        finally:
            if held:
                mirror.release(server)

    def _write_mirror(self, mirror: HermesMirror, grant: Grant) -> None:
        try:
            mirror.write(grant)
        except StoreError as error:
            # The grant itself is safe; its owner must not lose it for the sake of the copy.
            self._complain(grant.server, error)
        else:
            self._complained.discard(grant.server)

    def _complain(self, server: str, error: StoreError) -> None:
        if server not in self._complained:
            self._complained.add(server)
            _log().warning("Hermes does not see the grant of %s: %s", server, error.message)

    def write_sign_in(self, sign_in: SignIn, wait: float = WRITE_WAIT) -> SignIn | None:
        return self._sign_in_files.put_if(self._sign_in_files.path(sign_in.id), sign_in, wait)

    def all_sign_ins(self) -> list[SignIn]:
        return list(self._sign_in_files.all())

    def read_key_form(self, slot: str) -> KeyForm | None:
        return self._key_form_files.read_or_none(self._key_form_files.path(slot))

    def write_key_form(self, form: KeyForm, wait: float = WRITE_WAIT) -> KeyForm | None:
        return self._key_form_files.put_if(self._key_form_files.path(form.id), form, wait)

    def all_key_forms(self) -> list[KeyForm]:
        return list(self._key_form_files.all())

    def write_connection(self, connection: Connection, wait: float = WRITE_WAIT) -> Connection | None:
        path = self._connection_files.path(_connection_key(connection.server_url))
        return self._connection_files.put_if(path, connection, wait)

    def slot(self, owner: str, server: str) -> str:
        """The slot of (owner, server): a keyed hash, so that its name says nothing outside this home."""
        salt = self._read_salt()
        if salt is None:
            salt = self._make_salt()
        return _slot(salt, owner, server)

    def _read_salt(self) -> bytes | None:
        if self._salt is None:
            try:
                salt, _ = read_small_file(self._salt_file)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                if is_out_of_descriptors(error):
                    raise TooManyOpenFiles from None
                # No sign-in can be found without it. What holds of a home is said where one begins.
                _log().warning("%s cannot be read (%s)", self._salt_file, error.strerror)
                return None
            if len(salt) == 32:
                self._salt = salt
        return self._salt

    def _make_salt(self) -> bytes:
        with locked(self._salt_file.parent / ".locks" / "salt", ".salt"):
            # Of racing processes the first one's salt counts.
            if not exists(self._salt_file):
                replace_file(self._salt_file, os.urandom(32))
        salt = self._read_salt()
        if salt is None:
            raise StoreError(
                f"{self._salt_file} is damaged.", next_step="remove that file; open sign-ins have to begin again"
            )
        return salt

    # -- leases ------------------------------------------------------------------------------

    @asynccontextmanager
    async def lease(self, owner: str, server: str, *, ttl: float, wait: float) -> AsyncIterator[None]:
        """A kernel lock, which the system takes back when its holder dies; so `ttl` is not needed here."""
        deadline = time.monotonic() + wait
        lock = new_lock(make_folder(self._home / "grants") / f"{grant_key(owner, server)}.lease")
        mirror = self._mirror if owner == SHARED else None
        await _until(lambda: acquired(lock), deadline, server)
        try:
            if mirror is None:
                yield
                return
            # Newer Hermes takes this one around its own refresh.
            await _until(lambda: mirror.try_hold(server), deadline, server)
            try:
                yield
            finally:
                mirror.release(server)
        finally:
            lock.release()

    async def get_many(self, places: Sequence[Place]) -> list[Stored]:
        return [await self._repaired(stored) if is_behind else stored for stored, is_behind in self.read_many(places)]

    async def _repaired(self, stored: Stored) -> Stored:
        try:
            await _in_thread(self.repair_mirror, cast("Grant", stored.grant))
        except StoreError as error:
            return Stored(trouble=error)
        return stored

    async def close(self) -> None:
        """Nothing is held open between calls."""


class FileGrants:
    def __init__(self, store: FileStore) -> None:
        self._store = store
        self.written = object()

    async def get(self, owner: str, server: str, server_url: str) -> Grant | None:
        grant, is_behind = self._store.read_with_mirror(owner, server, server_url)
        if grant is not None and is_behind:
            await _in_thread(self._store.repair_mirror, grant)
        return grant

    async def put_if(self, grant: Grant) -> Grant | None:
        # Only what waits for the disk is worth the way to a thread.
        try:
            write = self._store.begin_write_grant(grant, wait=0)
        except Busy:
            return await _in_thread(self._store.write_grant, grant)
        return await _in_thread(lambda finish: finish(), write) if write is not None else None

    async def delete_if(self, grant: Grant) -> bool:
        return await _in_thread(self._store.delete_grant, grant)

    async def set_damaged_aside(self, owner: str, server: str) -> bool:
        try:
            self._store.read_truth(owner, server)
        except RecordDamaged:
            return await _in_thread(lambda whose: self._store.set_damaged_aside(*whose), (owner, server))
        return False

    async def list(self, owner: str | None = None) -> list[Grant]:
        return await _in_thread(self._store.all_grants, owner)


class FileSignIns:
    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def slot(self, owner: str, server: str) -> str:
        return self._store.slot(owner, server)

    async def get(self, id: str) -> SignIn | None:
        return self._store.read_slot(id)

    async def latest(self, owner: str, server: str) -> SignIn | None:
        return self._store.read_sign_in(owner, server)

    async def put_if(self, sign_in: SignIn) -> SignIn | None:
        return await _at_once(self._store.write_sign_in, sign_in)

    async def list(self) -> list[SignIn]:
        return await _in_thread(FileStore.all_sign_ins, self._store)


class FileKeyForms:
    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def get(self, id: str) -> KeyForm | None:
        return self._store.read_key_form(id)

    async def put_if(self, form: KeyForm) -> KeyForm | None:
        return await _at_once(self._store.write_key_form, form)

    async def list(self) -> list[KeyForm]:
        return await _in_thread(FileStore.all_key_forms, self._store)


class FileConnections:
    def __init__(self, store: FileStore) -> None:
        self._store = store

    async def get(self, server_url: str) -> Connection | None:
        return self._store.read_connection(server_url)

    async def put_if(self, connection: Connection) -> Connection | None:
        return await _at_once(self._store.write_connection, connection)


class _Folder(Generic[R]):
    """Versioned records of one kind in one folder. `synced`: a write is on the disk when it returns."""

    def __init__(self, folder: Path, kind: type[R], *, synced: bool = True) -> None:
        self._folder = folder
        self._kind: type[R] = kind
        self._synced = synced
        self._cache: dict[Path, tuple[tuple[int, int, int], R]] = {}
        self._paths: dict[str, Path] = {}
        self._swept = False

    def path(self, key: str) -> Path:
        path = self._paths.get(key)
        if path is None:
            if not key.isalnum():
                raise ValueError("a key is letters and digits")
            if len(self._paths) >= _PATHS_KEPT:
                # Anybody may ask for what is not there.
                self._paths.clear()
            path = self._paths[key] = self._folder / f"{key}.json"
        return path

    def read(self, path: Path) -> R | None:
        """The record, decoded once for each version of the file. A copy: nobody edits what others get.

        Raises:
            ValueError: it is no record, but a folder, a FIFO or damaged.
            StoreError: it cannot be read.
        """
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise cannot_be_read(path, error) from None
        signature = (found.st_ino, found.st_mtime_ns, found.st_size)
        cached = self._cache.get(path)
        if cached is not None and cached[0] == signature:
            return cached[1].__copy__()
        try:
            data, opened = read_small_file(path)
        except FileNotFoundError:
            return None
        except (NotRegularFile, FileTooLarge) as error:
            raise ValueError(f"{path}: {error.strerror}") from None
        except OSError as error:
            raise cannot_be_read(path, error) from None
        record: R = decode(self._kind, data)
        if is_settled(opened):
            self._cache[path] = ((opened.st_ino, opened.st_mtime_ns, opened.st_size), record)
        return record.__copy__()

    def read_or_none(self, path: Path) -> R | None:
        try:
            return self.read(path)
        except ValueError:
            _log().warning("%s is damaged and counts as missing", path)
            return None

    def read_if_possible(self, path: Path) -> R | None:
        """The record; also what cannot be read counts as missing, and is logged."""
        try:
            return self.read_or_none(path)
        except StoreError as error:
            _log().warning("%s It counts as missing.", error.message)
            return None

    def all(self) -> Iterator[R]:
        try:
            names = sorted(name for name in os.listdir(self._folder) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise cannot_be_read(self._folder, error) from None
        for name in names:
            record = self.read_if_possible(self._folder / name)
            if record is not None:
                yield record

    def version(self, path: Path) -> int:
        """The stored version; a damaged record counts as version 0, so that a new one can take its place."""
        record = self.read_if_possible(path)
        return record.version if record is not None else 0

    def put_if(self, path: Path, record: R, wait: float = WRITE_WAIT) -> R | None:
        stored = msgspec.structs.replace(record, version=record.version + 1)
        if record.version == 0 and not self._synced and create_file(path, encode(stored)):
            return stored
        with self.locked(path, wait):
            if self.version(path) != record.version:
                return None
            self.replace(path, stored)
            return stored

    def replace(self, path: Path, record: R) -> None:
        """The old record or the new one is on the disk at every instant."""
        self.begin_replace(path, record)()

    def begin_replace(self, path: Path, record: R) -> Callable[[], None]:
        """The record beside its place; the returned function puts it there, and waits for the disk."""
        if not self._swept:
            self._swept = True
            sweep(self._folder)
        return begin_replace_file(path, encode(record), synced=self._synced, folder_aside=True)

    def remove(self, path: Path) -> None:
        remove_file(path)
        self._cache.pop(path, None)

    @contextmanager
    def locked(self, path: Path, wait: float = WRITE_WAIT) -> Iterator[None]:
        """Exclusive right to replace this record, for the time of one write."""
        # 256 locks serve all records, by the first two digits of a key; one does where nobody waits for the disk.
        with locked(self._folder / ".locks" / (path.name[:2] if self._synced else "all"), path.name, wait):
            yield


class _Absent:
    """Which keys of a folder have no file, for as long as the folder stays as it is: a file that comes changes it."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._signature: tuple[int, ...] | None = None
        self._keys: set[str] = set()
        self._is_all = False

    def look(self) -> None:
        """Forget what may have come since. Comes before the looks at the files, so that none is missed in between."""
        self._is_all, signature = False, None
        try:
            found = os.stat(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            self._is_all = True
        except OSError:
            # What holds of a file in it is said where that is looked for.
            pass
        else:
            # `st_ctime_ns`: the rights count too, which decide what can be said of a file.
            signature = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
            if time.time_ns() - found.st_mtime_ns < _FOLDER_TICK_NS:
                signature = None
        if signature is None or signature != self._signature:
            self._keys.clear()
        self._signature = signature

    def __contains__(self, key: str) -> bool:
        return self._is_all or key in self._keys

    def add(self, key: str, path: Path) -> None:
        """`path`, the file of `key`, was looked for in vain."""
        # What a link that leads nowhere leads to may come without a change of this folder.
        if os.path.lexists(path):
            return
        if len(self._keys) >= _PATHS_KEPT:
            self._keys.clear()
        self._keys.add(key)


def _read_unless_absent(files: _Folder[R], absent: _Absent, key: str) -> R | None:
    if key in absent:
        return None
    path = files.path(key)
    record = files.read_if_possible(path)
    if record is None:
        absent.add(key, path)
    return record


def _adopted(
    mirror: HermesMirror, grant: Grant | None, server: str, server_url: str, file: TokenFile
) -> tuple[Grant | None, bool]:
    """The grant with what Hermes wrote since, and whether its file is missing, torn, or of before."""
    grant = mirror.adopted(grant, server, server_url, file)
    if grant is None or grant.tokens is None or grant.version == 0:
        return grant, False
    return grant, mirror.is_behind(grant, file)


def _leads_nowhere(path: Path) -> bool:
    """Whether it is a link to itself, or one of a ring of them."""
    # Not the methods of `Path`, which raise where a folder may not be entered.
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114


def _log() -> logging.Logger:
    # Imported where there is something to say: the listing starts without it.
    import logging

    return logging.getLogger(__name__)


# Asked for every server of every listing.
@lru_cache(maxsize=_PATHS_KEPT)
def _connection_key(server_url: str) -> str:
    return hashlib.sha256(server_url.encode()).hexdigest()


@lru_cache(maxsize=_PATHS_KEPT)
def _slot(salt: bytes, owner: str, server: str) -> str:
    import hmac

    return hmac.digest(salt, grant_key(owner, server).encode(), "sha256").hex()[:32]


async def _until(take: Callable[[], bool], deadline: float, server: str) -> None:
    import asyncio

    while not take():
        if time.monotonic() >= deadline:
            raise Busy(f"{server} is being changed by another process.", next_step="try again")
        await asyncio.sleep(_POLL)


async def _at_once(write: Callable[[A, float], T], record: A) -> T:
    """A write that does not wait for the disk: shorter than the way to a thread, unless somebody holds its lock."""
    try:
        return write(record, 0)
    except Busy:
        return await _in_thread(lambda one: write(one, WRITE_WAIT), record)


async def _in_thread(function: Callable[[A], T], argument: A) -> T:
    """File work that waits for the disk, off the event loop. Finished even when the caller is cancelled."""
    import asyncio

    return await asyncio.to_thread(function, argument)
