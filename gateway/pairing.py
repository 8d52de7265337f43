"""People who are not served: at most a code to be let in with, once a minute, and to themselves only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import LOCAL, Invocation, Principal
from gateway.people import People, is_name
from gateway.replies import Audience, Reply, Text
from gateway.surfaces import Words
from mcp_auth.errors import Busy, StoreError
from mcp_auth.limits import STRANGERS, Limits

_log = logging.getLogger("gateway")
_SECONDS = 60.0
_KEPT = 10_000


class Pairing:
    """Answers them. Whoever is let in hears of it through the outbox of the store."""

    def __init__(
        self,
        people: People,
        limits: Limits,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._people = people
        self._limits = limits
        self._clock = clock
        self._told: BoundedDict[Principal, float] = BoundedDict(_KEPT)

    def is_silent(self, principal: Principal) -> bool:
        """Nothing will be said: this stranger was told within the last minute, or too many were. From memory."""
        told = self._told.get(principal)
        if told is not None and self._clock() - told < _SECONDS:
            return True
        return self._limits.wait(STRANGERS, principal.platform) > 0

    async def answer(self, invocation: Invocation) -> Reply | None:
        """One sentence, with a code where only this person reads it. None: not again within a minute."""
        principal = invocation.principal
        if self.is_silent(principal):
            return None
        self._remember(principal)
        if principal.platform == LOCAL.platform or not is_name(principal) or self._people.is_denied(principal):
            return _say(sentences.NOT_SERVED, invocation)
        if not invocation.private:
            return _say(sentences.STRANGER_IN_PUBLIC, invocation)
        try:
            code = await self._people.ask(principal, invocation.display_name, _chat_of(invocation))
        except (StoreError, Busy) as error:
            # The reason names files of this machine, which are nothing for a stranger.
            _log.error("a request to be let in could not be stored: %s", error.message)
            return _say(sentences.STRANGER_LATER, invocation)
        if code is None:
            return _say(sentences.STRANGERS_WAITING, invocation)
        return _say(sentences.pairing_code(code), invocation)

    def forget(self, principal: Principal) -> None:
        """No stranger any more: when shut out again, this one is told so."""
        self._told.pop(principal, None)

    def _remember(self, principal: Principal) -> None:
        self._limits.take(STRANGERS, principal.platform)
        self._told[principal] = self._clock()


def _say(text: Words, invocation: Invocation) -> Reply:
    audience = Audience.CALLER if invocation.private else Audience.CHAT
    return Reply((Text(text, tone="warning"),), audience=audience, ok=False)


def _chat_of(invocation: Invocation) -> dict[str, Any]:
    """Where a requester hears of it, as `mcp_auth.records` keeps it."""
    return {"platform": invocation.chat.platform, "data": invocation.chat.data, "private": invocation.private}
