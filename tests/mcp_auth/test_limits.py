"""How often is too often."""

from __future__ import annotations

import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_auth import limits
from mcp_auth.config.models import GatewayOptions
from mcp_auth.limits import AddressLimits, Limits, Rate, address_key, address_keys
from tests.homes import open_auth

THREE = Rate("three", 3, 60)
# Read before any test: each of them has a clock of its own.
CLOCK = inspect.signature(Limits).parameters["clock"].default
TEAM = GatewayOptions(people={"ann": ("telegram:1", "discord:1", "slack:T/1")})


def test_the_fourth_has_to_wait_for_the_rest_of_the_window(advance_limits: Callable[[float], None]) -> None:
    counted = Limits()

    assert [counted.take(THREE, "ann") for _ in range(3)] == [0.0, 0.0, 0.0]
    advance_limits(20)
    wait = counted.take(THREE, "ann")
    assert 38 < wait <= 41
    assert counted.wait(THREE, "ann") == wait
    advance_limits(wait)
    assert counted.take(THREE, "ann") == 0.0


def test_no_window_ends_because_a_test_is_slow(advance_limits: Callable[[float], None]) -> None:
    counted, brief = Limits(), Rate("brief", 1, 1e-9)

    assert counted.take(brief, "ann") == 0.0
    assert counted.take(brief, "ann") > 0
    advance_limits(1)
    assert counted.take(brief, "ann") == 0.0


@pytest.mark.parametrize(
    ("rate", "amount", "seconds"),
    [
        (limits.COMMANDS, 40, 60),
        (limits.SIGN_INS, 40, 600),
        (limits.KEY_TRIES, 10, 600),
        (limits.CODES, 10, 600),
        (limits.CONFIRMS, 40, 600),
        (limits.SERVER_SIGN_INS, 60, 600),
        (limits.SERVER_KEY_TRIES, 30, 600),
        (limits.SERVER_SIGN_INS_EACH, 20, 600),
        (limits.STRANGERS, 20, 60),
        (limits.PAGES, 600, 60),
        (limits.POSTS, 30, 60),
        (limits.LINKS, 120, 60),
        (limits.HOOKS, 3_000, 60),
        (limits.REFUSED_HOOKS, 20, 60),
    ],
    ids=lambda value: value.name if isinstance(value, Rate) else str(value),
)
def test_so_many_are_allowed_in_so_long(
    rate: Rate, amount: int, seconds: int, advance_limits: Callable[[float], None]
) -> None:
    counted = Limits()

    assert [counted.take(rate, "ann") for _ in range(amount)] == [0.0] * amount
    assert counted.take(rate, "ann") > 0
    advance_limits(seconds - 10)
    assert 0 < counted.take(rate, "ann") <= 11
    advance_limits(10)
    assert counted.take(rate, "ann") == 0.0


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (1, "1 seconds"),
        (59.2, "60 seconds"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (121, "3 minutes"),
        (600, "10 min"),
    ],
)
def test_whoever_has_to_wait_is_told_how_long(seconds: float, said: str) -> None:
    assert f"Try again in {said}" in limits.too_often(seconds)


def test_keys_are_guessed_at_neither_by_one_person_nor_by_many(advance_limits: Callable[[float], None]) -> None:
    counted = Limits()
    for person in range(3):
        assert [limits.wait_to_try_key(counted, f"telegram:{person}", "api", TEAM) for _ in range(10)] == [0.0] * 10
        assert limits.wait_to_try_key(counted, f"telegram:{person}", "other", TEAM) > 0, "one person, at all servers"
    assert limits.wait_to_try_key(counted, "telegram:9", "api", TEAM) > 0, "all people, at one server"
    assert limits.wait_to_try_key(counted, "telegram:9", "other", TEAM) == 0.0


def test_a_clock_that_is_set_forgets_nobodys_count_and_locks_nobody_out(tmp_path: Path) -> None:
    """The time of day is somebody's to set; the one that counts is not."""
    assert CLOCK is time.monotonic
    hours = [0.0]
    auth = open_auth(tmp_path, {}, clock=lambda: time.time() + hours[0])
    assert [auth.limits.take(THREE, "ann") for _ in range(3)] == [0.0] * 3
    for hours[0] in (48 * 3600.0, -48 * 3600.0):
        assert 0 < auth.limits.take(THREE, "ann") <= THREE.seconds


def test_people_and_rates_are_counted_apart() -> None:
    counted = Limits()
    for _ in range(3):
        counted.take(THREE, "ann")

    assert counted.take(THREE, "ann") > 0
    assert counted.take(THREE, "bob") == 0.0
    assert counted.take(Rate("other", 3, 60), "ann") == 0.0


def test_attack_a_flood_of_addresses_at_the_endpoint_leaves_the_people_in_the_chats_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 50)
    counted = Limits()
    for number in range(500):
        counted.take(Rate("pages", 600, 60), f"2001:db8:{number:x}::/64")

    assert [counted.take(THREE, f"person {number}") for number in range(20)] == [0.0] * 20


def test_looking_does_not_count() -> None:
    counted = Limits()

    assert [counted.wait(THREE, "ann") for _ in range(10)] == [0.0] * 10
    assert counted.take(THREE, "ann") == 0.0


def test_attack_a_flood_of_addresses_is_bounded_in_memory_and_those_who_were_here_keep_their_count(
    monkeypatch: pytest.MonkeyPatch, advance_limits: Callable[[float], None]
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 50)
    counted = Limits()
    counted.take(THREE, "ann")

    refused = [counted.take(THREE, f"stranger {number}") for number in range(500)].count(0.0)

    assert refused == 49 + 3
    assert len(counted._tables[THREE.name]) <= 51
    assert [counted.take(THREE, "ann"), counted.take(THREE, "ann")] == [0.0, 0.0]
    assert counted.take(THREE, "ann") > 0
    advance_limits(61)
    assert counted.take(THREE, "somebody new") == 0.0


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("192.0.2.7, 10.0.0.1", "unknown"),
        ("x" * 10_000, "unknown"),
    ],
    ids=range(8),
)
def test_one_client_is_one_address_or_one_network(address: str, key: str) -> None:
    assert address_key(address) == key


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("192.0.2.7", ["192.0.2.7", "192.0.2.0/24"]),
        ("::ffff:192.0.2.7", ["192.0.2.7", "192.0.2.0/24"]),
        ("2001:db8:1:2ff::9", ["2001:db8:1:2ff::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"]),
    ],
)
def test_an_address_belongs_to_wider_and_wider_networks(address: str, networks: list[str]) -> None:
    assert list(address_keys(address)) == networks


@pytest.mark.parametrize("shared", ["192.0.2.8", "2001:db8:1:2::9"])
def test_where_addresses_share_a_count_ten_times_as_many_are_allowed(
    shared: str, monkeypatch: pytest.MonkeyPatch, advance_limits: Callable[[float], None]
) -> None:
    monkeypatch.setattr(limits, "KEYS_KEPT", 1)
    counted = Limits()
    assert counted.take_address(THREE, "203.0.113.1") == (0.0, True)
    assert [counted.take_address(THREE, shared) for _ in range(30)] == [(0.0, False)] * 30
    assert counted.wait_address(THREE, shared) > 0
    assert counted.take_address(THREE, shared)[0] > 0
    assert counted.wait_address(THREE, "203.0.113.1") == 0.0


@asynccontextmanager
async def client_at(app: Any, address: str) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, client=(address, 50_000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        yield client


async def test_an_address_that_asks_too_often_is_told_how_long_to_wait() -> None:
    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = AddressLimits(Starlette(routes=[Route("/{path:path}", home, methods=["GET", "POST"])]), Limits())
    async with client_at(app, "192.0.2.7") as one, client_at(app, "192.0.2.8") as other:
        posted = [(await one.post("/a/page")).status_code for _ in range(limits.POSTS.amount)]
        refused = await one.post("/k/page")

        assert set(posted) == {200}
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert f"Try again in {refused.headers['Retry-After']} seconds" in refused.text
        assert (await one.get("/a/page")).status_code == 200, "pages are counted apart"
        assert (await other.post("/a/page")).status_code == 200
    async with client_at(app, "127.0.0.1") as here:
        assert {(await here.post("/a/page")).status_code for _ in range(limits.POSTS.amount + 5)} == {200}


async def test_whose_a_link_is_is_looked_up_only_where_a_shared_count_is_used_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each look-up costs the store something, and is what a crowd would ask for."""
    monkeypatch.setattr(limits, "KEYS_KEPT", 0)
    looked_up = 0

    async def knows(scope: Any) -> str | None:
        nonlocal looked_up
        looked_up += 1
        return "a link" if scope["path"] == "/a/known" else None

    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    counted = Limits(lambda: 1_000.0)
    app = AddressLimits(Starlette(routes=[Route("/{path:path}", home, methods=["POST"])]), counted, knows)
    async with client_at(app, "192.0.2.7") as one:
        assert (await one.post("/a/x")).status_code == 200
        assert looked_up == 0
        while counted.take_address(limits.POSTS, "192.0.2.7")[0] == 0.0:
            pass
        assert (await one.post("/a/x")).status_code == 429
        assert (await one.post("/a/known")).status_code == 200
        assert looked_up == 2
