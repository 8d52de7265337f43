"""What a server may answer with: the codings, and where a large answer is a good one."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import Response

from mcp_auth.errors import Unreachable
from mcp_auth.net.bodies import BoundedAnswers, decoded
from mcp_auth.status import ConnectionState
from tests.adapters.cli.typed import Run
from tests.homes import open_auth, write_home
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


def many_pages() -> list[dict[str, Any]]:
    """Lists of tools, each small enough, together more than one message may have."""
    tool = {"description": "x" * (MB // 2), "inputSchema": {"type": "object"}}
    pages: list[dict[str, Any]] = [{"tools": [{"name": f"t{at}", **tool}], "nextCursor": str(at)} for at in range(4)]
    return [*pages, {"tools": []}]


async def test_attack_a_probe_takes_no_more_in_all_than_one_message_may_have(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Where there is always one more page, only a measure of all of them ends it. A session may go on for weeks."""
    oauth.knobs.protected, oauth.knobs.prm_path = False, None
    servers = {"notes": {"url": oauth.url, "headers": {"X-Key": "1"}}}
    async with open_auth(tmp_path, servers, {"network": {"max_body_mb": 1}}) as auth:
        oauth.knobs.tool_pages = many_pages()
        found = await auth.probe("notes", timeout=PATIENCE)
        assert found.state is ConnectionState.UNREACHABLE
        assert "notes sent more than 1 MB in all" in (found.detail or "")
        assert oauth.knobs.tool_pages

        oauth.knobs.tool_pages = many_pages()
        async with asyncio.timeout(PATIENCE), auth.session("notes") as client:
            cursors = [(await client.list_tools()).next_cursor for _ in range(5)]
        assert cursors == ["0", "1", "2", "3", None]


def test_attack_the_command_line_takes_no_more_of_a_server_either(tmp_path: Path, oauth: OAuthServer, run: Run) -> None:
    oauth.knobs.protected, oauth.knobs.prm_path = False, None
    servers = {"notes": {"url": oauth.url, "headers": {"X-Key": "1"}}}
    home = write_home(tmp_path, servers, {"network": {"max_body_mb": 1}})
    oauth.knobs.tool_pages = many_pages()
    done = run("--home", home, "test", "notes")
    assert done.code != 0
    assert "notes sent more than 1 MB in all" in done.out + done.err


class Hours:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 5.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def streaming(hours: Hours, body: bytes, size: int = 1_000) -> BoundedAnswers:
    async def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=pieces(body, size))

    return BoundedAnswers(httpx2.MockTransport(handle), "notes", message_max=MB, clock=hours, sleep=hours.sleep)


@pytest.mark.parametrize("event", [b"data:\n\n", b"\n\n", b": x\n\n", b"data: x\r\r", b"event: x\r\n\r\n"])
async def test_attack_a_stream_of_events_without_an_end_is_read_no_faster_than_a_thousand_a_second(
    event: bytes,
) -> None:
    hours, count = Hours(), 30_000
    async with (
        httpx2.AsyncClient(transport=streaming(hours, event * count)) as client,
        client.stream("GET", "https://notes.test/mcp") as response,
    ):
        assert b"".join([piece async for piece in response.aiter_bytes()]) == event * count
    # Ten thousand come at once, the other twenty thousand a thousand a second.
    assert 19 <= sum(hours.slept) <= 21


async def test_events_that_come_slowly_wait_for_nothing() -> None:
    hours = Hours()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(60):
            hours.now += 1
            yield b"data: x\n\n" * 900

    def handle(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=slow())

    transport = BoundedAnswers(httpx2.MockTransport(handle), "notes", clock=hours, sleep=hours.sleep)
    async with httpx2.AsyncClient(transport=transport) as client:
        assert len((await client.get("https://notes.test/mcp")).content) == 60 * 900 * 9
    assert hours.slept == []


async def test_attack_a_stream_that_breaks_off_is_taken_up_again_once_a_second() -> None:
    hours = Hours()
    async with httpx2.AsyncClient(transport=streaming(hours, b"id: 1\nretry: 0\n\n")) as client:
        for _ in range(10):
            await client.get("https://notes.test/mcp", headers={"Last-Event-ID": "1"})
        await client.get("https://notes.test/mcp")
        assert sum(hours.slept) == 9
        hours.now += 60
        await client.get("https://notes.test/mcp", headers={"Last-Event-ID": "1"})
        assert sum(hours.slept) == 9
