"""Telegram as a chat platform: `install` into somebody's Application, or `run` one of our own."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from telegram import Bot, CallbackQuery, Message, ReplyParameters, Update
from telegram.error import BadRequest, Conflict, Forbidden, InvalidToken, NetworkError, TelegramError
from telegram.ext import Application, ApplicationHandlerStop, TypeHandler
from telegram.request import HTTPXRequest

from adapters import buttons, log_filters
from adapters.base import Driver, EditWindowClosed, Finding, NotSupported, PrivateDeliveryUnavailable, nobody_served
from adapters.symbols import BAD, GOOD, WARN
from adapters.tasks import Tasks
from adapters.telegram import receiving, updates
from adapters.telegram.commands import register
from adapters.telegram.login import TelegramLogin
from adapters.telegram.options import TelegramOptions
from adapters.telegram.receiving import AnyApplication
from adapters.telegram.render import BUTTON_URL_MAX, TEXT_MAX, Payload, render
from adapters.telegram.sending import Sender, Sleep
from adapters.telegram.updates import PLATFORM
from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.grammar import looks_like_redirect
from gateway.invocations import Capabilities, ChatRef, MessageRef, Principal
from gateway.replies import Button, Reply, SecretPrompt, Text
from mcp_auth.errors import ConfigError, McpAuthError, Unreachable
from mcp_auth.outcome import Next

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_log = logging.getLogger("adapters.telegram")

# Ahead of every handler of the host, whose groups are small numbers by custom.
GROUP = -1_000_000
_REFUSAL_SECONDS = 60.0
# What is being said when everything ends may be said to its end.
_LAST_WORDS_SECONDS = 2.0
_REMEMBERED = 1000
_TALKATIVE = ("httpx", "httpcore", "telegram")
# They write every message at DEBUG.
_WIRE = ("telegram.Bot", "telegram.ext.ExtBot", "telegram.ext.Application", "telegram.ext.Updater")
# The token is a part of every URL, and httpx writes each into the log.
_TOKEN_IN_URL = re.compile(r"(?<=/bot)\d+:[\w-]+")


class TelegramAdapter:
    """`/mcp` on Telegram.

    Args:
        options: instead of the section `gateway.telegram`; `install` needs neither.
        sleep: waits that many seconds.
    """

    capabilities = Capabilities(  # Telegram sets no end to editing a bot's own messages.
        edit_window=None,
        secret_input=True,
        text_max=TEXT_MAX,
        button_url_max=BUTTON_URL_MAX,
    )

    def __init__(
        self, gateway: Gateway, *, options: TelegramOptions | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        self._gateway = gateway
        self._options = options
        self._sleep = sleep
        self._driver = Driver(gateway, self)
        self._sender = Sender(sleep)
        self._questions = _Questions()
        self._refused: BoundedDict[int, float] = BoundedDict(_REMEMBERED)
        self._tasks = Tasks(drain=_LAST_WORDS_SECONDS)
        self._application: AnyApplication | None = None
        self._alone = False
        self._begun = False
        self._undo: Callable[[], None] | None = None

    # -- beside a host's handlers ------------------------------------------------------------

    def install(self, application: AnyApplication) -> None:
        """Answer `/mcp` in `application`, ahead of its own handlers.

        They never see a `/mcp` line, a pasted redirect of ours or a secret; everything else reaches them. The gateway
        starts with the first update. With `run_polling` and `run_webhook` both stop by themselves; whoever drives the
        application in another way awaits `stop()`, and `gateway.stop()` when nothing else uses it.

        Raises:
            RuntimeError: it is installed already.
        """
        if self._application is not None:
            raise RuntimeError("this adapter is installed already; make another one for another application")
        _keep_out_of_logs()
        self._application = application
        self._undo = self._gateway.subscribe(PLATFORM, self._driver.notify)
        # With block=False, ApplicationHandlerStop would be ignored.
        application.add_handler(TypeHandler(Update, self._on_update, block=True), group=GROUP)
        after = application.post_stop

        async def stopped(application: AnyApplication) -> None:
            if after is not None:
                await after(application)
            await self.stop()
            await self._gateway.stop()

        application.post_stop = stopped

    async def claims(self, message: Message) -> bool:
        """Whether this message is ours, so that nobody else may read or keep it."""
        return await self._read(message) is not None

    async def stop(self) -> None:
        """Take no more notices, and end what is still being answered. Safe to call twice. Open sign-ins stay open."""
        if self._undo is not None:
            self._undo()
            self._undo = None
        await self._tasks.stop()

    # -- in a process of our own -------------------------------------------------------------

    async def run(self) -> None:
        """Serve this bot until cancelled: by webhook when there is a public URL, else by polling.

        Raises:
            ConfigError: the token is refused, or another process polls with it.
            Unreachable: Telegram does not answer.
        """
        options = self._settings()
        _keep_out_of_logs()
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            application = _application(options)
            self.install(application)
            self._alone = True
            async with application:
                await application.start()
                try:
                    await self._receive(application, options)
                finally:
                    # While the connections are still there.
                    await self.stop()
                    await application.stop()
        except TelegramError as error:
            raise _problem(error) from None
        finally:
            await self.stop()

    async def check(self) -> list[Finding]:
        """For `slash-mcp doctor`: the token, the way to Telegram, and what would surprise people."""
        options = self._settings()
        started = time.monotonic()
        try:
            async with Bot(options.token, options.base_url, request=_request(options)) as bot:
                took = round((time.monotonic() - started) * 1000)
                hook = await bot.get_webhook_info()
                findings = [Finding(GOOD, f"@{bot.username} answers in {took} ms")]
                if not bot.can_join_groups:
                    findings.append(Finding(WARN, "it cannot be added to groups. Next: BotFather, /setjoingroups"))
        except TelegramError as error:
            return [Finding(BAD, str(_problem(error)))]
        if hook.url and not self._by_webhook(options):
            findings.append(Finding(WARN, "another program set a webhook; `slash-mcp serve` will remove it"))
        if hook.last_error_message and self._by_webhook(options):
            findings.append(Finding(WARN, f"Telegram could not reach the webhook: {hook.last_error_message}"))
        return findings + nobody_served(self._gateway, PLATFORM)

    def _settings(self) -> TelegramOptions:
        if self._options is None:
            self._options = self._gateway.platform_options(PLATFORM, TelegramOptions)
        return self._options

    def _by_webhook(self, options: TelegramOptions) -> bool:
        if options.webhook is None:
            return self._gateway.config.gateway.public_url is not None
        return options.webhook

    async def _receive(self, application: AnyApplication, options: TelegramOptions) -> None:
        self._begin()
        if not self._by_webhook(options):
            await receiving.poll(application, self._sleep)
            return
        secret = receiving.hook_secret(options.token)
        url = self._gateway.mount(receiving.HOOK_PATH, receiving.hook(application, secret))
        await receiving.take_hooks(application, url, secret, self._sleep)

    # -- what comes in -----------------------------------------------------------------------

    async def _on_update(self, update: Update, context: object) -> None:
        self._begin()
        if await self._take(update):
            raise ApplicationHandlerStop

    async def _take(self, update: Update) -> bool:
        """Whether the update was ours. The work itself is a task: the next update does not wait for it."""
        if update.callback_query is not None:
            return self._take_press(update.callback_query)
        message = update.effective_message
        if message is None:
            return False
        ours = await self._read(message)
        if ours is None:
            if self._alone and update.message is not None and updates.is_private(message):
                text = updates.words(message)
                self._spawn(self._answer(message, text if looks_like_redirect(text) else "help"))
            return False
        if isinstance(ours, _Secret):
            self._spawn(self._take_secret(message, answer=update.message is not None))
        elif update.message is not None:
            self._spawn(self._answer(message, ours))
        # Edited, or posted in a channel: kept from the others, and not done a second time or for nobody.
        return True

    async def _read(self, message: Message) -> str | _Secret | None:
        """The command in this message, or that it holds a secret; None: it is not for us."""
        text = updates.words(message)
        bot = self._bot
        command = updates.command(text, bot.username, self._gateway.names())
        if command is not None:
            return command
        if updates.answers_question(message, bot.id):
            return _Secret()
        if self._questions.waits(message.chat.id) and updates.may_be_secret(text) and not looks_like_redirect(text):
            return _Secret()
        return await self._pasted(text)

    async def _pasted(self, text: str) -> str | None:
        """The address of one of our sign-ins, alone or among other words."""
        for word in text.split():
            if await self._gateway.claims(word):
                return word
        return None

    def _take_press(self, query: CallbackQuery) -> bool:
        # A host with `arbitrary_callback_data` has objects here.
        if not isinstance(query.data, str) or not buttons.is_ours(query.data):
            return False
        self._spawn(self._pressed(query, query.data))
        return True

    # -- answering ---------------------------------------------------------------------------

    async def _answer(self, message: Message, text: str) -> None:
        user = updates.person(message)
        if user is None:
            await self._refuse_nobody(message)
            return
        await self._driver.run_invocation(updates.invocation(message, user, text, self._gateway.names()))

    async def _refuse_nobody(self, message: Message) -> None:
        """An anonymous admin or a channel: said once a minute, as anybody's."""
        now = time.monotonic()
        if now - self._refused.get(message.chat.id, -_REFUSAL_SECONDS) < _REFUSAL_SECONDS:
            return
        self._refused[message.chat.id] = now
        await self.reply(updates.chat_ref(message, "0"), Reply((Text(sentences.NO_PERSON),)))

    async def _pressed(self, query: CallbackQuery, data: str) -> None:
        principal = Principal(PLATFORM, str(query.from_user.id))
        if not buttons.is_for(data, principal):
            await self._acknowledge(query, sentences.BUTTON_NOT_YOURS)
            return
        command = buttons.unpack(data, self._gateway.names())
        if command is None:
            await self._acknowledge(query, sentences.BUTTON_OVER)
            return
        await self._acknowledge(query)
        await self._driver.run_invocation(updates.press(query, command, self._gateway.names()))

    async def _acknowledge(self, query: CallbackQuery, alert: str | None = None) -> None:
        """End the waiting mark on the button; `alert`: with a sentence for the presser alone."""
        try:
            await query.answer(alert, show_alert=alert is not None)
        except BadRequest as error:
            # Pressed long ago, or told twice: nobody waits any more.
            _log.debug("a press was not acknowledged (%s)", type(error).__name__)
        except NetworkError as error:
            _log.warning("a press was not acknowledged (%s)", type(error).__name__)

    async def _take_secret(self, message: Message, *, answer: bool) -> None:
        """The reply to a question for a secret: delete it, then use it, once."""
        deleted = await self._deleted(message)
        if not answer or message.from_user is None or not self._questions.first_sight(message):
            return
        principal = Principal(PLATFORM, str(message.from_user.id))
        prompt = self._questions.answered(message)
        reply = await self._gateway.submit_secret(principal, prompt, updates.words(message))
        if not deleted:
            reply = replace(reply, blocks=(Text(sentences.SECRET_STAYS, tone="warning"), *reply.blocks))
        await self.deliver_private(principal, reply, updates.chat_ref(message, principal.user))

    async def _deleted(self, message: Message) -> bool:
        bot = self._bot
        try:
            await self._sender.call(message.chat.id, lambda chat: bot.delete_message(chat, message.message_id))
        except BadRequest as error:
            # Gone already is as good.
            return "not found" in error.message.lower()
        except TelegramError as error:
            _log.warning("a message with a secret could not be deleted (%s)", type(error).__name__)
            return False
        return True

    # -- the contract ------------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        return await self._send(chat.data, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        where: dict[str, Any] = {"chat": int(principal.user), "user": principal.user}
        if via is not None and via.data["chat"] == where["chat"]:
            where = via.data
        try:
            return await self._send(where, reply)
        except Forbidden:
            raise PrivateDeliveryUnavailable(self._way_in(via)) from None
        except BadRequest as error:
            if "chat not found" not in error.message.lower():
                raise
            raise PrivateDeliveryUnavailable(self._way_in(via)) from None

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        bot, data = self._bot, message.data
        payload = self._render(reply, data)
        if payload.asks is not None:
            # An edited message cannot ask for a reply.
            raise EditWindowClosed
        if not reply.final:
            await self._sender.room(data["chat"])
        try:
            await self._sender.call(
                data["chat"],
                lambda chat: bot.edit_message_text(chat_id=chat, message_id=data["message"], **payload.arguments()),
            )
        except BadRequest as error:
            if "is not modified" in error.message.lower():
                return message
            raise EditWindowClosed from None
        except Forbidden:
            raise EditWindowClosed from None
        return message

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        # The question is a message that waits for a reply: it is delivered as every private answer is.
        raise NotSupported

    async def _send(self, where: dict[str, Any], reply: Reply) -> MessageRef:
        bot = self._bot
        payload = self._render(reply, where)
        more = _placed(where)
        sent = await self._sender.call(
            where["chat"], lambda chat: bot.send_message(chat, **payload.arguments(), **more)
        )
        if payload.asks is not None:
            self._questions.asked(sent, payload.asks)
        return MessageRef(PLATFORM, {"chat": sent.chat.id, "message": sent.message_id, "user": where["user"]})

    def _render(self, reply: Reply, where: dict[str, Any]) -> Payload:
        owner = Principal(PLATFORM, where["user"])
        return render(reply, owner=owner, servers=self._gateway.names(), now=time.time())

    def _way_in(self, via: ChatRef | None) -> Button:
        """A deep link to the private chat, which asks for the same again."""
        payload = via.data.get("start", "mcp") if via is not None else "mcp"
        return Button(sentences.BUTTON_PRIVATE_CHAT, url=updates.deep_link(self._bot.username, payload))

    # -- running -----------------------------------------------------------------------------

    @property
    def _bot(self) -> Bot:
        if self._application is None:
            raise RuntimeError("the adapter is not installed: call install(application) first")
        bot: Bot = self._application.bot
        return bot

    def _begin(self) -> None:
        """Once: start the gateway, and show the command in Telegram's menus."""
        if not self._begun:
            self._begun = True
            self._gateway.carry_codes(
                PLATFORM, lambda code: updates.deep_link(self._bot.username, f"mcp-confirm-{code}")
            )
            if self._gateway.config.gateway.platforms.get(PLATFORM, {}).get("login") is True:
                self._gateway.verify_by_login(PLATFORM, TelegramLogin(self._bot.token))
            self._spawn(self._gateway.start())
            self._spawn(register(self._bot))

    def _spawn(self, work: Awaitable[None]) -> None:
        self._tasks.start(_guarded(work))


async def _guarded(work: Awaitable[None]) -> None:
    try:
        await work
    except TelegramError as error:
        # Its text may hold the token.
        _log.warning("Telegram did not take an answer (%s)", type(error).__name__)


@dataclass(frozen=True, slots=True)
class _Secret:
    """The message answers a question for a secret."""


class _Questions:
    """Messages of ours that wait for a reply with a secret. In memory: a prompt does not outlive the process either."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], SecretPrompt] = {}
        self._seen: BoundedDict[tuple[int, int], None] = BoundedDict(_REMEMBERED)

    def asked(self, message: Message, prompt: SecretPrompt) -> None:
        now = time.time()
        self._open = {key: one for key, one in self._open.items() if one.expires_at > now}
        self._open[message.chat.id, message.message_id] = prompt

    def waits(self, chat: int) -> bool:
        now = time.time()
        return any(key[0] == chat and one.expires_at > now for key, one in self._open.items())

    def answered(self, message: Message) -> str:
        """The id of the prompt that this message answers; the empty one when that is over. Asked once."""
        if message.reply_to_message is not None:
            key = (message.chat.id, message.reply_to_message.message_id)
        else:
            key = max((key for key in self._open if key[0] == message.chat.id), default=(0, 0))
        prompt = self._open.pop(key, None)
        return prompt.id if prompt is not None else ""

    def first_sight(self, message: Message) -> bool:
        """Telegram may tell of one message twice."""
        key = (message.chat.id, message.message_id)
        if key in self._seen:
            return False
        self._seen[key] = None
        return True


def _placed(where: dict[str, Any]) -> dict[str, Any]:
    """The topic, and the message that is answered, as `send_message` takes them."""
    more: dict[str, Any] = {}
    if "thread" in where:
        more["message_thread_id"] = where["thread"]
    if "message" in where:
        more["reply_parameters"] = ReplyParameters(where["message"], allow_sending_without_reply=True)
    return more


def _keep_out_of_logs() -> None:
    log_filters.hide_payloads(*_WIRE)
    log_filters.mask_tokens(_TOKEN_IN_URL, "httpx")


def _application(options: TelegramOptions) -> AnyApplication:
    builder = Application.builder().token(options.token).base_url(options.base_url).updater(None).job_queue(None)
    return builder.request(_request(options)).get_updates_request(_request(options)).build()


def _request(options: TelegramOptions) -> HTTPXRequest:
    return HTTPXRequest(proxy=options.proxy, httpx_kwargs={"trust_env": False})


def _problem(error: TelegramError) -> McpAuthError:
    """What the operator has to know. Never the error's own text, which may hold the token."""
    if isinstance(error, InvalidToken):
        return ConfigError(
            "Telegram refuses the bot's token: it was revoked, or is not whole.",
            key="gateway.telegram.token",
            next_step="copy it from BotFather (/mybots, API Token) to where gateway.telegram.token reads it",
        )
    if isinstance(error, Conflict):
        return ConfigError(
            "Another process polls Telegram with the same token, and only one may.",
            key="gateway.telegram.token",
            next_step="stop the other one, or give it a bot of its own",
        )
    if isinstance(error, BadRequest):
        return ConfigError(f"Telegram refuses the set-up: {error.message}.", next_step=Next("doctor"))
    return Unreachable(
        "Telegram does not answer.", next_step="look at the network of this host, or set gateway.telegram.proxy"
    )
