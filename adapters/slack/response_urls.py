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
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from adapters.refusals import EditWindowClosed
from gateway.invocations import Principal
from gateway.replies import Checklist, ItemState, Reply, Text

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
    """The answers of the last half hour, by id.

    A slash command's answer can be posted and not edited, so what is not final is held back for something better.

    Args:
        post: shows a reply at a URL; the last argument: it replaces what is there.
        spawn: begins what nobody waits for.
        hold: seconds that an answer waits for a better one.
        wait: seconds that one waits which only says to wait: until the wait is long enough to be wondered about.
    """

    def __init__(
        self,
        post: Callable[[str, Answer, Reply, bool], Awaitable[None]],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        clock: Callable[[], float],
        *,
        hold: float,
        wait: float,
    ) -> None:
        self._post = post
        self._spawn = spawn
        self._clock = clock
        self._hold = hold
        self._wait = wait
        self._known: OrderedDict[str, Answer] = OrderedDict()

    def new(self, principal: Principal, url: str = "") -> Answer:
        now = self._clock()
        answer = Answer(new_id(), principal, ResponseUrl(url, now + SECONDS))
        self._known[answer.id] = answer
        for key, known in list(self._known.items()):
            if len(self._known) <= _KEPT and not self._is_spent(known, now):
                break
            del self._known[key]
        return answer

    def beside(self, answer: Answer) -> Answer:
        """Another message of the same interaction; the budget is one."""
        other = self.new(answer.principal)
        other.posting = answer.editing or answer.posting
        return other

    def get(self, answer_id: object) -> Answer | None:
        return self._known.get(answer_id) if isinstance(answer_id, str) else None

    def adopt(self, answer_id: str, principal: Principal, url: str) -> None:
        """Somebody pressed a button of this message: from now on it can be edited."""
        answer = self.get(answer_id)
        if answer is not None and answer.principal == principal and url:
            answer.editing = ResponseUrl(url, self._clock() + SECONDS)

    async def begin(self, answer: Answer, reply: Reply) -> None:
        """Raises EditWindowClosed: the response URL is over."""
        if reply.final:
            await self.send(answer, reply)
        else:
            self._hold_back(answer, reply)

    async def update(self, answer: Answer, reply: Reply) -> None:
        """Raises EditWindowClosed: the response URL is over."""
        if answer.over and answer.editing is None:
            raise EditWindowClosed
        if answer.editing is not None or reply.final:
            await self.send(answer, reply)
        elif not answer.sent and not answer.lock.locked():
            # Posting every step would fill the channel and use up the URL.
            self._hold_back(answer, reply)

    async def send(self, answer: Answer, reply: Reply) -> None:
        """Post the answer, or replace it where a press made that possible.

        Raises:
            EditWindowClosed: the response URL is over.
        """
        async with answer.lock:
            answer.held = None
            if answer.timer is not None:
                answer.timer.cancel()
                answer.timer = None
            target = answer.editing or answer.posting
            if not target.url or not target.take(self._clock(), last=_is_last(reply)):
                raise EditWindowClosed
            await self._post(target.url, answer, reply, target is answer.editing)
            answer.sent = True

    def _hold_back(self, answer: Answer, reply: Reply) -> None:
        """Until something better comes, or for so long that this is better than nothing."""
        held, answer.held = answer.held, reply
        only_waits = _only_waits(reply)
        if answer.timer is not None:
            if held is None or only_waits or not _only_waits(held):
                return
            answer.timer.cancel()
        answer.timer = self._spawn(self._release(answer, self._wait if only_waits else self._hold))

    async def _release(self, answer: Answer, seconds: float) -> None:
        await asyncio.sleep(seconds)
        answer.timer = None
        if answer.held is not None:
            await self.send(answer, answer.held)

    @staticmethod
    def _is_spent(answer: Answer, now: float) -> bool:
        editing = answer.editing
        return now >= answer.posting.expires_at and (editing is None or now >= editing.expires_at)


def _is_last(reply: Reply) -> bool:
    """Is nothing expected after this? A checklist with an open link will change again."""
    waits = (ItemState.LINK, ItemState.PREPARING, ItemState.KEY)
    items = [item for block in reply.blocks if isinstance(block, Checklist) for item in block.items]
    return reply.final and not any(item.state in waits for item in items)


def _only_waits(reply: Reply) -> bool:
    """Does this tell nothing yet but that something is being done?"""
    return not reply.final and all(
        isinstance(block, Text)
        or (isinstance(block, Checklist) and all(item.state is ItemState.PREPARING for item in block.items))
        for block in reply.blocks
    )


def new_id() -> str:
    """An id for a message, short enough for a `block_id` and not to be guessed."""
    return secrets.token_urlsafe(12).replace("-", "_")
