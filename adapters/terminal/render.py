"""Replies as plain text for a terminal or a pipe. Pure: data in, text out."""

from __future__ import annotations

from adapters.layout import link_text, status_words
from adapters.marks import BAD, GOOD, ITEM_MARK, PLAIN, STATE_MARK, TONE_MARK, WAIT, WARN
from adapters.text import clean, cut, width
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
# Least and most columns of each cell where there is room.
_WIDTHS = ((16, 24), (30, 44), (12, 14), (30, 100))
# Where there is not, the address gives way first, then the name, then the status.
_TIGHT = (12, 16, 10, 24)
_GIVES_WAY = (1, 0, 2, 3)
_FRAME = 5
_HEADERS = ("Name", "Transport", "Tools", "Status")

_COLOR = {GOOD: "32", WARN: "33", BAD: "31", WAIT: "36", PLAIN: "2"}


def render(reply: Reply, *, columns: int, color: bool, now: float) -> str:
    """A whole reply, without a newline at its end. Links stand alone on their lines, flush left and never cut."""
    paint = _Paint(color)
    text = "\n".join(_block(block, columns, paint, now) for block in reply.blocks)
    return "\n".join([text, *_buttons(reply, text)])


def render_list(servers: tuple[ServerStatus, ...], hint: str | None, *, columns: int, color: bool, now: float) -> str:
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


def _block(block: Block, columns: int, paint: _Paint, now: float) -> str:
    match block:
        case Text():
            mark = TONE_MARK[block.tone]
            line = f"{mark}{clean(block.text)}"
            return paint(line, mark.strip()) if mark else line
        case ServerList():
            return _server_list(block, columns, paint, now)
        case ServerDetail():
            return _detail(block, paint)
        case Checklist():
            return _checklist(block, paint)
        case SecretPrompt():
            return clean(block.text)
        case Table():
            return _table(block)


def _server_list(block: ServerList, columns: int, paint: _Paint, now: float) -> str:
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
    content = [max((width(row[at]) for row in cells), default=0) for at in range(len(_WIDTHS))]
    widths = [max(least, min(most, each)) for each, (least, most) in zip(content, _WIDTHS, strict=True)]
    # First the empty columns of short cells go, then content.
    for floors in (tuple(min(each, had) for each, had in zip(content, widths, strict=True)), _TIGHT):
        for at in _GIVES_WAY:
            too_wide = max(0, sum(widths) - room)
            widths[at] -= min(too_wide, max(0, widths[at] - max(floors[at], _TIGHT[at])))
    return widths


def _line(cells: tuple[str, ...] | list[str], widths: list[int]) -> str:
    padded = [cell + " " * max(0, each - width(cell)) for cell, each in zip(cells, widths, strict=True)]
    return f"  {' '.join(padded)}".rstrip()


def _card(server: ServerStatus, columns: int, paint: _Paint, now: float) -> list[str]:
    return [
        paint.bold(cut(clean(server.name), columns)),
        # Whole even where it wraps: a card has the room, and the status is what people came for.
        f"  {paint(status_cell(server, now), STATE_MARK[server.auth])}",
        f"  {cut(clean(server.target), max(20, columns - 2))}",
        f"  tools: {clean(server.tools)}",
    ]


def _detail(block: ServerDetail, paint: _Paint) -> str:
    longest = max((len(label) for label, _ in block.facts), default=0)
    facts = [f"  {label:<{longest}}  {clean(value)}" for label, value in block.facts]
    return "\n".join([paint.bold(clean(block.server.name)), *facts])


def _checklist(block: Checklist, paint: _Paint) -> str:
    lines = []
    for item in block.items:
        mark = ITEM_MARK[item.state]
        lines.append(paint(f"{mark} {clean(item.server)}: {clean(item.text)}", mark))
        if item.state is ItemState.LINK and item.link:
            lines.append(link_text(item.link))
        elif item.command:
            lines.append(f"  /mcp {clean(item.command)}")
    if block.note:
        lines += ["", clean(block.note)]
    return "\n".join(lines)


def _table(block: Table) -> str:
    rows = [(clean(left), clean(right)) for left, right in block.rows]
    longest = max((width(left) for left, _ in rows), default=0)
    return "\n".join(f"  {left}{' ' * (longest - width(left))}  {right}" for left, right in rows)
