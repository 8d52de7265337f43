"""What an adapter inherits: the driver, which holds all that is the same on every platform."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from adapters import buttons, log_filters
from adapters.refusals import EditWindowClosed, Later, NotSupported, PrivateDeliveryUnavailable, Refused
from adapters.symbols import BAD, WARN
from adapters.tasks import Tasks
from adapters.waiting import Waiting
from gateway import error_reports, policy, sentences
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Audience, Button, Checklist, Deferred, Ignored, Notice, Reply, SecretPrompt, Text, TextModal
from mcp_auth.config.models import Settings
from mcp_auth.errors import McpAuthError

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_SENT_LATE = Text(sentences.SENT_LATE)
# Longer than this nobody waits for an answer; the next command is answered anew.
LONGEST_PAUSE = 120.0

Sleep = Callable[[float], Awaitable[None]]
Options = TypeVar("Options", bound=Settings)
T = TypeVar("T")


class Finding(NamedTuple):
    """One line of `slash-mcp doctor`: GOOD, WARN or BAD, and a sentence with what to do."""

    mark: str
    text: str


class Adapter(ABC, Generic[Options]):
    """`/mcp` on one platform. A subclass holds its platform and nothing else.

    What arrives becomes an `Invocation` and goes to `answer`, in a task of `spawn`. What goes out arrives at `reply`,
    `deliver_private`, `update` and `ask_secret`. `open` and `receive` are what `run` is made of; `install`, where there
    is one, puts the adapter into an application of somebody else, and calls `attach`.

    Args:
        options: instead of the section of the configuration.
        sleep: waits that many seconds.
        clock: seconds since the epoch.
    """

    platform: ClassVar[str]
    """The name in principals, and of the section of the configuration."""
    title: ClassVar[str]
    """The name as people write it."""
    options_type: type[Options]
    capabilities: Capabilities
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    """What the platform's library raises; `refusal` says what it means."""
    pauses: ClassVar[tuple[float, ...]] = ()
    """Seconds between the tries of `attempt`, where the platform names none."""
    wire: ClassVar[tuple[str, ...]] = ()
    """Loggers that write whole messages at DEBUG."""
    keeps_answers: ClassVar[bool] = False
    """Whether an answer that could not be sent waits for the person's next word, as news does."""
    call_seconds: ClassVar[float | None] = None
    """For one try of `attempt`, where the library itself has no end."""
    drain: ClassVar[float] = 5.0
    """Seconds that `stop` gives to what is being answered."""
    outage: ClassVar[str] = BAD
    """How `slash-mcp doctor` marks a platform that does not answer."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        options: Options | None = None,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.gateway = gateway
        self.sleep = sleep
        self.clock = clock
        self.log = logging.getLogger(f"adapters.{self.platform}")
        self.__options = options
        self.__tasks = Tasks(drain=self.drain)
        self.undo: list[Callable[[], object]] = []

    # -- for a program around it -------------------------------------------------------------

    async def run(self) -> None:
        """The platform in a process of our own, until cancelled.

        Raises:
            ConfigError: the configuration cannot be used, or the platform refuses the token.
            Unreachable: the platform does not answer.
        """
        async with self.connected():
            await self.receive()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Able to send and told of notices, and receiving nothing: what any process needs that only delivers.

        Raises:
            ConfigError, Unreachable: as `run`.
        """
        try:
            async with self.open():
                try:
                    yield
                finally:
                    # While the connections are still there.
                    await self.stop()
        except self.failures as error:
            raise self.refusal(error) from None

    async def check(self) -> list[Finding]:
        """For `slash-mcp doctor`: what is wrong, and what to do. Never raises."""
        try:
            findings = await self.examine()
        except self.failures as error:
            return [self.__found(self.refusal(error))]
        except McpAuthError as error:
            return [self.__found(error)]
        if not any(one.startswith(f"{self.platform}:") for one in self.gateway.config.gateway.allow):
            how = f"write /mcp to the bot in private, then `slash-mcp allow CODE`; or add {self.platform}:ID"
            findings.append(Finding(WARN, f"nobody is served here yet. Next: {how} to gateway.allow"))
        return findings

    async def stop(self) -> None:
        """Take no more messages and notices, and end what is being answered. Safe to call twice.

        Open sign-ins stay open.
        """
        self.detach()
        await self.__tasks.stop()

    async def idle(self) -> None:
        """Wait until everything that was begun is done."""
        await self.__tasks.idle()

    # -- what a platform is ------------------------------------------------------------------

    def open(self) -> AbstractAsyncContextManager[object]:
        """Log in and `attach`, so that messages can be sent; receive nothing."""
        raise NotImplementedError

    async def receive(self) -> None:
        """Take what people write, until cancelled. Raises what ends it."""
        raise NotImplementedError

    async def examine(self) -> list[Finding]:
        """For `check`. May raise what `run` raises."""
        return []

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

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:
        """Show that an answer will take a while."""

    async def look_around(self, invocation: Invocation) -> Invocation:
        """Before an answer: `invocation` with who reads along, where the platform has to be asked for that."""
        return invocation

    def refusal(self, error: Exception) -> Refused:
        """What an error of `failures` means, without its own text, which may hold a token."""
        return Refused(f"{type(error).__name__}")

    # -- what a platform calls ---------------------------------------------------------------

    @property
    def options(self) -> Options:
        """Raises ConfigError: the section is incomplete."""
        if self.__options is None:
            self.__options = self.gateway.platform_options(self.platform, self.options_type)
        return self.__options

    def attach(self, *undo: Callable[[], object]) -> None:
        """Take notices from now on. `stop` calls everything in `undo`, the last one first.

        Raises:
            RuntimeError: it is attached already.
        """
        if self.undo:
            raise RuntimeError("this adapter is installed already; make another one for another application")
        log_filters.hide_payloads(*self.wire)
        self.undo = [self.gateway.subscribe(self.platform, self.notify), *undo]

    def detach(self) -> None:
        """Undo what there is to `undo`, `attach` too."""
        while self.undo:
            self.undo.pop()()

    def spawn(self, work: Awaitable[object]) -> asyncio.Task[None]:
        """Begin what nobody waits for. What goes wrong in it is in the log."""
        return self.__tasks.start(work)

    def spawn_nicety(self, call: Callable[[], Awaitable[object]]) -> None:
        """Begin, once, what is nice to have: the answer comes anyway."""

        async def nice() -> None:
            try:
                await self.attempt(call, pauses=())
            except Refused as error:
                self.log.debug("not done: %s", error)

        self.spawn(nice())

    async def attempt(self, call: Callable[[], Awaitable[T]], *, pauses: Sequence[float] | None = None) -> T:
        """What `call` gives, tried again where that helps, once for each of `pauses` (those of the class).

        Raises:
            Refused: it was refused, or failed to the end.
        """
        left = list(self.pauses if pauses is None else pauses)
        tries = len(left) + 1
        while True:
            tries -= 1
            try:
                async with asyncio.timeout(self.call_seconds):
                    return await call()
            except self.failures as error:
                refusal = self.refusal(error)
            if not tries or not isinstance(refusal, Later):
                raise refusal
            wait = left.pop(0) if refusal.wait is None else refusal.wait
            if wait > LONGEST_PAUSE:
                raise refusal
            await self.sleep(wait)

    def principal(self, user: object) -> Principal:
        return Principal(self.platform, str(user))

    def is_allowed(self, principal: Principal) -> bool:
        return policy.is_allowed(principal, self.gateway.config.gateway)

    def pressed(self, data: str, principal: Principal) -> tuple[str | None, str]:
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
            if isinstance(decision, TextModal) and await self.__is_asked(self.ask_text(decision.verb, trigger)):
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
                if reply.prompt is not None and await self.__is_asked(self.ask_secret(reply.prompt, trigger)):
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
                        self.undelivered.add(invocation.principal.user, reply, is_news=False)
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
                self.undelivered.add(notice.principal.user, notice.reply, is_news=True)
        return is_told

    async def tell(self, notice: Notice) -> MessageRef | None:
        """Send the message of a notice. None: its person cannot be reached in private.

        Raises:
            Refused: the platform does not take it.
        """
        if notice.reply.audience is Audience.CHAT:
            return await self.reply(notice.chat, notice.reply)
        try:
            # News for somebody who is in no chat with us right now names the platform only.
            via = notice.chat if notice.chat.data else None
            return await self.deliver_private(notice.principal, notice.reply, via)
        except PrivateDeliveryUnavailable as unavailable:
            if notice.reply.summary and notice.chat.data:
                await self.reply(notice.chat, _public(notice.reply.summary, unavailable.way))
            return None

    def give_up(self, principal: Principal, reply: Reply, is_news: bool, error: Refused) -> None:
        """The platform took a message and says now that it cannot be delivered: it waits for the person's next word."""
        self.note(error, principal, "a notice" if is_news else "an answer")
        if not _has_link(reply):
            self.undelivered.add(principal.user, reply, is_news=is_news)

    async def tell_late(self, principal: Principal, chat: ChatRef, *also_known_as: str) -> None:
        """What could not be told before, now that there is a way to tell it. It waits on until it arrived."""
        if not self.is_allowed(principal):
            return
        news, answers = self.undelivered.take(*dict.fromkeys((principal.user, *also_known_as)))
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
                self.undelivered.add(principal.user, reply, is_news=reply in news)

    @property
    def undelivered(self) -> Waiting:
        """What waits for a person's next word."""
        if self.__undelivered is None:
            self.__undelivered = Waiting(self.gateway.config.home / self.platform)
        return self.__undelivered

    # -- the driver's own: two underscores, so that no adapter has another thing of that name -----

    __undelivered: Waiting | None = None

    async def __is_asked(self, asking: Awaitable[None]) -> bool:
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
            return _Shown(await self.reply(invocation.chat, reply), public=not invocation.private)
        return await self.__private(invocation, reply)

    async def __private(self, invocation: Invocation, reply: Reply) -> _Shown:
        message = await self.deliver_private(invocation.principal, reply, invocation.chat)
        if reply.summary and not invocation.private and not self.capabilities.ephemeral:
            await self.reply(invocation.chat, _public(reply.summary))
        return _Shown(message, public=False)

    def __found(self, error: McpAuthError) -> Finding:
        return Finding(self.outage if isinstance(error, Later) else BAD, str(error))


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where the last reply stands. `public`: others read it too."""

    message: MessageRef
    public: bool


def remark(text: str) -> Reply:
    """One sentence for the person who did something here that leads nowhere."""
    return Reply((Text(text, tone="warning"),), audience=Audience.CALLER, ok=False)


def _public(text: str, way: Button | None = None) -> Reply:
    return Reply((Text(text),), buttons=(way,) if way is not None else ())


def _has_link(reply: Reply) -> bool:
    """A link would be over by the time of the next word, and the person asks again anyway."""
    return any(isinstance(block, Checklist) and any(item.link for item in block.items) for block in reply.blocks)
