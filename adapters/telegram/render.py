"""Replies as Telegram messages: plain text with entities, and an inline keyboard. Pure: data in, payload out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from telegram import ForceReply, InlineKeyboardButton, InlineKeyboardMarkup, LinkPreviewOptions, MessageEntity

from adapters import buttons
from adapters.layout import Line, Span, fit, lay_out
from adapters.text import clean
from gateway import sentences
from gateway.invocations import Principal
from gateway.replies import Button, Reply, SecretPrompt, Text

# https://core.telegram.org/bots/api#sendmessage: 4096 characters after the entities are taken out, and 100 entities.
TEXT_MAX = 4096
ENTITIES_MAX = 100
BUTTONS_MAX = 100
BUTTON_URL_MAX = 2048
_LABEL = 64
# Up to so many buttons have a row each; more would be a scroll of their own.
_ONE_A_ROW = 8

# Clients make mentions and commands of these wherever they stand, and a mention rings somebody's phone.
_ACTIVE = re.compile(r"(?<!\w)@\w+|(?<![\w/<>])/(?!mcp\b)\w+(?:@\w+)?")


@dataclass(frozen=True, slots=True)
class Payload:
    """What `sendMessage` and `editMessageText` take. `asks`: the message waits for a reply with a secret."""

    text: str
    entities: tuple[MessageEntity, ...]
    keyboard: InlineKeyboardMarkup | None
    asks: SecretPrompt | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of python-telegram-bot's methods."""
        return {
            "text": self.text,
            "entities": self.entities,
            "link_preview_options": LinkPreviewOptions(is_disabled=True),
            "reply_markup": ForceReply() if self.asks is not None else self.keyboard,
        }


def render(reply: Reply, *, owner: Principal, servers: Sequence[str], now: float) -> Payload:
    """A whole reply.

    Args:
        owner: who may press the buttons.
        servers: all configured names; buttons carry a short tag of theirs.
    """
    prompt = reply.prompt
    if prompt is not None:
        blocks = (*reply.blocks, Text(sentences.SECRET_REPLY))
        reply = Reply(blocks, title=reply.title)
    shown = fit(
        lay_out(reply, now=now, button_url_max=BUTTON_URL_MAX, buttons_max=BUTTONS_MAX, takes_url=_takes_url),
        _size,
        TEXT_MAX,
    )
    text, entities = _marked(shown.lines)
    keyboard = [pressed for one in shown.buttons if (pressed := _button(one, owner, servers)) is not None]
    return Payload(text, entities, _rows(keyboard), prompt)


def units(text: str) -> int:
    """The length of `text` as Telegram counts: UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def _size(line: Line) -> int:
    return units(line.text) + 1


def _takes_url(url: str) -> bool:
    """Telegram refuses a message with a button for a host without a dot, such as `http://intranet/`."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in ("http", "https") and ("." in host or ":" in host)


def _marked(lines: Sequence[Line]) -> tuple[str, tuple[MessageEntity, ...]]:
    text = ""
    entities: list[MessageEntity] = []
    at = 0
    for index, line in enumerate(lines):
        if index:
            text += "\n"
            at += 1
        for piece, style in (pair for span in line.spans for pair in _pieces(span)):
            length = units(piece)
            if style is not None and piece.strip():
                entities.append(MessageEntity(style, at, length))
            text += piece
            at += length
    return text, _within(entities)


def _pieces(span: Span) -> list[tuple[str, str | None]]:
    """`span` in runs of one style. Mentions and foreign commands become code, where clients leave them alone."""
    if span.style == "code":
        return [(span.text, MessageEntity.CODE)]
    if span.style == "link":
        return [(span.text, None if _takes_url(span.text) else MessageEntity.CODE)]
    style = MessageEntity.BOLD if span.style == "bold" else None
    pieces: list[tuple[str, str | None]] = []
    end = 0
    for match in _ACTIVE.finditer(span.text):
        pieces += [(span.text[end : match.start()], style), (match[0], MessageEntity.CODE)]
        end = match.end()
    return [piece for piece in (*pieces, (span.text[end:], style)) if piece[0]]


def _within(entities: list[MessageEntity]) -> tuple[MessageEntity, ...]:
    """At most `ENTITIES_MAX`; looks go before what keeps mentions quiet."""
    spare = max(0, len(entities) - ENTITIES_MAX)
    bold = [one for one in entities if one.type == MessageEntity.BOLD]
    dropped = {id(one) for one in bold[len(bold) - spare :]} if spare else set()
    return tuple([one for one in entities if id(one) not in dropped][:ENTITIES_MAX])


def _button(button: Button, owner: Principal, servers: Sequence[str]) -> InlineKeyboardButton | None:
    label = clean(button.label, _LABEL) or "…"
    if button.url is not None:
        return InlineKeyboardButton(label, url=button.url)
    if button.command is None:
        return None
    return InlineKeyboardButton(label, callback_data=buttons.pack(button.command, owner, servers))


def _rows(keyboard: Sequence[InlineKeyboardButton]) -> InlineKeyboardMarkup | None:
    if not keyboard:
        return None
    width = 1 if len(keyboard) <= _ONE_A_ROW else 2
    return InlineKeyboardMarkup([keyboard[at : at + width] for at in range(0, len(keyboard), width)])
