"""What `/mcp` asks of the operating system: as little for many servers as for one, unless they hold something."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from bench.contestants.common import system_calls
from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Principal
from gateway.replies import ServerList
from mcp_auth.records import Grant, Tokens
from mcp_auth.status import AuthState
from mcp_auth.stores.files import FileStore
from tests.gateway.chat import TELEGRAM, Chat
from tests.homes import write_home

PEOPLE = pytest.mark.parametrize("who", [LOCAL, TELEGRAM], ids=str)
ENTRIES = {
    "oauth": {"auth": "oauth"},
    "unknown": {},
    "keyed": {"headers": {"Authorization": "Bearer ${THE_KEY}", "X-Other": "${OTHER_KEY}"}},
}


def made(folder: Path, count: int, signed_in: bool = False) -> Path:
    """A home with so many servers of every kind; shared grants for those that are signed in to."""
    servers = {
        f"{kind}{number}": {"url": f"https://{kind}.example/{number}/mcp", **entry}
        for kind, entry in ENTRIES.items()
        for number in range(count)
    }
    commands = {f"command{number}": {"command": "npx", "args": ["-y", "thing"]} for number in range(count)}
    gateway = {"allow": [str(TELEGRAM)], "admins": [str(TELEGRAM)]}
    home = write_home(folder, {**servers, **commands}, gateway)
    (home / ".env").write_text("THE_KEY=one\n")
    store = FileStore(home)
    for name, server in servers.items() if signed_in else ():
        if name.startswith("oauth"):
            tokens = Tokens(access_token="token", refresh_token="refresh", expires_at=time.time() + 86_400)
            assert store.grants.write(Grant(server=name, owner="shared", server_url=server["url"], tokens=tokens))
    return home


async def costs(home: Path, who: Principal) -> Counter[str]:
    """The system calls of one `/mcp`, after one that has read what it keeps."""
    async with Gateway.from_config(home=home) as gateway:
        chat, lists = Chat(gateway, who), []

        async def listed() -> None:
            async for reply in gateway.handle(chat.invocation("")):
                lists.append(reply.blocks[0])

        await listed()
        called = Counter(await system_calls(listed))
    assert isinstance(lists[1], ServerList)
    assert lists[0] == lists[1]
    states = {status.name[:4]: status.auth for status in lists[1].servers}
    assert states["keye"] is AuthState.KEY_MISSING and states["comm"] is AuthState.NONE_NEEDED
    return called


@PEOPLE
async def test_a_listing_costs_the_same_for_any_number_of_servers(tmp_path: Path, who: Principal) -> None:
    few, many = await costs(made(tmp_path / "few", 1), who), await costs(made(tmp_path / "many", 50), who)
    assert many == few
    assert many.total() < 20


@PEOPLE
async def test_a_server_that_is_signed_in_to_costs_two_looks_and_no_reading(tmp_path: Path, who: Principal) -> None:
    # Its grant and Hermes' file of it: each may be changed in its place by somebody else.
    home = made(tmp_path, 50, signed_in=True)
    for folder in (home / "grants", home / "mcp-tokens"):
        files = list(folder.glob("*.json"))
        assert len(files) == 50
        # As if nothing had changed for an hour
        for path in (*files, folder):
            found = path.stat()
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns - 3600 * 10**9))
    called, of_none = await costs(home, who), await costs(made(tmp_path / "few", 1), who)
    called.subtract(of_none)
    assert +called == {"posix.stat": 2 * 50}
