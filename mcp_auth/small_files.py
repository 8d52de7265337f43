"""Reading a file that ought to be small and regular, whatever lies in its place: without waiting, and within bounds."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# A record has a few kilobytes, and a token or a key at most 64.
MAX_BYTES = 4_000_000


def read_small_file(path: Path, limit: int = MAX_BYTES) -> tuple[bytes, os.stat_result]:
    """The whole file, and what it was when it was opened.

    Raises:
        OSError: it is missing or may not be read; it is a folder, a FIFO, a socket or a device; it has more than
            `limit` bytes. `strerror` says which.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotRegularFile(errno.EINVAL, "it is not a regular file", str(path))
        parts: list[bytes] = []
        left = limit + 1
        while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise FileTooLarge(errno.EFBIG, f"it is larger than {limit // 1_000_000} MB", str(path))
    return b"".join(parts), found


class NotRegularFile(OSError):
    """A folder, a FIFO, a socket or a device."""


class FileTooLarge(OSError):
    """More than such a file ever has."""


def exists(file: Path) -> bool:
    """Whether something is there, readable or not."""
    try:
        file.stat()
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        # Whatever it is, reading it says better what is wrong.
        return True
    return True
