"""What Telegram says no with, and how much it takes at a time."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from telegram.error import BadRequest, Conflict, Forbidden, InvalidToken, RetryAfter
from telegram.warnings import PTBDeprecationWarning

from adapters.refusals import EditWindowClosed, Elsewhere, Later, Misconfigured, Refused, TooLong
from gateway.bounded_dict import BoundedDict

# https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this: one message a second to one chat;
# short bursts pass.
_BURST = 4
_BURST_SECONDS = 4.0
_CHATS_KEPT = 1000


class SoAlready(Refused):
    """Nothing is left to do: the message reads so, or is gone."""


# Of a BadRequest Telegram says in words alone what it is about; these are its words, or a part of them.
_BAD_REQUESTS: dict[str, type[Refused]] = {
    "is not modified": SoAlready,
    "message to delete not found": SoAlready,
    "message to edit not found": EditWindowClosed,
    "message can't be edited": EditWindowClosed,
    "chat not found": Elsewhere,
    "message thread not found": Elsewhere,
    "topic_closed": Elsewhere,
    "not enough rights": Elsewhere,
    "have no rights": Elsewhere,
    "chat_write_forbidden": Elsewhere,
    "message is too long": TooLong,
}


def refusal_of(error: Exception) -> Refused:
    """Never with the error's own text, which may hold the token, but for that of a BadRequest."""
    match error:
        case InvalidToken():
            return Misconfigured(
                "Telegram refuses the bot's token: it was revoked, or is not whole.",
                key="gateway.telegram.token",
                next_step="copy it from BotFather (/mybots, API Token) to where gateway.telegram.token reads it",
            )
        case Conflict():
            return Misconfigured(
                "Another process polls Telegram with the same token, and only one may.",
                key="gateway.telegram.token",
                next_step="stop the other one, or give it a bot of its own",
            )
        case RetryAfter():
            return Later(f"Telegram wants silence for {seconds(error):.0f} s.", wait=seconds(error))
        case Forbidden():
            return Elsewhere("Telegram forbids it: the bot was blocked, or is not in there.")
        case BadRequest():
            said = error.message.lower()
            kind = next((kind for words, kind in _BAD_REQUESTS.items() if words in said), Refused)
            return kind(f"Telegram refuses it: {error.message}.")
    return Later(
        "Telegram does not answer.", next_step="look at the network of this host, or set gateway.telegram.proxy"
    )


def seconds(flood: RetryAfter) -> float:
    """How long Telegram wants us to be silent."""
    with warnings.catch_warnings():
        # The library announces another type for it; both are taken here.
        warnings.simplefilter("ignore", PTBDeprecationWarning)
        wait = flood.retry_after
    return wait.total_seconds() if isinstance(wait, timedelta) else float(wait)


class Pace:
    """What was written to each chat a moment ago."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written: BoundedDict[int, deque[float]] = BoundedDict(_CHATS_KEPT)

    def note(self, chat: int) -> None:
        written = self._written[chat] = self._written.get(chat, deque(maxlen=_BURST))
        written.append(self._clock())

    def full_for(self, chat: int) -> float:
        """Seconds until one more write does not run into flood control."""
        written = self._written.get(chat)
        if written is None or len(written) < _BURST:
            return 0.0
        return max(0.0, written[0] + _BURST_SECONDS - self._clock())
