from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.oauth import OAuthServer


@pytest.fixture(scope="session")
def _oauth_server() -> Iterator[OAuthServer]:
    with OAuthServer().running() as server:
        yield server


@pytest.fixture
def oauth(_oauth_server: OAuthServer) -> OAuthServer:
    """An authorization server and protected MCP server on loopback, as new for each test."""
    _oauth_server.reset()
    return _oauth_server
