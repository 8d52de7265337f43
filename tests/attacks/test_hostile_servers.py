"""One server that answers with more than anybody can take costs neither memory nor the others' time."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_auth import McpAuth
from mcp_auth.status import ConnectionState
from tests.homes import open_auth
from tests.patience import PATIENCE
from tests.servers.hostile import SHAPES, Hostile, hostile

MB = 1024 * 1024
# What is on its way in the buffers of the two sockets when the connection is cut, and the limit itself.
MOST_SENT = 16 * MB
# A message is held as it came, as text, and as the few values that it may have.
MOST_HELD = 16 * MB


@pytest.fixture(scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    with hostile() as server:
        # What is imported by the first probe would be counted, and counting is slow.
        asyncio.run(_probe_once(tmp_path_factory.mktemp("first"), server))
        yield server


async def _probe_once(folder: Path, server: Hostile) -> None:
    async with open_on(folder, server, "tools") as auth:
        await auth.probe("bad", timeout=PATIENCE)


def open_on(folder: Path, server: Hostile, shape: str) -> McpAuth:
    entry = {"url": server.url(shape), "headers": {"X-Key": "1"}}
    return open_auth(folder, {"bad": entry}, {"network": {"max_body_mb": 1}})


# Held back to a trickle, they last as long as a probe may.
ENDLESS = {shape for shape in SHAPES if SHAPES[shape].is_trickle}


@pytest.mark.parametrize("shape", SHAPES)
async def test_attack_a_probe_of_a_server_without_measure_ends_with_a_sentence(
    tmp_path: Path, _server: Hostile, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    # What the SDK says of each message would be kept by pytest, and counted here.
    caplog.set_level(logging.CRITICAL, "mcp")
    async with open_on(tmp_path, _server, shape) as auth:
        tracemalloc.start()
        try:
            found = await auth.probe("bad", timeout=2 if shape in ENDLESS else PATIENCE)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found.state in (ConnectionState.UNREACHABLE, ConnectionState.REFUSED)
    assert found.detail
    assert shape in ENDLESS or "no answer within" not in found.detail
    assert _server.sent < MOST_SENT
    assert peak < MOST_HELD
