"""How far Matrix has been read, over restarts, and as version 0.1.0 kept it."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapters.matrix.syncing import SyncToken
from mcp_auth.stores.base import Backend
from mcp_auth.stores.files import FileBackend
from mcp_auth.stores.memory import MemoryBackend

SERVER, USER = "https://matrix.example.org", "@bot:example.org"


@pytest.fixture(params=["files", "memory"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return FileBackend(tmp_path) if request.param == "files" else MemoryBackend()


async def test_a_token_is_kept_for_its_account_until_it_is_forgotten(backend: Backend, tmp_path: Path) -> None:
    token = SyncToken(backend, tmp_path, SERVER, USER)
    assert await token.read() is None
    await token.write("s1")
    await token.write("s2")
    assert await SyncToken(backend, tmp_path, SERVER, USER).read() == "s2"
    assert await SyncToken(backend, tmp_path, SERVER, "@other:example.org").read() is None
    await token.forget()
    assert await token.read() is None


async def test_the_token_of_version_0_1_0_counts_until_a_newer_one_is_there(tmp_path: Path) -> None:
    (tmp_path / "matrix").mkdir()
    # By the SHA-256 of homeserver and account
    path = tmp_path / "matrix" / "6623492667fdc184b439447e90e9cb4d.since"
    path.write_bytes(b"s72595_4483_1934\n")
    token = SyncToken(FileBackend(tmp_path), tmp_path, SERVER, USER)
    assert await token.read() == "s72595_4483_1934"
    await token.write("s80000")
    assert await token.read() == "s80000"
    await token.forget()
    assert await token.read() is None and not path.exists()
