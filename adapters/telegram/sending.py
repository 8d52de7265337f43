"""Calls of the Bot API that hold out: flood control, a lost network, a group that moved."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

from telegram.error import BadRequest, ChatMigrated, NetworkError, RetryAfter, TelegramError
from telegram.warnings import PTBDeprecationWarning

from gateway.bounded_dict import BoundedDict

Sleep = Callable[[float], Awaitable[None]]
T = TypeVar("T")

_TRIES = 5
_FIRST_PAUSE = 1.0
# Longer than this nobody waits for an answer; the next command is answered anew.
_LONGEST_PAUSE = 120.0
# https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this: one message a second to one chat;
# short bursts pass.
_BURST = 4
_BURST_SECONDS = 4.0
_CHATS_KEPT = 1000


class Sender:
    """Makes calls, again where that helps, and a bounded number of times.

    Args:
        sleep: waits that many seconds.
    """

    def __init__(self, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self._sleep = sleep
        self._clock = clock
        self._written: BoundedDict[int, deque[float]] = BoundedDict(_CHATS_KEPT)

    async def call(self, chat: int, make: Callable[[int], Awaitable[T]]) -> T:
        """What `make(chat)` gives.

        Raises:
            TelegramError: it was refused, or failed to the end.
        """
        pause = _FIRST_PAUSE
        for _ in range(_TRIES - 1):
            try:
                self._note(chat)
                return await make(chat)
            except ChatMigrated as moved:
                chat = moved.new_chat_id
            except RetryAfter as flood:
                await self._wait(seconds(flood), flood)
            except BadRequest:
                raise
            except NetworkError as error:
                await self._wait(pause, error)
                pause *= 2
        return await make(chat)

    async def room(self, chat: int) -> None:
        """Wait until one more write to this chat does not run into flood control; for what may wait."""
        while (wait := self._full_for(chat)) > 0:
            await self._sleep(wait)

    async def _wait(self, wait: float, error: TelegramError) -> None:
        if wait > _LONGEST_PAUSE:
            raise error
        await self._sleep(wait)

    def _note(self, chat: int) -> None:
        written = self._written[chat] = self._written.get(chat, deque(maxlen=_BURST))
        written.append(self._clock())

    def _full_for(self, chat: int) -> float:
        written = self._written.get(chat)
        if written is None or len(written) < _BURST:
            return 0.0
        return written[0] + _BURST_SECONDS - self._clock()


def seconds(flood: RetryAfter) -> float:
    """How long Telegram wants us to be silent."""
    with warnings.catch_warnings():
        # The library announces another type for it; both are taken here.
        warnings.simplefilter("ignore", PTBDeprecationWarning)
        wait = flood.retry_after
    return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)
