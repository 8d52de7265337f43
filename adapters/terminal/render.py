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

# In a narrower second column nobody reads sentences.
_VALUE_MIN = 20


def render(reply: Reply, *, columns: int | None, color: bool, now: float) -> str:
    """A whole reply, without a newline at its end. Links stand alone on their lines, flush left and never cut.

    Args:
        columns: how wide the terminal is; None: no line is broken.
    """
    paint = Paint(color)
    text = "\n".join(_block(block, columns, paint, now) for block in reply.blocks)
    return "\n".join([text, *_buttons(reply, text)])


def _buttons(reply: Reply, text: str) -> list[str]:
    """What there is to press, as what there is to type, unless the text says it already."""
    commands = [(clean(one.label), f"/mcp {clean(one.command)}") for one in reply.buttons if one.command]
    return [f"  {label}: {command}" for label, command in commands if command not in text]


def _block(block: Block, columns: int | None, paint: Paint, now: float) -> str:
    match block:
        case Text():
            mark = TONE_MARK[block.tone]
            line = wrap(f"{mark}{clean(block.text)}", columns, indent=" " * len(mark))
            return paint(line, mark.strip()) if mark else line
        case ServerList():
            return server_list(block.servers, block.hint, columns, paint, now)
        case ServerDetail():
            return _detail(block, columns, paint)
        case Checklist():
            return _checklist(block, columns, paint)
        case SecretPrompt():
            return wrap(clean(block.text), columns)
        case Table():
            return _two_columns(block.rows, columns)


def _detail(block: ServerDetail, columns: int | None, paint: Paint) -> str:
    return f"{paint.bold(clean(block.server.name))}\n{_two_columns(block.facts, columns)}"


def _checklist(block: Checklist, columns: int | None, paint: Paint) -> str:
    lines = []
    for item in block.items:
        mark = ITEM_MARK[item.state]
        lines.append(paint(wrap(f"{mark} {clean(item.server)}: {clean(item.text)}", columns, indent="  "), mark))
        command = f"/mcp {clean(item.command)}" if item.command else None
        if item.state is ItemState.LINK and item.link:
            lines.append(link_text(item.link))
        elif command is not None and command not in item.text:
            lines.append(f"  {command}")
    if block.note:
        lines += ["", wrap(clean(block.note), columns)]
    return "\n".join(lines)


def _two_columns(rows: tuple[tuple[str, str], ...], columns: int | None) -> str:
    """Label and value; what is long goes on under its own beginning, or under the label where that is too narrow."""
    cells = [(clean(left), clean(right)) for left, right in rows]
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
