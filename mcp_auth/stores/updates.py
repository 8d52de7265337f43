"""The one loop around `put_if`: read a record, make another of it, store that, and again when others were faster."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcp_auth.errors import StoreError

# Far more than the processes of one home need.
TRIES = 30
_PAUSE, _LONGEST_PAUSE = 0.005, 0.1


class AlwaysChanging(StoreError):
    """Others changed a record again and again, and always in between."""


Before = TypeVar("Before")
After = TypeVar("After")


async def update(
    what: str,
    read: Callable[[], Awaitable[Before]],
    edit: Callable[[Before], Awaitable[After | None]],
    write: Callable[[After], Awaitable[After | None]],
    *,
    start: Before | None = None,
) -> Before | After:
    """Store what `edit` makes of a record, as long as nobody else changed it in between.

    Args:
        what: whose record it is, for the error.
        read: the record as it is stored now. Errors of `read` and `edit` end the update; nothing is stored then.
        edit: what the record should become; None leaves it as it is. Called again with what others stored.
        write: a store's `put_if`.
        start: the record as it was read already, in place of the first `read`.

    Returns:
        The record as it is stored now: written here, or left by `edit`.

    Raises:
        AlwaysChanging: others were faster, `TRIES` times.
    """
    for turn in range(TRIES):
        if turn > 1:
            # Whoever else is at it gets through meanwhile.
            await asyncio.sleep(random.uniform(0, min(_PAUSE * turn, _LONGEST_PAUSE)))  # noqa: S311 - no secret
        before = start if start is not None and turn == 0 else await read()
        after = await edit(before)
        if after is None:
            return before
        stored = await write(after)
        if stored is not None:
            return stored
    raise AlwaysChanging(f"The record of {what} changes all the time.", next_step="try again")
