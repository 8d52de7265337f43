"""The list of `/mcp` as text: a table where there is room, a card for each server where there is not. Pure."""

from __future__ import annotations

from adapters.symbols import BAD, GOOD, PLAIN, WAIT, WARN, mark_of
from adapters.text import clean, cut, status_words, width, wrap
from gateway import sentences
from mcp_auth.status import ServerStatus

# Below this a table wraps, and each server gets a card of its own.
_TABLE_MIN = 70
# A pipe has no edge; this keeps a very long reason from making every line of a table as long.
_PIPE_COLUMNS = 160
# Least and most columns of each cell where there is room.
_WIDTHS = ((16, 24), (30, 44), (12, 14), (30, 100))
# Where there is not, the address gives way first, then the name, then the status.
_TIGHT = (12, 16, 10, 24)
_GIVES_WAY = (1, 0, 2, 3)
_FRAME = 5
_HEADERS = ("Name", "Transport", "Tools", "Status")

_COLOR = {GOOD: "32", WARN: "33", BAD: "31", WAIT: "36", PLAIN: "2"}


def status_cell(status: ServerStatus, now: float) -> str:
    """Mark and words of one server's status, with the live result when there is one."""
    return f"{mark_of(status)} {status_words(status, now)}"


class Paint:
    def __init__(self, on: bool) -> None:
        self._on = on

    def __call__(self, text: str, mark: str) -> str:
        return f"\x1b[{_COLOR[mark]}m{text}\x1b[0m" if self._on else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self._on else text


def server_list(
    servers: tuple[ServerStatus, ...], hint: str | None, columns: int | None, paint: Paint, now: float
) -> str:
    """`columns`: how wide the terminal is; None: a pipe or a file."""
    columns = _PIPE_COLUMNS if columns is None else columns
    lines = [paint.bold(f"{sentences.TITLE}:"), ""]
    if columns < _TABLE_MIN:
        for server in servers:
            lines += [*_card(server, columns, paint, now), ""]
    else:
        lines += [*_rows(servers, columns, paint, now), ""]
    if hint:
        return "\n".join([*lines, f"  {wrap(hint, columns - 2, indent='  ')}"])
    return "\n".join(lines[:-1])


def _rows(servers: tuple[ServerStatus, ...], columns: int, paint: Paint, now: float) -> list[str]:
    cells = [
        (clean(one.name), clean(one.address or one.target), clean(one.tools), status_cell(one, now)) for one in servers
    ]
    widths = _column_widths(cells, columns - _FRAME)
    lines = [_line(_HEADERS, widths), _line(["─" * each for each in widths], widths)]
    for row, server in zip(cells, servers, strict=True):
        *shown, status = [cut(cell, each) for cell, each in zip(row, widths, strict=True)]
        lines.append(_line([*shown, paint(status, mark_of(server))], widths))
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


def _card(server: ServerStatus, columns: int, paint: Paint, now: float) -> list[str]:
    return [
        paint.bold(cut(clean(server.name), columns)),
        # Whole even where it wraps: a card has the room, and the status is what people came for.
        "  " + paint(wrap(status_cell(server, now), columns - 2, indent="    "), mark_of(server)),
        f"  {cut(clean(server.address or server.target), max(20, columns - 2))}",
        f"  tools: {clean(server.tools)}",
    ]
