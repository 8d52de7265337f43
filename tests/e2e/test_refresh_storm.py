"""Many processes at once, one expired grant, and a server that ends the family when a refresh token comes twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from mcp_auth import McpAuth
from tests.e2e.processes import ROOT, environment
from tests.homes import signed_in, write_home
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

pytestmark = pytest.mark.service

_CHILD = """
import asyncio, sys
from mcp_auth import McpAuth


async def main(home):
    async with McpAuth.open(home=home) as auth:
        # All wait at the line, and run when it opens.
        sys.stdout.write("ready\\n")
        sys.stdout.flush()
        sys.stdin.readline()
        tokens = await asyncio.gather(*(auth.access_token("notes") for _ in range(8)))
        assert len(set(tokens)) == 1
        sys.stdout.write(tokens[0] + "\\n")

asyncio.run(main(sys.argv[1]))
"""


def storm(home: Path, count: int) -> list[str]:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        for _ in range(count)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    tokens = []
    for child in children:
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
        tokens.append(out.strip())
    return tokens


def all_work(tokens: list[str], oauth: OAuthServer) -> None:
    """Each is the new one, and the server takes it."""
    for token in tokens:
        assert oauth.access[token]["expires_at"] > time.time()
        answer = httpx2.post(
            oauth.url,
            json={"jsonrpc": "2.0", "id": 1, "method": "ping"},
            headers={"Authorization": f"Bearer {token}"},
            timeout=PATIENCE,
        )
        assert answer.status_code == 200


def expire(home: Path, oauth: OAuthServer) -> None:
    """The stored token ends now, at the server and in the file. The next refresh takes long enough for all to meet."""
    oauth.expire_access_tokens()
    oauth.knobs.token_delay = 0.3

    async def age() -> None:
        async with McpAuth.open(home=home) as auth:
            import msgspec

            grant = await auth.store.grants.get("shared", "notes", oauth.url)
            assert grant is not None and grant.tokens is not None
            old = msgspec.structs.replace(grant.tokens, expires_at=1.0, obtained_at=0.0)
            assert await auth.store.grants.put_if(msgspec.structs.replace(grant, tokens=old)) is not None

    asyncio.run(age())


def begin(tmp_path: Path, oauth: OAuthServer) -> Path:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})

    async def first() -> None:
        async with McpAuth.open(home=home) as auth:
            await signed_in(auth)

    asyncio.run(first())
    return home


def test_four_processes_with_one_expired_grant_refresh_once(tmp_path: Path, oauth: OAuthServer) -> None:
    home = begin(tmp_path, oauth)
    expire(home, oauth)
    tokens = storm(home, 4)
    assert (oauth.refreshes, oauth.families_killed) == (1, 0)
    all_work(tokens, oauth)


def test_thirty_two_processes_with_one_expired_grant_refresh_once_every_time(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    home = begin(tmp_path, oauth)
    for expiry in range(1, 3):
        expire(home, oauth)
        tokens = storm(home, 32)
        assert len(tokens) == 32
        assert (oauth.refreshes, oauth.families_killed) == (expiry, 0)
        all_work(tokens, oauth)
