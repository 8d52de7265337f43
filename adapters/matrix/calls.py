"""Calls to the homeserver, each with an end: nio alone may wait for ever on a rate limit or a dead network."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp
from nio.responses import ErrorResponse

from adapters.tasks import NotSent

_log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

# Longer than any rate limit that a person waits for.
CALL_SECONDS = 90.0
TOKEN_OVER = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"})


async def call(work: Awaitable[Answer]) -> Answer:
    """The homeserver's answer, an `ErrorResponse` included.

    Raises:
        NotSent: none came, also after nio's own retries, or it was a rate limit or a refused token. It is logged.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS):
            answer = await work
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        _log.warning("something was given up: the homeserver does not answer (%s)", type(error).__name__)
        raise NotSent from None
    if isinstance(answer, ErrorResponse) and answer.status_code in TOKEN_OVER:
        _log.warning("something was given up: %s", refused(answer))
        raise NotSent
    if isinstance(answer, ErrorResponse) and answer.status_code == "M_LIMIT_EXCEEDED":
        _log.warning("something was given up: the homeserver's rate limit did not pass (M_LIMIT_EXCEEDED)")
        raise NotSent
    return answer


def refused(answer: ErrorResponse) -> str:
    """Why the token is no longer good, and what to do."""
    return (
        f"the homeserver refuses the access token ({answer.status_code}). "
        "Next: log in again and set gateway.matrix.token"
    )
