from __future__ import annotations

from pathlib import Path

import pytest

from mcp_auth.stores.base import Store
from tests.mcp_auth.stores.backends import BACKENDS, Backend


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    made: Backend = BACKENDS[request.param](tmp_path)
    return made


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.open()
