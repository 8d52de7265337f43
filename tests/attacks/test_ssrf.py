"""Server-side requests: metadata of a public server leads to nothing inside, however the address is spelled.

The configured server speaks TLS under a name of its own and is really connected to; name resolution is the only
thing that is made up.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

# Imported before a test replaces the loop's resolver, which it compares with asyncio's own.
import mcp_auth.net.names  # noqa: F401
from mcp_auth import McpAuth
from mcp_auth.errors import McpAuthError
from mcp_auth.records import Requester
from tests.homes import open_auth
from tests.servers.threads import loopback_socket, serving

NAME = "mcp.example.com"


@dataclass
class Evil:
    """A public MCP server whose metadata points wherever a test says."""

    port: int
    prm: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    resource_metadata: str | None = None
    redirect: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"https://{NAME}:{self.port}"

    def answer(self, request: Request) -> Response:
        path = request.url.path
        if path in self.redirect:
            return RedirectResponse(self.redirect[path], 302)
        if path == "/mcp":
            where = self.resource_metadata or f"{self.origin}/.well-known/oauth-protected-resource/mcp"
            return PlainTextResponse("", 401, {"WWW-Authenticate": f'Bearer resource_metadata="{where}"'})
        if "oauth-protected-resource" in path:
            return JSONResponse({"resource": f"{self.origin}/mcp", "authorization_servers": [self.origin], **self.prm})
        if "oauth-authorization-server" in path:
            document = {
                "issuer": self.origin,
                "authorization_endpoint": f"{self.origin}/authorize",
                "token_endpoint": f"{self.origin}/token",
                "registration_endpoint": f"{self.origin}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
            return JSONResponse({**document, **self.metadata})
        return PlainTextResponse("", 404)


class Canary:
    """Something inside that must never be connected to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._count = 0
        self._last: tuple[str, int] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, peer = self._socket.accept()
            connection.close()
            if peer == self._last:
                return
            self._count += 1

    def touched(self) -> int:
        """How many connected. It stops listening with a connection of its own, which is accepted after theirs."""
        if self._last is None:
            with socket.socket() as last:
                last.bind(("127.0.0.1", 0))
                self._last = last.getsockname()
                last.connect(("127.0.0.1", self.port))
                self._thread.join()
            self._socket.close()
        return self._count


@pytest.fixture
def canary() -> Iterator[Canary]:
    canary = Canary()
    yield canary
    canary.touched()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The authority's certificate, and the server's with its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return folder / "ca.pem", folder / "server.pem"


@pytest.fixture(scope="module")
def _server(certificate: tuple[Path, Path]) -> Iterator[Evil]:
    bound = loopback_socket()
    server_side = Evil(bound.getsockname()[1])

    async def everything(request: Request) -> Response:
        return server_side.answer(request)

    app = Starlette(routes=[Route("/{path:path}", everything, methods=["GET", "POST"])])
    with serving(app, bound, certificate[1]):
        yield server_side


@pytest.fixture
def evil(_server: Evil, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Evil:
    """As new for each test."""
    vars(_server).update(vars(Evil(_server.port)))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    return _server


class Names:
    """The names of this test; each answers in turn, as a rebinding name server does. All else as always."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, list[str]] = {NAME: ["127.0.0.1"]}
        self.asked: list[str] = []
        real = asyncio.BaseEventLoop.getaddrinfo

        async def resolve(loop: Any, host: Any, port: Any, **options: Any) -> Any:
            if host not in self.known:
                return await real(loop, host, port, **options)
            self.asked.append(host)
            answers = self.known[host]
            address = answers.pop(0) if len(answers) > 1 else answers[0]
            return await real(loop, address, port, **options)

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def refused(folder: Path, evil: Evil, **gateway: Any) -> str:
    """Begin a sign-in, and what was said instead."""
    servers = {"evil": {"url": f"{evil.origin}/mcp", "auth": "oauth"}}
    options = {"public_url": "https://bot.example.com", "allow": ["telegram:1"], **gateway}
    auth: McpAuth = open_auth(folder, servers, options)
    auth.asgi_app()
    async with auth:
        with pytest.raises(McpAuthError) as said:
            await auth.sign_in("evil", "shared", Requester(principal="telegram:1"))
    return str(said.value)


INSIDE = [
    "127.0.0.1",
    "localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[fec0::1]",
    "[2002:7f00:1::]",
    "127.0.0.1.",
    "LOCALHOST",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "[fc00::1]",
    "[fe80::1]",
    "169.254.169.254",
    "2852039166",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "metadata.google.internal",
    "①②⑦.⓪.⓪.①",
]


@pytest.mark.parametrize("host", INSIDE)
async def test_authorization_servers_may_not_be_inside(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, host: str
) -> None:
    evil.prm = {"authorization_servers": [f"https://{host}:{canary.port}"]}
    names.known["metadata.google.internal"] = ["169.254.169.254"]

    said = await refused(tmp_path, evil)

    assert canary.touched() == 0, said
    assert NAME in names.asked


async def test_the_canary_is_touched_where_the_operator_allows_it(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary
) -> None:
    """Else the tests around this one would show nothing."""
    evil.prm = {"authorization_servers": [f"https://127.0.0.1:{canary.port}"]}
    await refused(tmp_path, evil, network={"allow": ["127.0.0.0/8"]})
    assert canary.touched() > 0


@pytest.mark.parametrize("host", INSIDE[::4])
async def test_resource_metadata_may_not_be_inside(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, host: str
) -> None:
    evil.resource_metadata = f"https://{host}:{canary.port}/.well-known/oauth-protected-resource"
    evil.prm = {"authorization_servers": []}

    await refused(tmp_path, evil)

    assert canary.touched() == 0


@pytest.mark.parametrize("endpoint", ["registration_endpoint", "token_endpoint"])
async def test_endpoints_may_not_be_inside(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, endpoint: str
) -> None:
    evil.metadata = {endpoint: f"https://127.0.0.1:{canary.port}/x"}

    await refused(tmp_path, evil)

    assert canary.touched() == 0


@pytest.mark.parametrize(
    "path", ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-authorization-server"]
)
@pytest.mark.parametrize("scheme", ["https", "http", "file", "gopher"])
async def test_redirects_are_not_followed_inside(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, path: str, scheme: str
) -> None:
    evil.redirect = {path: f"{scheme}://127.0.0.1:{canary.port}/latest/meta-data/"}

    await refused(tmp_path, evil)

    assert canary.touched() == 0


async def test_dns_rebinding_the_checked_address_is_the_connected_one(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary
) -> None:
    """The name is harmless when it is checked and inside when it is asked for again: it is asked once a connection."""
    evil.prm = {"authorization_servers": [f"https://rebind.example.com:{canary.port}"]}
    for answers in (["192.0.2.1", "127.0.0.1"], ["127.0.0.1", "192.0.2.1"], ["::ffff:127.0.0.1", "127.0.0.1"]):
        names.known["rebind.example.com"] = answers
        await refused(tmp_path, evil)
    assert "rebind.example.com" in names.asked
    assert canary.touched() == 0


async def test_a_name_with_one_good_and_one_inner_address(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil.prm = {"authorization_servers": [f"https://both.example.com:{canary.port}"]}
    outer = asyncio.BaseEventLoop.getaddrinfo

    async def both(loop: Any, host: Any, port: Any, **options: Any) -> Any:
        if host != "both.example.com":
            return await outer(loop, host, port, **options)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", port)), (*kind, ("10.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", both)
    said = await refused(tmp_path, evil)
    assert canary.touched() == 0
    assert "private address" in said


@pytest.mark.parametrize(
    "url",
    [
        "http://as.example.com",
        "https://user:pass@as.example.com",
        "https://as.example.com@127.0.0.1",
        "https://as.example.com\\@127.0.0.1",
        "https://as.example.com#@127.0.0.1",
        "//127.0.0.1",
        "https:127.0.0.1",
        "https:///127.0.0.1",
        "https://127.0.0.1%2f@as.example.com",
        "https://as.example.com:99999",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "",
        " ",
    ],
)
async def test_authorization_server_urls_of_odd_forms(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary, url: str
) -> None:
    names.known["as.example.com"] = ["127.0.0.1"]
    evil.prm = {"authorization_servers": [url.replace("127.0.0.1", f"127.0.0.1:{canary.port}")]}

    await refused(tmp_path, evil)

    assert canary.touched() == 0


async def test_the_refusal_does_not_show_what_the_server_wrote(
    tmp_path: Path, evil: Evil, names: Names, canary: Canary
) -> None:
    evil.prm = {"authorization_servers": ["https://127.0.0.1/?token=canary\r\nX: y"]}
    said = await refused(tmp_path, evil)
    assert "token=canary" not in said
    assert json.dumps(said) == json.dumps(said.replace("\r", "").replace("\n", ""))
