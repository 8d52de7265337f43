"""A reply as lines of marked text and buttons, before any platform's markup. Pure.

Every `render.py` of a chat starts here: it escapes the spans, joins the lines and draws the buttons in its
platform's own way. Texts are already clean of control, formatting and bidirectional characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from adapters.symbols import ITEM_MARK, TONE_MARK, mark_of
from adapters.text import clean, cut, link_text, status_words
from gateway import sentences
from gateway.grammar import command_for
from gateway.replies import (
    Block,
    Button,
    Checklist,
    ChecklistItem,
    ItemState,
    Reply,
    SecretPrompt,
    ServerDetail,
    ServerList,
    Table,
    Text,
)
from gateway.surfaces import Part, Surface, Typed, Words, chat_command, is_for_chats, parts
from mcp_auth.outcome import Step
from mcp_auth.status import ServerStatus

_NAME = 80
_TARGET = 60
_FACT = 300
_TEXT = 1500


@dataclass(frozen=True, slots=True)
class Span:
    """A run of text in one style. `link`: the text is a URL and stands as it is.

    `is_command`: what a person types here, as the platform writes it.
    """

    text: str
    style: Literal["plain", "bold", "code", "link"] = "plain"
    is_command: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `group` names what must not be torn apart (a server's card, a checklist item); None: alone."""

    spans: tuple[Span, ...] = ()
    group: int | None = None

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


@dataclass(frozen=True, slots=True)
class Writer:
    """How texts become runs. `apart`: a command is a run of its own, because the platform draws it."""

    surface: Surface = chat_command
    apart: bool = False

    def spans(self, words: Words, next_step: Step | None = None, limit: int = _TEXT) -> Iterator[Span]:
        for is_command, found in groupby(parts(words, next_step), self._is_drawn):
            text = "".join(part if isinstance(part, str) else self.surface(part) for part in found)
            # What the platform draws has its escapes already.
            yield Span(text if is_command else clean(text, limit), is_command=is_command)

    def _is_drawn(self, part: Part) -> bool:
        # The name alone is no command.
        return self.apart and is_for_chats(part) and part != Typed("")


@dataclass(frozen=True, slots=True)
class Layout:
    """A whole message. Buttons keep the order in which they matter."""

    lines: tuple[Line, ...]
    buttons: tuple[Button, ...]
    writer: Writer = field(default_factory=Writer)

    @property
    def text(self) -> str:
        """The lines without any style."""
        return "\n".join(line.text for line in self.lines)


_WRITER = Writer()


def lay_out(
    reply: Reply,
    *,
    now: float,
    button_url_max: int = 2048,
    buttons_max: int = 100,
    takes_url: Callable[[str], bool] = lambda url: True,
    links_in_text: int | None = None,
    writer: Writer = _WRITER,
) -> Layout:
    """`reply` from top to bottom. A link goes on a button, or into the text where there is no room on one.

    Args:
        button_url_max: characters that the platform allows in a button's URL; 0: it has no URL buttons.
        buttons_max: buttons that one message may have.
        takes_url: whether the platform opens this URL from a button, its length aside.
        links_in_text: how many links may stand in the text; the others get a button that asks for theirs alone.
        writer: how commands are written here.
    """
    urls = _Urls(button_url_max, takes_url)
    lines: list[Line] = []
    buttons: list[Button] = []
    if reply.title and not any(isinstance(block, ServerDetail) for block in reply.blocks):
        lines += [_line(*(replace(one, style="bold") for one in writer.spans(reply.title))), Line()]
    for block in reply.blocks:
        if lines and lines[-1].spans:
            lines.append(Line())
        shown, pressed = _block(block, now, urls, _Room(buttons_max - len(reply.buttons), links_in_text), writer)
        lines += shown
        buttons += pressed
    buttons = [*buttons, *(one for one in reply.buttons if one.url is None or urls.fit(one.url))][:buttons_max]
    written = [
        _line(Span(f"{clean(one.label)}: "), Span(link_text(one.url), "link"))
        for one in reply.buttons
        if one.url is not None and one not in buttons
    ]
    return Layout((*lines, *((Line(), *written) if written else ())), tuple(buttons), writer)


def fit(
    shown: Layout,
    size: Callable[[Line], int],
    limit: int,
    *,
    more: Callable[[int], Words] = sentences.more_servers,
) -> Layout:
    """`shown` within `limit`: whole groups go, the last ones first, and a closing line says how many.

    Args:
        size: what one line costs in the platform's own markup and counting, its line break included.
        more: the closing line for a number of groups that were left out.
    """
    lines = list(shown.lines)
    total = sum(size(line) for line in lines)
    if total <= limit:
        return shown
    groups = sorted({line.group for line in lines if line.group is not None}, reverse=True)
    total += size(_line(*shown.writer.spans(more(len(groups)))))
    gone: set[int] = set()
    for group in groups:
        if total <= limit:
            break
        gone.add(group)
        total -= sum(size(line) for line in lines if line.group == group)
    kept = [line for line in lines if line.group not in gone]
    if gone:
        at = max((index for index, line in enumerate(kept) if line.group is not None), default=len(kept) - 1) + 1
        kept.insert(at, _line(*shown.writer.spans(more(len(gone)))))
    while kept and sum(size(line) for line in kept) > limit:
        kept = _shortened(kept, size, limit)
    return replace(shown, lines=tuple(kept))


def _shortened(lines: list[Line], size: Callable[[Line], int], limit: int) -> list[Line]:
    """The last resort for one text that is too long by itself: its end goes, links stay whole."""
    over = sum(size(line) for line in lines) - limit
    at = max(range(len(lines)), key=lambda index: size(lines[index]) if not _has_link(lines[index]) else -1)
    text = lines[at].text
    if len(text) <= 10 or _has_link(lines[at]):
        return lines[:-1]
    return [*lines[:at], _line(Span(f"{text[: max(7, len(text) - over - 3)]}...")), *lines[at + 1 :]]


def _has_link(line: Line) -> bool:
    return any(span.style == "link" for span in line.spans)


@dataclass(frozen=True, slots=True)
class _Urls:
    """Which URLs the platform has buttons for."""

    longest: int
    takes: Callable[[str], bool]

    def fit(self, url: str) -> bool:
        return len(url) <= self.longest and self.takes(url)


@dataclass(slots=True)
class _Room:
    """What is left for a checklist: buttons, and links in the text (None: no limit)."""

    buttons: int
    links: int | None

    def takes_link(self) -> bool:
        if self.links is None:
            return True
        self.links -= 1
        return self.links >= 0


def _block(block: Block, now: float, urls: _Urls, room: _Room, writer: Writer) -> tuple[list[Line], list[Button]]:
    match block:
        case Text():
            return [_line(*_marked(TONE_MARK[block.tone], writer.spans(block.words, block.next_step)))], []
        case ServerList():
            return _servers(block, now, writer), []
        case ServerDetail():
            return _detail(block, writer), []
        case Checklist():
            return _checklist(block, urls, room, writer)
        case SecretPrompt():
            return [_line(Span(clean(block.text, _TEXT)))], []
        case Table():
            rows = [(writer.spans(left), Span(f"  {clean(right)}")) for left, right in block.rows]
            return [_line(*(replace(one, style="code") for one in left), right) for left, right in rows], []


def _servers(block: ServerList, now: float, writer: Writer) -> list[Line]:
    lines: list[Line] = []
    for index, server in enumerate(block.servers):
        lines += [
            Line((Span(f"{mark_of(server)} "), Span(clean(server.name, _NAME), "bold")), index),
            Line((Span(f"   {status_words(server, now)}"),), index),
            Line((Span("   "), Span(cut(clean(server.target), _TARGET), "code"), Span(_tools(server))), index),
        ]
    if block.hint:
        lines += [Line(), _line(*writer.spans(block.hint))]
    return lines


def _tools(server: ServerStatus) -> str:
    return f"  tools: {clean(server.tools, 40)}"


def _detail(block: ServerDetail, writer: Writer) -> list[Line]:
    facts = [_line(Span(f"{label}: ", "bold"), *writer.spans(value, limit=_FACT)) for label, value in block.facts]
    return [_line(Span(f"{mark_of(block.server)} "), Span(clean(block.server.name, _NAME), "bold")), *facts]


def _checklist(block: Checklist, urls: _Urls, room: _Room, writer: Writer) -> tuple[list[Line], list[Button]]:
    lines: list[Line] = []
    buttons: list[Button] = []
    for index, item in enumerate(block.items):
        name = clean(item.server, _NAME)
        mark = ITEM_MARK[item.state]
        text = _marked(": ", writer.spans(item.sentence, item.next_step))
        lines.append(Line((Span(f"{mark} "), Span(name, "bold"), *text), index))
        button = _item_button(item, urls)
        if button is not None and len(buttons) < room.buttons:
            buttons.append(button)
        elif item.state is ItemState.LINK and item.link:
            if room.takes_link():
                lines.append(Line((Span(link_text(item.link), "link"),), index))
            elif len(buttons) < room.buttons:
                buttons.append(Button(sentences.button_open(name), command=command_for("auth", item.server)))
        elif item.command is not None:
            command = writer.surface(Typed(clean(item.command, _NAME + 20)))
            lines.append(Line((Span("   "), Span(command, "code", is_command=True)), index))
    if block.note:
        lines += [Line(), _line(*writer.spans(block.note))]
    return lines, buttons


def _item_button(item: ChecklistItem, urls: _Urls) -> Button | None:
    name = clean(item.server, _NAME)
    if item.state is ItemState.LINK and item.link:
        return Button(sentences.button_open(name), url=link_text(item.link)) if urls.fit(item.link) else None
    if item.command is None:
        return None
    label = {ItemState.KEY: sentences.button_key, ItemState.LINK: sentences.button_open}.get(
        item.state, sentences.button_again
    )
    return Button(label(name), command=item.command)


def _marked(mark: str, text: Iterable[Span]) -> Iterator[Span]:
    """`mark` in one run with what follows, unless that is a command."""
    runs = iter(text)
    first = next(runs, Span(""))
    yield from (Span(mark), first) if first.is_command else (replace(first, text=f"{mark}{first.text}"),)
    yield from runs


def _line(*spans: Span) -> Line:
    return Line(spans)
