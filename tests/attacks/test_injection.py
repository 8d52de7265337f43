"""What others chose to be called, or say about themselves, is text and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from starlette.responses import JSONResponse

from gateway.invocations import Invocation
from mcp_auth.net.rules import shown_host
from mcp_auth.records import Requester
from tests.attacks.scene import notes
from tests.browser import Browser, Page
from tests.gateway.chat import Chat, item
from tests.homes import open_auth
from tests.public import ANN, public_gateway
from tests.servers.oauth import OAuthServer

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus=alert(1) x='",
    "{{ 7*7 }}{% include 'x' %}",
    "{server} {who.__class__}",
    "a\r\nSet-Cookie: evil=1\r\n\r\n<h1>x",
    "\u202etxt.exe\u2066",
    "مرحبا",
    "x" * 5000,
    "a\x00b\x1b[31m",
]


def is_harmless(page: Page) -> None:
    assert page.source.count("<script>") <= 1
    assert "<img" not in page.source
    assert "onerror=" not in page.source.replace("onerror=alert(1)&gt;", "")
    assert "49" not in page.heading
    assert not any(c in page.source for c in "\u202e\u2066\x00\x1b")
    assert "evil" not in str(page.headers)
    assert len(page.source) < 20_000


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
async def test_display_names_are_shown_as_text(tmp_path: Path, oauth: OAuthServer, name: str) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        asked: Invocation = chat.invocation("auth notes", display_name=name)
        last = None
        async for reply in gateway.handle(asked, chat.capabilities):
            last = reply
        assert last is not None
        start = await browser.open(item(last, "notes").link or "")
        is_harmless(start)
        is_harmless(await browser.press(start))


@pytest.mark.parametrize("name", HOSTILE[:5] + HOSTILE[6:9], ids=range(8))
async def test_server_names_are_shown_as_text(tmp_path: Path, oauth: OAuthServer, name: str) -> None:
    auth = open_auth(
        tmp_path,
        {name: {"url": oauth.url, "auth": "oauth"}},
        {"public_url": "https://bot.example.com", "allow": [str(ANN)], "verify": "none"},
    )
    if auth.config.servers[name].problem is not None:
        await auth.close()
        return
    async with auth, Browser(auth.asgi_app()) as browser:
        link = (await auth.sign_in(name, "shared", Requester(principal=str(ANN)))).link
        start = await browser.open(link)
        go = await browser.press(start)
        done = await browser.open(await browser.authorize(go))
        for page in (start, go, done):
            is_harmless(page)
        assert done.status == 200


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_error_descriptions_are_shown_as_text(tmp_path: Path, oauth: OAuthServer, text: str) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": text}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        last = (await chat.say("auth notes"))[-1]
        page = await browser.press(await browser.open(item(last, "notes").link or ""))
        refused = await browser.open(await browser.authorize(page))

        is_harmless(refused)
        assert refused.heading == "notes is not connected"


async def test_account_names_are_shown_as_text(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.id_token_claims = {"email": "<script>alert(1)</script>\u202e@example.com"}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        is_harmless(await browser.sign_in(item(last, "notes").link or ""))


async def test_an_authorization_endpoint_with_markup_in_it(tmp_path: Path, oauth: OAuthServer) -> None:
    endpoint = f"{oauth.origin}/authorize?x=\"><script>alert(1)</script>&y='0;url=https://evil.example.com"
    oauth.knobs.metadata = {"authorization_endpoint": endpoint}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        link = item(last, "notes").link
        if link is None:
            return
        go = await browser.press(await browser.open(link))
        assert "<script>" not in go.source
        assert (go.next or "").startswith(f"{oauth.origin}/authorize?")


@pytest.mark.parametrize("scheme", ["javascript:alert(1)//", "data:text/html,<script>alert(1)</script>", "vbscript:x"])
async def test_an_authorization_endpoint_of_another_scheme_is_refused(
    tmp_path: Path, oauth: OAuthServer, scheme: str
) -> None:
    oauth.knobs.metadata = {"authorization_endpoint": scheme}
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        assert item(last, "notes").link is None


def test_the_hostile_names_can_stand_in_a_configuration() -> None:
    assert yaml.safe_load(yaml.safe_dump(HOSTILE)) == HOSTILE


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
async def test_what_servers_say_after_the_consent_is_shown_as_text(
    tmp_path: Path, oauth: OAuthServer, text: str
) -> None:
    """The token endpoint's error, the name of the resource, and the MCP server's refusal of the new token."""
    oauth.knobs.prm = {"resource_name": text, "scopes_supported": [text]}
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        oauth.knobs.token_answers = [JSONResponse({"error": text, "error_description": text}, 400)]
        link = item((await chat.say("auth notes"))[-1], "notes").link
        start = await browser.open(link or "")
        is_harmless(start)
        is_harmless(await browser.sign_in(start.url))

        start = await browser.open(item((await chat.say("auth notes"))[-1], "notes").link or "")
        redirect = await browser.authorize(await browser.press(start))
        challenge = f'Bearer error="invalid_token", error_description="{text}"'.encode("ascii", "replace").decode()
        harmless = "".join(c if c.isprintable() else " " for c in challenge)[:4000]
        error = JSONResponse({"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": text}}, 403)
        error.headers["WWW-Authenticate"] = harmless
        oauth.knobs.mcp_answers = [error] * 4
        is_harmless(await browser.open(redirect))


async def test_ten_thousand_tools_with_hostile_names_are_a_number(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.tools = tuple(f"{HOSTILE[number % len(HOSTILE)][:40]}{number}" for number in range(2000))
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        page = await browser.sign_in(item(last, "notes").link or "")
        is_harmless(page)
        assert "Tools 2000" in page.text


@pytest.mark.parametrize("host", ["аpple.example.com", "xn--pple-43d.example.com"], ids=["cyrillic", "punycode"])
def test_a_host_of_look_alike_letters_is_shown_as_what_it_is(host: str) -> None:
    shown = shown_host(host)
    assert shown.isascii()
    assert shown != "apple.example.com"
