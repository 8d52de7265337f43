"""What comes from Telegram, read: commands, deep links, who wrote where. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from telegram import CallbackQuery, Message, User
from telegram.constants import ChatType

from adapters import buttons
from gateway import commands, grammar, sentences
from gateway.invocations import ChatRef, Invocation, Principal

PLATFORM = "telegram"

_COMMAND = re.compile(r"/mcp(?:@(?P<bot>\w+))?(?:\s+(?P<rest>.*))?", re.IGNORECASE | re.DOTALL)
_START = re.compile(r"/start(?:@\w+)?\s+(?P<payload>mcp(?:-[\w-]*)?)\s*", re.IGNORECASE | re.ASCII)
_CONFIRM = "mcp-confirm-"
# What a deep link may carry. It can be sent to anybody, so it begins nothing that ends or deletes something.
_LINKED = (grammar.Auth, grammar.Key, grammar.Detail, grammar.Test)
_SHORTEST_SECRET = 8


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message, or a press of one of our buttons: read once, and from then on a value.

    `text`: what somebody typed, below a picture too, or what the button carries. `user`: the account behind it; None:
    a channel, an anonymous admin, another bot. `answers`: the message that it replies to; `answers_question`: one of
    ours that asked for a secret, however long ago.
    """

    chat: int
    message: int | None
    text: str
    user: User | None
    private: bool
    event_id: str
    thread: int | None = None
    answers: int | None = None
    answers_question: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """The message, among those of all chats."""
        return self.chat, self.message or 0

    @property
    def may_be_secret(self) -> bool:
        """One long word. While a question is open, this is its answer even where the reply was forgotten."""
        return len(self.text) >= _SHORTEST_SECRET and not any(c.isspace() for c in self.text)

    def place(self, start: str = "mcp") -> ChatRef:
        """Where to answer, and for whom. `start`: the payload of a deep link that asks the same in private."""
        data: dict[str, Any] = {"chat": self.chat, "user": str(self.user.id) if self.user is not None else "0"}
        if self.thread is not None:
            data["thread"] = self.thread
        if not self.private:
            data |= {"message": self.message, "start": start} if self.message is not None else {"start": start}
        return ChatRef(PLATFORM, data)

    def invocation(self, user: User, text: str, servers: Sequence[str]) -> Invocation:
        """It as an invocation of `text` by `user`."""
        chat = self.place(start_payload(text, servers))
        return Invocation(
            Principal(PLATFORM, str(user.id)), chat, text, self.private, self.event_id, display_name=user.full_name
        )


def read_message(message: Message, bot: int) -> Incoming:
    """`bot`: our own id."""
    user, asked = message.from_user, message.reply_to_message
    is_ours = asked is not None and asked.from_user is not None and asked.from_user.id == bot
    return Incoming(
        chat=message.chat.id,
        message=message.message_id,
        text=message.text or message.caption or "",
        user=None if user is None or user.is_bot or message.sender_chat is not None else user,
        private=message.chat.type == ChatType.PRIVATE,
        event_id=f"{message.chat.id}/{message.message_id}",
        thread=message.message_thread_id if message.is_topic_message else None,
        answers=asked.message_id if asked is not None else None,
        answers_question=is_ours and asked is not None and sentences.SECRET_REPLY in (asked.text or ""),
    )


def read_press(query: CallbackQuery) -> Incoming:
    """Telegram may no longer have the message with the button. An answer replies to no message."""
    where = query.message
    return Incoming(
        chat=where.chat.id if where else query.from_user.id,
        message=None,
        # A host with `arbitrary_callback_data` has objects here.
        text=query.data if isinstance(query.data, str) else "",
        user=query.from_user,
        private=where is None or where.chat.type == ChatType.PRIVATE,
        event_id=f"press/{query.id}",
        thread=where.message_thread_id if isinstance(where, Message) and where.is_topic_message else None,
    )


def command(text: str, bot: str, servers: Sequence[str]) -> str | None:
    """What stands after `/mcp`, or what a deep link asks for; None: no command of ours.

    Args:
        bot: our username; `/mcp@another_bot` is for the other.
    """
    started = _START.fullmatch(text)
    if started is not None:
        return command_of(started["payload"], servers)
    typed = _COMMAND.fullmatch(text)
    if typed is None or (typed["bot"] or bot).lower() != bot.lower():
        return None
    return typed["rest"] or ""


def deep_link(bot: str, payload: str) -> str:
    """Opens the private chat with `bot`; its Start button sends `/start payload`."""
    return f"https://t.me/{bot}?start={payload}"


def start_payload(text: str, servers: Sequence[str]) -> str:
    """The payload of a deep link that asks again for `text`: at most 64 of `A-Za-z0-9_-`."""
    asked = commands.parse(text, servers)
    if not isinstance(asked, _LINKED):
        return "mcp"
    verb = {grammar.Auth: "auth", grammar.Key: "key", grammar.Detail: "status", grammar.Test: "test"}[type(asked)]
    named = asked.servers if isinstance(asked, grammar.Auth) else (asked.server,)
    name = named[0] if len(named) == 1 else None
    packed = buttons.pack(grammar.command_for(verb, name), Principal(PLATFORM, "0"), servers)
    _, verb, argument, _ = packed.split(":")
    return f"mcp-{verb}-{argument}" if argument else f"mcp-{verb}"


def command_of(payload: str, servers: Sequence[str]) -> str:
    """The command behind the payload of a deep link: `mcp`, `mcp-confirm-CODE`, or what `start_payload` made."""
    if payload.lower().startswith(_CONFIRM):
        # `/start` is no word of the person's: a link that somebody sent would do.
        return f"review-code {payload[len(_CONFIRM) :]}"
    _, _, rest = payload.partition("-")
    verb, _, argument = rest.partition("-")
    asked = buttons.unpack(f"mcp:{verb}:{argument}:", servers) or ""
    return asked if isinstance(commands.parse(asked, servers), _LINKED) else ""
