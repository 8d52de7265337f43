from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_auth.stores.base import Store
from tests.mcp_auth.stores.backends import BACKENDS, Backend


@pytest.fixture(params=sorted(BACKENDS))
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    """Whatever it opens is closed after the test, so that no engine's connections add up."""
    made: Backend = BACKENDS[request.param](tmp_path)
    opened: list[Store] = []
    open_one = made.open

    def remembered() -> Store:
        opened.append(open_one())
        return opened[-1]

    made.open = remembered  # type: ignore[method-assign]
    yield made
    for store in opened:
        await store.close()


@pytest.fixture
async def store(backend: Backend) -> Store:
    return backend.open()
