"""That the contestants do equal work, by what the servers saw of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench import rows
from bench.arena import Arena, Figure

NAMES = ("limit", "ours", "sdk")
ONE_LINK = {"refused": 1, "resource metadata": 1, "authorization server metadata": 1, "registration": 1}


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    with Arena({}, rounds=1, quick=True) as arena:
        yield arena


@pytest.mark.parametrize("name", NAMES)
def test_a_link_costs_everybody_the_same_requests(arena: Arena, name: str) -> None:
    arena.do(name, "links", base=arena.base, names=["s0", "s1", "s2"], warm=["warm0"])

    assert arena.control("count")["by kind"] == {kind: 3 * many for kind, many in ONE_LINK.items()}


@pytest.mark.parametrize("name", NAMES)
def test_everybody_sends_the_same_requests_with_a_valid_token(arena: Arena, name: str) -> None:
    arena.do(name, "concurrent", base=arena.base, count=5)

    assert arena.control("count")["by kind"] == {"mcp": 10}


@pytest.mark.parametrize("name", ["limit", "ours"])
def test_a_completion_is_one_exchange(arena: Arena, name: str) -> None:
    rows._complete(arena, name, 5)

    assert arena.control("count")["by kind"] == {"code exchange": 5}


@pytest.mark.parametrize("name", NAMES)
def test_everybody_is_signed_in_before_a_storm_and_meets_rotation(arena: Arena, name: str) -> None:
    said = rows._storm(arena, name, 2)

    kinds = arena.control("count")["by kind"]
    assert kinds["refresh"] == said["refreshes"] == 1
    assert kinds.get("refresh refused", 0) == said["reused"] == (1 if name == "sdk" else 0)


def test_who_sends_other_requests_than_the_rest_is_named_and_fails_the_row() -> None:
    def of(requests: int) -> Figure:
        return Figure([1.0], series={"requests": [requests]})

    figures: dict[str, Any] = {"limit, 20": of(80), "ours, 20": of(79), "sdk, 20": of(80), "ours, 40": of(160)}
    check = rows.same_requests(figures, 20)

    assert check.text == "other than 80 requests by ours, 20"
    assert not check.holds(quick=True)
