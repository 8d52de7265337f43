"""A runner that gives the endpoint its ports on this machine, one listener a port, started when first needed."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import Counter
from collections.abc import Collection, Generator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_auth.errors import Busy, PortBusy, StoreError
from mcp_auth.limits import address_key
from mcp_auth.net.rules import effective_address, is_loopback_host
from mcp_auth.outcome import Next
from mcp_auth.small_files import exists

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from mcp_auth.web.services import Services

logger = logging.getLogger(__name__)

CALLBACK_PATH = "/callback"
# A whole request, from the connection or the answer before it: a browser sends it in one piece.
REQUEST_SECONDS = 15.0
# Connections at a time: from one address (a household or an office behind it), and without a whole request so far.
CONNECTIONS_OF_ONE = 50
CONNECTIONS_WAITING = 150


class LoopbackListeners:
    """The endpoint on loopback ports of this machine, one listener a port, started when first needed.

    A process that listens holds the kernel lock `<home>/callback-<port>.lock`, so that another process of
    the same home knows the listener for its own and waits on the store instead.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._home = services.config.home
        # Of loopback redirect URIs; they grow as they are needed.
        self._paths = {CALLBACK_PATH}
        self._app: ASGIApp | None = None
        self._servers: dict[tuple[str, int], _Running] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(port for _, port in self._servers)

    async def listen(self, host: str, port: int, path: str = CALLBACK_PATH) -> int:
        """Take redirects to `path` on `host:port` (0: any free port) unless this home does already. Returns the port.

        Raises:
            PortBusy: another program has it. StoreError: the home cannot be written.
        """
        self._paths.add(path)
        if (host, port) in self._servers:
            return port
        lock = self._lock(port) if port else None
        if port and lock is None:
            return port
        try:
            bound = _bind(host, port)
        except OSError as error:
            if lock is not None:
                os.close(lock)
            raise PortBusy(
                f"Port {port} on {host} cannot be listened on ({error.strerror or type(error).__name__}).",
                next_step="stop the other program, or set gateway.callback.port to a free port",
            ) from None
        actual: int = bound.getsockname()[1]
        if lock is None:
            try:
                lock = self._lock(actual)
            except StoreError:
                bound.close()
                raise
        if self._app is None:
            from mcp_auth.web.endpoint import application

            self._app = application(self._services, loopback_paths=self._paths)
        running = await _serve(self._app, bound, lock, self._services.config.gateway.trusted_proxies)
        self._servers[host, actual] = running
        return actual

    def is_listened_to(self, port: int) -> bool:
        """Whether this process or another of the same home listens on `port`."""
        return port in self.ports or is_ours(self._home, port)

    async def close(self) -> None:
        servers = list(self._servers.values())
        self._servers.clear()
        for running in servers:
            await running.stop()

    def _lock(self, port: int) -> int | None:
        """The lock of a port, or None where another process of this home has it."""
        from mcp_auth.stores.durable import make_folder, try_lock

        return try_lock(_port_lock(make_folder(self._home), port))


def is_ours(home: Path, port: int) -> bool:
    """Whether a process of this home holds the port's lock, and so listens on it.

    Raises:
        StoreError: the home cannot be written.
    """
    from mcp_auth.stores.durable import locked

    path = _port_lock(home, port)
    if not exists(path):
        # Nobody ever did.
        return False
    try:
        with locked(path, path.name, wait=0):
            return False
    except Busy:
        return True


def _port_lock(home: Path, port: int) -> Path:
    return home / f"callback-{port}.lock"


class _Running:
    def __init__(self, server: uvicorn.Server, task: asyncio.Task[None], lock: int | None) -> None:
        self._server = server
        self._task = task
        self._lock = lock

    async def stop(self) -> None:
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=5.0)
        if not done:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class _Connections:
    """The connections of one listener: how many each address has, and which wait for the rest of a request.

    A proxy carries the connections of everybody, so this computer and `trusted` addresses have as many as they like.
    """

    def __init__(self, trusted: Collection[str]) -> None:
        self._trusted = [ip_network(one, strict=False) for one in trusted]
        self._open: Counter[str] = Counter()
        # Oldest first.
        self._waiting: dict[asyncio.Transport, None] = {}

    def key(self, address: str) -> str:
        """What the connections of this address count as; empty: they do not."""
        if is_loopback_host(address):
            return ""
        try:
            ip = effective_address(address)
        except ValueError:
            return "unknown"
        return "" if any(ip in network for network in self._trusted) else address_key(address)

    def add(self, key: str) -> bool:
        """Count one more. False: that is one too many. It is to be removed in either case."""
        self._open[key] += 1
        return not key or self._open[key] <= CONNECTIONS_OF_ONE

    def remove(self, key: str) -> None:
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]

    def wait(self, transport: asyncio.Transport) -> None:
        """One more waits for its request. Where too many do, the one that has waited longest is closed."""
        self._waiting[transport] = None
        if len(self._waiting) > CONNECTIONS_WAITING:
            next(iter(self._waiting)).abort()

    def arrived(self, transport: asyncio.Transport) -> None:
        self._waiting.pop(transport, None)


async def _serve(app: ASGIApp, bound: socket.socket, lock: int | None, trusted: Collection[str]) -> _Running:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    connections = _Connections(trusted)

    class BoundedProtocol(H11Protocol):
        """uvicorn bounds neither the time that a request takes to arrive nor the connections of one address.

        An access log would hold codes and states; uvicorn's own switch is one for all servers of the process.
        """

        _too_late: asyncio.TimerHandle | None = None
        _key = ""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.access_log = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._key = connections.key(self.client[0] if self.client else "")
            if not connections.add(self._key):
                transport.abort()
                return
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            connections.remove(self._key)
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # The next request has its own time, and a body that nobody read has none.
            self._forget()
            self._watch()

        def _watch(self) -> None:
            is_whole = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
            if is_whole or self.transport.is_closing():
                self._forget()
            elif self._too_late is None:
                self._too_late = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
                connections.wait(self.transport)

        def _forget(self) -> None:
            if self._too_late is not None:
                self._too_late.cancel()
                self._too_late = None
                connections.arrived(self.transport)

    class EmbeddedServer(uvicorn.Server):
        """A server inside somebody else's process: signals are not its business."""

        @contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            yield

    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=5,
        limit_concurrency=200,
        h11_max_incomplete_event_size=16 * 1024,
    )
    server = EmbeddedServer(config)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        if task.done():
            if lock is not None:
                os.close(lock)
            task.result()
            raise PortBusy("The callback endpoint did not start.", next_step=Next("doctor"))
        await asyncio.sleep(0.005)
    return _Running(server, task, lock)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, because asyncio turns Nagle's algorithm off only where it is: answers come 40 ms sooner.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A port in TIME_WAIT after a restart is ours again at once; a port in use still is refused.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound
