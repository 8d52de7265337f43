"""How often is too often."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_auth import limits
from mcp_auth.limits import AddressLimits, Limits, Rate, address_key

THREE = Rate("three", 3, 60)


def test_the_fourth_has_to_wait_for_the_rest_of_the_window(advance_limits: Callable[[float], None]) -> None:
    counted = Limits()

    assert [counted.take(THREE, "ann") for _ in range(3)] == [0.0, 0.0, 0.0]
    advance_limits(20)
    wait = counted.take(THREE, "ann")
    assert 38 < wait <= 41
    assert counted.wait(THREE, "ann") == wait
    advance_limits(wait)
    assert counted.take(THREE, "ann") == 0.0


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
    assert len(counted._storages[THREE.name].storage) <= 51
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


@asynccontextmanager
async def client_at(app: Any, address: str) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, client=(address, 50_000))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        yield client


async def test_an_address_that_asks_too_often_is_told_how_long_to_wait() -> None:
    async def home(request: Any) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app = AddressLimits(Starlette(routes=[Route("/", home, methods=["GET", "POST"])]), Limits())
    async with client_at(app, "192.0.2.7") as one, client_at(app, "192.0.2.8") as other:
        posted = [(await one.post("/")).status_code for _ in range(limits.POSTS.amount)]
        refused = await one.post("/")

        assert set(posted) == {200}
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert f"Try again in {refused.headers['Retry-After']} seconds" in refused.text
        assert (await one.get("/")).status_code == 200, "pages are counted apart"
        assert (await other.post("/")).status_code == 200
    async with client_at(app, "127.0.0.1") as here:
        assert {(await here.post("/")).status_code for _ in range(limits.POSTS.amount + 5)} == {200}
