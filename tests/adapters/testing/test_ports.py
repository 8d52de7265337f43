"""Ports that a test can count on."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.testing import ports
from adapters.testing.ports import candidates, free_port

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given_by_kernel", "first", "last"),
    [
        ((32_768, 60_999), 10_000, 65_535),
        ((10_000, 60_000), 60_001, 65_535),
        ((49_152, 65_535), 10_000, 49_151),
        ((1024, 64_000), 64_001, 65_535),
        # Nothing is left: any is as good as another.
        ((1024, 65_535), 10_000, 65_535),
    ],
)
def test_none_is_of_those_that_the_kernel_gives(given_by_kernel: tuple[int, int], first: int, last: int) -> None:
    found = candidates(given_by_kernel)

    assert (found[0], found[-1]) == (first, last)
    low, high = given_by_kernel
    assert len(found) == last - first + 1 or not any(low <= port <= high for port in found)


def test_the_range_is_the_one_of_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert given.getsockname()[1] not in candidates(ports._given_by_kernel())


def test_neighbours_never_get_the_same_one() -> None:
    script = (
        "from adapters.testing.ports import free_port\nprint(*(free_port() for _ in range(50)), flush=True)\ninput()"
    )
    pipe = subprocess.PIPE
    neighbours = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(4)
    ]
    given = [free_port() for _ in range(50)]
    for neighbour in neighbours:
        assert neighbour.stdout is not None
        given += [int(port) for port in neighbour.stdout.readline().split()]
    for neighbour in neighbours:
        neighbour.communicate("\n")

    assert len(given) == 250
    assert len(set(given)) == 250


def test_what_somebody_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_port(), free_port()
    monkeypatch.setattr(ports, "_reserve", lambda port: True)
    monkeypatch.setattr(ports, "_ports", iter([taken, free]))
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port() == free
