"""What Discord shows for a message's content: the marks that it uses are resolved, escaped ones stand as they are.

Followed: "Markdown Text 101" of Discord's help pages, as far as bold, code, plain addresses and backslashes go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

Style = Literal["plain", "bold", "code", "link"]

# Code, an escaped character, the mark of bold, an address without a preview, a character that takes no room.
_ESCAPED = r"\\[!-/:-@\[-`{-~]"
_PIECES = re.compile(rf"(`[^`\n]*`|{_ESCAPED}|\*\*|<https?://[^>\s]+>|\u200b)")


def shown(content: str) -> str:
    """The text as a person reads it."""
    return "".join(text for text, _ in runs(content))


def runs(content: str) -> list[tuple[str, Style]]:
    """The text in runs of one style. A command that can be clicked (`</mcp auth:123>`) is shown as the command."""
    found: list[tuple[str, Style]] = []
    for text, style in _pieces(re.sub(r"</([^:<>\n]+):\d+>", r"/\1", content)):
        if found and found[-1][1] == style:
            found[-1] = (found[-1][0] + text, style)
        else:
            found.append((text, style))
    return found


def _pieces(content: str) -> Iterator[tuple[str, Style]]:
    bold = False
    for piece in _PIECES.split(content):
        if piece == "**":
            bold = not bold
        elif piece.startswith("`") and len(piece) > 1:
            yield piece[1:-1], "code"
        elif re.fullmatch(r"<https?://[^>\s]+>", piece):
            yield piece[1:-1], "link"
        elif piece and piece != "\u200b":
            yield piece.removeprefix("\\") if len(piece) == 2 else piece, "bold" if bold else "plain"
