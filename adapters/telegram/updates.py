"""What comes from Telegram, read: commands, deep links, who wrote where. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def words(message: Message) -> str:
    """What somebody typed, below a picture too."""
    return message.text or message.caption or ""


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


def is_private(message: Message) -> bool:
    return message.chat.type == ChatType.PRIVATE


def person(message: Message) -> User | None:
    """The account behind it; None: a channel, an anonymous admin, another bot."""
    user = message.from_user
    return None if user is None or user.is_bot or message.sender_chat is not None else user


def answers_question(message: Message, bot: int) -> bool:
    """Whether this replies to a message of ours that asked for a secret, however long ago."""
    asked = message.reply_to_message
    if asked is None or asked.from_user is None or asked.from_user.id != bot:
        return False
    return sentences.SECRET_REPLY in (asked.text or "")


def may_be_secret(text: str) -> bool:
    """One long word. While a question is open, this is its answer even where the reply was forgotten."""
    return len(text) >= _SHORTEST_SECRET and not any(c.isspace() for c in text)


def invocation(message: Message, user: User, text: str, servers: Sequence[str]) -> Invocation:
    """`message` of `user` as an invocation of `text`."""
    return Invocation(
        principal=Principal(PLATFORM, str(user.id)),
        chat=chat_ref(message, str(user.id), start_payload(text, servers)),
        text=text,
        private=is_private(message),
        event_id=f"{message.chat.id}/{message.message_id}",
        display_name=user.full_name,
    )


def press(query: CallbackQuery, text: str, servers: Sequence[str]) -> Invocation:
    """A press as an invocation of its button's command. Telegram may no longer have the message."""
    user = str(query.from_user.id)
    where = query.message
    data: dict[str, Any] = {"chat": where.chat.id if where else query.from_user.id, "user": user}
    if isinstance(where, Message) and where.is_topic_message:
        data["thread"] = where.message_thread_id
    private = where is None or where.chat.type == ChatType.PRIVATE
    if not private:
        data["start"] = start_payload(text, servers)
    return Invocation(
        principal=Principal(PLATFORM, user),
        chat=ChatRef(PLATFORM, data),
        text=text,
        private=private,
        event_id=f"press/{query.id}",
        display_name=query.from_user.full_name,
    )


def chat_ref(message: Message, user: str, start: str = "mcp") -> ChatRef:
    """Where to answer, and for whom. `start`: the payload of a deep link that asks the same in private."""
    data: dict[str, Any] = {"chat": message.chat.id, "user": user}
    if message.is_topic_message:
        data["thread"] = message.message_thread_id
    if not is_private(message):
        data |= {"message": message.message_id, "start": start}
    return ChatRef(PLATFORM, data)
