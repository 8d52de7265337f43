"""`gateway.network.proxy` carries requests out; it carries none to where none may go."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_auth.errors import AddressRefused, McpAuthError
from mcp_auth.net.http import Http
from mcp_auth.net.rules import NetworkRules
from mcp_auth.records import Grant, Tokens
from mcp_auth.status import ConnectionState
from tests.homes import ME, open_auth


class Proxy:
    """Notes the first line of every request, and answers 502 to it."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.lines: list[str] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                self.lines.append(stream.readline().decode().strip())
                while stream.readline().strip():
                    pass
                connection.sendall(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


INSIDE = [
    "https://127.0.0.1/token",
    "https://127.1/token",
    "https://2130706433/token",
    "https://0x7f000001/token",
    "https://0x7f.0.0.1/token",
    "https://0177.0.0.1/token",
    "https://127.0.0.1./token",
    "https://0.0.0.0/token",
    "https://10.0.0.7/token",
    "https://192.168.1.1:8443/token",
    "https://[::1]/token",
    "https://[::ffff:10.0.0.7]/token",
    "https://[fd00::7]/token",
    "https://[fe80::1]/token",
    "https://[64:ff9b::a00:7]/token",
    "https://localhost/token",
    "https://LOCALHOST/token",
    "https://localhost./token",
    "https://a.localhost/token",
    "https://localhost.localdomain/token",
    "https://ip6-localhost/token",
    "https://169.254.169.254/latest",
    "https://2852039166/latest",
    "https://[fd00:ec2::254]/latest",
    "https://metadata.google.internal/computeMetadata",
    "https://METADATA.google.internal./computeMetadata",
    "http://127.0.0.1/token",
    "http://localhost:9/token",
    "http://[::1]/token",
    "http://mcp.example.com/token",
]


@pytest.mark.parametrize("url", INSIDE)
@pytest.mark.parametrize("credentials", [True, False])
async def test_attack_metadata_leads_nothing_inside_through_the_proxy(
    proxy: Proxy, url: str, credentials: bool
) -> None:
    http = Http(proxy=proxy.url)
    rules = NetworkRules.for_url("https://mcp.example.com/mcp")
    try:
        with pytest.raises(AddressRefused):
            await http.fetch(rules, "GET", url, credentials=credentials)
        # The transport alone, as sessions use it
        async with httpx2.AsyncClient(transport=http.transport(rules)) as client:
            with pytest.raises((AddressRefused, httpx2.InvalidURL)):
                await client.get(url)
    finally:
        await http.close()
    assert proxy.lines == []


@pytest.mark.parametrize(
    ("server", "options", "url", "line"),
    [
        ("https://mcp.example.com/mcp", {}, "https://auth.example.com/token", "CONNECT auth.example.com:443"),
        ("https://mcp.example.com/mcp", {}, "https://8.8.8.8/token", "CONNECT 8.8.8.8:443"),
        ("https://10.0.0.7/mcp", {}, "https://10.0.0.7/mcp", "CONNECT 10.0.0.7:443"),
        ("https://mcp.example.com/mcp", {"allow": ("10.0.0.0/8",)}, "https://10.0.0.7/x", "CONNECT 10.0.0.7:443"),
        ("https://mcp.example.com/mcp", {"allow": ("localhost",)}, "https://localhost/x", "CONNECT localhost:443"),
        ("https://127.0.0.1:8443/mcp", {}, "https://localhost:9443/x", "CONNECT localhost:9443"),
        ("http://wiki.lan/mcp", {"allow_http": True}, "http://wiki.lan/mcp", "GET http://wiki.lan/mcp"),
        ("http://127.0.0.1:9/mcp", {"allow_http": True}, "http://127.0.0.1:9/mcp", "GET http://127.0.0.1:9/mcp"),
    ],
    ids=range(8),
)
async def test_what_may_be_reached_is_reached_through_the_proxy(
    proxy: Proxy, server: str, options: dict[str, Any], url: str, line: str
) -> None:
    http = Http(proxy=proxy.url)
    try:
        await http.fetch(NetworkRules.for_url(server, **options), "GET", url, credentials=False)
    except McpAuthError as error:
        # A tunnel that the proxy does not open
        assert not isinstance(error, AddressRefused)
    finally:
        await http.close()
    assert [found.removesuffix(" HTTP/1.1") for found in proxy.lines] == [line]


@pytest.mark.parametrize("entry", [{"auth": "oauth"}, {"headers": {"X-Key": "sk-canary"}}, {}])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9/mcp", "http://localhost:9/mcp"])
async def test_attack_a_server_on_loopback_is_not_asked_in_plain_text_through_the_proxy(
    tmp_path: Path, proxy: Proxy, url: str, entry: dict[str, Any]
) -> None:
    async with open_auth(tmp_path, {"notes": {"url": url, **entry}}, {"network": {"proxy": proxy.url}}) as auth:
        found = await auth.probe("notes")
        assert found.state is not ConnectionState.READY and found.detail
        with pytest.raises(McpAuthError):
            await auth.sign_in("notes", "shared", ME, listen=False)
    assert proxy.lines == []


async def test_oauth_is_never_carried_in_plain_text_through_the_proxy(tmp_path: Path, proxy: Proxy) -> None:
    server = {"url": "http://127.0.0.1:9/mcp", "auth": "oauth", "allow_http": True}
    async with open_auth(tmp_path, {"notes": server}, {"network": {"proxy": proxy.url}}) as auth:
        grant = Grant(server="notes", owner="shared", server_url=server["url"], tokens=Tokens(access_token="at-canary"))
        assert await auth.store.grants.put_if(grant) is not None
        found = await auth.probe("notes")
        assert "gateway.network.proxy would read" in (found.detail or "")
        assert proxy.lines == []
        # That it wants a sign-in may be found out; nothing is registered or exchanged.
        with pytest.raises(AddressRefused, match=r"gateway\.network\.proxy"):
            await auth.sign_in("notes", "shared", ME, listen=False)
    assert {line.partition(" HTTP")[0] for line in proxy.lines} <= {"POST http://127.0.0.1:9/mcp"}
