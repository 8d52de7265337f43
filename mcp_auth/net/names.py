"""Looking names up, so that a name server that does not answer holds nobody for longer than they meant to wait.

`getaddrinfo` cannot be cancelled, and asyncio runs it in threads whose end a process waits for. Here each look-up has a
daemon thread of its own, which is left behind.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

from mcp_auth.errors import is_out_of_descriptors

T = TypeVar("T")
Found = list[tuple[Any, ...]]

# Look-ups at a name server that is silent stay for half a minute each. More of them at once would help nobody.
_MOST = 64
_STOCK = asyncio.BaseEventLoop.getaddrinfo
_free = threading.Semaphore(_MOST)


async def addresses_of(name: str, port: int) -> Found:
    """The addresses of a server, by the loop's own way to look names up where it has one. Raises as `look_up`."""
    loop = asyncio.get_running_loop()
    if getattr(loop.getaddrinfo, "__func__", None) is _STOCK:
        return await look_up(name, port, type=socket.SOCK_STREAM)
    return await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)


async def look_up(host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Found:
    """As `loop.getaddrinfo`, and cancelled at once when the caller is.

    Raises:
        OSError: as `socket.getaddrinfo` does; without file descriptors EMFILE, whatever the resolver makes of that.
    """
    lack = _lacks_descriptors()
    if lack is not None:
        # The resolver could open neither its files nor a socket, and waits all the same.
        raise lack
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Found] = loop.create_future()
    free = _free
    if not free.acquire(blocking=False):
        raise socket.gaierror(socket.EAI_AGAIN, "too many look-ups wait for the name server")

    def ask() -> None:
        try:
            found = partial(_settle, answer, socket.getaddrinfo(host, port, family, type, proto, flags))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            found = partial(_fail, answer, _explained(error))
        finally:
            free.release()
        try:
            loop.call_soon_threadsafe(found)
        except RuntimeError:
            # The loop has ended, and with it everybody who waited.
            return

    try:
        threading.Thread(target=ask, daemon=True, name="name look-up").start()
    except RuntimeError:
        free.release()
        raise socket.gaierror(socket.EAI_AGAIN, "no thread is left") from None
    return await answer


def _settle(answer: asyncio.Future[Found], found: Found) -> None:
    if not answer.done():
        answer.set_result(found)


def _fail(answer: asyncio.Future[Found], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _explained(error: Exception) -> Exception:
    """The C library calls it an unknown name, too, when it may not open a socket to ask."""
    lack = _lacks_descriptors() if isinstance(error, socket.gaierror) else None
    return lack or error


def _lacks_descriptors() -> OSError | None:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if is_out_of_descriptors(error) else None
    return None


def why_not_found(error: OSError | UnicodeError) -> str:
    """Words for why a look-up gave no address."""
    if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
        return "the name server does not answer"
    if isinstance(error, UnicodeError) or error.errno in _UNKNOWN:
        return "the name is unknown"
    return "the name cannot be looked up"


_UNKNOWN = frozenset(
    {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), getattr(socket, "EAI_ADDRFAMILY", -9)}
)


class _Loop(asyncio.SelectorEventLoop):
    """Every library of the process looks names up through its loop."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Found:
        return await look_up(host, port, family=family, type=type, proto=proto, flags=flags)


def runner() -> asyncio.Runner:
    """As `asyncio.Runner`, for a process of our own: its end does not wait for a name server."""
    return asyncio.Runner(loop_factory=_Loop)


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, with such a runner."""
    with runner() as one:
        return one.run(main)
