from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.oauth import OAuthServer


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    """A fresh authorization server and protected MCP server on loopback."""
    with OAuthServer().running() as server:
        yield server
