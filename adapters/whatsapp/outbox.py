"""Sends messages, tries again where that helps, and keeps what could not be sent for the person's next message.

WhatsApp lets a business write freely only within 24 hours of the person's last message. A failure comes as an
answer, or later as a status of a message that was taken.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from pywa_async import WhatsApp
from pywa_async.errors import AuthorizationError, ReEngagementMessage, ThrottlingError, WhatsAppError
from pywa_async.types import Button, Section, SectionList, SectionRow, URLButton

from adapters.tasks import NotSent
from adapters.waiting import Waiting
from adapters.whatsapp.render import Outgoing
from gateway.bounded_dict import BoundedDict
from gateway.replies import Checklist, Reply

_log = logging.getLogger(__name__)

# Meta's advice for the pair rate limit: 4^n seconds.
_PAUSES = (1.0, 4.0, 16.0)
# Errors that the page "Error codes" calls temporary: overloaded, unavailable, upgrade or maintenance.
_TEMPORARY = frozenset({1, 2, 131000, 131016, 131057, 133004})
REFUSED = "WhatsApp refuses the access token. Next: set a valid gateway.whatsapp.token"
_WATCHED = 1000


class Outbox:
    """One client's way out.

    Args:
        sleep: waits that many seconds between two tries.
    """

    def __init__(
        self, client: WhatsApp, waiting: Waiting, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._client = client
        self._waiting = waiting
        self._sleep = sleep
        # Set when WhatsApp says so of a message.
        self.token_refused = asyncio.Event()
        self._watched: BoundedDict[str, _Sent] = BoundedDict(_WATCHED)

    async def send(self, to: str, reply: Reply, messages: Sequence[Outgoing], *, is_news: bool = False) -> str:
        """Send `messages`, which show `reply`, one after the other. Returns the id of the last.

        Args:
            is_news: nobody asked for it, and nobody will ask again.

        Raises:
            NotSent: it was given up, logged and kept.
        """
        message_id = ""
        for message in messages:
            try:
                message_id = await self._with_patience(to, message)
            except (WhatsAppError, httpx.HTTPError) as error:
                self._give_up(_Sent(to, reply, is_news), error)
                raise NotSent from None
            except asyncio.CancelledError:
                # The process ends while it tries again.
                self._waiting.add(to, reply, is_news=is_news)
                raise
            self._watched[message_id] = _Sent(to, reply, is_news)
        return message_id

    def failed(self, message_id: str, error: WhatsAppError | None) -> None:
        """WhatsApp took a message and says now that it could not be delivered."""
        sent = self._watched.pop(message_id, None)
        if sent is not None:
            self._give_up(sent, error)

    def arrived(self, message_id: str) -> None:
        """The message is on the person's phone: nothing about it can fail any more."""
        self._watched.pop(message_id, None)

    async def _with_patience(self, to: str, message: Outgoing) -> str:
        for pause in (*_PAUSES, None):
            try:
                sent = await self._client.send_message(
                    to, message.body, footer=message.footer, buttons=_tappable(message)
                )
                return str(sent.id)
            except (WhatsAppError, httpx.HTTPError) as error:
                if pause is None or not is_temporary(error):
                    raise
            await self._sleep(pause)
        raise AssertionError("unreachable")

    def _give_up(self, sent: _Sent, error: Exception | None) -> None:
        if isinstance(error, AuthorizationError):
            self.token_refused.set()
        # A link would be over by then, and the person asks again anyway.
        if any(isinstance(block, Checklist) and any(item.link for item in block.items) for block in sent.reply.blocks):
            _log.warning("a sign-in link was not delivered: %s", reason(error))
            return
        self._waiting.add(sent.to, sent.reply, is_news=sent.is_news)
        _log.warning("a message was not delivered and waits for the person to write again: %s", reason(error))


@dataclass(frozen=True, slots=True)
class _Sent:
    to: str
    reply: Reply
    is_news: bool


def reason(error: Exception | None) -> str:
    """Why, and what to do, without anything of the message."""
    if isinstance(error, ReEngagementMessage):
        return "the person has not written for 24 hours (131047)"
    if isinstance(error, AuthorizationError):
        return REFUSED
    if isinstance(error, ThrottlingError):
        return f"WhatsApp's rate limit ({error.code}) did not pass"
    if isinstance(error, WhatsAppError):
        return f"WhatsApp answers {error.code} {type(error).__name__}"
    if error is None:
        return "WhatsApp gives no reason"
    return f"WhatsApp cannot be reached ({type(error).__name__})"


def is_temporary(error: Exception) -> bool:
    """Whether the same request may go through later."""
    if isinstance(error, WhatsAppError):
        is_down = error.status_code is not None and error.status_code >= 500
        return isinstance(error, ThrottlingError) or is_down or error.code in _TEMPORARY
    # A message that arrives twice is better than one that never does.
    return isinstance(error, httpx.TransportError)


def _tappable(message: Outgoing) -> Any:
    if message.link:
        return URLButton(message.link.title, message.link.url)
    if message.buttons:
        return [Button(one.title, one.data) for one in message.buttons]
    if message.rows:
        rows = [SectionRow(one.title, one.data, one.description) for one in message.rows]
        menu = message.menu or ""
        return SectionList(menu, [Section(menu, rows)])
    return None
