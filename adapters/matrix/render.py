"""A reply as the content of a Matrix event: plain `body` and HTML `formatted_body`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from html import escape

from adapters.layout import Layout, Line, Span, Writer, fit, lay_out
from adapters.text import clean, link_text
from gateway import sentences
from gateway.replies import Reply
from gateway.surfaces import Typed, chat_command

# An event has at most 65536 bytes, and an edit carries both forms twice.
HTML_MAX = 16_000
# Far below that, whatever the markup adds.
TEXT_MAX = 8_000

# Clients keep a line with an unknown slash command to themselves; with a `!` it is a message.
_WRITER = Writer(partial(chat_command, program="!mcp"))


@dataclass(frozen=True, slots=True)
class Rendered:
    """Both forms of one message."""

    body: str
    html: str

    def content(self, msgtype: str) -> dict[str, object]:
        """As an `m.room.message`."""
        return {
            "msgtype": msgtype,
            "body": self.body,
            "format": "org.matrix.custom.html",
            "formatted_body": self.html,
            # Nobody is notified by name, whatever a server is called (MSC3952, Matrix 1.7).
            "m.mentions": {},
        }

    def replacing(self, event_id: str, msgtype: str) -> dict[str, object]:
        """As an edit of an earlier message. The outer form is what clients without edits show."""
        old = Rendered(f"* {self.body}", f"* {self.html}").content(msgtype)
        relation = {"rel_type": "m.replace", "event_id": event_id}
        return {**old, "m.new_content": self.content(msgtype), "m.relates_to": relation}


def render(reply: Reply, *, now: float) -> Rendered:
    """One message. Matrix has no buttons: links are links, and what a button would send stands there to be typed."""
    links = [(clean(one.label), link_text(one.url)) for one in reply.buttons if one.url]
    commands = tuple(one for one in reply.buttons if one.command)
    shown = lay_out(
        replace(reply, buttons=commands), now=now, button_url_max=0, buttons_max=len(commands), writer=_WRITER
    )
    pressed = [(one, _WRITER.surface(Typed(one.command))) for one in shown.buttons if one.command]
    typed = tuple(
        Line((Span(f"{clean(one.label)}: "), Span(command, "code")))
        for one, command in pressed
        if command not in shown.text
    )
    space = (Line(),) if typed else ()
    has_links = any(span.style == "link" for line in shown.lines for span in line.spans)
    more = sentences.more_links if has_links else sentences.more_servers
    fitted = fit(Layout((*shown.lines, *space, *typed), (), _WRITER), _size, HTML_MAX, more=more)
    body = [*map(_plain, fitted.lines), *(f"{label}: {url}" for label, url in links)]
    formatted = [*map(_html, fitted.lines), *(_anchor(url, label) for label, url in links)]
    return Rendered("\n".join(body).strip("\n"), "<br>".join(formatted))


def _anchor(url: str, label: str) -> str:
    return f'<a href="{escape(url)}">{escape(label)}</a>'


def _size(line: Line) -> int:
    return len(_html(line).encode()) + len("<br>")


def _plain(line: Line) -> str:
    return line.text


def _html(line: Line) -> str:
    return "".join(map(_span, line.spans))


def _span(span: Span) -> str:
    if span.style == "link":
        return _anchor(span.text, sentences.BUTTON_AUTH)
    text = _with_code(span.text)
    indent = len(text) - len(text.lstrip(" "))
    # Spaces at the beginning of a line are nothing in HTML.
    text = "&nbsp;" * indent + text[indent:]
    if span.style == "plain" or not span.text.strip():
        return text
    tag = "strong" if span.style == "bold" else "code"
    return f"<{tag}>{escape(span.text)}</{tag}>"


_CODE = re.compile(r"`([^`]+)`")


def _with_code(text: str) -> str:
    """Escaped, with what stands between backticks as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))
