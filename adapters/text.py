"""Text that came from servers and people, made safe for any platform. Pure."""

from __future__ import annotations

import unicodedata

from gateway import sentences
from gateway.surfaces import Surface, chat_command, write
from mcp_auth.errors import sentence
from mcp_auth.outcome import Next, Shell, Step
from mcp_auth.status import ConnectionState, ServerStatus

_STATUS = 300
# Bidirectional controls can make a name read as another one (Unicode TR 36).
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean(text: str, limit: int = 2000) -> str:
    """`text` on one line without control, formatting and bidirectional characters, at most `limit` characters."""
    shown = text
    if not (text.isascii() and text.isprintable()):
        shown = "".join(" " if c in "\t\n\r" else c for c in text if c in "\t\n\r" or _is_shown(c))
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


def width(text: str) -> int:
    """How many columns `text` takes in a terminal: wide characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def cut(text: str, columns: int) -> str:
    """`text` in at most `columns` columns, with `...` where something is missing."""
    if width(text) <= columns:
        return text
    kept = ""
    for character in text:
        if width(kept + character) > columns - 3:
            break
        kept += character
    return f"{kept}..."[:columns]


def wrap(
    text: str,
    columns: int | None,
    indent: str = "",
    next_step: Step | None = None,
    surface: Surface = chat_command,
) -> str:
    """`text` in lines of at most `columns` columns (None: as many as it takes), broken between words.

    Later lines begin with `indent`. In more than one line, the next step has one of its own. A command there stays
    whole, as every word does that is longer than a line: commands and addresses are there to be copied.
    """
    step = "" if next_step is None else f"Next: {clean(write(next_step, surface=surface))}"
    whole = f"{sentence(text)} {step}" if step else text
    if columns is None or width(whole) <= columns:
        return whole
    if not step:
        return "\n".join(_lines(text, columns, "", indent))
    is_command = isinstance(next_step, Next | Shell)
    steps = [f"{indent}{step}"] if is_command else _lines(f"{indent}{step}", columns, indent, indent)
    return "\n".join([*_lines(sentence(text), columns, "", indent), *steps])


def _lines(text: str, columns: int, first: str, indent: str) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= columns:
            lines[-1] += f" {word}"
        else:
            lines.append(f"{indent if lines else first}{word}")
    return lines


def status_words(server: ServerStatus, now: float) -> str:
    """The auth axis, and the live result when there is one."""
    text = clean(sentences.auth_state(server, now), _STATUS)
    if server.connection.state is ConnectionState.NOT_CHECKED:
        return text
    return f"{text}, {clean(sentences.connection_state(server.connection), _STATUS)}"


def link_text(url: str) -> str:
    """A link as it is, as long as it holds nothing but visible ASCII, as every URL does."""
    return url if url.isascii() and url.isprintable() and " " not in url else clean(url, 8000).replace(" ", "%20")


def _is_shown(character: str) -> bool:
    return character not in _BIDI and unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
