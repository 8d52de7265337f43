"""Probes under way: one for each server and owner, and so many at a time.

Whoever asks for what is being found out already waits for that answer. Everybody in a chat may ask for the list, and
each answer may be as large as a server can make it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")
Key = tuple[str, str]

# All probes at a time, and those of one server: a slow server does not take the places of the others.
PROBES = 32
PROBES_OF_ONE_SERVER = 8


class NoTurn(Exception):
    """Too many others were under way for a probe to begin in time: nobody was asked."""


@dataclass(eq=False, slots=True)
class _Running(Generic[T]):
    task: asyncio.Task[T]
    insists: bool
    has_begun: Callable[[], bool]
    waiting: int = 0
    is_stale: bool = False


@dataclass(eq=False, slots=True)
class Probes(Generic[T]):
    """`run` starts what it is given, or joins what is under way for the same key."""

    _running: dict[Key, _Running[T]] = field(default_factory=dict)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES))
    _places_of: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    async def run(
        self,
        server: str,
        owner: str,
        probe: Callable[[], Awaitable[T]],
        *,
        insist: bool = False,
        timeout: float | None = None,
    ) -> T:
        """The result of the probe under way, else of `probe`. A probe that nobody waits for any more is cancelled.

        `insist`: not that of a probe which did not.

        Raises:
            TimeoutError: no result within `timeout` seconds.
            NoTurn: it did not even begin in that time.
        """
        running: list[_Running[T]] = []
        try:
            async with asyncio.timeout(timeout):
                return await self._joined(server, owner, probe, insist, running)
        except TimeoutError:
            # Without one that was joined, another of this server's is still under way.
            if not running or running[0].has_begun():
                raise
            raise NoTurn from None

    async def _joined(
        self, server: str, owner: str, probe: Callable[[], Awaitable[T]], insist: bool, joined: list[_Running[T]]
    ) -> T:
        key = (server, owner)
        while (running := self._running.get(key)) is not None and (
            running.is_stale or (insist and not running.insists)
        ):
            await asyncio.wait({running.task})
        if running is None:
            begun = asyncio.Event()
            task = asyncio.create_task(self._placed(server, probe, begun))
            running = self._running[key] = _Running(task, insist, begun.is_set)
            running.task.add_done_callback(lambda _: self._forget(key))
        joined.append(running)
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                # Somebody new is not to join what is being given up.
                running.is_stale = True
                running.task.cancel()

    def changed(self, server: str, owner: str) -> None:
        """Other credentials from now on: who asks next gets a probe of its own, after the one under way."""
        running = self._running.get((server, owner))
        if running is not None:
            running.is_stale = True

    async def _placed(self, server: str, probe: Callable[[], Awaitable[T]], begun: asyncio.Event) -> T:
        of_server = self._places_of.setdefault(server, asyncio.Semaphore(PROBES_OF_ONE_SERVER))
        async with of_server, self._places:
            begun.set()
            return await probe()

    def _forget(self, key: Key) -> None:
        running = self._running.pop(key)
        if not running.task.cancelled():
            # Where everybody has left, nobody asks for it.
            running.task.exception()
