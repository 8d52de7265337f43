"""What an adapter inherits: the driver, and the process around a platform."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

from adapters import log_filters
from adapters.driver import Driver
from adapters.refusals import Later, Refused
from adapters.symbols import BAD, WARN
from adapters.tasks import Tasks
from gateway.surfaces import Words, in_shell
from mcp_auth.config.models import Settings
from mcp_auth.errors import McpAuthError, sentence
from mcp_auth.outcome import Next, Step

if TYPE_CHECKING:
    from gateway.gateway import Gateway

# Longer than this nobody waits for an answer; the next command is answered anew.
LONGEST_PAUSE = 120.0

Sleep = Callable[[float], Awaitable[None]]
Options = TypeVar("Options", bound=Settings)
T = TypeVar("T")


class Finding(NamedTuple):
    """One line of `slash-mcp doctor`: GOOD, WARN or BAD, a sentence, and what to do."""

    mark: str
    words: Words
    next_step: Step | None = None

    @classmethod
    def of(cls, error: McpAuthError, mark: str = BAD) -> Finding:
        return cls(mark, sentence(error.text), error.next_step)

    @property
    def text(self) -> str:
        """As it is read on the command line."""
        return in_shell(self.words, self.next_step)


class Adapter(Driver, Generic[Options]):
    """`/mcp` on one platform. A subclass holds its platform and nothing else.

    What arrives becomes an `Invocation` and goes to `answer`, in a task of `spawn`. What goes out arrives at `reply`,
    `deliver_private`, `update` and `ask_secret`. `open` and `receive` are what `run` is made of; `install`, where there
    is one, puts the adapter into an application of somebody else, and calls `attach`.

    Args:
        options: instead of the section of the configuration.
        sleep: waits that many seconds.
        clock: seconds since the epoch.
    """

    options_type: type[Options]
    failures: ClassVar[tuple[type[Exception], ...]] = ()
    """What the platform's library raises; `refusal` says what it means."""
    pauses: ClassVar[tuple[float, ...]] = ()
    """Seconds between the tries of `attempt`, where the platform names none."""
    wire: ClassVar[tuple[str, ...]] = ()
    """Loggers that write whole messages at DEBUG."""
    talkative: ClassVar[tuple[str, ...]] = ()
    """Loggers that have a line for every request at INFO: kept short in a process of our own."""
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
        super().__init__(gateway)
        self.sleep = sleep
        self.clock = clock
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
        for name in self.talkative:
            logging.getLogger(name).setLevel(logging.WARNING)
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
            return [self.__finding(self.refusal(error))]
        except McpAuthError as error:
            return [self.__finding(error)]
        if not any(one.startswith(f"{self.platform}:") for one in self.gateway.config.gateway.allow):
            how = f"write /mcp to the bot in private, then `{{}}`; or add {self.platform}:ID to gateway.allow"
            step = Next("allow", arguments=("CODE",), on_host=True, around=how)
            findings.append(Finding(WARN, "nobody is served here yet", step))
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

    def __finding(self, error: McpAuthError) -> Finding:
        return Finding.of(error, self.outage if isinstance(error, Later) else BAD)
