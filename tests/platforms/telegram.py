"""A Bot API server on loopback, with the people and chats behind it.

It speaks getMe, getUpdates (long polling), setWebhook, deleteWebhook, getWebhookInfo, sendMessage, editMessageText,
deleteMessage, answerCallbackQuery, setMyCommands and getMyCommands as https://core.telegram.org/bots/api (10.3) and
https://core.telegram.org/bots/webhooks describe them, and refuses what they refuse (`telegram_rules`): form fields or
JSON, the texts of errors as Telegram words them. Not spoken: parse_mode (the adapter sends entities), media, inline
mode, negative offsets.

It stands for Telegram because Telegram itself cannot run here. Drive it from the test's thread: people speak, press,
edit and leave; every request that arrives is kept in `calls`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.patience import PATIENCE
from tests.platforms import telegram_rules as rules
from tests.platforms.telegram_rules import BadRequest
from tests.servers.oauth import LostResponse
from tests.servers.threads import loopback_socket, serving

BOT_ID = 7_000_001
BOT_NAME = "slash_mcp_bot"
TOKEN = f"{BOT_ID}:AAH-canary-telegram-token-0123456789abc"
# https://core.telegram.org/bots/api#message, field `from`: who stands there for those who have no account.
ANONYMOUS_ADMIN = {
    "id": 1087968824,
    "is_bot": True,
    "first_name": "Group",
    "username": "GroupAnonymousBot",
}
CHANNEL_BOT = {"id": 136817688, "is_bot": True, "first_name": "Channel", "username": "Channel_Bot"}
_TAKES = 48 * 3600


@dataclass
class Call:
    """One request: its method, parameters as sent, and what was answered (`error` None: it was good)."""

    method: str
    parameters: dict[str, Any]
    error: str | None = None
    at: float = field(default_factory=time.monotonic)


class Refusal(Exception):
    """Any answer that is not a 200, e.g. `Refusal(429, "Too Many Requests: retry after 3", retry_after=3)`."""

    def __init__(self, code: int, description: str, **parameters: Any) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters


def flood(seconds: int) -> Refusal:
    return Refusal(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


class Lost(Exception):
    """The connection breaks. `done`: after the request had its effect."""

    def __init__(self, *, done: bool = False) -> None:
        self.done = done


@dataclass
class Message:
    """One message as the chat shows it now. `versions`: every (text, markup) that it had."""

    id: int
    chat: Chat
    sender: dict[str, Any] | None
    text: str
    entities: list[dict[str, Any]] = field(default_factory=list)
    markup: dict[str, Any] | None = None
    reply_to: Message | None = None
    sender_chat: dict[str, Any] | None = None
    thread: int | None = None
    date: int = field(default_factory=lambda: int(time.time()))
    deleted: bool = False
    payload: dict[str, Any] = field(default_factory=dict)
    versions: list[tuple[str, dict[str, Any] | None]] = field(default_factory=list)

    @property
    def from_bot(self) -> bool:
        return self.sender is not None and self.sender["id"] == BOT_ID

    @property
    def buttons(self) -> list[dict[str, Any]]:
        return [button for row in (self.markup or {}).get("inline_keyboard", []) for button in row]

    def button(self, label: str) -> dict[str, Any]:
        return next(button for button in self.buttons if label in button["text"])

    @property
    def urls(self) -> list[str]:
        return [button["url"] for button in self.buttons if "url" in button]

    def marked(self, kind: str) -> list[str]:
        """The pieces of text under entities of this kind."""
        data = self.text.encode("utf-16-le")
        found = [one for one in self.entities if one["type"] == kind]
        return [data[one["offset"] * 2 : (one["offset"] + one["length"]) * 2].decode("utf-16-le") for one in found]

    def as_json(self, *, with_reply: bool = True) -> dict[str, Any]:
        shown: dict[str, Any] = {"message_id": self.id, "date": self.date, "chat": self.chat.as_json()}
        shown["text"] = self.text
        for name, value in (
            ("from", self.sender),
            ("entities", self.entities),
            ("sender_chat", self.sender_chat),
            ("message_thread_id", self.thread),
            ("is_topic_message", True if self.thread else None),
        ):
            if value:
                shown[name] = value
        if self.markup and "inline_keyboard" in self.markup:
            shown["reply_markup"] = self.markup
        if self.reply_to is not None and with_reply:
            shown["reply_to_message"] = self.reply_to.as_json(with_reply=False)
        return shown


@dataclass
class Press:
    """A button that somebody pressed, and what the bot answered."""

    id: str
    answered: bool = False
    text: str | None = None
    alert: bool = False


class Chat:
    """A private chat, group or channel. `messages` holds all of both sides, in order."""

    def __init__(self, api: BotApi, id: int, kind: str, title: str) -> None:
        self.api = api
        self.id = id
        self.kind = kind
        self.title = title
        self.messages: list[Message] = []
        self.refusal: Refusal | None = None

    @property
    def sent(self) -> list[Message]:
        """What the bot wrote and did not delete."""
        return [message for message in self.messages if message.from_bot and not message.deleted]

    async def message(self, containing: str, timeout: float = PATIENCE) -> Message:
        """The newest message of the bot with these words, waited for."""
        fits = lambda: [one for one in self.sent if containing in one.text]  # noqa: E731
        await self.api.until(fits, timeout, lambda: f"{containing!r} is not among {[one.text for one in self.sent]}")
        return fits()[-1]

    def write(self, text: str, sender: dict[str, Any] | None, **more: Any) -> Message:
        """Somebody writes. The bot gets an update of the fitting kind."""
        twice = more.pop("twice", False)
        with self.api.lock:
            message = self.add(text, sender, rules.found_entities(text), **more)
            if self.reaches_the_bot(message):
                kind = "channel_post" if self.kind == "channel" else "message"
                self.api.put(kind, message.as_json(), times=2 if twice else 1)
        return message

    def edit(self, message: Message, text: str) -> None:
        """Somebody changes what they wrote."""
        with self.api.lock:
            message.text, message.entities = text, rules.found_entities(text)
            kind = "edited_channel_post" if self.kind == "channel" else "edited_message"
            self.api.put(kind, {**message.as_json(), "edit_date": int(time.time())})

    def add(self, text: str, sender: dict[str, Any] | None, entities: list[dict[str, Any]], **more: Any) -> Message:
        message = Message(next(self.api.message_ids), self, sender, text, entities, **more)
        message.versions.append((text, message.markup))
        self.messages.append(message)
        return message

    def reaches_the_bot(self, message: Message) -> bool:
        """Privacy mode (https://core.telegram.org/bots/features#privacy-mode): in groups, commands and replies only."""
        if self.kind not in ("group", "supergroup") or self.api.reads_all:
            return True
        command = re.match(r"/\w+(?:@(\w+))?", message.text)
        if command is not None:
            return command[1] is None or command[1].lower() == BOT_NAME
        return message.reply_to is not None and message.reply_to.from_bot

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": self.kind, "title": self.title}


class Group(Chat):
    def say(self, person: Person, text: str, **more: Any) -> Message:
        return self.write(text, person.account(), **more)

    def say_anonymously(self, text: str) -> Message:
        """An admin who hides behind the group."""
        return self.write(text, ANONYMOUS_ADMIN, sender_chat=self.as_json())

    def say_as_channel(self, text: str, channel: Chat) -> Message:
        """A person who speaks as one of their channels."""
        return self.write(text, CHANNEL_BOT, sender_chat=channel.as_json())

    def become_supergroup(self) -> Group:
        """The group gets a new id, and the old one answers with it."""
        new = self.api.group(self.title, kind="supergroup")
        self.refusal = Refusal(
            400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=new.id
        )
        return new


class Person(Chat):
    """One account, and its private chat with the bot."""

    def __init__(self, api: BotApi, id: int, name: str, username: str | None) -> None:
        super().__init__(api, id, "private", name)
        self.username = username
        self.refusal = Refusal(403, "Forbidden: bot can't initiate conversation with a user")

    def start(self, payload: str = "") -> Message:
        """Press Start, with the payload of a deep link."""
        if payload:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", payload), (
                "deep link payloads are 1-64 of A-Z, a-z, 0-9, _ and -"
            )
        self.refusal = None
        return self.say(f"/start {payload}".strip())

    def open_link(self, url: str) -> Message:
        """Follow a deep link to the bot."""
        match = re.fullmatch(rf"https://t\.me/{BOT_NAME}\?start=(.*)", url)
        assert match is not None, url
        return self.start(match[1])

    def block(self) -> None:
        self.refusal = Refusal(403, "Forbidden: bot was blocked by the user")

    def say(self, text: str, **more: Any) -> Message:
        if self.refusal is not None and "initiate" in self.refusal.description:
            self.refusal = None
        return self.write(text, self.account(), **more)

    def answer(self, question: Message, text: str, **more: Any) -> Message:
        """Reply to a message."""
        return self.say(text, reply_to=question, **more)

    def press(self, message: Message, label: str, *, twice: bool = False) -> Press:
        """Press a button of a message in any chat. `twice`: the bot hears of it two times."""
        data = message.button(label)["callback_data"]
        with self.api.lock:
            press = Press(str(next(self.api.press_ids)))
            self.api.presses[press.id] = press
            query = {"id": press.id, "from": self.account(), "chat_instance": "1", "data": data}
            self.api.put("callback_query", {**query, "message": message.as_json()}, times=2 if twice else 1)
        return press

    def account(self) -> dict[str, Any]:
        account = {"id": self.id, "is_bot": False, "first_name": self.title}
        return {**account, "username": self.username} if self.username else account

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "type": "private", "first_name": self.title}


class BotApi:
    """The server. `running()` starts it; `base_url` goes to `Application.builder().base_url(...)`.

    Args:
        local: a Bot API server of one's own (`--local`): webhooks may be plain http.
    """

    def __init__(self, token: str = TOKEN, *, local: bool = False) -> None:
        self.token = token
        self.local = local
        self.lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._polls = 0
        self._deliverer: asyncio.Task[None] | None = None
        self._socket = loopback_socket()
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/bot"
        self.reset()

    def reset(self) -> None:
        """A new world at the same address."""
        self.calls: list[Call] = []
        self.message_ids = itertools.count(1)
        self.press_ids = itertools.count(4_000_000_000)
        self.presses: dict[str, Press] = {}
        self.commands: dict[str, list[dict[str, Any]]] = {}
        self.revoked = False
        self.offline = False
        self.reads_all = False
        self.webhook: dict[str, Any] = {"url": ""}
        self._chats: dict[int, Chat] = {}
        self._answers: dict[str, list[Refusal | Lost]] = {}
        self._updates: list[dict[str, Any]] = []
        self._update_ids = itertools.count(1)
        self.end_polls()

    @contextmanager
    def running(self) -> Iterator[BotApi]:
        routes = [Route("/bot{token}/{method}", self._answer, methods=["GET", "POST"])]
        with serving(Starlette(routes=routes), self._socket):
            yield self
            self.end_polls()

    # -- the world behind it -----------------------------------------------------------------

    def person(self, id: int, name: str, username: str | None = None) -> Person:
        person = Person(self, id, name, username)
        self._chats[id] = person
        return person

    def group(self, title: str, *, kind: str = "supergroup") -> Group:
        group = Group(self, -1_001_000_000_000 - len(self._chats), kind, title)
        self._chats[group.id] = group
        return group

    def channel(self, title: str) -> Chat:
        channel = Chat(self, -1_002_000_000_000 - len(self._chats), "channel", title)
        self._chats[channel.id] = channel
        return channel

    def next_answers(self, method: str, *answers: Refusal | Lost) -> None:
        """Answer so, one after the other, before the method works again."""
        with self.lock:
            self._answers.setdefault(method, []).extend(answers)

    def forward(self, message: Message, person: Person) -> None:
        """Put the message into another person's hands (only so that a test can press what was not meant for them)."""
        person.messages.append(message)

    def sent(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    @property
    def refused(self) -> list[Call]:
        """Requests that a correct client does not send."""
        return [call for call in self.calls if call.error is not None and call.error.startswith("400")]

    async def until(
        self, fits: Callable[[], Any], timeout: float = PATIENCE, why: Callable[[], str] = lambda: ""
    ) -> None:
        deadline = time.monotonic() + timeout
        while not fits():
            if time.monotonic() > deadline:
                refused = [(call.method, call.error) for call in self.calls if call.error]
                raise AssertionError(f"{why()}; refused: {refused}")
            await asyncio.sleep(0.005)

    def put(self, kind: str, value: dict[str, Any], *, times: int = 1) -> None:
        """An update for the bot."""
        update = {"update_id": next(self._update_ids), kind: value}
        with self.lock:
            self._updates += [update] * times
        self._wake()

    def _wake(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)

    # -- HTTP --------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        self._loop = asyncio.get_running_loop()
        token, method = request.path_params["token"], request.path_params["method"]
        call = Call(method, await _parameters(request))
        self.calls.append(call)
        lost = False
        try:
            if self.offline:
                raise Lost
            planned = self._answers.get(method) or []
            if planned:
                answer = planned.pop(0)
                if not (isinstance(answer, Lost) and answer.done):
                    raise answer
                lost = True
            result = await self._result(token, method, call)
        except Lost:
            call.error = "lost"
            return LostResponse()
        except BadRequest as error:
            return _refused(call, Refusal(400, f"Bad Request: {error}"))
        except Refusal as refusal:
            return _refused(call, refusal)
        return LostResponse() if lost else JSONResponse({"ok": True, "result": result})

    async def _result(self, token: str, method: str, call: Call) -> Any:
        if not re.fullmatch(r"\d+:[A-Za-z0-9_-]{30,}", token):
            raise Refusal(404, "Not Found")
        if token != self.token or self.revoked:
            raise Refusal(401, "Unauthorized")
        if method not in rules.METHODS:
            raise Refusal(404, "Not Found: method not found")
        call.parameters = rules.read(method, call.parameters)
        if method == "getUpdates":
            return await self._get_updates(**call.parameters)
        with self.lock:
            return _METHODS[method](self, call.parameters)

    # -- methods -----------------------------------------------------------------------------

    async def _get_updates(
        self, offset: int = 0, limit: int = 100, timeout: int = 0, allowed_updates: list[str] | None = None
    ) -> list[dict[str, Any]]:
        if self.webhook["url"]:
            raise Refusal(
                409,
                "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook to delete the "
                "webhook first",
            )
        self._polls += 1
        poll = self._polls
        deadline = time.monotonic() + timeout
        while True:
            self._news.clear()
            with self.lock:
                self._updates = [one for one in self._updates if one["update_id"] >= offset]
                found = [one for one in self._updates if _is_wanted(one, allowed_updates)][:limit]
            if found or time.monotonic() >= deadline:
                return found
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await self._news.wait()
            except TimeoutError:
                continue
            if self.offline:
                raise Lost
            if self.revoked:
                raise Refusal(401, "Unauthorized")
            if poll != self._polls:
                raise Refusal(
                    409,
                    "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running",
                )

    def end_polls(self) -> None:
        """Answer a getUpdates that waits, so that a change (`offline`, `revoked`) is felt at once."""
        self._polls += 1
        self._wake()

    def _get_me(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            **_bot(),
            "can_join_groups": True,
            "can_read_all_group_messages": self.reads_all,
            "supports_inline_queries": False,
        }

    def _set_webhook(self, given: dict[str, Any]) -> bool:
        rules.check_webhook(given["url"], given.get("secret_token"), local=self.local)
        self.webhook = given
        if given["url"] and self._deliverer is None and self._loop is not None:
            self._deliverer = self._loop.create_task(self._deliver())
        return True

    def _delete_webhook(self, given: dict[str, Any]) -> bool:
        self.webhook = {"url": ""}
        return True

    def _get_webhook_info(self, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "url": self.webhook["url"],
            "has_custom_certificate": False,
            "pending_update_count": len(self._updates),
        }

    async def _deliver(self) -> None:
        """Bring updates to the webhook, each until it is taken, as Telegram does."""
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
            while True:
                self._news.clear()
                while self._updates and self.webhook["url"] and not self.offline:
                    with self.lock:
                        update = self._updates[0]
                    headers = {"X-Telegram-Bot-Api-Secret-Token": self.webhook.get("secret_token", "")}
                    try:
                        answer = await client.post(self.webhook["url"], json=update, headers=headers)
                    except httpx2.TransportError:
                        await asyncio.sleep(0.02)
                        continue
                    if not answer.is_success:
                        await asyncio.sleep(0.02)
                        continue
                    with self.lock:
                        self._updates.remove(update)
                await self._news.wait()

    def _send_message(self, given: dict[str, Any]) -> dict[str, Any]:
        chat = self._reachable(given["chat_id"])
        entities = rules.check_text(given["text"], given.get("entities", []))
        if "reply_markup" in given:
            rules.check_markup(given["reply_markup"])
        reply_to = None
        if "reply_parameters" in given:
            wanted = given["reply_parameters"]
            reply_to = next((one for one in chat.messages if one.id == wanted["message_id"] and not one.deleted), None)
            if reply_to is None and not wanted.get("allow_sending_without_reply"):
                raise BadRequest("message to be replied not found")
        message = chat.add(
            given["text"],
            _bot(),
            entities,
            markup=given.get("reply_markup"),
            reply_to=reply_to,
            thread=given.get("message_thread_id"),
            payload=given,
        )
        return message.as_json()

    def _edit_message_text(self, given: dict[str, Any]) -> dict[str, Any]:
        chat = self._reachable(given["chat_id"])
        message = next((one for one in chat.messages if one.id == given["message_id"] and not one.deleted), None)
        if message is None:
            raise BadRequest("message to edit not found")
        if not message.from_bot:
            raise BadRequest("message can't be edited")
        entities = rules.check_text(given["text"], given.get("entities", []))
        markup = given.get("reply_markup")
        if markup is not None:
            rules.check_markup(markup)
            if "inline_keyboard" not in markup:
                raise BadRequest("an edited message takes an inline keyboard only")
        if (message.text, message.entities, message.markup) == (given["text"], entities, markup):
            raise BadRequest(
                "message is not modified: specified new message content and reply markup are exactly the same as a "
                "current content and reply markup of the message"
            )
        # The text last: whoever waits for it finds the rest there.
        message.entities, message.markup, message.payload = entities, markup, given
        message.text = given["text"]
        message.versions.append((message.text, markup))
        return message.as_json()

    def _delete_message(self, given: dict[str, Any]) -> bool:
        chat = self._reachable(given["chat_id"])
        message = next((one for one in chat.messages if one.id == given["message_id"] and not one.deleted), None)
        if message is None:
            raise BadRequest("message to delete not found")
        if (chat.kind != "private" and not message.from_bot) or time.time() - message.date > _TAKES:
            raise BadRequest("message can't be deleted for everyone")
        message.deleted = True
        return True

    def _answer_callback_query(self, given: dict[str, Any]) -> bool:
        press = self.presses.get(given["callback_query_id"])
        if press is None or press.answered:
            raise BadRequest("query is too old and response timeout expired or query ID is invalid")
        if len(given.get("text", "")) > rules.ALERT_MAX:
            raise BadRequest("MESSAGE_TOO_LONG")
        press.answered, press.text, press.alert = True, given.get("text"), given.get("show_alert", False)
        return True

    def _set_my_commands(self, given: dict[str, Any]) -> bool:
        rules.check_commands(given["commands"])
        self.commands[_scope(given)] = given["commands"]
        return True

    def _get_my_commands(self, given: dict[str, Any]) -> list[dict[str, Any]]:
        return self.commands.get(_scope(given), [])

    def _reachable(self, chat_id: int) -> Chat:
        chat = self._chats.get(chat_id)
        if chat is None:
            raise BadRequest("chat not found")
        if chat.refusal is not None:
            raise chat.refusal
        return chat


_METHODS: dict[str, Callable[[BotApi, dict[str, Any]], Any]] = {
    "getMe": BotApi._get_me,
    "setWebhook": BotApi._set_webhook,
    "deleteWebhook": BotApi._delete_webhook,
    "getWebhookInfo": BotApi._get_webhook_info,
    "sendMessage": BotApi._send_message,
    "editMessageText": BotApi._edit_message_text,
    "deleteMessage": BotApi._delete_message,
    "answerCallbackQuery": BotApi._answer_callback_query,
    "setMyCommands": BotApi._set_my_commands,
    "getMyCommands": BotApi._get_my_commands,
}


async def _parameters(request: Request) -> dict[str, Any]:
    body = await request.body()
    kind = request.headers.get("content-type", "")
    if kind.startswith("application/json") and body:
        given: dict[str, Any] = json.loads(body)
        return given
    if kind.startswith("application/x-www-form-urlencoded"):
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    return dict(request.query_params)


def _refused(call: Call, refusal: Refusal) -> Response:
    call.error = f"{refusal.code} {refusal.description}"
    body = {"ok": False, "error_code": refusal.code, "description": refusal.description}
    if refusal.parameters:
        body["parameters"] = refusal.parameters
    return JSONResponse(body, refusal.code)


def _is_wanted(update: dict[str, Any], allowed: list[str] | None) -> bool:
    return not allowed or any(kind in update for kind in allowed)


def _bot() -> dict[str, Any]:
    return {"id": BOT_ID, "is_bot": True, "first_name": "Slash MCP", "username": BOT_NAME}


def _scope(given: dict[str, Any]) -> str:
    return str(given.get("scope", {"type": "default"})["type"])
