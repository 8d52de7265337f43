"""Files that are replaced whole and outlive a power cut, and kernel locks between processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Generic, TypeVar

from mcp_auth.errors import (
    Busy,
    McpAuthError,
    RecordDamaged,
    StoreError,
    TooManyOpenFiles,
    cannot_be_read,
    is_out_of_descriptors,
)
from mcp_auth.outcome import Next
from mcp_auth.records import Record, decode, encode
from mcp_auth.small_files import FileTooLarge, NotRegularFile, read_small_file
from mcp_auth.stores.base import Kind, log

R = TypeVar("R", bound=Record)
T = TypeVar("T")

WRITE_WAIT = 10.0
"""A writer holds a lock for the time of one fsync; nobody waits longer than this."""
POLL = 0.02
"""Seconds between two tries at a lock that somebody else holds."""
# Two writes within one tick of the file system's clock may look alike, so a file that young is read again.
_CLOCK_TICK_NS = 20_000_000
# The same of a folder. Some file systems (FAT) count whole seconds, and a folder has no other mark of a change.
_FOLDER_TICK_NS = 3_000_000_000
_LEFTOVER_AGE = 3600.0
# Paths that are kept instead of being put together anew: more than a store has records that are in use.
_PATHS_KEPT = 4_096


def is_settled(found: os.stat_result) -> bool:
    """Whether a later write of this file is sure to show in its `stat`."""
    return time.time_ns() - found.st_mtime_ns > _CLOCK_TICK_NS


def make_folder(folder: Path) -> Path:
    """Create `folder` for its owner alone, with its parents.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        if folder.is_dir():
            return folder
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _store_error(error, folder) from None
    return folder


def replace_file(path: Path, data: bytes, *, synced: bool = True, folder_aside: bool = False) -> None:
    """Replace `path` by `data` whole, readable by its owner alone.

    Args:
        synced: it is on the disk before it gets the name, so that a power cut leaves the old one or the new one.
            Without it, a power cut may leave neither; the death of the process leaves one of them all the same.
        folder_aside: a folder that lies there is kept under another name, instead of an error.

    Raises:
        StoreError: the disk is full, or may not be written.
    """
    folder = make_folder(path.parent)
    try:
        temporary = write_temporary(folder, data)
        try:
            if synced:
                _sync(temporary, os.O_RDONLY)
            try:
                os.replace(temporary, path)
            except IsADirectoryError:
                if not folder_aside:
                    raise
                set_aside(path)
                os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        if synced:
            sync_folder(folder)
    except OSError as error:
        raise _store_error(error, path) from None


def set_aside(path: Path) -> Path:
    """Give what lies at `path` a name beside it that nothing else has. Returns it."""
    kept = path.with_name(f"{path.name}.damaged-{os.urandom(4).hex()}")
    try:
        path.rename(kept)
    except OSError as error:
        raise _store_error(error, path) from None
    return kept


def remove_file(path: Path, *, synced: bool = True) -> bool:
    """Remove `path` for good. False when it was not there.

    Raises:
        StoreError: it may not be removed.
    """
    try:
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        if synced:
            sync_folder(path.parent)
    except OSError as error:
        raise _store_error(error, path) from None
    return True


def write_temporary(folder: Path, data: bytes) -> Path:
    """`data` in a new file of `folder`, not yet on the disk."""
    temporary = folder / f".{os.urandom(8).hex()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return temporary


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last through a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what writers left that died before their rename."""
    long_ago = time.time() - _LEFTOVER_AGE
    for leftover in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):
            if leftover.stat().st_mtime < long_ago:
                leftover.unlink()


def _store_error(error: OSError, path: Path, done: str = "written") -> McpAuthError:
    if is_out_of_descriptors(error):
        return TooManyOpenFiles()
    return StoreError(f"{path} cannot be {done} ({error.strerror or type(error).__name__}).", next_step=Next("doctor"))


# -- locks -----------------------------------------------------------------------------------


@contextmanager
def locked(lock_file: Path, what: str, wait: float = WRITE_WAIT) -> Iterator[None]:
    """Hold the kernel lock `lock_file` for the time of one write to `what`.

    Args:
        wait: seconds; 0 takes it only when it is free.

    Raises:
        Busy: somebody else holds it for longer. StoreError: there can be no such file.
    """
    make_folder(lock_file.parent)
    deadline = time.monotonic() + wait
    while (descriptor := try_lock(lock_file)) is None:
        if time.monotonic() >= deadline:
            raise Busy(f"{what} is being written by another process.", next_step="try again")
        time.sleep(0.005)
    try:
        yield
    finally:
        os.close(descriptor)


def try_lock(path: Path) -> int | None:
    """Take the kernel lock of this file if it is free. Whoever closes the returned descriptor gives it back.

    The kernel keeps tasks and threads apart as it does processes, and takes the lock of a process that dies.

    Raises:
        StoreError: there can be no such file.
    """
    import fcntl

    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_nlink:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise _store_error(error, path, "locked") from None
        # Whoever had it before has removed the file (as Hermes does), and the next one locks another.
        os.close(descriptor)


# -- records ---------------------------------------------------------------------------------


class Folder(Generic[R]):
    """Versioned records of one kind, one file each, read again only where a file has changed."""

    def __init__(self, home: Path, kind: Kind[R]) -> None:
        self.place = home / (kind.name if kind.folder is None else kind.folder)
        self.kind = kind
        self.absent = Absent(self.place)
        self._cache: dict[Path, tuple[tuple[int, int, int], R]] = {}
        self._paths: dict[str, Path] = {}
        self._swept = False
        # Told of every record that was written or removed, under its lock.
        self.changed: Callable[[str], None] = lambda key: None

    def path(self, key: str) -> Path:
        path = self._paths.get(key)
        if path is None:
            if not key.replace("-", "").isalnum():
                raise ValueError("a key is letters, digits and hyphens")
            if len(self._paths) >= _PATHS_KEPT:
                # Anybody may ask for what is not there.
                self._paths.clear()
            path = self._paths[key] = self.place / f"{key}.json"
        return path

    def read(self, key: str) -> R | None:
        """The record, decoded once for each version of the file. A copy: nobody edits what others get.

        Raises:
            RecordDamaged: of a precious kind, and no record; others count as missing and are logged.
            StoreError: it cannot be read.
        """
        path = self.path(key)
        try:
            return self._read(path)
        except (ValueError, StoreError) as error:
            if isinstance(error, StoreError) and not (self.kind.is_precious and _leads_nowhere(path)):
                raise
            if self.kind.is_precious:
                raise RecordDamaged(f"{path} is damaged, or of a newer version; it was left as it is.") from None
        log().warning("%s is damaged and counts as missing", path)
        return None

    def read_if_possible(self, key: str) -> R | None:
        """The record; also what is damaged or cannot be read counts as missing, and is logged."""
        try:
            return self.read(key)
        except StoreError as error:
            log().warning("%s It counts as missing.", error.message)
            return None

    def read_for_write(self, key: str) -> R | None:
        """What a write takes the place of: what is lost anyway gives way, but nothing precious does."""
        return self.read(key) if self.kind.is_precious else self.read_if_possible(key)

    def read_unless_absent(self, key: str) -> R | StoreError | None:
        """As `read`, without a look at what is known to be absent; an error is returned."""
        if key in self.absent:
            return None
        try:
            record = self.read(key)
        except StoreError as error:
            return error
        if record is None:
            self.absent.add(key, self.path(key))
        return record

    def is_damaged(self, key: str) -> bool:
        try:
            self.read(key)
        except RecordDamaged:
            return True
        return False

    def keys(self) -> list[str]:
        try:
            return sorted(name.removesuffix(".json") for name in os.listdir(self.place) if name.endswith(".json"))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise cannot_be_read(self.place, error) from None

    @contextmanager
    def locked(self, key: str, wait: float = WRITE_WAIT) -> Iterator[None]:
        """Exclusive right to replace this record, for the time of one write."""
        # 256 locks serve all records, by the first two digits of a key; one does where nobody waits for the disk.
        name = key[:2] if self.kind.is_durable else "all"
        with locked(self.place / ".locks" / name, f"{key}.json", wait):
            yield

    def replace(self, key: str, record: R, *, synced: bool | None = None) -> None:
        """The old record or the new one is there at every instant; under its lock. `synced`: as the kind has it."""
        if not self._swept:
            self._swept = True
            sweep(self.place)
        is_synced = self.kind.is_durable if synced is None else synced
        replace_file(self.path(key), encode(record), synced=is_synced, folder_aside=True)
        self.changed(key)

    def remove(self, key: str) -> None:
        """As `replace`: under its lock."""
        path = self.path(key)
        remove_file(path, synced=self.kind.is_durable)
        self._cache.pop(path, None)
        self.changed(key)

    def _read(self, path: Path) -> R | None:
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
        record: R = decode(self.kind.type, data)
        if is_settled(opened):
            self._cache[path] = ((opened.st_ino, opened.st_mtime_ns, opened.st_size), record)
        return record.__copy__()


class Absent:
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


def _leads_nowhere(path: Path) -> bool:
    """Whether it is a link to itself, or one of a ring of them."""
    # Not the methods of `Path`, which raise where a folder may not be entered.
    return os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114


def version_of(record: Record | None) -> int:
    """The stored version; 0: nothing is stored."""
    return record.version if record is not None else 0


async def until(take: Callable[[], T | None], deadline: float, what: str) -> T:
    """What `take` gives, as soon as it gives something.

    Raises:
        Busy: not by `deadline`, of the monotonic clock.
    """
    import asyncio

    while (taken := take()) is None:
        if time.monotonic() >= deadline:
            raise Busy(f"{what} is being changed by somebody else.", next_step="try again")
        await asyncio.sleep(POLL)
    return taken


async def in_thread(function: Callable[[], T]) -> T:
    """File work that waits for the disk, off the event loop. Finished even when the caller is cancelled."""
    import asyncio

    return await asyncio.to_thread(function)
