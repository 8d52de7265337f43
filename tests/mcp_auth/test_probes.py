"""One probe for each server and owner, and so many at a time."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcp_auth.probes import PROBES, PROBES_OF_ONE_SERVER, NoTurn, Probes
from mcp_auth.status import ConnectionState
from tests.homes import open_auth, signed_in
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer


class Slow:
    """Probes that answer when they are let go, and how many of them there are."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.started: list[str] = []
        self.now = self.most = 0

    def probe(self, name: str) -> Callable[[], Awaitable[str]]:
        async def run() -> str:
            self.started.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.go.wait()
            finally:
                self.now -= 1
            return f"{name} {len(self.started)}"

        return run


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_who_asks_meanwhile_waits_for_the_same_answer() -> None:
    probes, slow = Probes[str](), Slow()
    asked = [asyncio.create_task(probes.run("notes", "ann", slow.probe("first"))) for _ in range(50)]
    other = asyncio.create_task(probes.run("notes", "bob", slow.probe("other")))
    await settle()
    assert slow.started == ["first", "other"]
    slow.go.set()
    assert len({await task for task in asked}) == 1
    await other
    assert (await probes.run("notes", "ann", slow.probe("later"))).startswith("later")


async def test_one_whose_turn_does_not_come_is_told_from_one_that_gives_no_answer() -> None:
    probes, slow = Probes[str](), Slow()
    others = [asyncio.create_task(probes.run(f"s{one}", "ann", slow.probe("other"))) for one in range(PROBES)]
    await settle()
    with pytest.raises(NoTurn):
        await probes.run("notes", "ann", slow.probe("notes"), timeout=0.01)
    with pytest.raises(TimeoutError):
        await probes.run("s0", "ann", slow.probe("joins"), timeout=0.01)
    assert slow.started == ["other"] * PROBES
    slow.go.set()
    await asyncio.gather(*others)
    assert await probes.run("notes", "ann", slow.probe("notes"), timeout=PATIENCE) == f"notes {PROBES + 1}"


async def test_a_server_that_was_not_asked_is_called_neither_refused_nor_unreachable(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_auth.probes.PROBES", 1)
    oauth.knobs.protected, oauth.knobs.prm_path = False, None
    oauth.knobs.mcp_gate = threading.Event()
    async with open_auth(tmp_path, {"slow": {"url": oauth.url}, "late": {"url": f"{oauth.url}?late"}}) as auth:
        slow = asyncio.create_task(auth.probe("slow", timeout=PATIENCE))
        while not oauth.requests("/mcp"):
            await asyncio.sleep(0.005)
        late = await auth.probe("late", timeout=0.01)
        assert late.state is ConnectionState.NOT_CHECKED
        assert late.detail is not None and late.detail.startswith("not asked: too many other servers")
        oauth.knobs.mcp_gate.set()
        assert (await slow).state is ConnectionState.READY
        assert (await auth.probe("late", timeout=PATIENCE)).state is ConnectionState.READY


async def test_one_that_turns_away_leaves_the_others_their_answer_and_the_last_one_ends_it() -> None:
    probes, slow = Probes[str](), Slow()
    first = asyncio.create_task(probes.run("notes", "ann", slow.probe("first")))
    second = asyncio.create_task(probes.run("notes", "ann", slow.probe("second")))
    await settle()
    first.cancel()
    await settle()
    assert slow.now == 1
    second.cancel()
    await settle()
    assert slow.now == 0
    slow.go.set()
    assert (await probes.run("notes", "ann", slow.probe("third"))).startswith("third")


async def test_after_other_credentials_a_probe_of_its_own_follows_the_one_under_way() -> None:
    probes, slow = Probes[str](), Slow()
    old = asyncio.create_task(probes.run("notes", "ann", slow.probe("old")))
    await settle()
    probes.changed("notes", "ann")
    new = [asyncio.create_task(probes.run("notes", "ann", slow.probe("new"))) for _ in range(5)]
    await settle()
    assert slow.started == ["old"]
    slow.go.set()
    assert (await old).startswith("old")
    assert {(await task).partition(" ")[0] for task in new} == {"new"}
    assert (slow.started, slow.most) == (["old", "new"], 1)


async def test_attack_neither_all_servers_nor_all_people_at_one_are_probed_at_once() -> None:
    probes, slow = Probes[str](), Slow()
    one = [asyncio.create_task(probes.run("slow", f"person {n}", slow.probe("slow"))) for n in range(50)]
    await settle()
    assert slow.now == PROBES_OF_ONE_SERVER
    others = [asyncio.create_task(probes.run(f"server {n}", "ann", slow.probe("other"))) for n in range(100)]
    await settle()
    assert slow.now == PROBES
    assert "other" in slow.started
    slow.go.set()
    await asyncio.gather(*one, *others)
    assert (slow.most, len(slow.started)) == (PROBES, 150)


async def test_the_failure_of_a_probe_is_everybody_s() -> None:
    async def broken() -> str:
        await asyncio.sleep(0)
        raise ValueError("no")

    probes = Probes[str]()
    asked = [asyncio.create_task(probes.run("notes", "ann", broken)) for _ in range(3)]
    for task in asked:
        with pytest.raises(ValueError, match="no"):
            await task


async def test_fifty_who_ask_at_once_cost_the_server_one_session(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        before = len(oauth.requests("/mcp"))
        found = await asyncio.gather(*(auth.probe("notes", insist=True) for _ in range(50)))
        at_once = len(oauth.requests("/mcp")) - before
        assert {one.state for one in found} == {ConnectionState.READY}
        await auth.probe("notes")
        assert len(oauth.requests("/mcp")) - before == 2 * at_once


async def test_a_test_does_not_take_the_answer_of_a_probe_which_gives_up_sooner() -> None:
    probes, slow = Probes[str](), Slow()
    probe = asyncio.create_task(probes.run("notes", "ann", slow.probe("probe")))
    await settle()
    tests = [asyncio.create_task(probes.run("notes", "ann", slow.probe("test"), insist=True)) for _ in range(5)]
    await settle()
    slow.go.set()
    assert (await probe).startswith("probe")
    assert {(await task).partition(" ")[0] for task in tests} == {"test"}
    assert (slow.started, slow.most) == (["probe", "test"], 1)


async def test_a_sign_in_is_tried_with_its_own_access_and_not_with_that_of_before(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        running = asyncio.create_task(auth.probe("notes"))
        await asyncio.sleep(0)
        await signed_in(auth)
        assert (await auth.confirm_works("notes", "shared")).state is ConnectionState.READY
        assert (await running).state is ConnectionState.NOT_CHECKED


async def test_a_probe_starts_no_command_unless_it_is_told_to(tmp_path: Path) -> None:
    started = tmp_path / "started"
    program = f"open({str(started)!r}, 'w')"
    async with open_auth(tmp_path, {"files": {"command": sys.executable, "args": ["-c", program]}}) as auth:
        assert (await auth.probe("files")).state is ConnectionState.NOT_CHECKED
        assert not started.exists()
        assert (await auth.probe("files", start_stdio=True)).state is ConnectionState.UNREACHABLE
        assert started.exists()
        started.unlink()
        await auth.probe("files", insist=True)
        assert started.exists()


@pytest.mark.parametrize("options", [{"enabled": False}, {"transport": "carrier-pigeon"}])
async def test_a_server_that_is_off_or_misconfigured_is_not_asked(
    tmp_path: Path, oauth: OAuthServer, options: dict[str, Any]
) -> None:
    oauth.knobs.protected = False
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, **options}}) as auth:
        assert auth.config.servers["notes"].enabled is (auth.config.servers["notes"].problem is not None)
        for ask in (auth.probe, partial(auth.probe, insist=True)):
            assert (await ask("notes")).state is ConnectionState.NOT_CHECKED
    assert oauth.seen == []


async def test_what_nobody_looked_at_is_unknown_until_somebody_does(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = {
        "plain": {"url": oauth.url},
        "said": {"url": f"{oauth.url}?said", "auth": "oauth"},
        "keyed": {"url": f"{oauth.url}?keyed", "headers": {"X-Key": "y"}},
        "off": {"url": f"{oauth.url}?off", "enabled": False},
        "run": {"command": "true"},
    }
    async with open_auth(tmp_path, servers) as auth:
        assert await auth.unknown() == ["plain"]
        assert (await auth.parts.profiles.probe(auth.config.servers["plain"])).needs_sign_in
        assert await auth.unknown() == []
