"""What a request says about itself: proxies' headers, prefixes, and words that would end up in a log."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount

from mcp_auth.limits import POSTS
from mcp_auth.records import Requester
from tests.attacks.scene import api, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.homes import open_auth
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer

PUBLIC = "https://bot.example.com"
FORWARDED = {
    "X-Forwarded-Host": "evil.example.com",
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-Port": "1",
    "Forwarded": "for=192.0.2.9;host=evil.example.com;proto=http",
    "X-Original-URL": "/callback",
    "X-Script-Name": "/evil",
    "X-HTTP-Method-Override": "POST",
}


def opened(home: Path, oauth: OAuthServer, **gateway: Any) -> Any:
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    return open_auth(home, servers, {"public_url": PUBLIC, "allow": [str(ANN)], **gateway})


async def test_forwarded_headers_change_neither_addresses_nor_cookies(tmp_path: Path, oauth: OAuthServer) -> None:
    for trusted in ([], ["127.0.0.0/8"]):
        home = tmp_path / f"home{len(trusted)}"
        auth = opened(home, oauth, trusted_proxies=trusted)
        async with auth, Browser(auth.asgi_app()) as browser:
            link = (await auth.sign_in("notes", "shared", Requester(principal=str(ANN)))).link
            start = await browser.request("GET", link, headers=FORWARDED)
            form = {**start.fields, "action": "continue"}

            answer = await browser.request("POST", link, data=form, headers=FORWARDED)
            go = await browser.request("GET", link, headers=FORWARDED)

            assert answer.headers["location"] == f"./{link.rpartition('/')[2]}"
            assert "secure" in answer.headers["set-cookie"].lower()
            assert "evil" not in f"{start.source}{answer.headers}{go.source}"
            assert f"redirect_uri={PUBLIC.replace('://', '%3A%2F%2F')}%2Fcallback%2F" in (go.next or "")


async def test_nobody_escapes_the_limit_with_an_address_of_their_choice(tmp_path: Path, oauth: OAuthServer) -> None:
    """Only the last hop is a trusted proxy's word; what stands before it anybody can write."""
    for trusted, client in (([], "192.0.2.7"), (["198.51.100.1"], "198.51.100.1")):
        home = tmp_path / f"home{len(trusted)}"
        async with opened(home, oauth, trusted_proxies=trusted) as auth:
            transport = httpx2.ASGITransport(app=auth.asgi_app(), client=(client, 50_000))
            async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC) as http:
                statuses = []
                for number in range(POSTS.amount + 1):
                    chosen = f"203.0.113.{number}"
                    headers = {"X-Forwarded-For": f"{chosen}, 192.0.2.7" if trusted else chosen, "X-Real-IP": chosen}
                    statuses.append((await http.post("/a/guess", headers=headers)).status_code)
            assert statuses[-1] == 429
            assert 429 not in statuses[:-1]


@pytest.mark.parametrize(
    "path",
    [
        "/mcp/../a/{ticket}",
        "/mcpa/{ticket}",
        "/mcp//a/{ticket}",
        "//mcp/a/{ticket}",
        "/mcp/%2e%2e/a/{ticket}",
        "/MCP/a/{ticket}",
        "/mcp/a/{ticket}/",
        "/mcp/a/{ticket};x",
        "/mcp/hooks/test/../../a/{ticket}",
        "/mcp/hooks/testing",
    ],
)
async def test_odd_paths_below_a_prefix_reach_no_page(tmp_path: Path, oauth: OAuthServer, path: str) -> None:
    hooked: list[str] = []

    async def hook(scope: Any, receive: Any, send: Any) -> None:
        hooked.append(scope["path"])
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    auth = opened(tmp_path, oauth, public_url=f"{PUBLIC}/mcp")
    auth.mount("/hooks/test", hook)
    host = Starlette(routes=[Mount("/mcp", auth.asgi_app())])
    async with auth:
        link = (await auth.sign_in("notes", "shared", Requester(principal=str(ANN)))).link
        assert link.startswith(f"{PUBLIC}/mcp/a/")
        status = await ask(host, path.replace("{ticket}", link.rpartition("/")[2]))
        good = await ask(host, link.removeprefix(PUBLIC))
    assert status in (404, 405)
    assert good == 200
    assert all(one.startswith("/hooks/test/") for one in hooked)


async def ask(app: Any, path: str) -> int:
    """A GET for exactly this path, which no client library makes another of."""
    answers: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        answers.append(message.get("status", 0))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"bot.example.com")],
        "client": ("127.0.0.1", 1),
        "server": ("bot.example.com", 443),
    }
    await app(scope, receive, send)
    return answers[0]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "PROPFIND"])
async def test_other_methods_do_nothing_anywhere(tmp_path: Path, oauth: OAuthServer, method: str) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        key = await browser.press(await browser.open(await key_link_of(chat)))
        oauth.knobs.api_key = None
        page = await browser.press(await browser.open(await link_of(chat)))
        redirect = await browser.authorize(page)
        before = await stored(gateway)
        for url in (page.url, f"{page.url}/state", key.url, redirect, f"{gateway.config.gateway.public_url}/healthz"):
            answer = await browser.request(method, url, data={**key.fields, "action": "key", "key0": "sk-x"})
            assert answer.status in (200, 400, 404, 405)
            assert "access-control-allow-origin" not in answer.headers
            assert "set-cookie" not in answer.headers
        assert await stored(gateway) == before
        assert oauth.requests("/token") == []


HOSTILE = "x\r\n2026-01-01 CRITICAL forged line \x1b[2J\u2028\u202eend"


async def test_nothing_that_others_say_breaks_the_lines_of_a_log(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    oauth.knobs.authorize_error = {"error": HOSTILE, "error_description": HOSTILE}
    oauth.knobs.prm = {"resource_name": HOSTILE}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        chat.display_name = HOSTILE
        page = await browser.press(await browser.open(await link_of(chat)))
        redirect = await browser.authorize(page)
        await browser.open(redirect)
        await browser.open(f"{page.url}%0d%0aCRITICAL%20forged")
        await browser.request("GET", page.url, headers={"User-Agent": "x CRITICAL forged", "Referer": redirect})
        for typed in (HOSTILE, f"auth {HOSTILE}", f"confirm {HOSTILE}", f"allow {HOSTILE}", f"paste {HOSTILE}"):
            await chat.say(typed)
        oauth.knobs.authorize_error = None
        oauth.knobs.token_answers = [JSONResponse({"error": HOSTILE, "error_description": HOSTILE}, 400)]
        await browser.sign_in(await link_of(chat))
        await asyncio.sleep(0)
        audit = (gateway.config.home / "audit.jsonl").read_text()
    ours = [one for one in caplog.records if one.name.partition(".")[0] in ("mcp_auth", "gateway", "adapters")]
    for record in ours:
        assert all(c.isprintable() for c in record.getMessage()), record.getMessage()
        assert "forged" not in record.getMessage()
    assert "forged" not in audit
