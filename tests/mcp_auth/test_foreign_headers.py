"""Headers that name addresses nobody can read: what follows is a sentence, never an error that nobody foresaw."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.responses import Response

from mcp_auth.errors import McpAuthError
from mcp_auth.status import ConnectionState
from tests.homes import ME, open_auth, signed_in
from tests.servers.oauth import OAuthServer

ADDRESSES = {
    "half-an-ipv6-address": "http://[",
    "port-of-no-port": "http://x:99999999/",
    "nothing": "",
    "no-host": "//",
    "not-ascii": "http://\xff\xfe/\xff",
    "script": "javascript:1",
    "brackets": "https://[::1]]/",
    "long": f"https://x/{'a' * 9000}",
}
PATHS = [
    "/.well-known/oauth-protected-resource/mcp",
    "/.well-known/oauth-authorization-server",
    "/register",
    "/token",
    "/mcp",
]


@pytest.mark.parametrize("name", ADDRESSES)
async def test_a_challenge(tmp_path: Path, oauth: OAuthServer, name: str) -> None:
    header = {"WWW-Authenticate": f'Bearer resource_metadata="{ADDRESSES[name]}", scope="\xe9"'}
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        oauth.knobs.mcp_answers = [Response("", 401, header)] * 3
        # Where the server says its address by itself too, one that cannot be read costs nothing
        assert (await auth.sign_in("notes", "shared", ME, listen=False)).link
        await auth.cancel("notes")
        oauth.knobs.mcp_answers = []
        await signed_in(auth)
        oauth.knobs.mcp_answers = [Response("", 401, header)] * 60
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ADDRESSES)
async def test_a_redirect(tmp_path: Path, oauth: OAuthServer, path: str, name: str) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        oauth.knobs.gone_to = {path: ADDRESSES[name]}
        try:
            await signed_in(auth)
        except McpAuthError as error:
            assert error.message
        found = await auth.probe("notes", timeout=5)
        assert found.state is not ConnectionState.READY or path != "/mcp"
        oauth.knobs.gone_to = {}
        await signed_in(auth)
        assert (await auth.probe("notes")).state is ConnectionState.READY
