from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.platforms.synapse import Homeserver, homeserver


@pytest.fixture(scope="session")
def synapse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    with homeserver(tmp_path_factory.mktemp("synapse")) as running:
        yield running
