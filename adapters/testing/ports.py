"""Ports for what a test starts a moment later, in a process of its own or in this one."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Below are the well-known services of a machine.
_FIRST, _END = 10_000, 65_536
# Where the kernel says nothing: the dynamic ports of RFC 6335.
_DYNAMIC = (49_152, 65_535)
# So many of one process are kept from its neighbours; those from before are either listened on by now, or done with.
_KEPT = 200


def free_port() -> int:
    """A port of the loopback interface that nothing listens on and that no other process gets from here.

    The kernel does not give it to anybody either: it is none of those that connections and servers without a port of
    their own get.

    Raises:
        RuntimeError: there is none.
    """
    for port in itertools.islice(_ports, _END):
        if _reserve(port) and _is_free(port):
            return port
    raise RuntimeError("there is no free port")


def candidates(given_by_kernel: tuple[int, int]) -> list[int]:
    """The ports outside of those that the kernel gives, lowest first; all of them where it gives almost all."""
    low, high = given_by_kernel
    outside = [*range(_FIRST, min(low, _END)), *range(max(high + 1, _FIRST), _END)]
    return outside if len(outside) >= 1000 else list(range(_FIRST, _END))


def _given_by_kernel() -> tuple[int, int]:
    try:
        low, high = _RANGE.read_text().split()
    except OSError:
        return _DYNAMIC
    return int(low), int(high)


def _from_somewhere() -> Iterator[int]:
    """Every process begins somewhere else."""
    found = candidates(_given_by_kernel())
    start = os.getpid() * 7919 % len(found)
    return itertools.cycle(found[start:] + found[:start])


class _Reservations:
    """A lock on one byte for each port, which the kernel takes back when the process ends, however it ends."""

    def __init__(self) -> None:
        self._path = Path(tempfile.gettempdir()) / f"slash-mcp-test-ports-{os.getuid()}"
        self._owner = 0
        self._file = -1
        self._kept: deque[int] = deque()

    def __call__(self, port: int) -> bool:
        """False: another process has it, or this one had it a moment ago."""
        if port in self._kept and self._owner == os.getpid():
            return False
        self._open()
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            return False
        self._kept.append(port)
        if len(self._kept) > _KEPT:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._kept.popleft())
        return True

    def _open(self) -> None:
        """Locks are a process' own, so a fork begins anew."""
        if self._owner != os.getpid():
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._owner = os.getpid()
            self._kept.clear()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            # Somebody's, outside these tests.
            return False
    return True


_reserve = _Reservations()
_ports = _from_somewhere()
