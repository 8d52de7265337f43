"""Oversized and slow requests are cut off, and others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse

from gateway.gateway import Gateway
from mcp_auth.web import forms, guards, loopback
from tests.attacks.scene import api, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.patience import PATIENCE
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def connect(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(gateway.config.gateway.public_url or "")
    return await asyncio.open_connection(parts.hostname, parts.port)


@pytest.mark.parametrize("size", [65 * 1024, 5_000_000])
async def test_oversized_form(tmp_path: Path, oauth: OAuthServer, size: int) -> None:
    async with public_gateway(tmp_path, api(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        before = await stored(gateway)

        answer = await browser.request("POST", page.url, content=b"key0=" + b"x" * size, headers=FORM)

        assert answer.status == 413
        assert "far too large" in answer.text
        assert await stored(gateway) == before


@pytest.mark.parametrize(("size", "too_large"), [(64 * 1024, False), (64 * 1024 + 1, True)])
async def test_a_form_of_the_largest_size_is_read(
    tmp_path: Path, oauth: OAuthServer, size: int, too_large: bool
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        answer = await browser.request("POST", link, content=b"key0=".ljust(size, b"x"), headers=FORM)
        assert (answer.status == 413) is too_large


async def test_a_body_of_unknown_length_ends_at_the_same_limit(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        link = await link_of(Chat(gateway, ANN))
        reader, writer = await connect(gateway)
        head = f"POST {urlsplit(link).path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        writer.write(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode())
        for _ in range(17):
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        assert b" 413 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE)
        writer.close()


async def test_a_form_of_very_many_fields(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        assert (await browser.request("POST", link, content="a=1&" * 10_000, headers=FORM)).status == 400


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"form=%ff%fe", b"form=%zz", b"=&=&=", b""])
async def test_a_body_that_is_no_text(tmp_path: Path, oauth: OAuthServer, body: bytes) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        assert (await browser.request("POST", link, content=body, headers=FORM)).status in (400, 403)


@asynccontextmanager
async def dripping(writer: asyncio.StreamWriter, drop: bytes) -> AsyncIterator[None]:
    async def drip() -> None:
        while True:
            writer.write(drop)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(drip())
    try:
        yield
    finally:
        task.cancel()


@pytest.mark.parametrize("drops", [b"", b"x"], ids=["stops", "drips"])
async def test_slow_body(tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, drops: bytes) -> None:
    monkeypatch.setattr(forms, "BODY_SECONDS", 1.0)
    # Only the deadline of the body is left: bytes that come do not put it off.
    monkeypatch.setattr(loopback, "REQUEST_SECONDS", 10 * PATIENCE)
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        reader, writer = await connect(gateway)
        head = f"POST {urlsplit(link).path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n"
        writer.write(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nform=".encode())
        async with dripping(writer, drops):
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE)
        assert b" 408 " in answer
        writer.close()
        assert (await browser.open(link)).status == 200


async def test_slow_headers_are_cut_off_and_others_are_served(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in b"GET / HTTP/1.1\r\nX-A: " + b"a" * 100_000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        slow = [await connect(gateway) for _ in range(20)]
        drips = [asyncio.create_task(drip(writer)) for _, writer in slow]
        assert (await browser.open(link)).status == 200
        with monkeypatch.context() as patch:
            patch.setattr(loopback, "REQUEST_SECONDS", 0.3)
            slow = [await connect(gateway) for _ in range(20)]
            drips += [asyncio.create_task(drip(writer)) for _, writer in slow]
            ends = await asyncio.wait_for(
                asyncio.gather(*(reader.read() for reader, _ in slow), return_exceptions=True), PATIENCE
            )
        assert all(end == b"" or isinstance(end, ConnectionError) for end in ends)
        for task in drips:
            task.cancel()
        assert (await browser.sign_in(link)).heading == "notes is connected"


async def test_headers_that_never_end(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        reader, writer = await connect(gateway)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"a" * 40_000)
        assert b" 400 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE)
        writer.close()
        assert (await browser.open(link)).status == 200


async def test_smuggled_and_broken_requests(tmp_path: Path, oauth: OAuthServer) -> None:
    both = b"POST /a/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    both += b"0\r\n\r\nGET /healthz HTTP/1.1"
    for broken in (
        both,
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
    ):
        async with public_gateway(tmp_path, notes(oauth)) as gateway:
            await gateway.auth.listen()
            reader, writer = await connect(gateway)
            writer.write(broken)
            writer.write_eof()
            answer = await asyncio.wait_for(reader.read(), PATIENCE)
            assert answer.count(b"HTTP/1.1 ") <= 1
            assert not answer or answer.split()[1] in (b"400", b"404", b"415")
            writer.close()


@pytest.mark.parametrize("drops", [b"", b"x"], ids=["stops", "drips"])
async def test_a_slow_body_for_a_platforms_webhook_is_given_up(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, drops: bytes
) -> None:
    """A webhook reads the whole body before it can check who signed it."""
    monkeypatch.setattr(guards, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(loopback, "REQUEST_SECONDS", 10 * PATIENCE)
    ends: list[str] = []

    async def webhook(scope: Any, receive: Any, send: Any) -> None:
        try:
            body = await Request(scope, receive).body()
        except ClientDisconnect:
            ends.append("gave up")
            await PlainTextResponse("", 400)(scope, receive, send)
            return
        ends.append(body.decode())
        # Longer than a body may take, as those do that answer when their work is done
        await asyncio.sleep(1.2)
        await PlainTextResponse("done")(scope, receive, send)

    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        gateway.mount("/hooks/test", webhook)
        await gateway.auth.listen()
        for length, drop, status in ((4, b"", b" 200 "), (60_000, drops, b" 400 ")):
            reader, writer = await connect(gateway)
            writer.write(f"POST /hooks/test HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nfour".encode())
            async with dripping(writer, drop):
                assert status in await asyncio.wait_for(reader.readuntil(b"\r\n"), PATIENCE)
            writer.close()
    assert ends == ["four", "gave up"]
