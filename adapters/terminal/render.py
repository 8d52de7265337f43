"""Replies as plain text for a terminal or a pipe. Pure: data in, text out."""

from __future__ import annotations

from adapters.marks import BAD, GOOD, ITEM_MARK, PLAIN, STATE_MARK, TONE_MARK, WAIT, WARN
from adapters.text import clean, cut, link_text, status_words, width, wrap
from gateway import sentences
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
from mcp_auth.status import ServerStatus

# Below this a table wraps, and each server gets a card of its own.
_TABLE_MIN = 70
# A pipe has no edge; this keeps a very long reason from making every line of a table as long.
_PIPE_COLUMNS = 160
# Least and most columns of each cell where there is room.
_WIDTHS = ((16, 24), (30, 44), (12, 14), (30, 100))
# In a narrower second column nobody reads sentences.
_VALUE_MIN = 20
# Where there is not, the address gives way first, then the name, then the status.
_TIGHT = (12, 16, 10, 24)
_GIVES_WAY = (1, 0, 2, 3)
_FRAME = 5
_HEADERS = ("Name", "Transport", "Tools", "Status")

_COLOR = {GOOD: "32", WARN: "33", BAD: "31", WAIT: "36", PLAIN: "2"}


def render(reply: Reply, *, columns: int | None, color: bool, now: float) -> str:
    """A whole reply, without a newline at its end. Links stand alone on their lines, flush left and never cut.

    Args:
        columns: how wide the terminal is; None: no line is broken.
    """
    paint = _Paint(color)
    text = "\n".join(_block(block, columns, paint, now) for block in reply.blocks)
    return "\n".join([text, *_buttons(reply, text)])


def render_list(
    servers: tuple[ServerStatus, ...], hint: str | None, *, columns: int | None, color: bool, now: float
) -> str:
    """The list of `/mcp`."""
    return _server_list(ServerList(servers, hint), columns, _Paint(color), now)


def status_cell(status: ServerStatus, now: float) -> str:
    """Mark and words of one server's status, with the live result when there is one."""
    return f"{STATE_MARK[status.auth]} {status_words(status, now)}"


class _Paint:
    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, mark: str) -> str:
        return f"\x1b[{_COLOR[mark]}m{text}\x1b[0m" if self._on else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._on else text


def _buttons(reply: Reply, text: str) -> list[str]:
    """What there is to press, as what there is to type, unless the text says it already."""
    commands = [(clean(one.label), f"/mcp {clean(one.command)}") for one in reply.buttons if one.command]
    return [f"  {label}: {command}" for label, command in commands if command not in text]


def _block(block: Block, columns: int | None, paint: _Paint, now: float) -> str:
    match block:
        case Text():
            mark = TONE_MARK[block.tone]
            line = wrap(f"{mark}{clean(block.text)}", columns, indent=" " * len(mark))
            return paint(line, mark.strip()) if mark else line
        case ServerList():
            return _server_list(block, columns, paint, now)
        case ServerDetail():
            return _detail(block, columns, paint)
        case Checklist():
            return _checklist(block, columns, paint)
        case SecretPrompt():
            return wrap(clean(block.text), columns)
        case Table():
            return _two_columns(block.rows, columns)


def _server_list(block: ServerList, columns: int | None, paint: _Paint, now: float) -> str:
    columns = _PIPE_COLUMNS if columns is None else columns
    lines = [paint.bold(f"{sentences.TITLE}:"), ""]
    if columns < _TABLE_MIN:
        for server in block.servers:
            lines += [*_card(server, columns, paint, now), ""]
    else:
        lines += [*_rows(block.servers, columns, paint, now), ""]
    if block.hint:
        return "\n".join([*lines, f"  {block.hint}"])
    return "\n".join(lines[:-1])


def _rows(servers: tuple[ServerStatus, ...], columns: int, paint: _Paint, now: float) -> list[str]:
    cells = [(clean(one.name), clean(one.target), clean(one.tools), status_cell(one, now)) for one in servers]
    widths = _column_widths(cells, columns - _FRAME)
    lines = [_line(_HEADERS, widths), _line(["─" * each for each in widths], widths)]
    for row, server in zip(cells, servers, strict=True):
        *shown, status = [cut(cell, each) for cell, each in zip(row, widths, strict=True)]
        lines.append(_line([*shown, paint(status, STATE_MARK[server.auth])], widths))
    return lines


def _column_widths(cells: list[tuple[str, str, str, str]], room: int) -> list[int]:
    """As wide as the content within `_WIDTHS`; in less room, narrower in the order of `_GIVES_WAY`."""
    content = [max(width(text) for text in column) for column in zip(_HEADERS, *cells, strict=True)]
    widths = [max(least, min(most, each)) for each, (least, most) in zip(content, _WIDTHS, strict=True)]
    # First the empty columns of short cells go, then content.
    for floors in (content, _TIGHT):
        for at in _GIVES_WAY:
            too_wide = max(0, sum(widths) - room)
            widths[at] -= min(too_wide, max(0, widths[at] - floors[at]))
    return widths


def _line(cells: tuple[str, ...] | list[str], widths: list[int]) -> str:
    padded = [cell + " " * max(0, each - width(cell)) for cell, each in zip(cells, widths, strict=True)]
    return f"  {' '.join(padded)}".rstrip()


def _card(server: ServerStatus, columns: int, paint: _Paint, now: float) -> list[str]:
    return [
        paint.bold(cut(clean(server.name), columns)),
        # Whole even where it wraps: a card has the room, and the status is what people came for.
        "  " + paint(wrap(status_cell(server, now), columns - 2, indent="    "), STATE_MARK[server.auth]),
        f"  {cut(clean(server.target), max(20, columns - 2))}",
        f"  tools: {clean(server.tools)}",
    ]


def _detail(block: ServerDetail, columns: int | None, paint: _Paint) -> str:
    return f"{paint.bold(clean(block.server.name))}\n{_two_columns(block.facts, columns)}"


def _checklist(block: Checklist, columns: int | None, paint: _Paint) -> str:
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
