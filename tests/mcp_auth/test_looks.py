"""How often what is stored is looked at: never for most requests, and early enough for what others change."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from bench.contestants.common import system_calls
from mcp_auth import McpAuth
from mcp_auth.errors import SignInNeeded
from tests.homes import ME, open_auth, signed_in
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

KEYED = {"headers": {"X-Key": "${NOTES_KEY}"}}
# (entry, owner): every way in which a valid credential comes together.
ENTRIES = {
    "a token": ({"auth": "oauth"}, "shared"),
    "a token and a key of .env": ({"auth": "oauth", **KEYED}, "shared"),
    "a token of one's own": ({"auth": "oauth", "identity": "per_user"}, "person:ann"),
    "a token and a key of one's own": ({"auth": "oauth", "identity": "per_user", **KEYED}, "person:ann"),
    "a token of a server that was found to want one": ({}, "shared"),
    "a key alone": (KEYED, "shared"),
}


class Clock:
    """Both clocks of an `McpAuth`; they go when the test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    folder: Path, oauth: OAuthServer, entry: dict[str, Any], owner: str = "shared", clock: Clock | None = None
) -> AsyncIterator[McpAuth]:
    clocks = {} if clock is None else {"clock": clock, "monotonic": clock}
    async with open_auth(folder, {"notes": {"url": oauth.url, **entry}}, **clocks) as auth:
        if "headers" in entry:
            await auth.set_keys("notes", {"NOTES_KEY": "first"}, owner)
        if entry.get("auth") == "oauth" or not entry:
            await signed_in(auth, owner=owner)
        yield auth


def sender(auth: McpAuth, oauth: OAuthServer, owner: str = "shared") -> Callable[[], Any]:
    """Gives the headers of one request after the other, without any network."""
    flows = auth.http_auth("notes", owner)

    async def send() -> httpx2.Headers:
        request = httpx2.Request("POST", oauth.url)
        flow = flows.async_auth_flow(request)
        await anext(flow)
        with pytest.raises(StopAsyncIteration):
            await flow.asend(httpx2.Response(200, request=request))
        return request.headers

    return send


@pytest.mark.parametrize(("entry", "owner"), ENTRIES.values(), ids=ENTRIES)
async def test_a_request_with_a_valid_credential_costs_no_system_call(
    tmp_path: Path, oauth: OAuthServer, entry: dict[str, Any], owner: str
) -> None:
    async with opened(tmp_path, oauth, entry, owner, Clock()) as auth:
        send = sender(auth, oauth, owner)

        async def hundred() -> None:
            for _ in range(100):
                assert (await send()).keys() & {"authorization", "x-key"}

        assert await system_calls(send)
        assert await system_calls(hundred) == []


async def elsewhere(home: Path, code: str) -> None:
    """Runs `code`, in which `auth` is an `McpAuth`, in another process."""
    program = f"""
import asyncio, sys, msgspec
from mcp_auth import McpAuth
from mcp_auth.records import Requester

async def main():
    async with McpAuth.open(home=sys.argv[1]) as auth:
        url = auth.config.servers["notes"].url
        {code}

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(home))
    assert await process.wait() == 0


CHANGE_TOKEN = (
    "grant = await auth.store.grants.get('shared', 'notes', url); "
    "grant.tokens = msgspec.structs.replace(grant.tokens, access_token='theirs'); "
    "assert await auth.store.grants.put_if(grant)"
)
CHANGE_KEY = "await auth.set_keys('notes', {'NOTES_KEY': 'theirs'})"


@pytest.mark.parametrize("clock_set_back", [False, True], ids=["", "clock set back"])
@pytest.mark.parametrize(
    ("code", "header", "there"),
    [(CHANGE_TOKEN, "authorization", "Bearer theirs"), (CHANGE_KEY, "x-key", "theirs")],
    ids=["token", "key"],
)
async def test_the_change_of_another_process_is_seen_within_half_a_second(
    tmp_path: Path, oauth: OAuthServer, code: str, header: str, there: str, clock_set_back: bool
) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, {"auth": "oauth", **KEYED}, clock=clock) as auth:
        send = sender(auth, oauth)
        before = (await send())[header]
        await elsewhere(auth.config.home, code)

        assert (await send())[header] == before
        clock.now += -3600 if clock_set_back else 0.49
        assert (await send())[header] == there


async def test_what_hermes_wrote_is_seen_within_half_a_second(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, {"auth": "oauth"}, clock=clock) as auth:
        send = sender(auth, oauth)
        await send()
        file = auth.config.home / "mcp-tokens" / "notes.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "access_token": "of hermes"}))

        clock.now += 0.49
        assert (await send())["authorization"] == "Bearer of hermes"


async def test_a_sign_out_in_another_process_is_seen_within_half_a_second(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, {"auth": "oauth"}, clock=clock) as auth:
        send = sender(auth, oauth)
        await send()
        await elsewhere(auth.config.home, "await auth.logout('notes')")

        clock.now += 0.49
        with pytest.raises(SignInNeeded):
            await send()


async def test_a_401_looks_at_once(tmp_path: Path, oauth: OAuthServer) -> None:
    refresh = (
        "import httpx2; client = httpx2.AsyncClient(auth=auth.http_auth('notes'), verify=False); "
        "assert (await client.post(url, json={})).status_code != 401"
    )
    async with opened(tmp_path, oauth, {"auth": "oauth"}, clock=Clock()) as auth:
        flows, other = auth.http_auth("notes"), sender(auth, oauth)
        old = (await other())["authorization"]
        async with httpx2.AsyncClient(auth=flows, verify=False, timeout=PATIENCE) as client:
            assert (await client.post(oauth.url, json={})).status_code != 401
            oauth.expire_access_tokens()
            # Another process has noticed, and refreshed
            await elsewhere(auth.config.home, refresh)
            assert oauth.refreshes == 1
            assert (await other())["authorization"] == old
            oauth.forget()
            assert (await client.post(oauth.url, json={})).status_code != 401
        assert [seen.headers["authorization"] == old for seen in oauth.requests("/mcp")] == [True, False]
        assert oauth.refreshes == 1
        assert (await other())["authorization"] != old


async def test_what_this_process_changes_counts_at_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth, {"auth": "oauth", **KEYED}, clock=Clock()) as auth:
        send = sender(auth, oauth)
        first = await send()
        await auth.set_keys("notes", {"NOTES_KEY": "second"})
        assert (await send())["x-key"] == "second"
        await signed_in(auth)
        second = await send()
        assert second["authorization"] not in ("", first["authorization"])
        grant = await auth.store.grants.get("shared", "notes", oauth.url)
        assert grant is not None
        assert grant.tokens is not None
        grant.tokens = msgspec.structs.replace(grant.tokens, access_token="third")
        await auth.store.grants.put_if(grant)
        assert (await send())["authorization"] == "Bearer third"
        await auth.logout("notes", by=ME.principal)
        with pytest.raises(SignInNeeded):
            await send()


async def test_a_change_during_the_look_is_looked_at_again(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth, {"auth": "oauth"}, clock=Clock()) as auth:
        send = sender(auth, oauth)
        read = auth.store.grants.get

        async def changed_meanwhile(*which: str) -> Any:
            found = await read(*which)
            auth.store.grants.get = read  # type: ignore[method-assign]
            other = await read(*which)
            assert other is not None
            assert other.tokens is not None
            other.tokens = msgspec.structs.replace(other.tokens, access_token="newer")
            await auth.store.grants.put_if(other)
            return found

        auth.store.grants.get = changed_meanwhile  # type: ignore[method-assign]
        assert (await send())["authorization"] != "Bearer newer"
        assert (await send())["authorization"] == "Bearer newer"
