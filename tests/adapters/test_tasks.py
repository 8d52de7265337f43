"""Work of an adapter that nobody waits for."""

from __future__ import annotations

import asyncio
import logging

import pytest

from adapters.tasks import Tasks
from mcp_auth.errors import StoreError


async def test_one_failure_is_logged_without_its_text_and_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    tasks, done = Tasks(), []

    async def fails(error: Exception) -> None:
        raise error

    async def works() -> None:
        await asyncio.sleep(0)
        done.append(True)

    for error in (RuntimeError("canary"), StoreError("The disk is full.")):
        tasks.start(fails(error))
    tasks.start(works())
    await tasks.idle()

    assert done == [True]
    assert "unexpected RuntimeError" in caplog.text
    assert "canary" not in caplog.text
    assert [one.message for one in caplog.records if one.levelno == logging.WARNING] == [
        "The disk is full. Next: doctor"
    ]


async def test_what_a_task_starts_is_waited_for_and_what_does_not_end_is_ended() -> None:
    tasks, done = Tasks(drain=0.01), []

    async def second() -> None:
        done.append(2)

    async def first() -> None:
        tasks.start(second())

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            done.append(3)

    tasks.start(first())
    await tasks.idle()
    assert done == [2]

    tasks.start(endless())
    await asyncio.sleep(0)
    await tasks.stop()
    assert done == [2, 3]
