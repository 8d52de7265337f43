"""What Discord accepts in the bodies it is sent, checked as its documentation states.

Followed: "Message Resource" (create message, embed limits, allowed mentions), "Component Reference" (action row,
button, label, text input), "Receiving and Responding" (interaction response, modal, autocomplete) and "Application
Commands" (naming, option structure) of https://docs.discord.com/developers, API v10.

Every function takes the parsed JSON and raises `Invalid` with the path of the wrong member, as Discord's error tree
names it.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

CONTENT = 2000
EMBEDS, EMBED_TOTAL = 10, 6000
ROWS, BUTTONS = 5, 5
LABEL, URL, CUSTOM_ID = 80, 512, 100
CHOICES = 25
MODAL_TITLE, MODAL_LABEL, MODAL_DESCRIPTION, MODAL_INPUT = 45, 45, 100, 4000

SUPPRESS_EMBEDS, EPHEMERAL, SUPPRESS_NOTIFICATIONS = 1 << 2, 1 << 6, 1 << 12
# "only SUPPRESS_EMBEDS, EPHEMERAL, ... can be set": components v2 and voice messages are not spoken here.
_CALLBACK_FLAGS = SUPPRESS_EMBEDS | EPHEMERAL | SUPPRESS_NOTIFICATIONS
_MESSAGE_FLAGS = SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS

_EMBED_TEXT = {"title": 256, "description": 4096}
_COMMAND_NAME = re.compile(r"[-_'\w]{1,32}")


class Invalid(Exception):
    """A body that Discord would refuse: HTTP 400 with this error code."""

    def __init__(self, path: str, why: str, code: int = 50035) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why
        self.code = code


def check_message(body: Any, *, callback: bool = False, edit: bool = False) -> None:
    """A message to create or edit. `callback`: of an interaction, where it may be ephemeral."""
    _is(body, dict, "body")
    content, embeds, components = body.get("content"), body.get("embeds") or [], body.get("components") or []
    if content is not None:
        _text(content, CONTENT, "content", least=0)
    if "tts" in body:
        _is(body["tts"], bool, "tts")
    flags = body.get("flags") or 0
    _is(flags, int, "flags")
    allowed = SUPPRESS_EMBEDS if edit else _CALLBACK_FLAGS if callback else _MESSAGE_FLAGS
    _require(flags & ~allowed == 0, "flags", f"{flags} has flags that cannot be set here")
    _check_embeds(embeds)
    check_components(components)
    if "allowed_mentions" in body and body["allowed_mentions"] is not None:
        _check_mentions(body["allowed_mentions"])
    if not edit and not content and not embeds and not components:
        raise Invalid("content", "Cannot send an empty message", 50006)


def check_components(rows: Any) -> None:
    _is(rows, list, "components")
    _require(len(rows) <= ROWS, "components", f"{len(rows)} rows, at most {ROWS}")
    seen: set[str] = set()
    for at, row in enumerate(rows):
        path = f"components[{at}]"
        _require(row.get("type") == 1, f"{path}.type", "only action rows stand at the top")
        buttons = row.get("components")
        _is(buttons, list, f"{path}.components")
        _require(1 <= len(buttons) <= BUTTONS, f"{path}.components", f"{len(buttons)} buttons, from 1 to {BUTTONS}")
        for place, button in enumerate(buttons):
            _check_button(button, f"{path}.components[{place}]", seen)


def _check_button(button: Any, path: str, seen: set[str]) -> None:
    _require(button.get("type") == 2, f"{path}.type", "only buttons are spoken here")
    style = button.get("style")
    _require(style in (1, 2, 3, 4, 5), f"{path}.style", "from 1 to 5")
    _require(bool(button.get("label") or button.get("emoji")), path, "a button has a label or an emoji")
    if button.get("label") is not None:
        _text(button["label"], LABEL, f"{path}.label")
    if "disabled" in button:
        _is(button["disabled"], bool, f"{path}.disabled")
    if style == 5:
        _require("custom_id" not in button, f"{path}.custom_id", "a link button has none")
        _text(button.get("url"), URL, f"{path}.url")
        _require(urlsplit(button["url"]).scheme in ("http", "https", "discord"), f"{path}.url", "scheme not supported")
        return
    _require("url" not in button or button["url"] is None, f"{path}.url", "only link buttons have one")
    _check_custom_id(button, path, seen)


def _check_custom_id(component: Any, path: str, seen: set[str]) -> None:
    _text(component.get("custom_id"), CUSTOM_ID, f"{path}.custom_id")
    _require(component["custom_id"] not in seen, f"{path}.custom_id", "Component custom id cannot be duplicated")
    seen.add(component["custom_id"])


def _check_embeds(embeds: Any) -> None:
    _is(embeds, list, "embeds")
    _require(len(embeds) <= EMBEDS, "embeds", f"{len(embeds)}, at most {EMBEDS}")
    total = 0
    for at, embed in enumerate(embeds):
        path = f"embeds[{at}]"
        for name, most in _EMBED_TEXT.items():
            if embed.get(name) is not None:
                _text(embed[name], most, f"{path}.{name}")
                total += len(embed[name])
        fields = embed.get("fields") or []
        _require(len(fields) <= 25, f"{path}.fields", f"{len(fields)}, at most 25")
        for place, field in enumerate(fields):
            _text(field.get("name"), 256, f"{path}.fields[{place}].name")
            _text(field.get("value"), 1024, f"{path}.fields[{place}].value")
            total += len(field["name"]) + len(field["value"])
        footer, author = embed.get("footer") or {}, embed.get("author") or {}
        for text, most, name in ((footer.get("text"), 2048, "footer.text"), (author.get("name"), 256, "author.name")):
            if text is not None:
                _text(text, most, f"{path}.{name}")
                total += len(text)
    _require(total <= EMBED_TOTAL, "embeds", f"{total} characters together, at most {EMBED_TOTAL}")


def _check_mentions(mentions: Any) -> None:
    _is(mentions, dict, "allowed_mentions")
    parse = mentions.get("parse", [])
    _require(set(parse) <= {"roles", "users", "everyone"}, "allowed_mentions.parse", "unknown kind")
    for kind in ("roles", "users"):
        named = mentions.get(kind) or []
        _require(len(named) <= 100, f"allowed_mentions.{kind}", "at most 100")
        _require(not (named and kind in parse), f"allowed_mentions.{kind}", "given as a list and in parse")


def check_modal(data: Any) -> None:
    _is(data, dict, "data")
    _text(data.get("custom_id"), CUSTOM_ID, "data.custom_id")
    _text(data.get("title"), MODAL_TITLE, "data.title")
    components = data.get("components")
    _is(components, list, "data.components")
    _require(1 <= len(components) <= 5, "data.components", "from 1 to 5")
    seen: set[str] = set()
    for at, component in enumerate(components):
        path = f"data.components[{at}]"
        if component.get("type") == 18:
            _text(component.get("label"), MODAL_LABEL, f"{path}.label")
            if component.get("description") is not None:
                _text(component["description"], MODAL_DESCRIPTION, f"{path}.description")
            _check_input(component.get("component") or {}, f"{path}.component", seen, labelled=True)
        elif component.get("type") == 1:
            inner = component.get("components") or []
            _require(len(inner) == 1, f"{path}.components", "exactly one text input")
            _check_input(inner[0], f"{path}.components[0]", seen, labelled=False)
        else:
            _require(component.get("type") == 10, f"{path}.type", "not spoken here")
            _text(component.get("content"), 4000, f"{path}.content")


def _check_input(field: Any, path: str, seen: set[str], *, labelled: bool) -> None:
    _require(field.get("type") == 4, f"{path}.type", "only text inputs are spoken here")
    _require(field.get("style") in (1, 2), f"{path}.style", "1 or 2")
    if labelled:
        _require(field.get("label") is None, f"{path}.label", "stands in the label component")
    else:
        _text(field.get("label"), MODAL_LABEL, f"{path}.label")
    _check_custom_id(field, path, seen)
    least, most = field.get("min_length") or 0, field.get("max_length") or MODAL_INPUT
    _require(0 <= least <= MODAL_INPUT, f"{path}.min_length", "from 0 to 4000")
    _require(1 <= most <= MODAL_INPUT and least <= most, f"{path}.max_length", "from 1 to 4000")
    if field.get("placeholder") is not None:
        _text(field["placeholder"], 100, f"{path}.placeholder")
    if field.get("value") is not None:
        _text(field["value"], MODAL_INPUT, f"{path}.value")


def check_choices(data: Any) -> None:
    _is(data, dict, "data")
    choices = data.get("choices")
    _is(choices, list, "data.choices")
    _require(len(choices) <= CHOICES, "data.choices", f"{len(choices)}, at most {CHOICES}")
    for at, choice in enumerate(choices):
        _text(choice.get("name"), 100, f"data.choices[{at}].name")
        _text(choice.get("value"), 100, f"data.choices[{at}].value")


def check_commands(commands: Any) -> None:
    """A bulk overwrite of global commands."""
    _is(commands, list, "body")
    names = [command.get("name") for command in commands if command.get("type", 1) == 1]
    _require(len(names) <= 100 and len(set(names)) == len(names), "body", "at most 100 commands, each name once")
    for at, command in enumerate(commands):
        if command.get("type", 1) == 1:
            _check_option(command, f"[{at}]")
        _require(set(command.get("contexts") or [0]) <= {0, 1, 2}, f"[{at}].contexts", "0, 1 and 2")
        _require(set(command.get("integration_types") or [0]) <= {0, 1}, f"[{at}].integration_types", "0 and 1")
        _require(_characters(command) <= 8000, f"[{at}]", "more than 8000 characters together")


def _check_option(option: Any, path: str) -> None:
    name = option.get("name")
    good = isinstance(name, str) and _COMMAND_NAME.fullmatch(name) is not None and name == name.lower()
    _require(good, f"{path}.name", "1 to 32 letters, digits, - and _, lower case")
    _text(option.get("description"), 100, f"{path}.description")
    options = option.get("options") or []
    _require(len(options) <= 25, f"{path}.options", "at most 25")
    names = [one.get("name") for one in options]
    _require(len(set(names)) == len(names), f"{path}.options", "each name once")
    kinds = {one.get("type") for one in options}
    _require(not (kinds & {1, 2}) or kinds <= {1, 2}, f"{path}.options", "subcommands and options do not mix")
    required = [bool(one.get("required")) for one in options]
    _require(required == sorted(required, reverse=True), f"{path}.options", "required options come first")
    for at, one in enumerate(options):
        _require(one.get("type") in range(1, 12), f"{path}.options[{at}].type", "from 1 to 11")
        _require(
            not (one.get("autocomplete") and one.get("choices")), f"{path}.options[{at}]", "choices or autocomplete"
        )
        _check_option(one, f"{path}.options[{at}]")


def _characters(option: Any) -> int:
    own = len(option.get("name", "")) + len(option.get("description", ""))
    return own + sum(_characters(one) for one in option.get("options") or [])


def _text(value: Any, most: int, path: str, *, least: int = 1) -> None:
    _is(value, str, path)
    _require(least <= len(value) <= most, path, f"{len(value)} characters, from {least} to {most}")


def _is(value: Any, kind: type, path: str) -> None:
    good = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    _require(good, path, f"{type(value).__name__} instead of {kind.__name__}")


def _require(condition: bool, path: str, why: str) -> None:
    if not condition:
        raise Invalid(path, why)
