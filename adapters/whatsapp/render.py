"""A reply as WhatsApp messages. Pure: data in, payloads out; limits of the Cloud API's message reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

from adapters.layout import Layout, Line, Span, fit, lay_out
from adapters.text import clean, status_words
from gateway import grammar, sentences
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, ServerList

TEXT_MAX = 4096
# With anything to tap under it.
BODY_MAX = 1024
BUTTONS_MAX = 3
BUTTON_MAX = 20
ROWS_MAX = 10
ROW_MAX = 24
DESCRIPTION_MAX = 72
# Of a URL button. Undocumented for messages; templates have this limit.
URL_MAX = 2000
# A message has one URL button, and whoever gets more than a few messages at once is held back (131056).
LINKS_MAX = 3
# With the line above it, a link is never torn between two messages.
LINK_MAX = 2400
PAGES_MAX = 4
# Kept free on a page for the line that says how many links are missing.
_LAST_LINE = 100


@dataclass(frozen=True, slots=True)
class Choice:
    """Something to tap that answers: a reply button (with its `short` title), or a row of a list."""

    title: str
    data: str
    short: str
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """The URL button under a message."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message. At most one of `link`, `buttons` and `rows` is there; `menu` is the label that opens the rows."""

    body: str
    link: Link | None = None
    buttons: tuple[Choice, ...] = ()
    rows: tuple[Choice, ...] = ()
    menu: str | None = None
    footer: str | None = None


def render(reply: Reply, *, now: float, pack: Callable[[str], str]) -> tuple[Outgoing, ...]:
    """The messages of a private chat, in the order in which they are sent.

    Args:
        now: epoch seconds, for "10 minutes left".
        pack: a command as the data of a button.
    """
    reply = _without_endless_links(reply)
    wanted = _links(reply)
    url_max, room = (URL_MAX, wanted) if wanted <= LINKS_MAX else (0, 0)
    room += sum(button.url is not None for button in reply.buttons)
    shown = lay_out(reply, now=now, button_url_max=url_max, buttons_max=ROWS_MAX + room)
    links = [Link(_label(one.label, BUTTON_MAX), one.url) for one in shown.buttons if one.url]
    choices = _choices(reply, shown.buttons, now, pack)
    bodies = _pages(shown)
    if choices:
        return (*_with_choices(reply, bodies, choices), *_with_links(reply, links, now))
    if len(links) == 1 and len(bodies[-1]) <= BODY_MAX:
        return (*map(Outgoing, bodies[:-1]), _with_link(bodies[-1], links[0]))
    return (*map(Outgoing, bodies), *_with_links(reply, links, now))


def _with_link(body: str, link: Link) -> Outgoing:
    return Outgoing(body, link=link, footer=sentences.OPEN_IN_BROWSER)


def _with_links(reply: Reply, links: list[Link], now: float) -> Iterator[Outgoing]:
    """A message for every link: the line of its server, or what the button says."""
    items = [item for item in _items(reply) if _has_link(item)]
    lines = [_pages(lay_out(Reply((Checklist((replace(item, link=None),)),)), now=now))[0] for item in items]
    about = dict(zip((item.link for item in items), lines, strict=True))
    for link in links:
        yield _with_link(about.get(link.url, link.title)[:BODY_MAX], link)


def _with_choices(reply: Reply, bodies: list[str], choices: list[Choice]) -> Iterator[Outgoing]:
    *before, last = bodies
    if len(last) > BODY_MAX:
        before, last = bodies, sentences.CHOOSE
    yield from map(Outgoing, before)
    has_servers = any(isinstance(block, ServerList) for block in reply.blocks)
    buttons = tuple(Choice(choice.short, choice.data, choice.short) for choice in choices)
    are_different = len({choice.title for choice in buttons}) == len(buttons)
    if not has_servers and are_different and len(buttons) <= BUTTONS_MAX:
        yield Outgoing(last, buttons=buttons)
    else:
        yield Outgoing(last, rows=tuple(choices[:ROWS_MAX]), menu=sentences.MENU)


def _choices(reply: Reply, buttons: tuple[Button, ...], now: float, pack: Callable[[str], str]) -> list[Choice]:
    """What answers when it is tapped: the buttons, and each server of a list."""
    choices = []
    for button in buttons:
        if button.command is not None:
            label = clean(button.label)
            verb = button.command.partition(" ")[0]
            short = label if len(label) <= BUTTON_MAX else sentences.BUTTONS.get(verb, _label(label, BUTTON_MAX))
            about = _label(label, DESCRIPTION_MAX) if len(label) > ROW_MAX else None
            choices.append(Choice(_label(label, ROW_MAX), pack(button.command), short, about))
    for block in reply.blocks:
        if isinstance(block, ServerList):
            for server in block.servers:
                about = _label(status_words(server, now), DESCRIPTION_MAX)
                title = _label(clean(server.name), ROW_MAX)
                choices.append(Choice(title, pack(grammar.command_for("status", server.name)), title, about))
    return choices


def _items(reply: Reply) -> list[ChecklistItem]:
    return [item for block in reply.blocks if isinstance(block, Checklist) for item in block.items]


def _has_link(item: ChecklistItem) -> bool:
    return item.state is ItemState.LINK and bool(item.link)


def _links(reply: Reply) -> int:
    return sum(_has_link(item) and len(item.link or "") <= URL_MAX for item in _items(reply))


def _without_endless_links(reply: Reply) -> Reply:
    """A link that is longer than a message cannot be sent at all, and half a link is none."""

    def mended(item: ChecklistItem) -> ChecklistItem:
        if not _has_link(item) or len(item.link or "") <= LINK_MAX:
            return item
        return ChecklistItem.failed(item.server, sentences.link_too_long(item.server))

    blocks = tuple(
        replace(block, items=tuple(map(mended, block.items))) if isinstance(block, Checklist) else block
        for block in reply.blocks
    )
    return replace(reply, blocks=blocks)


# -- text --------------------------------------------------------------------------------------


def _pages(shown: Layout) -> list[str]:
    """The text in messages of at most `TEXT_MAX`. Only links are worth a second page: a list is cut instead."""
    if not any(span.style == "link" for line in shown.lines for span in line.spans):
        return ["\n".join(map(_markup, fit(shown, _size, TEXT_MAX).lines)).strip()]
    last = max((at for at, line in enumerate(shown.lines) if line.group is not None), default=-1)
    items, closing = shown.lines[: last + 1], shown.lines[last + 1 :]
    capacity = TEXT_MAX - _LAST_LINE - sum(map(_size, closing))
    pages: list[list[Line]] = [[]]
    left_out = 0
    for _, together in groupby(items, key=lambda line: line.group):
        lines = list(together)
        if pages[-1] and sum(map(_size, (*pages[-1], *lines))) > capacity:
            if len(pages) == PAGES_MAX:
                left_out += 1
                continue
            pages.append([])
        pages[-1] += lines
    if left_out:
        pages[-1].append(Line(tuple(shown.writer.spans(sentences.more_links(left_out)))))
    pages[-1] += closing
    return ["\n".join(map(_markup, lines)).strip() for lines in pages]


def _size(line: Line) -> int:
    return len(_markup(line)) + 1


def _markup(line: Line) -> str:
    return "".join(map(_span, line.spans))


def _span(span: Span) -> str:
    if span.style == "link":
        return span.text
    if span.style == "code":
        return _around(span.text, _code)
    if span.style == "bold":
        return _around(span.text, lambda text: _code(text) if _MARKERS.search(text) or "`" in text else f"*{text}*")
    return escape(span.text)


def _around(text: str, mark: Callable[[str], str]) -> str:
    """Marks stand directly at the words; with a space between they would be shown."""
    bare = text.strip(" ")
    if not bare:
        return text
    at = text.index(bare)
    return f"{text[:at]}{mark(bare)}{text[at + len(bare) :]}"


# What WhatsApp may take for the beginning or the end of a style. Inside a word (`my_server`) a marker does nothing.
_MARKERS = re.compile(r"(?<!\w)[*_~](?=\S)|(?<=\S)[*_~](?!\w)")
_CODE = re.compile(r"(`[^`]+`)")


def escape(text: str) -> str:
    """`text` as it is. WhatsApp has no escape character, so a word with a marker is shown as code, where none counts.

    What stands between backticks already, as in our own sentences, stays code.
    """
    parts = _CODE.split(text)
    return "".join(part if at % 2 else _words(part.replace("`", "ˋ")) for at, part in enumerate(parts))


def _words(text: str) -> str:
    return " ".join(_code(word) if _MARKERS.search(word) else word for word in text.split(" "))


def _code(text: str) -> str:
    if "`" not in text:
        return f"`{text}`"
    # A backtick beside the fence would be read as a part of it.
    left, right = (" " if text[at] == "`" else "" for at in (0, -1))
    return f"```{left}{text.replace('```', 'ˋˋˋ')}{right}```"


def _label(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
