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
from urllib.parse import urlsplit
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
    """One message. `mine`: by the person whose screen this is. `note`: what the platform says beside the name.

    `link` buttons get an arrow.
    """

    lines: Sequence[Sequence[Span]]
    mine: bool = False
    author: str = ""
    note: str = ""
    buttons: Sequence[Button] = ()


@dataclass(frozen=True, slots=True)
class Button:
    label: str
    link: bool = False


@dataclass(frozen=True, slots=True)
class Caption:
    """A line between messages that no message says."""

    text: str


@dataclass(frozen=True, slots=True)
class Look:
    """The colours and shapes of a platform, as people know them. `bubbles`: else one message under the other.

    `avatar` and `button_round`: how round the corners are, in pixels.
    """

    bubbles: bool = True
    head: str = "#2f6fed"
    accent: str = "#2f6fed"
    back: str = "#eef1f5"
    frame: str = "#d0d7de"
    ink: str = "#1b1f24"
    muted: str = "#59636e"
    code: str = "#0b5d57"
    link: str = "#1d5fd0"
    theirs: str = "#ffffff"
    mine: str = "#d9f0d3"
    edge: str = "#d8dee4"
    button: str = "#ffffff"
    button_ink: str = "#1d5fd0"
    button_edge: str = "#a9bfe8"
    button_round: int = 9
    avatar: int = 18


TELEGRAM = Look(
    head="#2481cc", back="#dfe8ee", mine="#e3fbcf", link="#1c70b5", button_ink="#1c70b5", button_edge="#b9d4e8"
)
WHATSAPP = Look(
    head="#008069",
    back="#efeae2",
    mine="#d9fdd3",
    edge="#e2ddd4",
    link="#00745f",
    button_ink="#00745f",
    button_edge="#e2ddd4",
)
DISCORD = Look(
    bubbles=False,
    head="#2b2d31",
    accent="#5865f2",
    back="#313338",
    frame="#2b2d31",
    ink="#dbdee1",
    muted="#a5a8ae",
    code="#e3e5e8",
    link="#4fb0ff",
    button="#4e5058",
    button_ink="#ffffff",
    button_edge="#4e5058",
    button_round=4,
)
SLACK = Look(
    bubbles=False,
    head="#4a154b",
    accent="#4a154b",
    back="#ffffff",
    muted="#616061",
    code="#b3154f",
    button_ink="#1d1c1d",
    button_edge="#bbbabb",
    button_round=6,
    avatar=6,
)
MATRIX = Look(bubbles=False, head="#0d7a5f", accent="#0d7a5f", back="#ffffff", link="#0b6b53", code="#17483c")

_SIZE, _LINE, _SMALL = 14, 20, 12
_PADDING, _GAP, _MARGIN, _HEAD = 12, 10, 16, 48
_BUTTON, _AVATAR = 34, 36
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


def with_names(text: str, names: dict[str, str]) -> str:
    """`text` with a name for each loopback server URL, also where chats show its host alone."""
    for url, name in names.items():
        text = text.replace(url, f"https://{name}/mcp").replace(urlsplit(url).netloc, name)
    return text


def draw(title: str, items: Sequence[Bubble | Caption], *, look: Look | None = None, width: int = 480) -> str:
    """The conversation from top to bottom as one SVG document.

    Args:
        title: whose chat it is, in the bar at the top.
        width: in pixels; the height follows.
    """
    look = look or Look()
    parts: list[str] = []
    at = _HEAD + _MARGIN
    message = _bubble if look.bubbles else _entry
    for item in items:
        shapes, height = (
            _caption(item, at, width, look) if isinstance(item, Caption) else message(item, at, width, look)
        )
        parts += shapes
        at += height + _GAP
    height = at - _GAP + _MARGIN
    frame = (
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="14" fill="{look.back}" '
        f'stroke="{look.frame}"/>'
        f'<path d="M0.5 {_HEAD} V14 a13.5 13.5 0 0 1 13.5 -13.5 H{width - 14} a13.5 13.5 0 0 1 13.5 13.5 V{_HEAD} Z" '
        f'fill="{look.head}"/>'
        f'<text x="{_MARGIN}" y="30" fill="#fff" font-weight="600" font-size="15">{escape(title)}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{escape(_SANS)}" font-size="{_SIZE}">\n<title>{escape(title)}</title>\n{frame}\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _caption(item: Caption, top: int, width: int, look: Look) -> tuple[list[str], int]:
    shape = (
        f'<text x="{width // 2}" y="{top + 13}" text-anchor="middle" font-size="{_SMALL}" font-style="italic" '
        f'fill="{look.muted}">{escape(item.text)}</text>'
    )
    return [shape], _LINE


def _bubble(item: Bubble, top: int, width: int, look: Look) -> tuple[list[str], int]:
    """A message in a bubble of its own, its buttons below it."""
    room = int(width * 0.84) - 2 * _PADDING
    lines = [wrapped for line in item.lines for wrapped in _wrapped(line, room)]
    widest = max([_line_width(line) for line in lines] + [_label_width(button) for button in item.buttons] + [40])
    wide = min(int(widest), room) + 2 * _PADDING
    left = width - _MARGIN - wide if item.mine else _MARGIN
    tall = len(lines) * _LINE + 2 * _PADDING - 6
    fill = look.mine if item.mine else look.theirs
    parts = [f'<rect x="{left}" y="{top}" width="{wide}" height="{tall}" rx="12" fill="{fill}" stroke="{look.edge}"/>']
    parts += _text(lines, left + _PADDING, top + _PADDING + 11, look)
    at = top + tall + 4
    for button in item.buttons:
        parts += _button(button, left, at, wide, look)
        at += _BUTTON + 4
    return parts, tall + len(item.buttons) * (_BUTTON + 4)


def _entry(item: Bubble, top: int, width: int, look: Look) -> tuple[list[str], int]:
    """A message as a line of a log: a picture, the name, the text, and its buttons in a row."""
    left, room = _MARGIN + _AVATAR + 12, width - 2 * _MARGIN - _AVATAR - 12
    lines = [wrapped for line in item.lines for wrapped in _wrapped(line, room)]
    author, colour = ("Ada", "#c2410c") if item.mine else (item.author, look.accent)
    name = f'<tspan fill="{look.ink}" font-weight="600">{escape(author)}</tspan>'
    note = f'<tspan fill="{look.muted}" font-size="{_SMALL}">   {escape(item.note)}</tspan>' if item.note else ""
    parts = [
        f'<rect x="{_MARGIN}" y="{top}" width="{_AVATAR}" height="{_AVATAR}" rx="{look.avatar}" fill="{colour}"/>',
        f'<text x="{_MARGIN + _AVATAR / 2:g}" y="{top + 24}" text-anchor="middle" fill="#fff" font-weight="600" '
        f'font-size="16">{escape(author[:1].upper())}</text>',
        f'<text x="{left}" y="{top + 12}" xml:space="preserve">{name}{note}</text>',
        *_text(lines, left, top + 12 + _LINE, look),
    ]
    at, x = top + 24 + len(lines) * _LINE, left
    for button in item.buttons:
        wide = int(_label_width(button))
        if x > left and x + wide > width - _MARGIN:
            x, at = left, at + _BUTTON + 6
        parts += _button(button, x, at, wide, look)
        x += wide + 8
    height = at - top + (_BUTTON if item.buttons else 0)
    return parts, max(height, _AVATAR)


def _text(lines: Sequence[Sequence[Span]], left: int, top: int, look: Look) -> Iterator[str]:
    for number, line in enumerate(lines):
        spans = "".join(_tspan(span, look) for span in line)
        yield f'<text x="{left}" y="{top + number * _LINE}" fill="{look.ink}" xml:space="preserve">{spans}</text>'


def _button(button: Button, left: int, top: int, wide: int, look: Look) -> Iterator[str]:
    yield (
        f'<rect x="{left}" y="{top}" width="{wide}" height="{_BUTTON}" rx="{look.button_round}" '
        f'fill="{look.button}" stroke="{look.button_edge}"/>'
    )
    yield (
        f'<text x="{left + wide / 2:g}" y="{top + 22}" text-anchor="middle" font-weight="600" font-size="13" '
        f'fill="{look.button_ink}">{escape(_label(button))}</text>'
    )


def _label(button: Button) -> str:
    return f"{button.label} ↗" if button.link else button.label


def _label_width(button: Button) -> float:
    return _width(_label(button), "bold") + 24


def _tspan(span: Span, look: Look) -> str:
    looks = {
        "plain": "",
        "bold": ' font-weight="600"',
        "code": f' font-family="{escape(_MONO)}" font-size="12.5" fill="{look.code}"',
        "link": f' fill="{look.link}"',
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
