"""WhatsApp as a chat platform: one-to-one messages through the Cloud API."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

import httpx
from pywa_async import WhatsApp
from pywa_async.errors import AuthorizationError, WhatsAppError
from pywa_async.handlers import (
    CallbackButtonHandler,
    CallbackSelectionHandler,
    Handler,
    MessageHandler,
    MessageStatusHandler,
)
from pywa_async.types import BusinessPhoneNumber, CallbackButton, CallbackSelection, Message, MessageStatus
from pywa_async.types.chat import ChatType
from pywa_async.types.message_status import MessageStatusType
from starlette.routing import Route

from adapters import buttons, log_filters
from adapters.base import Driver, EditWindowClosed, Finding, NotSupported, nobody_served, remark
from adapters.symbols import BAD, GOOD, WARN
from adapters.tasks import NotSent, Tasks
from adapters.waiting import Waiting
from adapters.whatsapp.options import WhatsAppOptions
from adapters.whatsapp.outbox import REFUSED, Outbox, is_temporary, reason
from adapters.whatsapp.render import TEXT_MAX, URL_MAX, render
from adapters.whatsapp.webhook import Webhook
from gateway import grammar, policy, sentences
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Deferred, Notice, Reply, SecretPrompt, Text
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import ConfigError

if TYPE_CHECKING:
    from pywa_async.types.user import User
    from starlette.applications import Starlette

    from gateway.gateway import Gateway

    Update: TypeAlias = Message | CallbackButton[Any] | CallbackSelection[Any]

_log = logging.getLogger(__name__)

PLATFORM = "whatsapp"
WEBHOOK = "/hooks/whatsapp"
_NEEDED = ("whatsapp_business_messaging",)
_SENT_LATE = Text(sentences.SENT_LATE)
_TIMEOUT = httpx.Timeout(20.0, connect=10.0)
# At INFO all have a line for every message.
_PYWA = ("pywa", "pywa_async")
# They write every message at DEBUG.
_WIRE = ("pywa.api", "pywa.server", "pywa.handlers", "pywa.helpers")
_HTTP = ("httpx", "httpcore")
# Ahead of the host's own handlers, so that an agent behind them reads nothing of ours.
_FIRST = 1000


class WhatsAppAdapter:
    """`/mcp` in WhatsApp.

    Args:
        options: instead of the section `gateway.whatsapp`.
        sleep: waits that many seconds between two tries of a message.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        options: WhatsAppOptions | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._sleep = sleep
        self._driver = Driver(gateway, self)
        self._waiting = Waiting(gateway.config.home / PLATFORM)
        self._outbox: Outbox | None = None
        self._session: httpx.AsyncClient | None = None
        self._undo: Callable[[], None] | None = None
        self._tasks = Tasks()
        # Every answer goes to the one person, so nothing is ever said in public ("ephemeral").
        self.capabilities = Capabilities(edit_window=0, ephemeral=True, text_max=TEXT_MAX, button_url_max=URL_MAX)

    # -- the two ways to run -----------------------------------------------------------------

    def install(self, app: WhatsApp | Starlette, *, path: str = WEBHOOK) -> None:
        """Put `/mcp` into a pywa client that somebody else built, ahead of its own handlers.

        The gateway starts with the first message. `await stop()` ends it here, and `gateway.stop()` everywhere.

        Args:
            app: a `pywa_async.WhatsApp` that checks signatures; or a Starlette or FastAPI application, which then gets
                a webhook at `path`, for the number in `gateway.whatsapp`.

        Raises:
            ConfigError: the client does not check who sends its updates, or is not asynchronous.
        """
        if isinstance(app, WhatsApp):
            _check_client(app)
            self._attach(app)
            return
        client, self._session = self._connect()
        # Ahead of a catch-all of the host's.
        app.router.routes.insert(0, Route(path, Webhook(client)))
        self._attach(client)

    async def stop(self) -> None:
        """Take no more messages and notices, and end what is being answered. Safe to call twice."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        await self._tasks.stop()
        if self._session is not None:
            await self._session.aclose()
            self._session = None

    async def run(self) -> None:
        """A webhook on the gateway's own endpoint, until cancelled.

        Raises:
            ConfigError: `gateway.whatsapp` cannot be used, there is no `gateway.public_url`, or WhatsApp refuses the
                token or the number.
        """
        _quieten(_HTTP)
        client, self._session = self._connect()
        hook = Webhook(client)
        url = self._gateway.mount(WEBHOOK, hook)
        outbox = self._attach(client)
        try:
            number = await self._number(client)
            if isinstance(number, BusinessPhoneNumber):
                self._gateway.carry_codes(PLATFORM, functools.partial(_code_link, number))
            finding = _found(number)
            if finding.mark == BAD:
                raise ConfigError(finding.text, key="gateway.whatsapp")
            _log.log(logging.INFO if finding.mark == GOOD else logging.WARNING, "%s; webhook: %s", finding.text, url)
            # Whoever runs this makes the adapter anew then, with the token that is in .env by that time.
            await outbox.token_refused.wait()
            raise ConfigError(REFUSED, key="gateway.whatsapp.token")
        finally:
            # Meta tries again later, when somebody answers.
            hook.is_open = False
            await self.stop()

    async def claims(self, message: Any) -> bool:
        """Is this message or press ours, so that the host should not look at it?

        For listeners and raw update handlers, which pywa asks beside any handler.
        """
        if isinstance(message, CallbackButton | CallbackSelection):
            return isinstance(message.data, str) and buttons.is_ours(message.data)
        text = message.text if isinstance(message, Message) else None
        if text is None or grammar.after_prefix(text) is not None:
            return text is not None
        return await self._gateway.claims(text)

    # -- the contract ------------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        """Raises NotSent: it was given up; the log says why."""
        return await self._send(chat, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self._send(via or _alone_with(principal), reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        raise EditWindowClosed

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Nothing that a person writes can be deleted here, so no secret is ever asked for."""
        raise NotSupported

    async def check(self) -> list[Finding]:
        try:
            client, session = self._connect()
        except ConfigError as error:
            return [Finding(BAD, str(error))]
        async with session:
            number = await self._number(client)
            findings = [_found(number)]
            if isinstance(number, BusinessPhoneNumber):
                findings += await self._rights(number, session)
        if self._gateway.config.gateway.public_url is None:
            findings.append(Finding(BAD, "WhatsApp calls us, and gateway.public_url is not set. Next: set it"))
        return findings + nobody_served(self._gateway, PLATFORM)

    async def _send(self, chat: ChatRef, reply: Reply, *, is_news: bool = False) -> MessageRef:
        if self._outbox is None:
            raise NotSent
        owner = Principal(PLATFORM, chat.data["user"])
        pack = functools.partial(buttons.pack, owner=owner, servers=self._gateway.names())
        messages = render(reply, now=time.time(), pack=pack)
        return MessageRef(PLATFORM, {"id": await self._outbox.send(chat.data["to"], reply, messages, is_news=is_news)})

    # -- what arrives ------------------------------------------------------------------------

    def _attach(self, client: WhatsApp) -> Outbox:
        if self._undo is not None:
            raise RuntimeError("this adapter is installed already; make another one for another client")
        log_filters.hide_payloads(*_WIRE)
        self._outbox = Outbox(client, self._waiting, sleep=self._sleep)
        handlers: tuple[Handler[Any], ...] = (
            MessageHandler(self._on_update, priority=_FIRST),
            CallbackButtonHandler(self._on_update, priority=_FIRST),
            CallbackSelectionHandler(self._on_update, priority=_FIRST),
            MessageStatusHandler(self._on_status, priority=_FIRST),
        )
        client.add_handlers(*handlers)
        unsubscribe = self._gateway.subscribe(PLATFORM, self._notify)

        def undo() -> None:
            client.remove_handlers(*handlers, silent=True)
            unsubscribe()

        self._undo = undo
        return self._outbox

    async def _on_update(self, client: Any, update: Any) -> None:
        """Quick: the work goes into a task, because pywa answers Meta when its handlers are done."""
        self._tasks.start(self._send_kept(update))
        if not await self.claims(update):
            update.continue_handling()
        self._tasks.start(self._answer(client, update))
        update.stop_handling()

    async def _on_status(self, client: Any, status: MessageStatus[Any]) -> None:
        if self._outbox is not None:
            if status.status is MessageStatusType.FAILED:
                self._outbox.failed(status.id, status.error)
            elif status.status in (MessageStatusType.DELIVERED, MessageStatusType.READ):
                self._outbox.arrived(status.id)
        status.continue_handling()

    async def _answer(self, client: WhatsApp, update: Update) -> None:
        invocation = self._invocation(update)
        if self._is_foreign(update, invocation.principal):
            await self.reply(invocation.chat, remark(sentences.BUTTON_NOT_YOURS))
            return
        if isinstance(self._gateway.decide(invocation, self.capabilities), Deferred):
            self._tasks.start(_show_typing(client, update.id))
        await self._driver.run_invocation(invocation)

    def _is_foreign(self, update: Update, principal: Principal) -> bool:
        """A forwarded message keeps its buttons. Strangers are the gateway's to answer."""
        if isinstance(update, Message) or not policy.is_allowed(principal, self._gateway.config.gateway):
            return False
        return not buttons.is_for(update.data, principal)

    def _invocation(self, update: Update) -> Invocation:
        principal = principal_of(update.from_user, self._gateway.config.gateway)
        if isinstance(update, Message):
            text = update.text or ""
        else:
            # A server that is gone: the list shows what there is.
            text = buttons.unpack(update.data, self._gateway.names()) or "list"
        return Invocation(
            principal=principal,
            chat=_chat_of(update, principal),
            text=text,
            # In a group others read along, even though the answer comes in private.
            private=not (isinstance(update, Message) and update.chat.type is ChatType.GROUP),
            event_id=update.id,
            display_name=update.from_user.name or "",
        )

    async def _send_kept(self, update: Update) -> None:
        """Whoever writes can be written to again for 24 hours."""
        user = update.from_user
        principal = principal_of(user, self._gateway.config.gateway)
        addresses = dict.fromkeys((user.bsuid, user.wa_id, user.preferred_id, principal.user))
        news, answers = self._waiting.take(*filter(None, addresses))
        if not (news or answers) or not policy.is_allowed(principal, self._gateway.config.gateway):
            return
        # Without the beginning of one that was late already.
        blocks = (block for reply in (*news, *answers) for block in reply.blocks if block != _SENT_LATE)
        await self._send(_chat_of(update, principal), Reply((_SENT_LATE, *blocks)), is_news=not answers)

    async def _notify(self, notice: Notice) -> None:
        """Nothing can be edited here, so all news is a message of its own."""
        if notice.message is not None:
            return
        try:
            await self._send(
                notice.chat if notice.chat.data else _alone_with(notice.principal), notice.reply, is_news=True
            )
        except NotSent:
            # It was logged and is kept for the person's next message.
            return

    # -- the client --------------------------------------------------------------------------

    def _connect(self) -> tuple[WhatsApp, httpx.AsyncClient]:
        options = self._options or self._gateway.platform_options(PLATFORM, WhatsAppOptions)
        _quieten(_PYWA)
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

    async def _number(self, client: WhatsApp) -> BusinessPhoneNumber | Finding:
        """The number, or why the token may not use it."""
        try:
            return await client.get_business_phone_number()
        except AuthorizationError as error:
            return Finding(BAD, reason(error))
        except WhatsAppError as error:
            if is_temporary(error):
                return Finding(WARN, reason(error))
            where = f"for the number {client.phone_id}"
            return Finding(BAD, f"{reason(error)} {where}. Next: check gateway.whatsapp.phone_id")
        except httpx.HTTPError as error:
            return Finding(WARN, reason(error))

    async def _rights(self, number: BusinessPhoneNumber, session: httpx.AsyncClient) -> list[Finding]:
        """What the token may do, and where Meta sends its webhooks."""
        findings = []
        try:
            # pywa has no word for this one.
            answer = await session.get("/me/permissions")
        except httpx.HTTPError as error:
            return [Finding(WARN, reason(error))]
        if answer.is_success:
            granted = {one["permission"] for one in answer.json()["data"] if one["status"] == "granted"}
            findings = [
                Finding(BAD, f"the token lacks {name}. Next: make a token of a system user with this permission")
                for name in _NEEDED
                if name not in granted
            ]
        called = set((number.webhook_configuration or {}).values())
        ours = f"{self._gateway.config.gateway.public_url}{WEBHOOK}"
        if called and ours not in called:
            findings.append(Finding(WARN, f"Meta does not call {ours}. Next: enter it as the callback URL of the app"))
        return findings


def _found(number: BusinessPhoneNumber | Finding) -> Finding:
    if isinstance(number, Finding):
        return number
    return Finding(GOOD, f"WhatsApp answers for {number.display_phone_number} ({number.verified_name})")


def _code_link(number: BusinessPhoneNumber, code: str) -> str:
    """Opens the chat with the words in its input; the person sends them."""
    digits = "".join(filter(str.isdigit, number.display_phone_number or ""))
    return f"https://wa.me/{digits}?text={quote(f'/mcp review-code {code}', safe='')}"


def principal_of(user: User, gateway: GatewayOptions) -> Principal:
    """The business-scoped user id, or the number where the configuration names the person by it.

    A number can be given to somebody else one day, and a person may hide it; the id is the person's own.
    """
    known = [Principal(PLATFORM, one) for one in (user.bsuid, user.wa_id) if one]
    return next((one for one in known if policy.is_allowed(one, gateway)), known[0])


def _chat_of(update: Update, principal: Principal) -> ChatRef:
    return ChatRef(PLATFORM, {"to": update.from_user.preferred_id, "user": principal.user})


def _alone_with(principal: Principal) -> ChatRef:
    return ChatRef(PLATFORM, {"to": principal.user, "user": principal.user})


def _quieten(libraries: tuple[str, ...]) -> None:
    for library in libraries:
        logging.getLogger(library).setLevel(logging.WARNING)


def _check_client(client: WhatsApp) -> None:
    # pywa has no public word for it, and without it anybody could write as anybody.
    if not (getattr(client, "_validate_updates", True) and getattr(client, "_app_secret", True)):
        raise ConfigError(
            "This pywa client takes updates from anybody, because it checks no signature.",
            next_step="give WhatsApp(...) the app_secret of the app, and leave validate_updates on",
        )


async def _show_typing(client: WhatsApp, message_id: str) -> None:
    """Read, and three dots for at most 25 seconds. Nice to have: the answer comes anyway."""
    try:
        await client.indicate_typing(message_id)
    except (WhatsAppError, httpx.HTTPError) as error:
        _log.debug("no typing indicator: %s", reason(error))
