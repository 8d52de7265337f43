"""Replies as Block Kit: messages and modals. Pure: data in, payload out.

Texts stand in `rich_text` blocks, where every character is itself: no mention, no markup and no address comes to life
in a name. Only the fallback for notifications is mrkdwn, and escaped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from adapters import buttons
from adapters.layout import Layout, Line, Span, Writer, fit, lay_out
from adapters.text import clean
from gateway import sentences
from gateway.grammar import command_for
from gateway.invocations import Principal
from gateway.replies import Button, Reply, SecretPrompt, Text
from gateway.surfaces import chat_command

# https://docs.slack.dev/reference/block-kit: 50 blocks, 25 elements in `actions`, a button's text, URL and value.
BUTTONS_MAX = 100
BUTTON_URL_MAX = 3000
_IN_A_ROW = 25
_LABEL = 75
# A text block ends at 3000 characters; a message whose blocks are together much longer is refused as too long.
_BLOCK_TEXT = 3000
TEXT_MAX = 12_000
_FALLBACK = 1000
_VIEW_LABEL = 24
_HINT = 2000
_ERROR = 500

COMMAND = "/mcp"

ACTION = "slash-mcp"
"""Every action id, block id and callback id of ours begins with it."""
KEY_VIEW = f"{ACTION}:key"
TEXT_VIEW = f"{ACTION}:text"
QUESTION_VIEW = f"{ACTION}:question"
RESULT_VIEW = f"{ACTION}:result"
_INPUT = f"{ACTION}:value"

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Look:
    """What a reply is drawn for.

    `owner`: who may press the buttons. `servers`: all configured names, of which buttons carry a short tag.
    `now`: epoch seconds. `command`: the slash command's name in this workspace.
    """

    owner: Principal
    servers: Sequence[str]
    now: float
    command: str = COMMAND


def render(reply: Reply, look: Look, *, message: str) -> Payload:
    """A message: `text` for notifications and screen readers, `blocks` for everybody else.

    Args:
        message: an id of ours (at most 100 characters) that comes back with every press.
    """
    shown = _laid_out(_with_prompt_buttons(reply), look)
    return {"text": _fallback(shown), "blocks": [*_texts(shown.lines), *_rows(shown, look, message)]}


def escape(text: str) -> str:
    """`text` for mrkdwn, where `& < >` are control characters."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def message_of(block_id: str) -> str:
    """The `message` that a block of `render` was made for."""
    return block_id.split(":")[1] if block_id.startswith(f"{ACTION}:") and block_id.count(":") == 2 else ""


def key_view(prompt: SecretPrompt, *, problem: str | None = None) -> Payload:
    """A modal with one input for a key. `problem`: why it is asked again."""
    told = _texts((Line((Span(problem),)),)) if problem else []
    question = _question(key_block(prompt.id), prompt.variable, prompt.text)
    metadata = json.dumps({"prompt": prompt.id})
    return _view(KEY_VIEW, sentences.FORM_KEY, [*told, question], submit=sentences.FORM_SAVE, metadata=metadata)


def key_block(prompt_id: str) -> str:
    return f"{ACTION}:{prompt_id}"


def text_view(verb: str) -> Payload:
    """A modal with one input for what the command `verb` takes: an address, a code."""
    title, label, note = sentences.FORMS[verb]
    question = _question(TEXT_VIEW, label, note)
    metadata = json.dumps({"verb": verb})
    return _view(TEXT_VIEW, title, [question], submit=sentences.FORM_SEND, metadata=metadata)


def working_view() -> Payload:
    """What stands in a submitted modal until there is an answer."""
    return _view(RESULT_VIEW, sentences.TITLE, _texts((Line((Span(sentences.FORM_WORKING),)),)))


def reply_view(reply: Reply, look: Look) -> Payload:
    """What stands in the modal in the end: a result, or a question whose one answer is the modal's own button."""
    shown = _laid_out(replace(reply, buttons=()), look)
    command = next((button for button in reply.buttons if button.command is not None), None)
    if command is None or command.command is None:
        return _view(RESULT_VIEW, sentences.TITLE, _texts(shown.lines))
    metadata = json.dumps({"command": buttons.pack(command.command, look.owner, look.servers)})
    return _view(QUESTION_VIEW, sentences.TITLE, _texts(shown.lines), submit=command.label, metadata=metadata)


def problem_of(reply: Reply) -> str:
    """Why something is asked for again, for the modal's own error line."""
    said = " ".join(clean(block.text, _ERROR) for block in reply.blocks if isinstance(block, Text))
    return clean(said, _ERROR) or sentences.KEY_EMPTY


def _question(block_id: str, label: str, hint: str) -> Payload:
    return {
        "type": "input",
        "block_id": block_id,
        "label": _plain(clean(label, _HINT)),
        "hint": _plain(clean(hint, _HINT)),
        "element": {"type": "plain_text_input", "action_id": _INPUT, "max_length": 3000, "focus_on_load": True},
    }


def _view(
    callback: str, title: str, blocks: list[Payload], *, submit: str | None = None, metadata: str = ""
) -> Payload:
    view: Payload = {
        "type": "modal",
        "callback_id": callback,
        "title": _plain(clean(title, _VIEW_LABEL)),
        "close": _plain(sentences.FORM_CANCEL if submit else sentences.FORM_CLOSE),
        "blocks": blocks,
    }
    if submit:
        view["submit"] = _plain(clean(submit, _VIEW_LABEL))
    if metadata:
        view["private_metadata"] = metadata
    return view


def _with_prompt_buttons(reply: Reply) -> Reply:
    """A prompt in a message cannot take its answer there: it gets the button that opens the modal."""
    prompts = [block for block in reply.blocks if isinstance(block, SecretPrompt)]
    opening = [Button(sentences.button_key(one.server), command=command_for("key", one.server)) for one in prompts]
    return replace(reply, buttons=(*reply.buttons, *opening))


def _laid_out(reply: Reply, look: Look) -> Layout:
    writer = Writer(partial(chat_command, program=look.command))
    shown = lay_out(reply, now=look.now, button_url_max=BUTTON_URL_MAX, buttons_max=BUTTONS_MAX, writer=writer)
    return fit(shown, _size, TEXT_MAX)


def _size(line: Line) -> int:
    return len(line.text) + 1


def _texts(lines: Sequence[Line]) -> list[Payload]:
    """`rich_text` blocks of about `_BLOCK_TEXT` characters; a line is never torn."""
    blocks: list[list[Payload]] = []
    room = 0
    for line in lines:
        elements = [one for span in line.spans for one in _elements(span)]
        if _size(line) > room or not blocks:
            blocks.append([])
            room = _BLOCK_TEXT
        elif blocks[-1] or elements:
            blocks[-1].append({"type": "text", "text": "\n"})
        blocks[-1] += elements
        room -= _size(line)
    return [
        {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}
        for elements in blocks
        if elements
    ]


def _elements(span: Span) -> Iterator[Payload]:
    if span.style == "link" and len(span.text) <= BUTTON_URL_MAX:
        yield {"type": "link", "url": span.text}
        return
    # A longer address is there to be copied.
    style = {} if span.style in ("plain", "link") else {"style": {span.style: True}}
    for at in range(0, len(span.text), _BLOCK_TEXT):
        yield {"type": "text", "text": span.text[at : at + _BLOCK_TEXT], **style}


def _rows(shown: Layout, look: Look, message: str) -> Iterator[Payload]:
    pressed = [one for number, button in enumerate(shown.buttons) for one in _button(button, number, look)]
    if sum("url" in one for one in pressed) == 1:
        # The one thing to do. With several, a colour would say nothing.
        pressed = [{**one, "style": "primary"} if "url" in one else one for one in pressed]
    for at in range(0, len(pressed), _IN_A_ROW):
        row = pressed[at : at + _IN_A_ROW]
        yield {"type": "actions", "block_id": f"{ACTION}:{message}:{at}", "elements": row}


def _button(button: Button, number: int, look: Look) -> Iterator[Payload]:
    made = {
        "type": "button",
        "action_id": f"{ACTION}:{number}",
        "text": _plain(clean(button.label, _LABEL) or "…"),
    }
    if button.url is not None:
        yield {**made, "url": button.url}
    elif button.command is not None:
        yield {**made, "value": buttons.pack(button.command, look.owner, look.servers)}


def _fallback(shown: Layout) -> str:
    """What a notification shows. Links stay out of it: it appears on locked screens."""
    said = [line.text for line in shown.lines if line.spans and all(span.style != "link" for span in line.spans)]
    return escape(clean("\n".join(said) or sentences.TITLE, _FALLBACK))


def _plain(text: str) -> Payload:
    return {"type": "plain_text", "text": text, "emoji": False}
