"""How much a server may answer: bytes after decompression, and values for the JSON parser. No network of its own.

Whatever a server sends is held in memory as a whole somewhere: a JSON answer by the parser, an event by the reader of
its stream. So both are bounded before they get there. Bytes alone are no bound: eight megabytes of `{},{},` become half
a gigabyte of objects, and keep the event loop busy for seconds.
"""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable

import httpx2

from mcp_auth.errors import Unreachable

# Bytes of one answer or one event of a stream; `gateway.network.max_body_mb`.
MAX_MESSAGE = 8 * 1024 * 1024
# Values that JSON may hold: one for so many bytes of the limit. An object takes 30 times its two bytes in memory.
_BYTES_FOR_A_VALUE = 32
# What decompression yields at a time.
_PIECE = 64 * 1024
# A stream that broke off is taken up again by a new request; no sooner than this after the last time.
_RESUME_SECONDS = 1.0
# Events of one stream: so many at once, and then so many a second. Each is a task for somebody, however short it is.
_EVENTS_AT_ONCE = 10_000
_EVENTS_A_SECOND = 1_000


class _TooLarge(httpx2.ReadError):
    """For the HTTP client that reads the body; `BoundedAnswers.trouble` is the sentence."""


class BoundedAnswers(httpx2.AsyncBaseTransport):
    """A transport whose bodies end with an error when they are too large. `trouble` says which one was.

    Args:
        name: the server's, for the sentence.
        message_max: bytes of one body, or of one event where the body is a stream of events.
        total_max: bytes of all bodies together; None: no limit, because a session may last for weeks.
    """

    def __init__(
        self,
        inner: httpx2.AsyncBaseTransport,
        name: str,
        *,
        message_max: int = MAX_MESSAGE,
        total_max: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._inner = inner
        self._name = name
        self._message_max = message_max
        self._values_max = message_max // _BYTES_FOR_A_VALUE
        self._left = self._total_max = total_max
        self._clock, self._sleep = clock, sleep
        self._resumed_at: float | None = None
        self.trouble: Unreachable | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if "last-event-id" in request.headers:
            await self._wait_to_resume()
        response = await self._inner.handle_async_request(request)
        if not isinstance(response.stream, httpx2.AsyncByteStream):
            raise TypeError("the answer's body must be readable asynchronously")
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind:
            # JSON and events are UTF-8 (RFC 8259, HTML). A character set of the server's own would be decoded by
            # whatever codec has that name, `zlib` too, and what is counted here would not be what is read.
            response.headers["content-type"] = kind
        read = self._events if kind == "text/event-stream" else self._whole
        response.stream = _Stream(response.stream, read(response.stream))
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _wait_to_resume(self) -> None:
        if self._resumed_at is not None:
            wait = self._resumed_at + _RESUME_SECONDS - self._clock()
            if wait > 0:
                await self._sleep(wait)
        self._resumed_at = self._clock()

    async def _whole(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """One message: handed on when it is complete and known to be small enough."""
        # In one piece: a server may send a byte at a time, and each would be an object of its own.
        held = bytearray()
        async for piece in stream:
            self._spend(len(piece))
            held += piece
            if len(held) > self._message_max:
                raise self._too_large()
        body = bytes(held)
        del held
        if self._has_too_many_values(body):
            raise self._too_large()
        yield body

    async def _events(self, stream: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """A stream of events: each handed on when it is complete."""
        held = bytearray()
        room, counted_at = float(_EVENTS_AT_ONCE), self._clock()
        async for piece in stream:
            self._spend(len(piece))
            # The end of an event may be torn across two pieces.
            begin = max(0, len(held) - 3)
            held += piece
            end = _end_of_last_event(held, begin)
            if end:
                batch = bytes(held[:end])
                del held[:end]
                self._check_events(batch)
                yield batch
                now = self._clock()
                room = min(_EVENTS_AT_ONCE, room + (now - counted_at) * _EVENTS_A_SECOND) - _count_events(batch)
                counted_at = now
                if room < 0:
                    await self._sleep(-room / _EVENTS_A_SECOND)
            if len(held) > self._message_max:
                raise self._too_large()
        if held:
            self._check_events(bytes(held))
            yield bytes(held)

    def _check_events(self, batch: bytes) -> None:
        if len(batch) <= self._message_max and _most_values(batch) <= self._values_max:
            return
        for event in _EVENT_END.split(batch):
            data = b"\n".join(line for line in _LINE_END.split(event) if line.startswith(b"data"))
            if len(event) > self._message_max or self._has_too_many_values(data):
                raise self._too_large()

    def _has_too_many_values(self, text: bytes) -> bool:
        if _most_values(text) <= self._values_max:
            return False
        # What stands in JSON's texts is no value: commas there are commas of prose.
        plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
        if plain.count(b'"') > 4 * self._values_max:
            return True
        return _most_values(b"".join(plain.split(b'"')[::2])) > self._values_max

    def _spend(self, size: int) -> None:
        if self._left is None or self._total_max is None:
            return
        self._left -= size
        if self._left < 0:
            raise self._too_much(f"{_megabytes(self._total_max)} in all")

    def _too_large(self) -> _TooLarge:
        return self._too_much(f"{_megabytes(self._message_max)}, or too many values, at once")

    def _too_much(self, what: str) -> _TooLarge:
        self.trouble = Unreachable(
            f"{self._name} sent more than {what}.",
            next_step="if it has to, raise gateway.network.max_body_mb",
        )
        return _TooLarge("the answer is too large")


def _megabytes(size: int) -> str:
    return f"{size // 2**20 or 1} MB"


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, read: AsyncIterator[bytes]) -> None:
        self._inner = inner
        self._read = read

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._read

    async def aclose(self) -> None:
        await self._inner.aclose()


_LINE_END = re.compile(rb"\r\n|\n|\r")
# An empty line, each of its ends whole: CR LF is one.
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


def _end_of_last_event(held: bytearray, begin: int) -> int:
    """Where the last complete event ends; 0: none does. An empty line ends one."""
    return max((found.end() for found in _EVENT_END.finditer(held, begin)), default=0)


def _count_events(batch: bytes) -> int:
    return sum(1 for _ in _EVENT_END.finditer(batch))


def _most_values(text: bytes) -> int:
    """At least as many as JSON of this text has values, but for one."""
    return text.count(b",") + text.count(b"{") + text.count(b"[")


# -- content codings -------------------------------------------------------------------------

ACCEPTED_CODINGS = "gzip, deflate"


async def decoded(stream: AsyncIterable[bytes], coding: str) -> AsyncIterator[bytes]:
    """A body without its content coding, in small pieces. What follows the end of the compressed data is left unread.

    Raises:
        httpx2.DecodingError: another coding than we ask for, several on top of each other, or damaged data.
    """
    names = [name for name in re.split(r"[\s,]+", coding.lower()) if name not in ("", "identity")] if coding else []
    if not names:
        async for chunk in stream:
            yield chunk
        return
    if names not in (["gzip"], ["x-gzip"], ["deflate"]):
        raise httpx2.DecodingError("the answer is packed in a way that was not asked for")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if names != ["deflate"] else None
    rest = b""
    async for chunk in stream:
        rest += chunk
        if unpacker is None and len(rest) < 2:
            continue
        unpacker = unpacker or _deflate_unpacker(rest)
        while rest and not unpacker.eof:
            try:
                piece = unpacker.decompress(rest, _PIECE)
            except zlib.error as error:
                raise httpx2.DecodingError(str(error)) from None
            rest = unpacker.unconsumed_tail
            if piece:
                yield piece
        if unpacker.eof:
            return


def _deflate_unpacker(first: bytes) -> zlib._Decompress:
    """`deflate` is the zlib format (RFC 9110 section 8.4.1.2); some servers send it without its two bytes of header."""
    has_header = first[0] & 0x0F == 8 and int.from_bytes(first[:2]) % 31 == 0
    return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
