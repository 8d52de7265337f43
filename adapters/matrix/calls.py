"""Calls to the homeserver, each with an end, and what it says no with.

nio alone may wait for ever on a rate limit or a dead network, and hands a refusal over as an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp
import nio

from adapters.refusals import Elsewhere, Later, Misconfigured, Refused, TooLong

Answer = TypeVar("Answer")

FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
# Longer than any rate limit that a person waits for.
CALL_SECONDS = 90.0
# https://spec.matrix.org/latest/client-server-api/#standard-error-response
_CODES: dict[str, type[Refused]] = {
    **dict.fromkeys(("M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"), Misconfigured),
    "M_LIMIT_EXCEEDED": Later,
    "M_FORBIDDEN": Elsewhere,
    "M_NOT_FOUND": Elsewhere,
    "M_TOO_LARGE": TooLong,
}


async def call(work: Awaitable[object], kind: type[Answer]) -> Answer:
    """The homeserver's answer.

    Raises:
        Refused: it is none of this `kind`, or none came, also after nio's own retries.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS):
            answer = await work
    except FAILURES as error:
        answer = error
    if isinstance(answer, kind):
        return answer
    raise refusal_of(answer)


def refusal_of(answer: object) -> Refused:
    """What an `nio.ErrorResponse`, or an exception of `FAILURES`, means."""
    if not isinstance(answer, nio.ErrorResponse):
        why = f"the homeserver does not answer ({type(answer).__name__})"
        return Later(why, next_step="check gateway.matrix.homeserver")
    kind = _CODES.get(answer.status_code or "", Refused)
    if kind is Misconfigured:
        return Misconfigured(
            f"The homeserver refuses the access token ({answer.status_code}).",
            key="gateway.matrix.token",
            next_step="log in again and set gateway.matrix.token",
        )
    if kind is Later:
        return Later(f"the homeserver's rate limit did not pass ({answer.status_code})")
    return kind(f"the homeserver answers {answer.status_code or 'without a reason'}")
