from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.platforms.matrix import loopback_homeserver
from tests.platforms.synapse import Homeserver, homeserver


@pytest.fixture(scope="session", params=["loopback", pytest.param("synapse", marks=pytest.mark.service)])
def homeserver_of_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Homeserver]:
    """Each test talks to our own homeserver on loopback, and as a service test to a real Synapse."""
    if request.param == "loopback":
        with loopback_homeserver() as running:
            yield running
        return
    with homeserver(tmp_path_factory.mktemp("synapse")) as running:
        yield running
