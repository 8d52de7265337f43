from __future__ import annotations

import pytest

from tests.homes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()
