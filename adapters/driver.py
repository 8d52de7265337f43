"""The driver: brings each reply and each notice to where its audience is, and what could not be told to later."""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from adapters import buttons
from adapters.refusals import EditWindowClosed, Elsewhere, Later, NotSupported, PrivateDeliveryUnavailable, Refused
from adapters.waiting import Waiting
from gateway import error_reports, policy, sentences
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import (
    Audience,
    Button,
    Checklist,
    Deferred,
    Ignored,
    Notice,
    Reply,
    Said,
    SecretPrompt,
    Text,
    TextModal,
    text,
)
from gateway.surfaces import Words

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_SENT_LATE = Text(sentences.SENT_LATE)


class Driver(ABC):
    """Half of `Adapter`: all that is said. What is the driver's own has two underscores."""

    platform: ClassVar[str]
    """The name in principals, and of the section of the configuration."""
    title: ClassVar[str]
    """The name as people write it."""
    capabilities: Capabilities
    keeps_answers: ClassVar[bool] = False
    """Whether an answer that could not be sent waits for the person's next word, as news does."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.log = logging.getLogger(f"adapters.{self.platform}")
        self.__undelivered: Waiting | None = None

    # -- what a platform does ----------------------------------------------------------------

    @abstractmethod
    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        """Post a message where everybody in that chat reads it.

        Raises:
            Refused: the platform does not take it.
        """

    @abstractmethod
    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        """Show `reply` to this principal and nobody else.

        Raises:
            PrivateDeliveryUnavailable: it cannot be done; nothing was posted anywhere.
            Refused: the platform does not take it.
        """

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        """Replace a message.

        Raises:
            EditWindowClosed: too late; the caller delivers anew.
            Refused: the platform does not take it.
        """
        raise EditWindowClosed

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Open the platform's own secret input. `trigger` is the live interaction and never stored.

        Raises:
            NotSupported: there is none; the question is delivered as every private answer is.
        """
        raise NotSupported

    async def ask_text(self, verb: str, trigger: object) -> None:
        """Open a form for what the command `verb` takes: an address, a code.

        Raises:
            NotSupported: there is none here.
        """
        raise NotSupported

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:  # noqa: B027 - few have a way
        """Show that an answer will take a while."""

    async def look_around(self, invocation: Invocation) -> Invocation:
        """Before an answer: `invocation` with who reads along, where the platform has to be asked for that."""
        return invocation

    # -- what a platform calls ---------------------------------------------------------------

    def principal(self, user: object) -> Principal:
        return Principal(self.platform, str(user))

    def is_allowed(self, principal: Principal) -> bool:
        return policy.is_allowed(principal, self.gateway.config.gateway)

    def pressed(self, data: str, principal: Principal) -> tuple[str | None, Words]:
        """The command behind a button of ours; or None, and what the one who pressed it is told."""
        if not buttons.is_for(data, principal):
            return None, sentences.BUTTON_NOT_YOURS
        return buttons.unpack(data, self.gateway.names()), sentences.BUTTON_OVER

    async def answer(self, invocation: Invocation, trigger: object = None) -> None:
        """Answer what arrived, whatever happens: what cannot be sent is in the log, and said where there is a way."""
        decision = self.gateway.decide(invocation, self.capabilities)
        if isinstance(decision, Ignored):
            return
        async with self.excused(invocation.principal, invocation.chat):
            if isinstance(decision, TextModal) and await self.__ask(self.ask_text(decision.verb, trigger)):
                return
            if isinstance(decision, Deferred):
                await self.acknowledge(invocation, trigger)
            invocation = await self.look_around(invocation)
            await self.run_invocation(invocation, trigger)
            if invocation.private:
                await self.tell_late(invocation.principal, invocation.chat)

    @asynccontextmanager
    async def excused(self, principal: Principal, chat: ChatRef) -> AsyncIterator[None]:
        """What goes wrong in here is one line in the log, and a sentence with its reference where nobody foresaw it."""
        try:
            yield
        except Refused as error:
            reference = secrets.token_hex(4) if type(error) is Refused else None
            self.note(error, principal, reference=reference)
        except Exception as error:  # noqa: BLE001 - the person waits for an answer, whatever happens here
            reference = error_reports.note(error)
        else:
            return
        if reference is None:
            return
        try:
            await self.deliver_private(principal, remark(sentences.unexpected(reference)), chat)
        except Refused as error:
            self.note(error, principal)

    def note(self, error: Refused, principal: Principal, what: str = "an answer", reference: str | None = None) -> None:
        """One line: `Discord: an answer to discord:1 was not delivered: no connection to Discord`."""
        verb = "not delivered" if isinstance(error, Later | PrivateDeliveryUnavailable) else "refused"
        why = f"{error}, reference {reference}" if reference else str(error)
        self.log.warning("%s: %s to %s was %s: %s", self.title, what, principal, verb, why)

    async def run_invocation(self, invocation: Invocation, trigger: object = None) -> bool:
        """Answer one invocation. Returns whether it went well (the last reply's `ok`).

        The first reply is sent, each later one replaces it. What is meant for the caller never goes to
        a chat that others read.

        Raises:
            Refused: the platform does not take an answer.
        """
        shown: _Shown | None = None
        ok = True
        async with aclosing(self.gateway.handle(invocation, self.capabilities)) as replies:
            async for reply in replies:
                ok = reply.ok
                if reply.prompt is not None and await self.__ask(self.ask_secret(reply.prompt, trigger)):
                    continue
                try:
                    shown = await self.__show(invocation, reply, shown)
                except PrivateDeliveryUnavailable as unavailable:
                    # Never the content: only that there is one, and how to get it. What would follow is not begun.
                    said = _public(unavailable.how or sentences.NOT_IN_PRIVATE, unavailable.way)
                    await self.reply(invocation.chat, said)
                    return False
                except (Refused, asyncio.CancelledError):
                    # Cancelled: the process ends while it tries again.
                    if self.keeps_answers and not _has_link(reply):
                        await self.undelivered.add(invocation.principal.user, reply, is_news=False)
                    raise
                self.gateway.delivered(invocation, shown.message)
        return ok

    async def take_secret(
        self, principal: Principal, chat: ChatRef, prompt_id: str, value: str, *, deleted: bool
    ) -> None:
        """Use the answer to a question for a secret, whose message should be gone from the chat by now."""
        reply = await self.gateway.submit_secret(principal, prompt_id, value)
        if not deleted:
            reply = replace(reply, blocks=(Text(sentences.SECRET_STAYS, tone="warning"), *reply.blocks))
        await self.deliver_private(principal, reply, chat)

    async def notify(self, notice: Notice) -> bool:
        """Bring a notice to its person or chat. Returns whether it arrived; what did not waits for the next word."""
        if notice.message is not None:
            try:
                await self.update(notice.message, notice.reply)
            except Refused as error:
                # The same news comes as a notice of its own.
                self.log.debug("a message can no longer be edited: %s", error)
            return True
        is_told = False
        try:
            is_told = await self.tell(notice) is not None
        except Refused as error:
            self.note(error, notice.principal, "a notice")
        finally:
            # Also when the process ends while it tries again.
            if not is_told:
                await self.undelivered.add(notice.principal.user, notice.reply, is_news=True)
        return is_told

    async def tell(self, notice: Notice) -> MessageRef | None:
        """Send the message of a notice. None: its person cannot be reached in private.

        Raises:
            Refused: the platform does not take it.
        """
        if notice.reply.audience is Audience.CHAT:
            try:
                return await self.reply(notice.chat, notice.reply)
            except Elsewhere as error:
                # Then to the one it is about.
                self.note(error, notice.principal, "a notice")
        try:
            # News for somebody who is in no chat with us right now names the platform only.
            via = notice.chat if notice.chat.data else None
            return await self.deliver_private(notice.principal, notice.reply, via)
        except PrivateDeliveryUnavailable as unavailable:
            if notice.reply.summary and notice.chat.data:
                await self.reply(notice.chat, _public(notice.reply.summary, unavailable.way))
            return None

    async def give_up(self, principal: Principal, reply: Reply, is_news: bool, error: Refused) -> None:
        """The platform took a message and says now that it cannot be delivered: it waits for the person's next word."""
        self.note(error, principal, "a notice" if is_news else "an answer")
        if not _has_link(reply):
            await self.undelivered.add(principal.user, reply, is_news=is_news)

    async def tell_late(self, principal: Principal, chat: ChatRef, *also_known_as: str) -> None:
        """What could not be told before, now that there is a way to tell it. It waits on until it arrived."""
        if not self.is_allowed(principal):
            return
        news, answers = await self.undelivered.take(*dict.fromkeys((principal.user, *also_known_as)))
        if not news and not answers:
            return
        # Without the beginning of what was late already.
        blocks = (block for reply in (*news, *answers) for block in reply.blocks if block != _SENT_LATE)
        is_told = False
        try:
            await self.deliver_private(principal, Reply((_SENT_LATE, *blocks), audience=Audience.CALLER), chat)
            is_told = True
        finally:
            for reply in () if is_told else (*news, *answers):
                await self.undelivered.add(principal.user, reply, is_news=reply in news)

    @property
    def undelivered(self) -> Waiting:
        """What waits for a person's next word."""
        if self.__undelivered is None:
            self.__undelivered = Waiting(self.gateway.backend, self.platform)
        return self.__undelivered

    # -- the driver's own --------------------------------------------------------------------

    async def __ask(self, asking: Awaitable[None]) -> bool:
        try:
            await asking
        except NotSupported:
            return False
        return True

    async def __show(self, invocation: Invocation, reply: Reply, shown: _Shown | None) -> _Shown:
        for_all = reply.audience is Audience.CHAT or invocation.private
        # What everybody reads is never edited into something for one of them.
        if shown is not None and (for_all or not shown.public):
            try:
                return _Shown(await self.update(shown.message, reply), shown.public)
            except EditWindowClosed:
                return await self.__private(invocation, reply)
        if for_all:
            try:
                return _Shown(await self.reply(invocation.chat, reply), public=not invocation.private)
            except Elsewhere as error:
                if invocation.private:
                    raise
                # A read-only room, a closed topic: whoever asked is answered all the same.
                self.note(error, invocation.principal)
                reply = replace(reply, blocks=(Text(sentences.ROOM_CLOSED), *reply.blocks), summary=None)
        return await self.__private(invocation, reply)

    async def __private(self, invocation: Invocation, reply: Reply) -> _Shown:
        message = await self.deliver_private(invocation.principal, reply, invocation.chat)
        if reply.summary and not invocation.private and not self.capabilities.ephemeral:
            try:
                await self.reply(invocation.chat, _public(reply.summary))
            except Refused as error:
                # The private answer goes on.
                self.note(error, invocation.principal, "a public word")
        return _Shown(message, public=False)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where the last reply stands. `public`: others read it too."""

    message: MessageRef
    public: bool


def remark(said: Said) -> Reply:
    """One sentence for the person who did something here that leads nowhere."""
    return Reply((text(said, "warning"),), audience=Audience.CALLER, ok=False)


def _public(words: Words, way: Button | None = None) -> Reply:
    return Reply((Text(words),), buttons=(way,) if way is not None else ())


def _has_link(reply: Reply) -> bool:
    """A link would be over by the time of the next word, and the person asks again anyway."""
    return any(isinstance(block, Checklist) and any(item.link for item in block.items) for block in reply.blocks)
