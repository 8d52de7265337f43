"""kill -9 at any line of a sign-in, a refresh, a key or a logout leaves a state that the next process can use.

Lines of what writes or sends are counted, and a hundred of them, spread over each step, are died before. With
SLASH_MCP_CRASH_POINTS=3000 it is every line of every step.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from dotenv import dotenv_values

from mcp_auth import McpAuth
from mcp_auth.errors import ReauthorizationNeeded, SignInError
from mcp_auth.outcome import Next
from mcp_auth.records import Grant
from mcp_auth.states import STALE_CLAIM
from mcp_auth.status import AuthState, ConnectionState
from tests.e2e.crash_child import ANN, NEW_KEY, key_form, public_sign_in
from tests.e2e.processes import ROOT, environment
from tests.homes import signed_in, write_home
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer

POINTS = int(os.environ.get("SLASH_MCP_CRASH_POINTS", "100"))
pytestmark = pytest.mark.service


class Mortal:
    """A process that takes steps in forks of itself, and dies in them where it is told to."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.crash_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )

    def step(self, step: str, home: Path, at: int = 0) -> dict[str, Any]:
        """Take the step; `at` is the number of the line to die before, 0 for none."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"step": step, "home": str(home), "at": at}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert answer["error"] is None, answer["error"]
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    process = Mortal()
    yield process
    process.close()


class Life:
    """One home after another, each for one death."""

    def __init__(self, folder: Path, oauth: OAuthServer, mortal: Mortal) -> None:
        self._folder = folder
        self.oauth = oauth
        self.mortal = mortal
        self._count = 0

    def home(self, gateway: dict[str, Any] | None = None) -> Path:
        self._count += 1
        self.oauth.reset()
        servers = {
            "notes": {"url": self.oauth.url, "auth": "oauth"},
            "my-api": {"url": self.oauth.url, "headers": {"Authorization": "Bearer ${MY_KEY}"}},
        }
        home = write_home(self._folder / str(self._count), servers, gateway)
        (home / ".env").write_text("# mine\nOTHER='kept'\nMY_KEY=old\n")
        return home

    def public_home(self) -> Path:
        port = free_port()
        public = {"public_url": f"http://127.0.0.1:{port}", "callback": {"port": port}}
        return self.home({**public, "allow": [ANN.principal], "verify": "code"})

    async def signed_in_home(self) -> Path:
        home = self.home()
        async with McpAuth.open(home=home) as auth:
            await signed_in(auth)
        return home

    async def expired_home(self) -> Path:
        home = await self.signed_in_home()
        self.oauth.expire_access_tokens()
        async with McpAuth.open(home=home) as auth:
            grant = await stored_grant(auth)
            assert grant.tokens is not None
            ended = msgspec.structs.replace(grant.tokens, expires_at=1.0, obtained_at=0.0)
            assert await auth.store.grants.put_if(msgspec.structs.replace(grant, tokens=ended)) is not None
        return home

    async def die(self, step: str, home: Path, at: int) -> bool:
        return bool((await asyncio.to_thread(self.mortal.step, step, home, at))["killed"])

    async def lines_of(self, step: str, home: Path) -> int:
        lines: int = (await asyncio.to_thread(self.mortal.step, step, home))["lines"]
        assert lines > 30
        return lines

    def sent(self, parameter: str) -> Counter[str]:
        """How often each code or refresh token arrived at the token endpoint."""
        return Counter(seen.form[parameter] for seen in self.oauth.requests("/token") if parameter in seen.form)


@pytest.fixture
def life(tmp_path: Path, oauth: OAuthServer, mortal: Mortal) -> Life:
    return Life(tmp_path, oauth, mortal)


async def stored_grant(auth: McpAuth) -> Grant:
    grant = await auth.store.grants.get("shared", "notes", auth.config.servers["notes"].url or "")
    assert grant is not None
    return grant


def all_records_are_whole(home: Path) -> None:
    for path in home.rglob("*.json"):
        json.loads(path.read_bytes())


def points(lines: int, how_many: int) -> list[int]:
    """The lines to die before: all of them, or so many, spread evenly up to the last."""
    how_many = min(how_many, lines)
    return [lines - lines * n // how_many for n in range(how_many)]


async def test_a_sign_in_that_dies_can_be_finished_or_begun_again(life: Life) -> None:
    ends: Counter[str] = Counter()
    for at in points(await life.lines_of("sign_in", life.home()), POINTS):
        home = life.home()
        killed = await life.die("sign_in", home, at)
        all_records_are_whole(home)
        async with McpAuth.open(home=home) as auth:
            state = (await auth.status("notes")).auth
        if state is not AuthState.SIGNED_IN:
            assert killed
            await begin_again(home)
        ends[state] += 1
        async with McpAuth.open(home=home) as auth:
            assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
            assert (await auth.probe("notes")).state is ConnectionState.READY
        assert max(life.sent("code").values()) == 1, at
    # The deaths met every stage
    assert set(ends) == {AuthState.SIGN_IN_NEEDED, AuthState.SIGN_IN_OPEN, AuthState.SIGNED_IN}, ends


async def begin_again(home: Path) -> None:
    """As the person does; a claim of the process that died may stand in the way for a while, and then says so."""
    async with McpAuth.open(home=home) as auth:
        try:
            await signed_in(auth)
        except SignInError as error:
            assert "right now" in error.message
            sign_in = (await auth.open_sign_ins())[0]
            assert sign_in.status == "exchanging"
        else:
            return
    async with McpAuth.open(home=home, clock=lambda: time.time() + STALE_CLAIM + 1) as auth:
        told = []
        auth.on_change(lambda change: told.append(change.sign_in))
        await auth.sweep()
        assert [(end.status, end.result and end.result.next_step) for end in told if end] == [
            ("failed", Next("auth", "notes"))
        ]
        await signed_in(auth)


async def test_a_sign_in_on_our_own_pages_that_dies_can_be_finished_or_begun_again(life: Life) -> None:
    ends: Counter[str] = Counter()
    for at in points(await life.lines_of("public_sign_in", life.public_home()), POINTS):
        home = life.public_home()
        killed = await life.die("public_sign_in", home, at)
        all_records_are_whole(home)
        async with McpAuth.open(home=home) as auth:
            state = (await auth.status("notes")).auth
            if state is not AuthState.SIGNED_IN:
                assert killed
                await try_again(home, auth, public_sign_in, STALE_CLAIM)
        ends[state] += 1
        async with McpAuth.open(home=home) as auth:
            assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
            assert (await auth.probe("notes")).state is ConnectionState.READY
        assert max(life.sent("code").values()) == 1, at
    assert set(ends) >= {AuthState.SIGN_IN_OPEN, AuthState.SIGNED_IN}, ends


async def try_again(home: Path, auth: McpAuth, step: Callable[[McpAuth], Awaitable[None]], claim: float) -> None:
    """With a new link and another browser, as after a phone's restart; a dead claim says so first, and then ends."""
    try:
        await step(auth)
    except SignInError as error:
        assert "right now" in error.message
    else:
        return
    await auth.close()
    async with McpAuth.open(home=home, clock=lambda: time.time() + claim + 1) as later:
        assert [*await later.open_sign_ins(), *await later.open_key_forms()] == []
        await step(later)


async def test_a_key_form_that_dies_can_be_filled_in_or_asked_for_again(life: Life) -> None:
    found: Counter[str] = Counter()
    for at in points(await life.lines_of("key_form", keyed_home(life)), POINTS):
        home = keyed_home(life)
        await life.die("key_form", home, at)
        all_records_are_whole(home)
        values = dotenv_values(home / ".env", interpolate=False)
        assert values in ({"OTHER": "kept", "MY_KEY": "old"}, {"OTHER": "kept", "MY_KEY": NEW_KEY}), at
        found[(values["MY_KEY"] or "")[:3]] += 1
        assert not any(NEW_KEY[:40] in path.read_text() for path in (home / "key-forms").glob("*.json"))
        async with McpAuth.open(home=home) as auth:
            await try_again(home, auth, key_form, STALE_CLAIM)
        async with McpAuth.open(home=home) as auth:
            assert await auth.open_key_forms() == []
            assert (await auth.headers("my-api"))["Authorization"] == f"Bearer {NEW_KEY}"
    assert set(found) == {"old", "new"}, found


def keyed_home(life: Life) -> Path:
    home = life.public_home()
    life.oauth.knobs.api_key = NEW_KEY
    return home


async def test_a_re_authorization_that_dies_leaves_the_old_or_the_new_grant(life: Life) -> None:
    kept: Counter[bool] = Counter()
    for at in points(await life.lines_of("sign_in", await life.signed_in_home()), POINTS):
        home = await life.signed_in_home()
        async with McpAuth.open(home=home) as auth:
            old = await auth.access_token("notes")
        await life.die("sign_in", home, at)
        all_records_are_whole(home)
        async with McpAuth.open(home=home) as auth:
            assert (await auth.probe("notes")).state is ConnectionState.READY, at
            kept[await auth.access_token("notes") == old] += 1
            grant = await stored_grant(auth)
        # Whole: the client that the tokens were given to is the one in the grant
        assert grant.tokens is not None and grant.registration is not None
        assert life.oauth.access[grant.tokens.access_token]["client_id"] == grant.registration.client_id
        assert life.oauth.refresh[grant.tokens.refresh_token or ""]["client_id"] == grant.registration.client_id
    assert min(kept[True], kept[False]) > 0, kept


async def test_a_refresh_that_dies_sends_its_token_at_most_once_more(life: Life) -> None:
    ends: Counter[str] = Counter()
    for at in points(await life.lines_of("refresh", await life.expired_home()), POINTS):
        home = await life.expired_home()
        await life.die("refresh", home, at)
        all_records_are_whole(home)
        was_sent = life.oauth.refreshes > 0
        async with McpAuth.open(home=home) as auth:
            try:
                token = await auth.access_token("notes")
            except ReauthorizationNeeded as error:
                # The server gave new tokens, and they died with the process
                assert was_sent and error.next_step == Next("auth", "notes"), at
                ends["signed in again"] += 1
                await signed_in(auth)
                token = await auth.access_token("notes")
            else:
                ends["after one request" if life.oauth.refreshes == 1 else "after two"] += 1
            assert life.oauth.access[token]["expires_at"] > time.time()
        assert max(life.sent("refresh_token").values()) <= 2, at
        assert life.oauth.families_killed <= 1
    assert set(ends) == {"after one request", "signed in again"}, ends


async def test_a_refresh_that_dies_twice_after_sending_is_not_sent_a_third_time(life: Life) -> None:
    home = await life.expired_home()
    life.oauth.knobs.rotate = False
    for deaths in (1, 2):
        await die_while_the_server_thinks(life, home)
        assert list(life.sent("refresh_token").values()) == [deaths]
    async with McpAuth.open(home=home) as auth:
        with pytest.raises(ReauthorizationNeeded, match="third"):
            await auth.access_token("notes")
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        await signed_in(auth)
        assert (await auth.probe("notes")).state is ConnectionState.READY
    assert list(life.sent("refresh_token").values()) == [2]


_REFRESH = """
import asyncio, sys
from mcp_auth import McpAuth
asyncio.run(McpAuth.open(home=sys.argv[1]).access_token("notes"))
"""


async def die_while_the_server_thinks(life: Life, home: Path) -> None:
    before = len(life.oauth.requests("/token"))
    answered = life.oauth.knobs.token_gate = threading.Event()
    child = subprocess.Popen([sys.executable, "-c", _REFRESH, str(home)], cwd=ROOT, env=environment())
    deadline = time.monotonic() + PATIENCE
    while len(life.oauth.requests("/token")) == before:
        assert time.monotonic() < deadline and child.poll() is None
        await asyncio.sleep(0.01)
    child.kill()
    child.wait()
    answered.set()
    life.oauth.knobs.token_gate = None


async def test_a_key_that_is_being_written_is_the_old_or_the_new_one(life: Life) -> None:
    found: Counter[str] = Counter()
    for at in points(await life.lines_of("key", life.home()), POINTS):
        home = life.home()
        await life.die("key", home, at)
        values = dotenv_values(home / ".env", interpolate=False)
        assert values in (
            {"OTHER": "kept", "MY_KEY": "old"},
            {"OTHER": "kept", "MY_KEY": "new-" + "n" * 5000},
        ), at
        assert (home / ".env").read_text().startswith("# mine\n")
        found[(values["MY_KEY"] or "")[:3]] += 1
        # And the next one can be written, and takes away what the dead left
        async with McpAuth.open(home=home) as auth:
            await auth.set_keys("my-api", {"MY_KEY": "next"})
            assert (await auth.headers("my-api"))["Authorization"] == "Bearer next"
        assert not any("n" * 100 in path.read_text() for path in home.glob(".env*"))
    assert set(found) == {"old", "new"}, found


async def test_a_key_of_a_person_is_written_whole_or_not_at_all(life: Life) -> None:
    found: Counter[str] = Counter()
    for at in points(await life.lines_of("key_of_ann", life.home()), POINTS):
        home = life.home()
        await life.die("key_of_ann", home, at)
        all_records_are_whole(home)
        async with McpAuth.open(home=home) as auth:
            state = (await auth.status("my-api", "person:ann")).auth
            await auth.set_keys("my-api", {"MY_KEY": "next"}, "person:ann")
            assert (await auth.headers("my-api", "person:ann"))["Authorization"] == "Bearer next"
        found[state] += 1
    assert set(found) == {AuthState.KEY_MISSING, AuthState.KEY_SET}, found


async def test_a_logout_that_dies_can_be_done_again(life: Life) -> None:
    ends: Counter[str] = Counter()
    for at in points(await life.lines_of("logout", await life.signed_in_home()), POINTS):
        home = await life.signed_in_home()
        await life.die("logout", home, at)
        all_records_are_whole(home)
        async with McpAuth.open(home=home) as auth:
            ends[(await auth.status("notes")).auth] += 1
            await auth.logout("notes")
            assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
            assert list((home / "mcp-tokens").glob("notes*.json")) == []
            # Nothing that the server gave is left alive
            assert not any(token["expires_at"] > time.time() for token in life.oauth.access.values())
            assert all(token["used"] for token in life.oauth.refresh.values())
            await signed_in(auth)
    assert set(ends) == {AuthState.SIGNED_IN, AuthState.SIGN_IN_NEEDED}, ends
