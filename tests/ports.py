"""Ports for what a test starts a moment later, in a process of its own."""

from __future__ import annotations

import itertools
import os
import socket

# Below the ports that Linux gives to whoever asks for any, so that neither a connection nor another server gets them.
_FIRST, _LAST = 20_000, 32_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Each worker has every so many of them, and begins somewhere else in each run.
_ports = itertools.cycle(range(_FIRST + _WORKER, _LAST, _WORKERS))
for _ in range(os.getpid() % ((_LAST - _FIRST) // _WORKERS)):
    next(_ports)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on, and that this process does not give again soon."""
    for port in itertools.islice(_ports, _LAST - _FIRST):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                # Somebody's, outside these tests.
                continue
            return port
    raise RuntimeError("there is no free port")
