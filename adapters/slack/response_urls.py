"""Response URLs: what one may still be used for, and the ephemeral messages that stand behind them.

A response URL is a credential (whoever has it may write as the bot), so it lives in memory and nowhere else; what is
stored of an answer is its id.

The URL of a slash command posts: there is no message that it could replace. The URL of a press replaces the message
with the button. So a checklist that a slash command asked for can be edited from the moment on at which somebody
presses one of its buttons, a link's included.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from gateway.invocations import Principal
from gateway.replies import Reply

# https://docs.slack.dev/interactivity/handling-user-interaction: five times within 30 minutes. A minute is left for
# clocks that differ and for the way there.
USES = 5
SECONDS = 29 * 60.0
_KEPT = 1000


@dataclass(slots=True)
class ResponseUrl:
    """One URL and its budget: one first answer, three updates, and one that is kept for the last word."""

    url: str = field(repr=False)
    expires_at: float
    uses: int = 0

    def take(self, now: float, *, last: bool) -> bool:
        """Spend one use. False: there is none for this. `last`: nothing is expected after it."""
        if now >= self.expires_at or self.uses >= (USES if last else USES - 1):
            return False
        self.uses += 1
        return True


@dataclass(slots=True)
class Answer:
    """One ephemeral message, sent or about to be.

    `posting` makes it; `editing` replaces it, once somebody pressed a button of it. `held`: what to send when nothing
    better comes in time. `over`: the invocation ended, so only an edit may change the message.
    """

    id: str
    principal: Principal
    posting: ResponseUrl
    editing: ResponseUrl | None = None
    held: Reply | None = field(default=None, repr=False)
    timer: asyncio.Task[None] | None = None
    sent: bool = False
    over: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Answers:
    """The answers of the last half hour, by id."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Answer] = OrderedDict()

    def new(self, principal: Principal, url: str, now: float) -> Answer:
        answer = Answer(new_id(), principal, ResponseUrl(url, now + SECONDS))
        self._known[answer.id] = answer
        self._forget(now)
        return answer

    def beside(self, answer: Answer, now: float) -> Answer:
        """Another message of the same interaction; the budget is one."""
        other = self.new(answer.principal, "", now)
        other.posting = answer.editing or answer.posting
        return other

    def get(self, answer_id: object) -> Answer | None:
        return self._known.get(answer_id) if isinstance(answer_id, str) else None

    def _forget(self, now: float) -> None:
        for key, answer in list(self._known.items()):
            if len(self._known) <= _KEPT and not self._is_spent(answer, now):
                return
            del self._known[key]

    @staticmethod
    def _is_spent(answer: Answer, now: float) -> bool:
        editing = answer.editing
        return now >= answer.posting.expires_at and (editing is None or now >= editing.expires_at)


def new_id() -> str:
    """An id for a message, short enough for a `block_id` and not to be guessed."""
    return secrets.token_urlsafe(12).replace("-", "_")
