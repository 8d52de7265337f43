"""Draws a conversation as an SVG picture: bubbles, buttons, captions. The same for every platform.

`draw` takes neutral bubbles; a script per platform (`draw_telegram.py`) plays a conversation against a loopback server,
turns what was captured into bubbles, and writes `docs/images/<platform>.svg`.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from gateway.demo.run import Demo

Style = Literal["plain", "bold", "code", "link"]


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text in one style."""

    text: str
    style: Style = "plain"


@dataclass(frozen=True, slots=True)
class Bubble:
    """One message. `mine`: by the person whose screen this is, on the right. `link` buttons get an arrow."""

    lines: Sequence[Sequence[Span]]
    mine: bool = False
    author: str = ""
    buttons: Sequence[Sequence[Button]] = ()


@dataclass(frozen=True, slots=True)
class Button:
    label: str
    link: bool = False


@dataclass(frozen=True, slots=True)
class Caption:
    """A line between messages that no message says."""

    text: str


_SIZE, _LINE, _SMALL = 14, 20, 12
_PADDING, _GAP, _MARGIN, _HEAD = 12, 10, 16, 48
_BUTTON = 34
_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def write_home(demo: Demo, folder: Path, gateway: str) -> Path:
    """The demo's home in `folder`, with the line `gateway` added to its `gateway:` block; the same on every machine.

    Nothing is started while a picture is drawn, and the interpreter's path would be cut somewhere else on each machine.
    """
    home = demo.write_home(folder)
    config = home / "config.yaml"
    text = config.read_text(encoding="utf-8").replace(sys.executable, "python")
    config.write_text(f"{text}  {gateway}\n", encoding="utf-8")
    return home


def draw(title: str, items: Sequence[Bubble | Caption], *, accent: str = "#2f6fed", width: int = 480) -> str:
    """The conversation from top to bottom as one SVG document.

    Args:
        title: whose chat it is, in the bar at the top.
        accent: the platform's colour, `#rrggbb`.
        width: in pixels; the height follows.
    """
    parts: list[str] = []
    at = _HEAD + _MARGIN
    for item in items:
        shapes, height = _caption(item, at, width) if isinstance(item, Caption) else _bubble(item, at, width, accent)
        parts += shapes
        at += height + _GAP
    height = at - _GAP + _MARGIN
    frame = (
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="14" fill="#eef1f5" stroke="#d0d7de"/>'
        f'<path d="M0.5 {_HEAD} V14 a13.5 13.5 0 0 1 13.5 -13.5 H{width - 14} a13.5 13.5 0 0 1 13.5 13.5 V{_HEAD} Z" '
        f'fill="{accent}"/>'
        f'<text x="{_MARGIN}" y="30" fill="#fff" font-weight="600" font-size="15">{escape(title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{escape(_SANS)}" font-size="{_SIZE}">\n<title>{escape(title)}</title>\n{frame}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _caption(item: Caption, top: int, width: int) -> tuple[list[str], int]:
    shape = (
        f'<text x="{width // 2}" y="{top + 13}" text-anchor="middle" font-size="{_SMALL}" fill="#59636e">'
        f"{escape(item.text)}</text>"
    )
    return [shape], _LINE


def _bubble(item: Bubble, top: int, width: int, accent: str) -> tuple[list[str], int]:
    room = int(width * 0.84) - 2 * _PADDING
    lines = [wrapped for line in item.lines for wrapped in _wrapped(line, room)]
    labels = [_label(button) for row in item.buttons for button in row]
    widest = max([_line_width(line) for line in lines] + [_width(label, "bold") + 24 for label in labels] + [40])
    wide = min(int(widest), room) + 2 * _PADDING
    left = width - _MARGIN - wide if item.mine else _MARGIN
    parts: list[str] = []
    if item.author:
        parts.append(
            f'<text x="{left + 4}" y="{top + 11}" font-size="{_SMALL}" fill="#59636e">{escape(item.author)}</text>'
        )
        top += 16
    tall = len(lines) * _LINE + 2 * _PADDING - 6
    fill = "#d9f0d3" if item.mine else "#ffffff"
    parts.append(f'<rect x="{left}" y="{top}" width="{wide}" height="{tall}" rx="12" fill="{fill}" stroke="#d8dee4"/>')
    for number, line in enumerate(lines):
        baseline = top + _PADDING + 11 + number * _LINE
        spans = "".join(_tspan(span, accent) for span in line)
        parts.append(f'<text x="{left + _PADDING}" y="{baseline}" fill="#1b1f24" xml:space="preserve">{spans}</text>')
    height = tall + (16 if item.author else 0)
    at = top + tall + 4
    for row in item.buttons:
        parts += _button_row(row, left, at, wide, accent)
        at += _BUTTON + 4
    return parts, height + len(item.buttons) * (_BUTTON + 4)


def _button_row(row: Sequence[Button], left: int, top: int, wide: int, accent: str) -> Iterator[str]:
    each = (wide - 4 * (len(row) - 1)) / len(row)
    for number, button in enumerate(row):
        x = left + number * (each + 4)
        yield (
            f'<rect x="{x:g}" y="{top}" width="{each:g}" height="{_BUTTON}" rx="9" fill="#fff" stroke="{accent}" '
            'stroke-opacity="0.45"/>'
        )
        yield (
            f'<text x="{x + each / 2:g}" y="{top + 22}" text-anchor="middle" font-weight="600" font-size="13" '
            f'fill="{accent}">{escape(_label(button))}</text>'
        )


def _label(button: Button) -> str:
    return f"{button.label} ↗" if button.link else button.label


def _tspan(span: Span, accent: str) -> str:
    looks = {
        "plain": "",
        "bold": ' font-weight="600"',
        "code": f' font-family="{escape(_MONO)}" font-size="12.5" fill="#0b5d57"',
        "link": f' fill="{accent}"',
    }[span.style]
    return f"<tspan{looks}>{escape(span.text)}</tspan>"


def _wrapped(line: Sequence[Span], room: int) -> list[list[Span]]:
    """`line` broken between words; a word that is too long is broken anywhere."""
    lines: list[list[Span]] = [[]]
    used = 0.0
    for span in line:
        for word in _words(span.text, room, span.style):
            fits = not used or used + _width(word.rstrip(), span.style) <= room
            if not fits:
                lines.append([])
                used = 0.0
            kept = word if fits else word.lstrip()
            lines[-1].append(Span(kept, span.style))
            used += _width(kept, span.style)
    return [_joined(one) for one in lines]


def _words(text: str, room: int, style: Style) -> Iterator[str]:
    """Pieces with the white space behind them; leading white space stays in front."""
    word = ""
    for index, character in enumerate(text):
        word += character
        ends = character == " " and word.strip() and text[index + 1 : index + 2] != " "
        if ends or _width(word, style) > room - 12:
            yield word
            word = ""
    if word:
        yield word


def _joined(line: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in line:
        if joined and joined[-1].style == span.style:
            joined[-1] = Span(joined[-1].text + span.text, span.style)
        else:
            joined.append(span)
    return joined


def _line_width(line: Sequence[Span]) -> float:
    return sum(_width(span.text, span.style) for span in line)


def _width(text: str, style: Style) -> float:
    """How wide fonts draw it at most, in pixels: an estimate, so that the text fits whatever font is there."""
    if style == "code":
        return sum(7.8 * (2 if unicodedata.east_asian_width(c) in "WF" else 1) for c in text)
    return sum(_SIZE * _em(c) for c in text) * (1.07 if style == "bold" else 1.0)


def _em(character: str) -> float:
    if character in " .,:;'|!ijlI()[]":
        return 0.36
    if character in "ftr/-":
        return 0.42
    if character in "mwMW@%—…":
        return 0.95
    if unicodedata.east_asian_width(character) in "WF":
        return 1.1
    return 0.7 if character.isupper() else 0.6
