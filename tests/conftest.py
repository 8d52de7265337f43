from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

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


@pytest.fixture
def advance_limits(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock of the `limits` library, which takes none as an argument, by so many seconds."""
    ahead = [0.0]
    clock = SimpleNamespace(time=lambda: time.time() + ahead[0])
    monkeypatch.setattr("limits.storage.memory.time", clock)
    monkeypatch.setattr("mcp_auth.limits.time", clock)

    def move(seconds: float) -> None:
        ahead[0] += seconds

    return move
