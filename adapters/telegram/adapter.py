"""Telegram as a chat platform: `install` into somebody's Application, or `run` one of our own."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from telegram import Bot, CallbackQuery, Message, ReplyParameters, Update
from telegram.error import ChatMigrated, TelegramError
from telegram.ext import Application, ApplicationHandlerStop, TypeHandler
from telegram.request import HTTPXRequest

from adapters import buttons, log_filters
from adapters.base import Adapter, Finding, Sleep
from adapters.refusals import EditWindowClosed, Elsewhere, Later, PrivateDeliveryUnavailable, Refused
from adapters.symbols import GOOD, WARN
from adapters.telegram import receiving
from adapters.telegram.commands import register
from adapters.telegram.incoming import PLATFORM, Incoming, command, deep_link, read_message, read_press
from adapters.telegram.login import TelegramLogin
from adapters.telegram.options import TelegramOptions
from adapters.telegram.receiving import AnyApplication
from adapters.telegram.render import BUTTON_URL_MAX, TEXT_MAX, Payload, render
from adapters.telegram.sending import Pace, SoAlready, refusal_of
from gateway import sentences
from gateway.bounded_dict import BoundedDict
from gateway.grammar import looks_like_redirect
from gateway.invocations import Capabilities, ChatRef, MessageRef, Principal
from gateway.replies import Button, Reply, SecretPrompt, Text
from gateway.surfaces import in_chat

if TYPE_CHECKING:
    from gateway.gateway import Gateway

T = TypeVar("T")

# Ahead of every handler of the host, whose groups are small numbers by custom.
GROUP = -1_000_000
_REFUSAL_SECONDS = 60.0
_REMEMBERED = 1000
# The token is a part of every URL, and httpx writes each into the log.
_TOKEN_IN_URL = re.compile(r"(?<=/bot)\d+:[\w-]+")


class TelegramAdapter(Adapter[TelegramOptions]):
    """`/mcp` on Telegram. `install` needs no section `gateway.telegram`."""

    platform = PLATFORM
    title = "Telegram"
    options_type = TelegramOptions
    # Telegram sets no end to editing a bot's own messages.
    capabilities = Capabilities(edit_window=None, secret_input=True, text_max=TEXT_MAX, button_url_max=BUTTON_URL_MAX)
    failures = (TelegramError,)
    pauses = (1.0, 2.0, 4.0, 8.0)
    wire = ("telegram.Bot", "telegram.ext.ExtBot", "telegram.ext.Application", "telegram.ext.Updater")
    talkative = ("httpx", "httpcore", "telegram")
    # What is being said when everything ends may be said to its end.
    drain = 2.0
    _application: AnyApplication | None = None
    _alone = False
    _begun = False

    def __init__(
        self, gateway: Gateway, *, options: TelegramOptions | None = None, sleep: Sleep = asyncio.sleep
    ) -> None:
        super().__init__(gateway, options=options, sleep=sleep)
        self._pace = Pace()
        self._questions = _Questions()
        self._refused: BoundedDict[int, float] = BoundedDict(_REMEMBERED)

    # -- beside a host's handlers ------------------------------------------------------------

    def install(self, application: AnyApplication) -> None:
        """Answer `/mcp` in `application`, ahead of its own handlers.

        They never see a `/mcp` line, a pasted redirect of ours or a secret; everything else reaches them. The gateway
        starts with the first update. With `run_polling` and `run_webhook` both stop by themselves; whoever drives the
        application in another way awaits `stop()`, and `gateway.stop()` when nothing else uses it.

        Raises:
            RuntimeError: it is installed already.
        """
        self.attach()
        log_filters.mask_tokens(_TOKEN_IN_URL, "httpx")
        self._application = application
        # With block=False, ApplicationHandlerStop would be ignored.
        application.add_handler(TypeHandler(Update, self._on_update, block=True), group=GROUP)
        after = application.post_stop

        async def stopped(application: AnyApplication) -> None:
            if after is not None:
                await after(application)
            await self.stop()
            await self.gateway.stop()

        application.post_stop = stopped

    async def claims(self, message: Message) -> bool:
        """Whether this message is ours, so that nobody else may read or keep it."""
        read = read_message(message, self._bot.id)
        return self._is_secret(read) or await self._find(read) is not None

    # -- in a process of our own -------------------------------------------------------------

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        builder = Application.builder().token(self.options.token).base_url(self.options.base_url)
        requests = builder.request(self._request()).get_updates_request(self._request())
        application = requests.updater(None).job_queue(None).build()
        self.install(application)
        async with application:
            yield

    async def receive(self) -> None:
        """By webhook when there is a public URL, else by polling."""
        application = self._installed
        self._alone = True
        await application.start()
        try:
            self._begin()
            if self._by_webhook:
                secret = receiving.hook_secret(self.options.token)
                url = self.gateway.mount(receiving.HOOK_PATH, receiving.hook(application, secret))
                await receiving.take_hooks(application, url, secret, self.sleep)
            else:
                await receiving.poll(application, self.sleep)
        finally:
            await self.stop()
            await application.stop()

    async def examine(self) -> list[Finding]:
        """The token, the way to Telegram, and what would surprise people."""
        started = time.monotonic()
        async with Bot(self.options.token, self.options.base_url, request=self._request()) as bot:
            took = round((time.monotonic() - started) * 1000)
            hook = await bot.get_webhook_info()
            findings = [Finding(GOOD, f"@{bot.username} answers in {took} ms")]
            if not bot.can_join_groups:
                findings.append(Finding(WARN, "it cannot be added to groups", "BotFather, /setjoingroups"))
        if hook.url and not self._by_webhook:
            findings.append(Finding(WARN, "another program set a webhook; `slash-mcp serve` will remove it"))
        if hook.last_error_message and self._by_webhook:
            findings.append(Finding(WARN, f"Telegram could not reach the webhook: {hook.last_error_message}"))
        return findings

    def refusal(self, error: Exception) -> Refused:
        return refusal_of(error)

    @property
    def _by_webhook(self) -> bool:
        if self.options.webhook is None:
            return self.gateway.config.gateway.public_url is not None
        return self.options.webhook

    def _request(self) -> HTTPXRequest:
        return HTTPXRequest(proxy=self.options.proxy, httpx_kwargs={"trust_env": False})

    # -- what comes in -----------------------------------------------------------------------

    async def _on_update(self, update: Update, context: object) -> None:
        self._begin()
        if await self._take(update):
            raise ApplicationHandlerStop

    def _begin(self) -> None:
        """Once: start the gateway, and show the command in Telegram's menus."""
        if self._begun:
            return
        self._begun = True
        bot = self._bot
        self.gateway.carry_codes(PLATFORM, lambda code: deep_link(bot.username, f"mcp-confirm-{code}"))
        if self.gateway.config.gateway.platforms.get(PLATFORM, {}).get("login") is True:
            self.gateway.verify_by_login(PLATFORM, TelegramLogin(bot.token))
        self.spawn(self.gateway.start())
        self.spawn(self.attempt(lambda: register(bot), pauses=()))

    async def _take(self, update: Update) -> bool:
        """Whether the update was ours. The work itself is a task: the next update does not wait for it."""
        if update.callback_query is not None:
            press = read_press(update.callback_query)
            if buttons.is_ours(press.text):
                self.spawn(self._answer_press(update.callback_query, press))
            return buttons.is_ours(press.text)
        if update.effective_message is None:
            return False
        message = read_message(update.effective_message, self._bot.id)
        # Edited, or posted in a channel: kept from the others, and not done a second time or for nobody.
        is_new = update.message is not None
        if self._is_secret(message):
            self.spawn(self._take_secret(message, is_new=is_new))
            return True
        text = await self._find(message)
        if text is None:
            if self._alone and is_new and message.private:
                text = message.text if looks_like_redirect(message.text) else "help"
                self.spawn(self._answer(message, text))
            return False
        if is_new:
            self.spawn(self._answer(message, text))
        return True

    def _command(self, message: Incoming) -> str | None:
        return command(message.text, self._bot.username, self.gateway.names())

    def _is_secret(self, message: Incoming) -> bool:
        """Whether it answers a question for a secret."""
        if message.answers_question:
            return self._command(message) is None
        return self._questions.waits(message.chat) and message.may_be_secret and not looks_like_redirect(message.text)

    async def _find(self, message: Incoming) -> str | None:
        """The command in this message. None: it is not for us."""
        found = self._command(message)
        if found is not None:
            return found
        # The address of one of our sign-ins, alone or among other words.
        for word in message.text.split():
            if await self.gateway.claims(word):
                return word
        return None

    async def _answer(self, message: Incoming, text: str) -> None:
        if message.user is not None:
            await self.answer(message.invocation(message.user, text, self.gateway.names()))
            return
        # An anonymous admin or a channel: said once a minute, as anybody's.
        now = time.monotonic()
        if now - self._refused.get(message.chat, -_REFUSAL_SECONDS) >= _REFUSAL_SECONDS:
            self._refused[message.chat] = now
            await self.reply(message.place(), Reply((Text(sentences.NO_PERSON),)))

    async def _answer_press(self, query: CallbackQuery, press: Incoming) -> None:
        user = query.from_user
        asked, why = self.pressed(press.text, self.principal(user.id))
        try:
            # Ends the waiting mark on the button; an alert is for the presser alone.
            await query.answer(in_chat(why) if asked is None else None, show_alert=asked is None)
        except TelegramError as error:
            # Pressed long ago, or told twice: nobody waits any more.
            self.log.info("a press was not acknowledged (%s)", type(error).__name__)
        if asked is not None:
            await self.answer(press.invocation(user, asked, self.gateway.names()))

    async def _take_secret(self, message: Incoming, *, is_new: bool) -> None:
        """The reply to a question for a secret: delete it, then use it, once."""
        deleted = await self._delete(message)
        if is_new and message.user is not None and self._questions.is_first_sight(message):
            prompt, principal = self._questions.take(message), self.principal(message.user.id)
            await self.take_secret(principal, message.place(), prompt, message.text, deleted=deleted)

    async def _delete(self, message: Incoming) -> bool:
        bot = self._bot
        try:
            await self.call(message.chat, lambda chat: bot.delete_message(chat, message.message or 0))
        except SoAlready:
            return True
        except Refused as error:
            self.log.warning("a message with a secret could not be deleted: %s", error)
            return False
        return True

    # -- what goes out -----------------------------------------------------------------------

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        return await self._send(chat.data, reply)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        where: dict[str, Any] = {"chat": int(principal.user), "user": principal.user}
        if via is not None and via.data["chat"] == where["chat"]:
            where = via.data
        try:
            return await self._send(where, reply)
        except Elsewhere as error:
            # A deep link to the private chat, which asks for the same again.
            start = via.data.get("start", "mcp") if via is not None else "mcp"
            way = Button(sentences.BUTTON_PRIVATE_CHAT, url=deep_link(self._bot.username, start))
            raise PrivateDeliveryUnavailable(way, why=error.message) from None

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        bot, data = self._bot, message.data
        payload = self._render(reply, data)
        if payload.asks is not None:
            # An edited message cannot ask for a reply.
            raise EditWindowClosed
        while not reply.final and (wait := self._pace.full_for(data["chat"])) > 0:
            await self.sleep(wait)
        try:
            await self.call(
                data["chat"],
                lambda chat: bot.edit_message_text(chat_id=chat, message_id=data["message"], **payload.arguments()),
            )
        except SoAlready:
            return message
        except Later:
            raise
        except Refused as error:
            raise EditWindowClosed(error.message) from None
        return message

    async def _send(self, where: dict[str, Any], reply: Reply) -> MessageRef:
        bot = self._bot
        payload = self._render(reply, where)
        arguments = payload.arguments()
        if "thread" in where:
            arguments["message_thread_id"] = where["thread"]
        if "message" in where:
            arguments["reply_parameters"] = ReplyParameters(where["message"], allow_sending_without_reply=True)
        sent = await self.call(where["chat"], lambda chat: bot.send_message(chat, **arguments))
        if payload.asks is not None:
            self._questions.add(sent, payload.asks)
        return MessageRef(PLATFORM, {"chat": sent.chat.id, "message": sent.message_id, "user": where["user"]})

    async def call(self, chat: int, make: Callable[[int], Awaitable[T]]) -> T:
        """`make(chat)`, with the chat that a group has become."""
        here = chat

        async def call() -> T:
            nonlocal here
            self._pace.note(here)
            try:
                return await make(here)
            except ChatMigrated as moved:
                here = moved.new_chat_id
            return await make(here)

        return await self.attempt(call)

    def _render(self, reply: Reply, where: dict[str, Any]) -> Payload:
        owner = self.principal(where["user"])
        return render(reply, owner=owner, servers=self.gateway.names(), now=self.clock())

    @property
    def _installed(self) -> AnyApplication:
        if self._application is None:
            raise RuntimeError("the adapter is not installed: call install(application) first")
        return self._application

    @property
    def _bot(self) -> Bot:
        bot: Bot = self._installed.bot
        return bot


class _Questions:
    """Messages of ours that wait for a reply with a secret. In memory: a prompt does not outlive the process either."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], SecretPrompt] = {}
        self._seen: BoundedDict[tuple[int, int], None] = BoundedDict(_REMEMBERED)

    def add(self, message: Message, prompt: SecretPrompt) -> None:
        now = time.time()
        self._open = {key: one for key, one in self._open.items() if one.expires_at > now}
        self._open[message.chat.id, message.message_id] = prompt

    def waits(self, chat: int) -> bool:
        now = time.time()
        return any(key[0] == chat and one.expires_at > now for key, one in self._open.items())

    def take(self, message: Incoming) -> str:
        """The id of the prompt that this message answers; the empty one when that is over. Asked once."""
        key = message.chat, message.answers or 0
        if message.answers is None:
            key = max((one for one in self._open if one[0] == message.chat), default=key)
        prompt = self._open.pop(key, None)
        return prompt.id if prompt is not None else ""

    def is_first_sight(self, message: Incoming) -> bool:
        """Telegram may tell of one message twice."""
        if message.key in self._seen:
            return False
        self._seen[message.key] = None
        return True
