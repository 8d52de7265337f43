"""What a server may answer with: the codings, and where a large answer is a good one."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from starlette.responses import Response

from mcp_auth.errors import Unreachable
from mcp_auth.net.bodies import BoundedAnswers, decoded
from tests.homes import open_auth
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

MB = 1024 * 1024
TEXT = json.dumps({"text": "a,b{c[" * 50_000}).encode()


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("", TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT)),
        ("GZip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("identity, gzip", gzip.compress(TEXT)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("gzip", gzip.compress(TEXT) + b"more"),
    ],
    ids=range(9),
)
async def test_a_body_is_unpacked_as_it_was_packed(coding: str, packed: bytes, size: int) -> None:
    assert b"".join([piece async for piece in decoded(pieces(packed, size), coding)]) == TEXT


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "deflate, gzip", "compress", "x"])
async def test_what_was_not_asked_for_is_not_unpacked(coding: str) -> None:
    with pytest.raises(httpx2.DecodingError):
        assert [piece async for piece in decoded(pieces(gzip.compress(TEXT), 99), coding)]


async def test_an_empty_body_under_any_coding_is_empty() -> None:
    assert [piece async for piece in decoded(pieces(b"", 1), "gzip")] == []


async def answer(kind: str, body: bytes, size: int = 60_000) -> bytes:
    """`body` as a client gets it through the bounds of one megabyte."""

    async def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": kind}, content=pieces(body, size))

    bounded = BoundedAnswers(httpx2.MockTransport(handle), "notes", message_max=MB)
    async with httpx2.AsyncClient(transport=bounded) as client:
        return (await client.get("https://notes.test/mcp")).content


VALUES = b"[" + b"{}," * 15_000 + b"0]"
GOOD = [
    ("application/json", TEXT),
    ("application/json", VALUES),
    ("application/json", json.dumps({"csv": '1,2,"x\\",' * 60_000}).encode()),
    ("application/json; charset=utf-8", b'"' + b"x" * (MB - 2) + b'"'),
    ("text/event-stream", b"data: " + TEXT + b"\n\n"),
    ("text/event-stream", b"data: " + TEXT + b"\r\n\r\n" + b"data: " + TEXT + b"\r\r"),
    ("text/event-stream; charset=utf-8", (b"event: message\r\ndata: " + TEXT + b"\r\n\r\n") * 30),
    # A line ends by CR, by LF or by both, and an event by any two of these.
    *(
        ("text/event-stream", (b"data: " + TEXT + first + second) * 4)
        for first, second in itertools.product((b"\n", b"\r", b"\r\n"), repeat=2)
        if first + second != b"\r\n"
    ),
    ("text/event-stream", b": ping\n\n" * 5_000),
    ("text/event-stream", b"data: the end is missing"),
]


@pytest.mark.parametrize("size", [1_000, 65_536])
@pytest.mark.parametrize(("kind", "body"), GOOD, ids=range(len(GOOD)))
async def test_a_large_answer_arrives_as_it_was_sent(kind: str, body: bytes, size: int) -> None:
    assert await answer(kind, body, size) == body


async def test_the_events_of_a_long_stream_are_bounded_one_by_one() -> None:
    assert len(await answer("text/event-stream", b"data: " + b"x" * 900_000 + b"\n\n" + b"data: " + TEXT * 2 + b"\n\n"))
    with pytest.raises(httpx2.ReadError):
        await answer("text/event-stream", b"data: 1\n\ndata: " + b"x" * 1_100_000 + b"\n\n")


@pytest.mark.parametrize("kind", ["application/json", "text/html", "", "application/json; charset=utf-16"])
async def test_one_byte_too_many_is_an_error(kind: str) -> None:
    with pytest.raises(httpx2.ReadError):
        await answer(kind, b"x" * (MB + 1))


@pytest.mark.parametrize("value", [b"{},", b"[],", b"0,", b'"",', b'"\\\\","\\"",', b'"a":{', b"[", b'"x,y",'])
async def test_values_are_counted_where_they_are_values(value: bytes) -> None:
    with pytest.raises(httpx2.ReadError):
        await answer("application/json", b"[" + value * 70_000)
    with pytest.raises(httpx2.ReadError):
        await answer("text/event-stream", b': "\nid: "\ndata: [' + value * 70_000 + b"\n\n")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
async def test_attack_a_session_takes_no_message_without_measure(tmp_path: Path, oauth: OAuthServer, kind: str) -> None:
    """It may read any number of messages, for weeks, and so there is a measure for each."""
    oauth.knobs.protected, oauth.knobs.prm_path = False, None
    servers = {"notes": {"url": oauth.url, "headers": {"X-Key": "1"}}}
    async with open_auth(tmp_path, servers, {"network": {"max_body_mb": 1}}) as auth:
        async with auth.session("notes") as client:
            assert (await client.list_tools()).tools

        sent = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"padding": "x" * MB}})
        body = sent if kind == "application/json" else f"data: {sent}\n\n"
        oauth.knobs.mcp_answers = [Response(body, media_type=kind) for _ in range(5)]
        with pytest.raises(Unreachable, match=r"sent more than 1 MB.*max_body_mb"):
            async with asyncio.timeout(PATIENCE), auth.session("notes") as client:
                await client.list_tools()
