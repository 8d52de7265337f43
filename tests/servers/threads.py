"""An ASGI application in a thread of its own, so that tests of every kind, processes included, can talk to it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tests.patience import PATIENCE


def loopback_socket() -> socket.socket:
    # asyncio turns Nagle's algorithm off only on sockets that name their protocol.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.bind(("127.0.0.1", 0))
    return bound


@contextmanager
def serving(app: Any, bound: socket.socket, certificate: Path | None = None) -> Iterator[None]:
    """Answer on `bound` until the block ends; then the socket is closed. `certificate`: with TLS, its key included."""
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", access_log=False, timeout_keep_alive=30, ssl_certfile=certificate
    )
    server = uvicorn.Server(config)
    bound.listen(256)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started:
        assert time.monotonic() < deadline, "the test server did not start"
        time.sleep(0.002)
    try:
        yield
    finally:
        server.force_exit = True
        server.should_exit = True
        thread.join(PATIENCE)
        bound.close()
