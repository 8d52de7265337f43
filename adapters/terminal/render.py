"""Replies as plain text for a terminal or a pipe. Pure: data in, text out."""

from __future__ import annotations

from adapters.symbols import ITEM_MARK, TONE_MARK
from adapters.terminal.table import Paint, server_list
from adapters.text import clean, link_text, width, wrap
from gateway.replies import (
    Block,
    Checklist,
    ItemState,
    Reply,
    SecretPrompt,
    ServerDetail,
    ServerList,
    Table,
    Text,
)
from gateway.surfaces import Surface, Typed, Words, chat_command, write

# In a narrower second column nobody reads sentences.
_VALUE_MIN = 20


def render(reply: Reply, *, columns: int | None, color: bool, now: float, surface: Surface = chat_command) -> str:
    """A whole reply, without a newline at its end. Links stand alone on their lines, flush left and never cut.

    Args:
        columns: how wide the terminal is; None: no line is broken.
        surface: how a command is typed here.
    """
    paint = Paint(color)
    text = "\n".join(_block(block, columns, paint, now, surface) for block in reply.blocks)
    return "\n".join([text, *_buttons(reply, text, surface)])


def _buttons(reply: Reply, text: str, surface: Surface) -> list[str]:
    """What there is to press, as what there is to type, unless the text says it already."""
    commands = [(clean(one.label), surface(Typed(clean(one.command)))) for one in reply.buttons if one.command]
    return [f"  {label}: {command}" for label, command in commands if command not in text]


def _block(block: Block, columns: int | None, paint: Paint, now: float, surface: Surface) -> str:
    match block:
        case Text():
            mark = TONE_MARK[block.tone]
            text = f"{mark}{clean(write(block.words, surface=surface))}"
            line = wrap(text, columns, " " * len(mark), block.next_step, surface)
            return paint(line, mark.strip()) if mark else line
        case ServerList():
            return server_list(block.servers, write(block.hint or "", surface=surface), columns, paint, now)
        case ServerDetail():
            return _detail(block, columns, paint, surface)
        case Checklist():
            return _checklist(block, columns, paint, surface)
        case SecretPrompt():
            return wrap(clean(block.text), columns)
        case Table():
            return _two_columns(block.rows, columns, surface)


def _detail(block: ServerDetail, columns: int | None, paint: Paint, surface: Surface) -> str:
    return f"{paint.bold(clean(block.server.name))}\n{_two_columns(block.facts, columns, surface)}"


def _checklist(block: Checklist, columns: int | None, paint: Paint, surface: Surface) -> str:
    lines = []
    for item in block.items:
        mark = ITEM_MARK[item.state]
        text = f"{mark} {clean(item.server)}: {clean(item.sentence)}"
        lines.append(paint(wrap(text, columns, "  ", item.next_step, surface), mark))
        command = surface(Typed(clean(item.command))) if item.command else None
        if item.state is ItemState.LINK and item.link:
            lines.append(link_text(item.link))
        elif command is not None and command not in write(item.next_step or "", surface=surface):
            lines.append(f"  {command}")
    if block.note:
        lines += ["", wrap(clean(write(block.note, surface=surface)), columns)]
    return "\n".join(lines)


def _two_columns(rows: tuple[tuple[Words, Words], ...], columns: int | None, surface: Surface) -> str:
    """Label and value; what is long goes on under its own beginning, or under the label where that is too narrow."""
    cells = [(clean(write(left, surface=surface)), clean(write(right, surface=surface))) for left, right in rows]
    longest = max((width(left) for left, _ in cells), default=0)
    room = None if columns is None else columns - longest - 4
    if room is not None and room < _VALUE_MIN:
        return "\n".join(f"  {left}\n    {wrap(right, (columns or 0) - 4, indent='    ')}" for left, right in cells)
    under = " " * (longest + 4)
    lines = []
    for left, right in cells:
        value = wrap(right, room).replace("\n", f"\n{under}")
        lines.append(f"  {left}{' ' * (longest - width(left))}  {value}")
    return "\n".join(lines)
