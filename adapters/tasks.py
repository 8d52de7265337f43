"""Work that nobody waits for: kept, and ended together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from gateway import error_reports
from mcp_auth.errors import McpAuthError

_log = logging.getLogger("adapters")


class Tasks:
    """The running tasks of one adapter. No failure of one is lost, and none ends the others.

    Args:
        drain: seconds that `stop` gives to what is running.
    """

    def __init__(self, *, drain: float = 5.0) -> None:
        self._drain = drain
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Awaitable[object]) -> asyncio.Task[None]:
        task = asyncio.create_task(_watch(work))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def idle(self) -> None:
        """Wait until all are done, the ones that they start too."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def stop(self) -> None:
        """Give what is running a moment, then end it."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=self._drain)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _watch(work: Awaitable[object]) -> None:
    try:
        await work
    except McpAuthError as error:
        _log.warning("%s", error)
    except Exception as error:  # noqa: BLE001 - nobody awaits this task
        error_reports.note(error)
