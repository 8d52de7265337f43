"""Every route, every method, hostile parameters, headers, cookies and bodies: no answer is a 5xx.

The routes are read from the application itself, so a new one is tried without a word here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_auth import McpAuth
from mcp_auth.keys import KeyVariable
from mcp_auth.records import Requester
from mcp_auth.web.endpoint import Endpoint
from tests.browser import Browser
from tests.homes import open_auth
from tests.servers.oauth import OAuthServer

PUBLIC = "https://bot.example.com/mcp"
ANN = Requester(principal="telegram:100001", display_name="Ann")
METHODS = ["GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "FOO"]
HEADERS = [
    "Host",
    "Origin",
    "Referer",
    "Sec-Fetch-Site",
    "Sec-Purpose",
    "Content-Type",
    "Accept",
    "Range",
    "If-None-Match",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "Forwarded",
    "Upgrade",
    "Authorization",
]
NAMES = ["form", "action", "key0", "untried", "code", "state", "iss", "error", "error_description", "hash", "id", "x"]


@dataclass
class Scene:
    """An endpoint with something open in every state, and all the true values that go with it."""

    auth: McpAuth
    endpoint: Endpoint
    loop: asyncio.AbstractEventLoop
    values: list[str]
    cookies: list[str]

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> httpx2.Response:
        async def asked() -> httpx2.Response:
            transport = httpx2.ASGITransport(app=self.endpoint)
            async with httpx2.AsyncClient(transport=transport) as client:
                return await client.request(method, f"https://bot.example.com{path}", headers=headers, content=body)

        return self.loop.run_until_complete(asked())


async def prepare(auth: McpAuth) -> tuple[list[str], list[str]]:
    """Sign-ins and key forms: fresh, waiting for the code, released, done."""
    app, values = auth.asgi_app(), []
    browser = Browser(app)
    for server in ("fresh", "waiting", "released", "done"):
        link = (await auth.sign_in(server, "shared", ANN)).link
        values.append(link.rpartition("/")[2])
        if server == "fresh":
            continue
        page = await browser.press(await browser.open(link))
        values.append(page.fields.get("form", page.code))
        if server == "waiting":
            continue
        await auth.confirm(page.code, ANN.principal, private=True)
        redirect = await browser.authorize(await browser.open(link))
        values += [urlsplit(redirect).path.rpartition("/")[2], *dict(parse_qsl(urlsplit(redirect).query)).values()]
        if server == "done":
            await browser.open(redirect)
    variables = (KeyVariable("MY_KEY", "Authorization", False),)
    form = await auth.key_form("keyed", "shared", ANN, variables)
    values += [form.link.rpartition("/")[2], (await browser.open(form.link)).fields["form"]]
    page = await browser.press(await browser.open(form.link))
    await auth.confirm(page.code, ANN.principal, private=True)
    cookies = list(browser.client.cookies.values())
    await browser.client.aclose()
    return values, cookies


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, _oauth_server: OAuthServer) -> Iterator[Scene]:
    _oauth_server.reset()
    servers: dict[str, Any] = {
        name: {"url": _oauth_server.url, "auth": "oauth"} for name in ("fresh", "waiting", "released", "done")
    }
    servers["keyed"] = {"url": _oauth_server.url, "headers": {"Authorization": "Bearer ${MY_KEY}"}}
    folder: Path = tmp_path_factory.mktemp("fuzz")
    auth = open_auth(folder, servers, {"public_url": PUBLIC, "verify": "code", "allow": [ANN.principal]})
    loop = asyncio.new_event_loop()
    values, cookies = loop.run_until_complete(prepare(auth))
    yield Scene(auth, Endpoint(auth.parts.services, loopback_paths=["/callback"]), loop, values, cookies)
    loop.run_until_complete(auth.close())
    loop.close()


hostile = st.one_of(
    st.text(max_size=80),
    st.sampled_from(
        [
            "",
            "..",
            "../../etc/passwd",
            "<script>alert(1)</script>",
            "{{7*7}}",
            "%00",
            "\r\nX: y",
            "A" * 64,
            "0" * 32,
            "-1",
            "1e999",
            "continue",
            "code",
            "key",
            "yes",
            "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
        ]
    ),
)


def quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="")


@st.composite
def requests(draw: st.DrawFn, scene: Scene) -> tuple[str, str, dict[str, str], bytes]:
    value = st.one_of(hostile, st.sampled_from(scene.values))
    path = draw(st.sampled_from([route.path for route in scene.endpoint.routes]))
    for name in ("{ticket}", "{connection}", "{token}", "{path:path}"):
        path = path.replace(name, quoted(draw(value)))
    pairs = draw(st.lists(st.tuples(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), value), max_size=6))
    query = "&".join(f"{quoted(name)}={quoted(text)}" for name, text in pairs)
    header = st.one_of(st.sampled_from(scene.values), st.text(st.characters(min_codepoint=33, max_codepoint=126)))
    headers = draw(st.dictionaries(st.sampled_from(HEADERS), header, max_size=3))
    cookies = draw(st.lists(st.sampled_from([*scene.cookies, "A" * 43, "x"]), min_size=2, max_size=2))
    if draw(st.booleans()):
        headers["Cookie"] = f"__Host-slash-mcp={cookies[0]}; __Host-slash-mcp-form={cookies[1]}"
    if draw(st.booleans()):
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    body = draw(st.one_of(st.binary(max_size=200), st.just(urlencode([(n, quoted(v)) for n, v in pairs]).encode())))
    prefix = draw(st.sampled_from(["", "/mcp"]))
    address = f"{prefix}{path}?{query}" if draw(st.booleans()) else f"{prefix}{path}"
    return draw(st.sampled_from(METHODS)), address, headers, body


def check(scene: Scene, data: st.DataObject) -> None:
    method, path, headers, body = data.draw(requests(scene))
    answer = scene.ask(method, path, headers, body)
    assert answer.status_code < 500, (method, path)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    location = answer.headers.get("location", "./")
    assert location.startswith((".", "/")), location
    assert not location.startswith("//")


_QUIET = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=150, deadline=None, suppress_health_check=_QUIET)
@given(data=st.data())
def test_no_request_is_answered_with_a_5xx(scene: Scene, data: st.DataObject) -> None:
    check(scene, data)


@pytest.mark.service
@settings(max_examples=10_000, deadline=None, suppress_health_check=_QUIET)
@given(data=st.data())
def test_ten_thousand_requests_are_answered_without_a_5xx(scene: Scene, data: st.DataObject) -> None:
    check(scene, data)


def test_every_route_of_the_endpoint_is_known_here(scene: Scene) -> None:
    paths = {route.path for route in scene.endpoint.routes}
    assert {"/a/{ticket}", "/k/{ticket}", "/callback/{connection}", "/client/{connection}.json"} <= paths
