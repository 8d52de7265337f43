"""An MCP server that answers with more than anybody can take, in a process of its own.

It speaks HTTP by hand, because a library would not send most of this, and counts the bytes that it got rid of.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import multiprocessing
import re
import socket
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from typing import Any

PIECE = 64 * 1024
# Where a client takes everything, the server stops here: the test fails, the machine lives.
MOST = 600 * 1024 * 1024

Body = Callable[[Any], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Shape:
    """`body`: what follows the headers, made from the id of the request. `at`: the MCP method that it answers.

    `is_trickle`: so many small things that a client does well to take them slowly, until it has had enough.
    """

    headers: str
    body: Body
    at: str = "initialize"
    status: str = "200 OK"
    is_trickle: bool = False


def _json(middle: Callable[[], Iterator[bytes]]) -> Body:
    def body(id: Any) -> Iterator[bytes]:
        yield b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b',"result":{"x":'
        yield from middle()
        yield b"}}"

    return body


def _endless(piece: bytes) -> Callable[[], Iterator[bytes]]:
    """`piece` for ever."""
    whole = piece * (PIECE // len(piece) + 1)

    def pieces() -> Iterator[bytes]:
        while True:
            yield whole

    return pieces


def _much(piece: bytes, size: int, before: bytes = b"[", after: bytes = b"0]") -> Callable[[], Iterator[bytes]]:
    """A good JSON array or text of `size` bytes."""

    def pieces() -> Iterator[bytes]:
        yield before
        whole = piece * (PIECE // len(piece) + 1)
        for _ in range(size // len(whole)):
            yield whole
        yield after

    return pieces


def _raw(pieces: Callable[[], Iterator[bytes]]) -> Body:
    return lambda id: pieces()


def _bomb(layers: int, endless: bool = True) -> Body:
    """Zeros, compressed `layers` times; over and over."""
    packed = bytes(32 * 1024 * 1024)
    for _ in range(layers):
        packed = gzip.compress(packed, 9)

    def body(id: Any) -> Iterator[bytes]:
        yield packed
        while endless:
            yield packed

    return body


def _deflated() -> Body:
    def body(id: Any) -> Iterator[bytes]:
        packer = zlib.compressobj(9)
        yield packer.compress(b'{"jsonrpc":"2.0","id":1,"result":{"x":"')
        while True:
            yield packer.compress(b"x" * 1024 * 1024)

    return body


def _behind_the_end() -> Body:
    """A short gzip stream, and then bytes that no decoder takes."""

    def body(id: Any) -> Iterator[bytes]:
        yield gzip.compress(b'{"jsonrpc":')
        while True:
            yield b"\0" * PIECE

    return body


def _events(event: bytes) -> Body:
    return _raw(_endless(event))


_JSON = "Content-Type: application/json"
_SSE = "Content-Type: text/event-stream"
_NOTICE = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}\n\n'
_PING = b'data: {"jsonrpc":"2.0","id":7,"method":"ping"}\n\n'

SHAPES: dict[str, Shape] = {
    "a JSON text without an end": Shape(_JSON, _json(_endless(b"x" * 100))),
    "a JSON text without an end, to the tools": Shape(_JSON, _json(_endless(b"x" * 100)), at="tools/list"),
    "a page without an end": Shape("Content-Type: text/html", _raw(_endless(b"<p>"))),
    "an error without an end": Shape(_JSON, _raw(_endless(b" ")), status="500 Oops"),
    "a refusal without an end": Shape(_JSON, _raw(_endless(b" ")), status="401 No"),
    "a redirect without an end": Shape(f"{_JSON}\r\nLocation: /mcp?", _raw(_endless(b" ")), status="307 There"),
    "an acceptance without an end": Shape(_JSON, _raw(_endless(b" ")), status="202 Yes"),
    "a gzip bomb": Shape(f"{_JSON}\r\nContent-Encoding: gzip", _bomb(1)),
    "a gzip bomb in another": Shape(f"{_JSON}\r\nContent-Encoding: gzip, gzip", _bomb(2)),
    "four gzip bombs in each other": Shape(f"{_JSON}\r\nContent-Encoding: gzip, gzip, gzip, gzip", _bomb(4)),
    "a deflate bomb": Shape(f"{_JSON}\r\nContent-Encoding: deflate", _deflated()),
    "bytes behind the end of gzip": Shape(f"{_JSON}\r\nContent-Encoding: gzip", _behind_the_end()),
    "gzip under the name of others": Shape(f"{_JSON}\r\nContent-Encoding: x-gzip", _bomb(1)),
    "a bomb as an error": Shape(f"{_JSON}\r\nContent-Encoding: gzip", _bomb(1), status="401 No"),
    "empty objects": Shape(_JSON, _json(_much(b"{},", 8_000_000))),
    "empty lists": Shape(_JSON, _json(_much(b"[],", 8_000_000)), at="tools/list"),
    "small objects": Shape(_JSON, _json(_much(b'{"a":0},', 8_000_000))),
    "numbers": Shape(_JSON, _json(_much(b"1,", 8_000_000))),
    "short texts": Shape(_JSON, _json(_much(b'"",', 8_000_000))),
    "quotation marks": Shape(_JSON, _json(_much(b'"\\"",', 8_000_000))),
    "tools": Shape(
        _JSON,
        _json(_much(b'{"name":"","inputSchema":{}},', 8_000_000, b'0,"tools":[', b'{"name":"","inputSchema":{}}]')),
        at="tools/list",
    ),
    "an event line without an end": Shape(_SSE, _events(b"data: xxxx".ljust(PIECE, b"x"))),
    "one line without an end": Shape(_SSE, lambda id: itertools.chain([b"data: "], _endless(b"x" * 64)())),
    "an event of lines without an end": Shape(_SSE, _events(b"data: x\n")),
    "a comment without an end": Shape(_SSE, _events(b":xxxxxxxx")),
    "comments without an end": Shape(_SSE, _events(b": x\n")),
    "ids without an end": Shape(_SSE, _events(b"id: 1\n"), is_trickle=True),
    "empty lines without an end": Shape(_SSE, _events(b"\n"), is_trickle=True),
    "notices without an end": Shape(_SSE, _events(_NOTICE), is_trickle=True),
    "notices without an end, to the tools": Shape(_SSE, _events(_NOTICE), at="tools/list", is_trickle=True),
    "questions without an end": Shape(_SSE, _events(_PING), at="tools/list", is_trickle=True),
    "broken messages without an end": Shape(_SSE, _events(b"data: {\n\n"), at="tools/list", is_trickle=True),
    "events of unknown kinds without an end": Shape(
        _SSE, _events(b"event: x\ndata: 1\n\n"), at="tools/list", is_trickle=True
    ),
    "small objects in an event": Shape(
        _SSE, lambda id: iter([b'data: {"jsonrpc":"2.0","method":"x","params":{"a":[', b"{}," * 2_600_000, b"0]}}\n\n"])
    ),
    "a bomb of events": Shape(f"{_SSE}\r\nContent-Encoding: gzip", _bomb(1)),
    "events of carriage returns": Shape(_SSE, _events(b"data: x\r\r"), is_trickle=True),
    "a stream that is taken up again and again": Shape(
        _SSE, lambda id: iter([b"id: 1\nretry: 0\ndata:\n\n"]), is_trickle=True
    ),
    "a text that hides values in a comment": Shape(
        _SSE,
        lambda id: iter([b': "\ndata: {"jsonrpc":"2.0","method":"x","params":{"a":[', b"{}," * 2_600_000, b"0]}}\n\n"]),
    ),
    "values in UTF-7": Shape(
        f"{_SSE}; charset=utf-7", _events(b"data: +" + base64.b64encode("{},".encode("utf-16-be") * 8000))
    ),
    "events in a codec that unpacks": Shape(
        f"{_SSE}; charset=zlib", lambda id: iter([zlib.compress(bytes(MOST // 4), 9)])
    ),
    "a page in a codec that unpacks": Shape(
        "Content-Type: application/json; charset=zlib",
        lambda id: iter([zlib.compress(bytes(MOST // 4), 9)]),
        status="500 Oops",
    ),
}


class Hostile:
    """`sent`: bytes that it got rid of, beside headers."""

    def __init__(self, port: int, sent: Synchronized[int]) -> None:
        self._origin = f"http://127.0.0.1:{port}"
        self._sent = sent

    def url(self, shape: str) -> str:
        """The server that answers so, from now on with nothing sent."""
        self._sent.value = 0
        return f"{self._origin}/{list(SHAPES).index(shape)}"

    @property
    def sent(self) -> int:
        return self._sent.value


@contextmanager
def hostile() -> Iterator[Hostile]:
    context = multiprocessing.get_context("spawn")
    sent: Synchronized[int] = context.Value("q", 0)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen(64)
        server = context.Process(target=_run, args=(bound, sent), daemon=True)
        server.start()
        try:
            yield Hostile(bound.getsockname()[1], sent)
        finally:
            server.kill()
            server.join()


def _run(bound: socket.socket, sent: Synchronized[int]) -> None:
    asyncio.run(_serve(bound, sent))


async def _serve(bound: socket.socket, sent: Synchronized[int]) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for shape, request in _requests(reader):
                if not await _answer(shape, request, writer, sent):
                    return
        except (OSError, asyncio.IncompleteReadError):
            # The client has had enough.
            return
        finally:
            writer.close()

    async with await asyncio.start_server(talk, sock=bound) as server:
        await server.serve_forever()


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[Shape, dict[str, Any] | None]]:
    """Which server is asked, and the JSON-RPC message that is posted; None for everything else."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
        body = await reader.readexactly(length)
        shape = list(SHAPES.values())[int(re.findall(r" /(\d+)", head)[0])]
        yield shape, json.loads(body) if head.startswith("post") and body else None


async def _answer(
    shape: Shape, request: dict[str, Any] | None, writer: asyncio.StreamWriter, sent: Synchronized[int]
) -> bool:
    """False: the connection is used up."""
    method = request.get("method") if request is not None else None
    if request is None or method is None or (method != shape.at and method != "initialize"):
        known = "200 OK" if method is None else "202 Accepted" if "id" not in (request or {}) else "404 Not Found"
        writer.write(f"HTTP/1.1 {known}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        return True
    if method != shape.at:
        version = request["params"]["protocolVersion"]
        about = {"name": "h", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
        body = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result})
        writer.write(f"HTTP/1.1 200 OK\r\n{_JSON}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        return True
    writer.write(f"HTTP/1.1 {shape.status}\r\n{shape.headers}\r\nConnection: close\r\n\r\n".encode())
    for piece in shape.body(request.get("id")):
        writer.write(piece)
        await writer.drain()
        with sent.get_lock():
            sent.value += len(piece)
        if sent.value > MOST:
            return False
    return False
