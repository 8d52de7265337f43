"""Files that are replaced whole and outlive a power cut, and kernel locks between processes."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_auth.errors import Busy, StoreError, TooManyOpenFiles, is_out_of_descriptors
from mcp_auth.outcome import Next

if TYPE_CHECKING:
    from filelock import FileLock

WRITE_WAIT = 10.0
"""A writer holds a lock for the time of one fsync; nobody waits longer than this."""
# Two writes within one tick of the file system's clock may look alike, so a file that young is read again.
_CLOCK_TICK_NS = 20_000_000
_LEFTOVER_AGE = 3600.0


def is_settled(found: os.stat_result) -> bool:
    """Whether a later write of this file is sure to show in its `stat`."""
    return time.time_ns() - found.st_mtime_ns > _CLOCK_TICK_NS


def make_folder(folder: Path) -> Path:
    """Create `folder` for its owner alone, with its parents.

    Raises:
        StoreError: it cannot be made.
    """
    with _as_store_error(folder):
        if folder.is_dir():
            return folder
        make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def replace_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` whole, readable by its owner alone. A power cut leaves the old one or the new one.

    Raises:
        StoreError: the disk is full, or may not be written.
    """
    begin_replace_file(path, data, synced=True)()


def begin_replace_file(path: Path, data: bytes, *, synced: bool, folder_aside: bool = False) -> Callable[[], None]:
    """As `replace_file`, in two halves: the data is written, and the returned function gives it the name.

    Args:
        synced: it is on the disk before it gets the name. Without it, a power cut may leave neither; the death of the
            process leaves the old or the new one all the same.
        folder_aside: a folder that lies there is kept under another name, instead of an error.
    """
    folder = make_folder(path.parent)
    with _as_store_error(path):
        temporary = write_temporary(folder, data)

    def put_in_place() -> None:
        with _as_store_error(path):
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

    return put_in_place


def set_aside(path: Path) -> Path:
    """Give what lies at `path` a name beside it that nothing else has. Returns it."""
    kept = path.with_name(f"{path.name}.damaged-{os.urandom(4).hex()}")
    with _as_store_error(path):
        path.rename(kept)
    return kept


def create_file(path: Path, data: bytes) -> bool:
    """Make `path` of `data`, readable by its owner alone and not yet on the disk, without a lock.

    False: it is there already, or this file system cannot give a file two names. Where files are created by this alone,
    and replaced under a lock, no write is lost to another.

    Raises:
        StoreError: the disk is full, or may not be written.
    """
    folder = make_folder(path.parent)
    with _as_store_error(path):
        temporary = write_temporary(folder, data)
        try:
            os.link(temporary, path)
        except OSError:
            return False
        finally:
            temporary.unlink()
    return True


def remove_file(path: Path) -> bool:
    """Remove `path` for good. False when it was not there.

    Raises:
        StoreError: it may not be removed.
    """
    with _as_store_error(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
        sync_folder(path.parent)
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


@contextmanager
def _as_store_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_out_of_descriptors(error):
            raise TooManyOpenFiles from None
        raise StoreError(
            f"{path} cannot be written ({error.strerror or type(error).__name__}).", next_step=Next("doctor")
        ) from None


# -- locks -----------------------------------------------------------------------------------


@contextmanager
def locked(lock_file: Path, what: str, wait: float = WRITE_WAIT) -> Iterator[None]:
    """Hold the kernel lock `lock_file` for the time of one write to `what`.

    Args:
        wait: seconds; 0 takes it only when it is free.

    Raises:
        Busy: somebody else holds it for longer. StoreError: there can be no such file.
    """
    from filelock import Timeout

    folder = make_folder(lock_file.parent)
    idle = _idle_locks[lock_file]
    try:
        lock = idle.pop()
    except IndexError:
        lock = new_lock(lock_file)
    try:
        lock.acquire(timeout=wait, poll_interval=0.005)
    except Timeout:
        raise Busy(f"{what} is being written by another process.", next_step="try again") from None
    except OSError as error:
        if is_out_of_descriptors(error):
            raise TooManyOpenFiles from None
        raise StoreError(f"{folder} cannot be written ({error.strerror}).", next_step=Next("doctor")) from None
    try:
        yield
    finally:
        lock.release()
        idle.append(lock)


# Making a lock object costs as much as taking the lock; of each file there are as many as ever wrote at once.
_idle_locks: defaultdict[Path, list[FileLock]] = defaultdict(list)


def new_lock(path: Path) -> FileLock:
    from filelock import FileLock

    # One lock object for each holder: the kernel then keeps tasks and threads apart as it does processes.
    return FileLock(path, mode=0o600, is_singleton=False, thread_local=False)


def acquired(lock: FileLock) -> bool:
    """Take the lock if it is free.

    Raises:
        StoreError: its file cannot be made.
    """
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    except OSError as error:
        if is_out_of_descriptors(error):
            raise TooManyOpenFiles from None
        raise StoreError(f"{lock.lock_file} cannot be locked ({error.strerror}).", next_step=Next("doctor")) from None
    return True
