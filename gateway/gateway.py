"""The composition root: everything an adapter talks to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from gateway import error_reports
from gateway.dispatcher import Dispatcher
from gateway.grammar import looks_like_redirect
from gateway.invocations import LOCAL, Capabilities, Invocation, MessageRef, Principal
from gateway.pairing import Pairing
from gateway.people import People
from gateway.policy import GatewayPolicy, is_allowed
from gateway.privacy import Privacy
from gateway.replies import Audience, Decision, Notice, Reply
from gateway.sign_ins import SignInWatcher
from gateway.surfaces import in_chat
from mcp_auth.config.load import load
from mcp_auth.config.models import Config, Settings
from mcp_auth.errors import ConfigError, McpAuthError, StoreError
from mcp_auth.links.logins import Logins

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mcp_auth.links.logins import BrowserLogin
    from mcp_auth.stores.base import Backend, Store

_log = logging.getLogger("gateway")
_WARM = ("mcp.client.auth", "mcp.client.streamable_http", "httpx2")
_DRAIN_SECONDS = 5.0
# How soon a running gateway knows whom another process let in or shut out, when nobody writes meanwhile.
_PEOPLE_SECONDS = 1.0
Options = TypeVar("Options", bound=Settings)


class Gateway:
    """Answers `/mcp`. Starts with `async with`, or by itself with the first invocation.

    Args:
        config: a loaded configuration; `from_config` reads one.
        store: where grants are kept, instead of the files of the home.
        alone: for one command of the operator at this machine: nobody else is served, and neither the redirects nor the
            ends of other people's sign-ins are looked after.

    Raises:
        ConfigError: the configuration is not made for as many people as are let in.
        StoreError: the file of those people is damaged.
    """

    def __init__(
        self,
        config: Config,
        *,
        store: Store | None = None,
        alone: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from mcp_auth.core import McpAuth, default_store

        store = store or default_store(config)
        self.people = People(config, clock, backend=store.backend)
        if not alone:
            self.people.check()
        self._alone = alone
        self._logins = Logins(config.gateway, in_chat)
        policy = GatewayPolicy(self.people)
        # Knows servers and sign-ins; closed together with the gateway.
        self.auth = auth = McpAuth.open(config, store=store, policy=policy, logins=self._logins, clock=clock)
        self._privacy = Privacy(config)
        self._watcher = SignInWatcher(auth, self._emit, self._reaches, self._serves, clock)
        self._pairing = Pairing(self.people, auth.limits, clock)
        self._dispatcher = Dispatcher(auth, self._watcher, self.people, self._pairing, clock)
        self._people_watch: asyncio.Task[None] | None = None
        self._subscriptions: list[_Subscription] = []
        self._starting: asyncio.Lock | None = None
        self._started = False
        self._stopped = False

    @classmethod
    def from_config(cls, config: Config | str | Path | None = None, *, home: str | Path | None = None) -> Gateway:
        """Read the configuration (a path, or `<home>/config.yaml`). No network, no file written.

        Raises:
            ConfigError: the file cannot be read, or its `gateway:` section is wrong.
            StoreError: the file of the people who were let in is damaged.
        """
        return cls(config if isinstance(config, Config) else load(config, home))

    @property
    def config(self) -> Config:
        """With the people of this moment in `gateway.allow`."""
        return self.people.config

    @property
    def backend(self) -> Backend:
        """Where an adapter keeps what has to outlive this process, in records of kinds of its own."""
        return self.auth.store.backend

    def platform_options(self, platform: str, model: type[Options]) -> Options:
        """The section `gateway.<platform>` as `model`, its placeholders replaced by what they stand for now.

        Raises:
            ConfigError: a key is missing or of another kind, or a variable has no value.
        """
        return self.auth.platform_options(platform, model)

    def asgi_app(self, prefix: str = "") -> ASGIApp:
        """The endpoint, to be mounted in a Starlette or FastAPI application: `app.mount("/mcp", gateway.asgi_app())`.

        The gateway starts with the first request; run it alone (`uvicorn module:app`) and it follows the lifespan.

        Args:
            prefix: the path under which it is reached when the server around it does not take it off.

        Raises:
            ConfigError: `gateway.public_url` is not set.
        """
        return _Started(self, self.auth.asgi_app(prefix))

    def verify_browser(self, verify: Callable[[Request], Awaitable[Principal | None]]) -> None:
        """Let `verify` say who sits at a browser: the principal of its own session, or None for nobody.

        Somebody else than the person who asked in the chat ends the sign-in.
        """

        async def identity(request: Request) -> str | None:
            principal = await verify(request)
            return None if principal is None else str(principal)

        self._logins.verify_by(identity)

    def verify_by_login(self, platform: str, login: BrowserLogin) -> None:
        """Offer this platform's own login on the page, beside the code or instead of it (`gateway.verify`)."""
        self._logins.add(platform, login)

    def carry_codes(self, platform: str, link: Callable[[str], str]) -> None:
        """Let the page's button carry its code into this platform's chat: `link(code)` is what the button opens.

        The platform's adapter turns what arrives there into `review-code CODE`, in private: it says what the code is
        for, and has a button that confirms. A link can be sent to anybody, so opening one confirms nothing.
        """
        self._logins.carry_codes(platform, link)

    def mount(self, path: str, app: ASGIApp) -> str:
        """Serve `app` below `path` of the endpoint, e.g. `/hooks/whatsapp`. Returns its public URL.

        `app` sees the whole path; the last one mounted at a path answers there.

        Raises:
            ConfigError: there is no `gateway.public_url`, so nobody could call it.
        """
        if self.config.gateway.public_url is None:
            raise ConfigError(
                f"{path} has to be reached from the internet, and gateway.public_url is not set.",
                key="gateway.public_url",
                next_step="set gateway.public_url to the https address of this host",
            )
        self.auth.mount(path, app)
        return f"{self.config.gateway.public_url}{path}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, *, warm: bool = True) -> None:
        """Listen again for the sign-ins that are open, and watch them. Safe to call twice.

        Args:
            warm: import the MCP SDK now (about a second, in a thread, waited for), so that the first link does not
                pay for it. False: whoever needs it first does.
        """
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if self._started or self._stopped:
                return
            if self._alone:
                await self._watcher.start(alone=True)
                self._started = True
                return
            if warm:
                # Waited for: an import in a second thread, while this one imports too, can fail with a deadlock error.
                await asyncio.to_thread(_warm)
            try:
                await self.auth.resume()
            except McpAuthError as error:
                # Listing, keys and pasting work without a listener; the next sign-in says what is wrong.
                _log.warning("open sign-ins have no listener: %s", error)
            await self._watcher.start()
            self._people_watch = asyncio.create_task(self._watch_people(), name="people watch")
            self._started = True

    async def stop(self) -> None:
        """Stop everything; open sign-ins stay in the store. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        if self._people_watch is not None:
            self._people_watch.cancel()
            await asyncio.gather(self._people_watch, return_exceptions=True)
        await self._watcher.stop()
        self._dispatcher.close()
        await asyncio.gather(*(subscription.stop() for subscription in self._subscriptions))
        await self.auth.close()

    async def handle(
        self, invocation: Invocation, capabilities: Capabilities | None = None
    ) -> AsyncGenerator[Reply, None]:
        """The replies to one invocation: the first at once, from local state; each later one replaces it."""
        await self.start(warm=False)
        async with aclosing(self._dispatcher.handle(invocation, capabilities or Capabilities())) as replies:
            async for reply in replies:
                yield reply if invocation.principal == LOCAL else self._privacy.reply(reply)

    def decide(self, invocation: Invocation, capabilities: Capabilities | None = None) -> Decision:
        """What the platform has to do first. Pure, from memory."""
        return self._dispatcher.decide(invocation, capabilities or Capabilities())

    async def submit_secret(self, principal: Principal, prompt_id: str, value: str) -> Reply:
        """The answer to a `SecretPrompt`, from the platform's own secret input."""
        await self.start(warm=False)
        reply = await self._dispatcher.submit_secret(principal, prompt_id, value)
        return reply if principal == LOCAL else self._privacy.reply(reply)

    def delivered(self, invocation: Invocation, message: MessageRef) -> None:
        """Tell where the replies to `invocation` now stand, so that they can be edited later."""
        self._watcher.delivered(invocation, message)

    async def claims(self, text: str) -> bool:
        """Is this bare text the address of one of our sign-ins, so that nobody else should read it?"""
        if not looks_like_redirect(text):
            return False
        try:
            return await self.auth.claims(text)
        except StoreError:
            # Nobody can tell whose it is now: better that nobody else reads it, and the answer says why.
            return True

    async def settled(self, timeout: float) -> bool:
        """Wait until no sign-in that was begun here is open and every notice about one is delivered.

        Args:
            timeout: seconds; after them the answer is False.
        """
        deadline = time.monotonic() + timeout
        while not (self._watcher.is_idle and all(one.is_idle for one in self._subscriptions)):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.1)
        return True

    def names(self) -> tuple[str, ...]:
        """The servers' names, for completion."""
        return tuple(self.config.servers)

    def subscribe(self, platform: str, callback: Callable[[Notice], Awaitable[object]]) -> Callable[[], None]:
        """Send this platform's notices to `callback`, one after the other. Returns the undo."""
        subscription = _Subscription(platform, callback)
        self._subscriptions.append(subscription)

        def undo() -> None:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)

        return undo

    async def _watch_people(self) -> None:
        while True:
            await asyncio.sleep(_PEOPLE_SECONDS)
            self.people.refresh()

    def _serves(self, principal: Principal) -> bool:
        self.people.refresh()
        return is_allowed(principal, self.config.gateway)

    def _reaches(self, platform: str) -> bool:
        return any(one.platform == platform for one in self._subscriptions)

    def _emit(self, notice: Notice) -> list[asyncio.Future[None]]:
        """Hand a notice to its platform's adapters. Returns what is done when each has sent it, or has said why not."""
        private = notice.reply.audience is Audience.CALLER
        if private and not is_allowed(notice.principal, self.config.gateway):
            # Shut out since: what they began is no longer theirs to hear of.
            return []
        if notice.principal != LOCAL:
            notice = self._privacy.notice(notice)
        return [one.put(notice) for one in self._subscriptions if one.platform == notice.chat.platform]


class _Started:
    """The endpoint of a gateway that starts with the first request, or with the server around it."""

    def __init__(self, gateway: Gateway, app: ASGIApp) -> None:
        self._gateway = gateway
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        await self._gateway.start(warm=False)
        await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._gateway.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self._gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


@dataclass(eq=False, slots=True)
class _Subscription:
    """One adapter's notices, in order: an edit must not overtake the one before it."""

    platform: str
    callback: Callable[[Notice], Awaitable[object]]
    waiting: list[tuple[Notice, asyncio.Future[None]]] = field(default_factory=list)
    sender: asyncio.Task[None] | None = None

    @property
    def is_idle(self) -> bool:
        return not self.waiting and (self.sender is None or self.sender.done())

    def put(self, notice: Notice) -> asyncio.Future[None]:
        sent = asyncio.get_running_loop().create_future()
        self.waiting.append((notice, sent))
        if self.sender is None or self.sender.done():
            self.sender = asyncio.create_task(self._send())
        return sent

    async def stop(self) -> None:
        if self.sender is None:
            return
        await asyncio.wait({self.sender}, timeout=_DRAIN_SECONDS)
        self.sender.cancel()
        await asyncio.gather(self.sender, return_exceptions=True)

    async def _send(self) -> None:
        while self.waiting:
            notice, sent = self.waiting.pop(0)
            try:
                await self.callback(notice)
            except Exception as error:  # noqa: BLE001 - one platform's failure must not cost it the next notice
                error_reports.note(error)
            finally:
                if not sent.done():
                    sent.set_result(None)


def _warm() -> None:
    for name in _WARM:
        import_module(name)
