"""WhatsApp as a chat platform: one-to-one messages through the Cloud API."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
from pywa_async import WhatsApp
from pywa_async.errors import WhatsAppError
from pywa_async.handlers import (
    CallbackButtonHandler,
    CallbackSelectionHandler,
    Handler,
    MessageHandler,
    MessageStatusHandler,
)
from pywa_async.types import BusinessPhoneNumber, CallbackButton, CallbackSelection, Message, MessageStatus
from pywa_async.types.message_status import MessageStatusType
from starlette.routing import Route

from adapters import buttons
from adapters.base import Adapter, Finding, Sleep
from adapters.driver import remark
from adapters.refusals import Later, Misconfigured, Refused
from adapters.symbols import BAD, GOOD, WARN
from adapters.whatsapp.incoming import PLATFORM, Incoming, Update, read
from adapters.whatsapp.options import WhatsAppOptions
from adapters.whatsapp.render import TEXT_MAX, URL_MAX, render
from adapters.whatsapp.sending import FAILURES, refusal_of, tappable
from adapters.whatsapp.webhook import Webhook
from gateway import grammar, sentences
from gateway.bounded_dict import BoundedDict
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Notice, Reply
from mcp_auth.errors import ConfigError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from gateway.gateway import Gateway

WEBHOOK = "/hooks/whatsapp"
_NEEDED = ("whatsapp_business_messaging",)
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
# At INFO all have a line for every message.
_PYWA = ("pywa", "pywa_async")
# Ahead of the host's own handlers, so that an agent behind them reads nothing of ours.
_FIRST = 1000
_WATCHED = 1000


class WhatsAppAdapter(Adapter[WhatsAppOptions]):
    """`/mcp` in WhatsApp."""

    platform = PLATFORM
    title = "WhatsApp"
    options_type = WhatsAppOptions
    # Every answer goes to the one person, so nothing is ever said in public ("ephemeral").
    capabilities = Capabilities(edit_window=0, ephemeral=True, text_max=TEXT_MAX, button_url_max=URL_MAX)
    failures = FAILURES
    # Meta's advice for the pair rate limit: 4^n seconds.
    pauses = (1.0, 4.0, 16.0)
    wire = ("pywa.api", "pywa.server", "pywa.handlers", "pywa.helpers")
    talkative = ("httpx", "httpcore")
    # A business may write freely only within 24 hours of the person's last message.
    keeps_answers = True
    outage = WARN
    _client: WhatsApp | None = None
    _session: httpx.AsyncClient | None = None

    def __init__(
        self, gateway: Gateway, *, options: WhatsAppOptions | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        super().__init__(gateway, options=options, sleep=sleep)
        # Messages that WhatsApp took, by id, until they are on the person's phone; and whether they are news.
        self._watched: BoundedDict[str, tuple[Principal, Reply, bool]] = BoundedDict(_WATCHED)
        self._token_refused: asyncio.Future[Misconfigured] | None = None

    # -- the two ways to run -----------------------------------------------------------------

    def install(self, app: WhatsApp | Starlette, *, path: str = WEBHOOK) -> None:
        """Put `/mcp` into a pywa client that somebody else built, ahead of its own handlers.

        The gateway starts with the first message. `await stop()` ends it here, and `gateway.stop()` everywhere.

        Args:
            app: a `pywa_async.WhatsApp` that checks signatures; or a Starlette or FastAPI application, which then gets
                a webhook at `path`, for the number in `gateway.whatsapp`.

        Raises:
            ConfigError: the client does not check who sends its updates, or is not asynchronous.
            RuntimeError: it is installed already.
        """
        if isinstance(app, WhatsApp):
            _check_client(app)
            self._listen(app)
            return
        client, self._session = self._connect()
        # Ahead of a catch-all of the host's.
        app.router.routes.insert(0, Route(path, Webhook(client)))
        self._listen(client)

    async def stop(self) -> None:
        await super().stop()
        if self._session is not None:
            await self._session.aclose()
            self._session = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        client, self._session = self._connect()
        self._listen(client)
        yield

    async def receive(self) -> None:
        """A webhook on the gateway's own endpoint. Ends when WhatsApp refuses the token."""
        client = self._installed
        hook = Webhook(client)
        url = self.gateway.mount(WEBHOOK, hook)
        self._token_refused = asyncio.get_running_loop().create_future()
        try:
            try:
                number = await self._number(client)
            except Later as error:
                self.log.warning("%s; webhook: %s", error.message, url)
            else:
                self.gateway.carry_codes(PLATFORM, functools.partial(_code_link, number))
                self.log.info("%s; webhook: %s", _answers_for(number), url)
            # Whoever runs this makes the adapter anew then, with the token that is in .env by that time.
            raise await self._token_refused
        finally:
            # Meta tries again later, when somebody answers.
            hook.is_open = False

    async def claims(self, message: Any) -> bool:
        """Is this message or press ours, so that the host should not look at it?

        For listeners and raw update handlers, which pywa asks beside any handler.
        """
        if not isinstance(message, Message | CallbackButton | CallbackSelection):
            return False
        return await self._is_ours(read(message, self.gateway.config.gateway))

    async def examine(self) -> list[Finding]:
        client, session = self._connect()
        async with session:
            number = await self._number(client)
            findings = [Finding(GOOD, _answers_for(number)), *await self._rights(number, session)]
        if self.gateway.config.gateway.public_url is None:
            findings.append(Finding(BAD, "WhatsApp calls us, and gateway.public_url is not set", "set it"))
        return findings

    def refusal(self, error: Exception | None) -> Refused:
        refusal = refusal_of(error)
        waits = self._token_refused
        if isinstance(refusal, Misconfigured) and waits is not None and not waits.done():
            waits.set_result(refusal)
        return refusal

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        client, owner = self._installed, self.principal(chat.data["user"])
        pack = functools.partial(buttons.pack, owner=owner, servers=self.gateway.names())
        sent = ""
        for message in render(reply, now=self.clock(), pack=pack):
            send = functools.partial(client.send_message, chat.data["to"], message.body, footer=message.footer)
            sent = str((await self.attempt(functools.partial(send, buttons=tappable(message)))).id)
            self._watched[sent] = (owner, reply, False)
        return MessageRef(PLATFORM, {"id": sent})

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self.reply(via or ChatRef(PLATFORM, {"to": principal.user, "user": principal.user}), reply)

    async def tell(self, notice: Notice) -> MessageRef | None:
        sent = await super().tell(notice)
        if sent is not None and sent.data["id"] in self._watched:
            self._watched[sent.data["id"]] = (notice.principal, notice.reply, True)
        return sent

    async def acknowledge(self, invocation: Invocation, trigger: object) -> None:
        """Read, and three dots for at most 25 seconds."""
        self.spawn_nicety(functools.partial(self._installed.indicate_typing, invocation.event_id))

    # -- what arrives ------------------------------------------------------------------------

    def _listen(self, client: WhatsApp) -> None:
        self.attach()
        self._client = client
        handlers: tuple[Handler[Any], ...] = (
            MessageHandler(self._on_update, priority=_FIRST),
            CallbackButtonHandler(self._on_update, priority=_FIRST),
            CallbackSelectionHandler(self._on_update, priority=_FIRST),
            MessageStatusHandler(self._on_status, priority=_FIRST),
        )
        client.add_handlers(*handlers)
        self.undo.append(lambda: client.remove_handlers(*handlers, silent=True))

    async def _on_update(self, client: Any, update: Update) -> None:
        """Quick: the work goes into a task, because pywa answers Meta when its handlers are done."""
        incoming = read(update, self.gateway.config.gateway)
        # Whoever writes can be written to again for 24 hours.
        self.spawn(self.tell_late(incoming.principal, incoming.chat, *incoming.also))
        if not await self._is_ours(incoming):
            update.continue_handling()
        self.spawn(self._answer(incoming))
        update.stop_handling()

    async def _is_ours(self, incoming: Incoming) -> bool:
        if incoming.button is not None:
            return buttons.is_ours(incoming.button)
        if incoming.text is None or grammar.after_prefix(incoming.text) is not None:
            return incoming.text is not None
        return await self.gateway.claims(incoming.text)

    async def _answer(self, incoming: Incoming) -> None:
        text = incoming.text or ""
        if incoming.button is not None:
            asked, why = self.pressed(incoming.button, incoming.principal)
            # A forwarded message keeps its buttons. Strangers are the gateway's to answer.
            if why == sentences.BUTTON_NOT_YOURS and self.is_allowed(incoming.principal):
                await self.reply(incoming.chat, remark(why))
                return
            # A server that is gone: the list shows what there is.
            text = asked or "list"
        await self.answer(
            Invocation(incoming.principal, incoming.chat, text, incoming.private, incoming.id, incoming.name)
        )

    async def _on_status(self, client: Any, status: MessageStatus[Any]) -> None:
        """WhatsApp took a message, and says now what became of it."""
        if status.status in (MessageStatusType.FAILED, MessageStatusType.DELIVERED, MessageStatusType.READ):
            watched = self._watched.pop(status.id, None)
            if watched is not None and status.status is MessageStatusType.FAILED:
                await self.give_up(*watched, self.refusal(status.error))
        status.continue_handling()

    # -- the client --------------------------------------------------------------------------

    def _connect(self) -> tuple[WhatsApp, httpx.AsyncClient]:
        options = self.options
        for name in _PYWA:
            logging.getLogger(name).setLevel(logging.WARNING)
        session = httpx.AsyncClient(timeout=_TIMEOUT)
        client = WhatsApp(
            phone_id=str(options.phone_id),
            token=options.token,
            session=session,
            server=None,
            verify_token=options.verify_token,
            app_secret=options.app_secret,
            validate_updates=True,
            api_version=options.api_version,
        )
        # pywa sets its own address on the session that it is given.
        session.base_url = httpx.URL(f"{options.base_url.rstrip('/')}/v{options.api_version}")
        return client, session

    async def _number(self, client: WhatsApp) -> BusinessPhoneNumber:
        """Raises Refused: the token may not use it, or nobody can say."""
        try:
            return await client.get_business_phone_number()
        except FAILURES as error:
            refusal = self.refusal(error)
            if isinstance(error, WhatsAppError) and not isinstance(refusal, Later | Misconfigured):
                why = f"{refusal.message} for the number {client.phone_id}."
                refusal = Misconfigured(why, key="gateway.whatsapp", next_step="check gateway.whatsapp.phone_id")
        raise refusal

    async def _rights(self, number: BusinessPhoneNumber, session: httpx.AsyncClient) -> list[Finding]:
        """What the token may do, and where Meta sends its webhooks."""
        findings = []
        # pywa has no word for this one.
        answer = await session.get("/me/permissions")
        if answer.is_success:
            granted = {one["permission"] for one in answer.json()["data"] if one["status"] == "granted"}
            findings = [
                Finding(BAD, f"the token lacks {name}", "make a token of a system user with this permission")
                for name in _NEEDED
                if name not in granted
            ]
        called = set((number.webhook_configuration or {}).values())
        ours = f"{self.gateway.config.gateway.public_url}{WEBHOOK}"
        if called and ours not in called:
            findings.append(Finding(WARN, f"Meta does not call {ours}", "enter it as the callback URL of the app"))
        return findings

    @property
    def _installed(self) -> WhatsApp:
        if self._client is None:
            raise RuntimeError("install() or run() comes first")
        return self._client


def _answers_for(number: BusinessPhoneNumber) -> str:
    return f"WhatsApp answers for {number.display_phone_number} ({number.verified_name})"


def _code_link(number: BusinessPhoneNumber, code: str) -> str:
    """Opens the chat with the words in its input; the person sends them."""
    digits = "".join(filter(str.isdigit, number.display_phone_number or ""))
    return f"https://wa.me/{digits}?text={quote(f'/mcp review-code {code}', safe='')}"


def _check_client(client: WhatsApp) -> None:
    # pywa has no public word for it, and without it anybody could write as anybody.
    if not (getattr(client, "_validate_updates", True) and getattr(client, "_app_secret", True)):
        raise ConfigError(
            "This pywa client takes updates from anybody, because it checks no signature.",
            next_step="give WhatsApp(...) the app_secret of the app, and leave validate_updates on",
        )
