"""Clickjacking and open redirects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.scene import api, notes
from tests.browser import Browser, Page
from tests.gateway.chat import Chat
from tests.patience import PATIENCE
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer


async def test_clickjacking_no_page_is_shown_in_a_frame(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        oauth.knobs.api_key = None
        start = await browser.open(await link_of(chat))
        go = await browser.press(start)
        key = await browser.press(await browser.open(await key_link_of(chat)))
        done = await browser.open(await browser.authorize(go))
        missing = await browser.open(f"{gateway.config.gateway.public_url}/nothing")
        wrong = await browser.request("DELETE", start.url)
        for page in (start, go, key, done, missing, wrong):
            assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
            assert page.headers["x-frame-options"] == "DENY"


PLACES = ["https://evil.example.com", "//evil.example.com", "\\\\evil.example.com", "javascript:alert(1)", "data:,x"]


@pytest.mark.parametrize("place", PLACES)
async def test_open_redirect_nothing_in_a_request_says_where_a_browser_goes(
    tmp_path: Path, oauth: OAuthServer, place: str
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        names = ("next", "url", "return_to", "redirect", "redirect_uri", "r", "continue")
        query = "&".join(f"{name}={place}" for name in names)
        page = await browser.open(f"{link}?{query}")
        given = {**page.fields, "action": "continue", **dict.fromkeys(names, place)}
        headers = {"Referer": place, "X-Forwarded-Host": "evil.example.com", "Forwarded": "host=evil.example.com"}

        answer = await browser.request("POST", page.url, data=given, headers=headers)

        assert answer.headers["location"] == f"./{link.rpartition('/')[2]}"
        go = await browser.request("GET", link, headers=headers)
        assert (go.next or "").startswith(f"{oauth.origin}/authorize?")
        assert "evil" not in go.source


@pytest.mark.parametrize(
    "path", ["//evil.example.com", "/\\evil.example.com", "/a//evil.example.com", "/a/%0A%2F", "///", "/a/../.."]
)
async def test_open_redirect_by_odd_paths(tmp_path: Path, oauth: OAuthServer, path: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        await gateway.auth.listen()
        page = await raw(gateway.config.gateway.public_url or "", f"GET {path} HTTP/1.1")
        assert page.status in (400, 404)
        assert "location" not in page.headers


async def raw(base: str, request_line: str, *headers: str, body: bytes = b"") -> Page:
    """A request that no client library would send."""
    import asyncio
    from urllib.parse import urlsplit

    import httpx2

    parts = urlsplit(base)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    lines = [request_line, *(headers or (f"Host: {parts.netloc}",)), "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), PATIENCE)
    writer.close()
    head, _, source = answer.partition(b"\r\n\r\n")
    status, *pairs = head.decode("latin-1").split("\r\n")
    split = [(name, value.strip()) for name, _, value in (pair.partition(":") for pair in pairs)]
    return Page(base, int(status.split()[1]), source.decode(errors="replace"), httpx2.Headers(split))


@pytest.mark.parametrize(
    "headers",
    [
        ("Host: evil.example.com",),
        ("Host: 169.254.169.254",),
        ("Host: a@b.example.com",),
        ("Host: ",),
        ("Host: evil.example.com", "X-Forwarded-Host: evil.example.com", "X-Forwarded-Proto: https"),
        ("Host: evil.example.com", "X-Original-URL: /callback", "X-Rewrite-URL: /callback"),
    ],
    ids=["foreign", "metadata", "user", "empty", "forwarded", "rewrite"],
)
async def test_host_header_tricks_reach_no_address_that_we_build(
    tmp_path: Path, oauth: OAuthServer, headers: tuple[str, ...]
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        link = await link_of(Chat(gateway, ANN))
        base = gateway.config.gateway.public_url or ""

        page = await raw(base, f"GET {link.removeprefix(base)} HTTP/1.1", *headers)

        assert page.status in (200, 400)
        assert "evil" not in page.source
        assert "evil" not in str(page.headers)
        missing = await raw(base, "GET /healthz/../a HTTP/1.1", *headers)
        assert "evil" not in missing.source


@pytest.mark.parametrize(
    "path",
    [
        "/a/%2e%2e/%2e%2e/etc/passwd",
        "/a/..%2f..%2fetc%2fpasswd",
        "/%61/x",
        "/a/%00",
        "/client/..%2f..%2fconfig.yaml",
        "/client/%2e%2e.json",
        "/templates/style.css",
        "/static/style.css",
        "/.env",
        "/callback/..",
        "/callback/%2e%2e/a",
        "/A/x",
        "*",
        "http://evil.example.com/a/x",
        "/a/" + "x" * 10_000,
        "/?" + "x=1&" * 3000,
    ],
    ids=lambda path: path[:24],
)
async def test_path_tricks_are_not_found(tmp_path: Path, oauth: OAuthServer, path: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        await gateway.auth.listen()
        page = await raw(gateway.config.gateway.public_url or "", f"GET {path} HTTP/1.1")
        assert page.status in (400, 404, 414, 431)
        assert "root:" not in page.source
