"""Replies as Discord messages: content in its markdown and rows of buttons. Pure: data in, JSON out.

Limits: https://docs.discord.com/developers/resources/message and .../components/reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from discord.utils import escape_markdown, escape_mentions

from adapters import buttons
from adapters.layout import Layout, Line, Span, Writer, fit, lay_out
from adapters.text import clean
from gateway import sentences
from gateway.commands import shown
from gateway.invocations import Principal
from gateway.replies import Block, Button, Checklist, ChecklistItem, ItemState, Reply, SecretPrompt
from gateway.surfaces import Typed, chat_command, is_for_chats, typed_text
from mcp_auth.outcome import Next

CONTENT_MAX = 2000
BUTTONS_MAX, ROW_MAX = 25, 5
LABEL_MAX, URL_MAX = 80, 512
MODAL_TITLE_MAX, MODAL_LABEL_MAX, MODAL_DESCRIPTION_MAX = 45, 45, 100
CHOICES_MAX, CHOICE_MAX = 25, 100

# Beside it in the content: the server's name, the note.
_LINK_MAX = 1600
_PRIMARY, _SECONDARY, _LINK = 1, 2, 5
_VERBS = frozenset(spec.verb for spec in shown())
_URL = re.compile(r"https?://[^\s<>]+")


def render(
    reply: Reply, *, owner: Principal, servers: Sequence[str], now: float, command_id: str | None = None
) -> dict[str, Any]:
    """`{"content": ..., "components": [...]}`, within every limit.

    Args:
        owner: who may press the buttons.
        servers: the configured names; a button carries the tag of one, never the name.
        command_id: of `/mcp` as it is registered; a command that is named can be clicked then.
    """
    fitting = replace(reply, blocks=tuple(_fitting(block) for block in reply.blocks))
    shown = _shown(fitting, now, Writer(partial(write_command, command_id=command_id), apart=True))
    packed = [_button(button, owner, servers) for button in shown.buttons]
    asked = [_prompt_button(block, owner) for block in reply.blocks if isinstance(block, SecretPrompt)]
    return {"content": _content(shown.lines), "components": _rows([*asked, *packed])}


def write_command(step: Next | Typed, command_id: str | None = None) -> str:
    """`</mcp auth:ID> notes`, in Discord's markdown.

    A command with subcommands cannot be sent bare, and an address is entered into a form.
    """
    if step == Typed(""):
        return "/mcp"
    if not is_for_chats(step):
        return chat_command(step)
    verb, _, rest = typed_text(step).partition(" ")
    if verb not in _VERBS:
        verb, rest = "status", typed_text(step)
    name = f"/mcp {verb}" if command_id is None else f"</mcp {verb}:{command_id}>"
    return name if verb == "paste" else f"{name} {_escape(clean(rest))}".rstrip()


def _shown(reply: Reply, now: float, writer: Writer) -> Layout:
    """As many long links in the text as fit; for each of the others a button asks."""
    links = sum(
        item.state is ItemState.LINK for block in reply.blocks if isinstance(block, Checklist) for item in block.items
    )
    for count in range(links, -1, -1):
        shown = lay_out(
            reply, now=now, button_url_max=URL_MAX, buttons_max=BUTTONS_MAX, links_in_text=count, writer=writer
        )
        if sum(map(_size, shown.lines)) <= CONTENT_MAX:
            return shown
    return fit(shown, _size, CONTENT_MAX)


def _fitting(block: Block) -> Block:
    """No link that no message has room for."""
    if not isinstance(block, Checklist):
        return block
    return replace(block, items=tuple(_sendable(item) for item in block.items))


def _sendable(item: ChecklistItem) -> ChecklistItem:
    if item.link is None or len(item.link) <= _LINK_MAX:
        return item
    return ChecklistItem.failed(item.server, sentences.link_too_long(item.server))


def _content(lines: Sequence[Line]) -> str:
    return "\n".join(_markdown(line) for line in lines)


def _size(line: Line) -> int:
    """In UTF-16 units, so that no way of counting finds more; with the line break."""
    return len(_markdown(line).encode("utf-16-le")) // 2 + 1


def _markdown(line: Line) -> str:
    return "".join(_span(span) for span in line.spans)


def _span(span: Span) -> str:
    if span.is_command and (span.style != "code" or span.text.startswith("<")):
        return span.text
    match span.style:
        case "bold":
            return f"**{_escape(span.text)}**"
        case "code":
            # Inside, nothing is markup but the end.
            return f"`{span.text.replace('`', chr(0x2019))}`"
        case "link":
            return f"<{_unbracketed(span.text)}>"
        case _:
            return _plain(span.text)


def _plain(text: str) -> str:
    """Escaped, but for the addresses: those stand in brackets, which keeps Discord from showing a preview."""
    shown, at = [], 0
    for found in _URL.finditer(text):
        shown += [_escape(text[at : found.start()]), f"<{found.group()}>"]
        at = found.end()
    return "".join([*shown, _escape(text[at:])])


def _escape(text: str) -> str:
    """No markdown, no mention, no masked link, no custom emoji: `[` and `<` begin all that the library leaves."""
    parts = (escape_markdown(part, ignore_links=False) for part in text.split("["))
    return escape_mentions("\\[".join(parts)).replace("<", "\\<")


def _unbracketed(url: str) -> str:
    return url.replace("<", "%3C").replace(">", "%3E")


def _button(button: Button, owner: Principal, servers: Sequence[str]) -> dict[str, Any]:
    label = clean(button.label, LABEL_MAX)
    if button.url is not None:
        return {"type": 2, "style": _LINK, "label": label, "url": button.url}
    custom_id = buttons.pack(button.command or "", owner, servers)
    return {"type": 2, "style": _SECONDARY, "label": label, "custom_id": custom_id}


def _prompt_button(prompt: SecretPrompt, owner: Principal) -> dict[str, Any]:
    custom_id = buttons.pack_prompt(prompt.id, owner)
    return {"type": 2, "style": _PRIMARY, "label": sentences.BUTTONS["key"], "custom_id": custom_id}


def _rows(made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of five, each custom id once. The first button that acts here is the one that stands out."""
    each: dict[str, dict[str, Any]] = {}
    for button in made:
        each.setdefault(button.get("custom_id") or button["url"], button)
    unique = list(each.values())[:BUTTONS_MAX]
    first = next((button for button in unique if button["style"] != _LINK), None)
    shown = [{**button, "style": _PRIMARY} if button is first else button for button in unique]
    return [{"type": 1, "components": shown[at : at + ROW_MAX]} for at in range(0, len(shown), ROW_MAX)]
