"""What Telegram's documentation demands of a request's parameters. Pure.

Follows https://core.telegram.org/bots/api (Bot API 10.3): "Making requests", "Formatting options", `MessageEntity`,
`InlineKeyboardButton`, `ForceReply`, `BotCommand`, `setWebhook`. Where Telegram mends or ignores what is wrong (an
entity beyond the text, a parameter that it does not know), this refuses, so that a mistake is seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

TEXT_MAX = 4096
ENTITIES_MAX = 100
BUTTONS_MAX = 100
BUTTONS_PER_ROW = 8
URL_MAX = 2048
ALERT_MAX = 200
_STYLES = frozenset(
    {"bold", "italic", "underline", "strikethrough", "spoiler", "blockquote", "code", "pre", "text_link"}
)
_FLAT = frozenset({"code", "pre"})
_COMMAND = re.compile(r"[a-z0-9_]{1,32}")
_SECRET_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")
_FOUND = (
    ("url", re.compile(r"https?://[^\s]+")),
    ("mention", re.compile(r"(?<!\w)@[A-Za-z0-9_]{2,32}\b")),
    ("bot_command", re.compile(r"(?<![\w/<>])/[A-Za-z0-9_]{1,64}(?:@\w{3,32})?(?![\w/<>])")),
)
_UPDATE_TYPES = frozenset(
    {
        "message",
        "edited_message",
        "channel_post",
        "edited_channel_post",
        "business_message",
        "callback_query",
        "inline_query",
        "my_chat_member",
        "chat_member",
    }
)


class BadRequest(Exception):
    """Becomes a 400 with this description."""


def units(text: str) -> int:
    """How long Telegram takes `text` to be: UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def read(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of `method` with their types, form fields and JSON bodies alike.

    Raises:
        BadRequest: one is missing, unknown or of another type.
    """
    spec = METHODS[method]
    for name in given.keys() - spec.keys():
        raise BadRequest(f"{method} has no parameter {name}")
    read: dict[str, Any] = {}
    for name, (parse, required) in spec.items():
        if name in given:
            read[name] = parse(name, given[name])
        elif required:
            raise BadRequest(f"parameter {name} is required")
    return read


def check_text(text: str, entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Refuse what may not be sent. Returns all entities of the message: the given, and what is found in the rest."""
    if not text.strip():
        raise BadRequest("message text is empty")
    if units(text) > TEXT_MAX:
        raise BadRequest("message is too long")
    if len(entities) > ENTITIES_MAX:
        raise BadRequest("too many entities")
    for entity in entities:
        _check_entity(text, entity)
    _check_nesting(entities)
    return sorted([*entities, *_found(text, entities)], key=lambda one: int(one["offset"]))


def check_markup(markup: dict[str, Any]) -> None:
    if markup.get("force_reply") is True:
        _only(markup, {"force_reply", "input_field_placeholder", "selective"}, "ForceReply")
        if len(markup.get("input_field_placeholder", "x")) not in range(1, 65):
            raise BadRequest("input_field_placeholder has 1-64 characters")
        return
    _only(markup, {"inline_keyboard"}, "InlineKeyboardMarkup")
    rows = markup["inline_keyboard"]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise BadRequest("can't parse inline keyboard: an array of arrays is expected")
    if any(len(row) not in range(1, BUTTONS_PER_ROW + 1) for row in rows) or sum(map(len, rows)) > BUTTONS_MAX:
        raise BadRequest("the inline keyboard is too large")
    for row in rows:
        for button in row:
            _check_button(button)


def check_commands(commands: list[dict[str, Any]]) -> None:
    if len(commands) > 100:
        raise BadRequest("too many commands specified")
    for one in commands:
        _only(one, {"command", "description"}, "BotCommand")
        if not _COMMAND.fullmatch(one.get("command", "")):
            raise BadRequest("BOT_COMMAND_INVALID")
        if len(one.get("description", "")) not in range(1, 257):
            raise BadRequest("BOT_COMMAND_DESCRIPTION_INVALID")


def check_webhook(url: str, secret_token: str | None, *, local: bool) -> None:
    """`local`: a Bot API server of one's own, which takes plain http and any port."""
    parts = urlsplit(url)
    if not local and (parts.scheme != "https" or (parts.port or 443) not in (443, 80, 88, 8443)):
        raise BadRequest("bad webhook: An HTTPS URL must be provided for webhook, on port 80, 88, 443 or 8443")
    if secret_token is not None and not _SECRET_TOKEN.fullmatch(secret_token):
        raise BadRequest("secret token contains unallowed characters")


def url_problem(url: str) -> str | None:
    """Why a client could not open it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "tg"):
        return "Unsupported URL protocol"
    if len(url) > URL_MAX:
        return "URL is too long"
    if parts.scheme != "tg" and "." not in (parts.hostname or "") and ":" not in (parts.hostname or ""):
        return "Wrong HTTP URL"
    return None


def found_entities(text: str) -> list[dict[str, Any]]:
    """What a person's own client or the server marks in a text: links, mentions, commands."""
    return _found(text, [])


def _check_entity(text: str, entity: dict[str, Any]) -> None:
    kind, offset, length = entity.get("type"), entity.get("offset"), entity.get("length")
    if kind not in _STYLES:
        raise BadRequest(f"can't parse entities: type {kind} is not one of those that bots send here")
    if not isinstance(offset, int) or not isinstance(length, int) or offset < 0 or length < 1:
        raise BadRequest("can't parse entities: offset or length is invalid")
    data = text.encode("utf-16-le")
    if (offset + length) * 2 > len(data):
        raise BadRequest("can't parse entities: the entity ends behind the text")
    for at in (offset, offset + length):
        if at * 2 < len(data) and 0xDC <= data[at * 2 + 1] <= 0xDF:
            raise BadRequest("can't parse entities: the entity begins or ends inside a character")
    if kind == "text_link" and url_problem(str(entity.get("url", ""))):
        raise BadRequest("can't parse entities: text_link has a wrong URL")


def _check_nesting(entities: list[dict[str, Any]]) -> None:
    spans = [(one["offset"], one["offset"] + one["length"], one["type"]) for one in entities]
    for index, (start, end, kind) in enumerate(spans):
        for other_start, other_end, other_kind in spans[index + 1 :]:
            if end <= other_start or other_end <= start:
                continue
            nested = (start <= other_start and other_end <= end) or (other_start <= start and end <= other_end)
            if not nested or kind in _FLAT or other_kind in _FLAT:
                raise BadRequest("can't parse entities: entities overlap")


def _check_button(button: dict[str, Any]) -> None:
    _only(button, {"text", "url", "callback_data"}, "InlineKeyboardButton")
    if not isinstance(button.get("text"), str) or not button["text"].strip():
        raise BadRequest("can't parse inline keyboard button: Text buttons must be non-empty")
    if ("url" in button) == ("callback_data" in button):
        raise BadRequest("can't parse inline keyboard button: exactly one of the optional fields must be used")
    if "callback_data" in button and len(button["callback_data"].encode()) not in range(1, 65):
        raise BadRequest("BUTTON_DATA_INVALID")
    if "url" in button:
        problem = url_problem(button["url"])
        if problem is not None:
            raise BadRequest(f"inline keyboard button URL is invalid: {problem}")


def _found(text: str, taken: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    # Inside these nothing is found; bold and the like let it through.
    closed = [(one["offset"], one["offset"] + one["length"]) for one in taken if one["type"] in _FLAT | {"text_link"}]
    for kind, pattern in _FOUND:
        for match in pattern.finditer(text):
            start, end = units(text[: match.start()]), units(text[: match.end()])
            if all(end <= other_start or other_end <= start for other_start, other_end in closed):
                found.append({"type": kind, "offset": start, "length": end - start})
                closed.append((start, end))
    return found


def _only(value: Any, allowed: set[str], name: str) -> None:
    if not isinstance(value, dict):
        raise BadRequest(f"can't parse {name}: an object is expected")
    for key in value.keys() - allowed:
        raise BadRequest(f"{name} has no field {key} here")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be a string")
    return value


def _integer(name: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise BadRequest(f"{name} must be an integer") from None


def _boolean(name: str, value: Any) -> bool:
    if value in (True, "true", "True", "1"):
        return True
    if value in (False, "false", "False", "0"):
        return False
    raise BadRequest(f"{name} must be a boolean")


def _json(kind: type) -> Callable[[str, Any], Any]:
    def parse(name: str, value: Any) -> Any:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                raise BadRequest(f"can't parse {name}: JSON is expected") from None
        if not isinstance(value, kind):
            raise BadRequest(f"can't parse {name}")
        return value

    return parse


def _allowed_updates(name: str, value: Any) -> list[str]:
    kinds: list[str] = _json(list)(name, value)
    for kind in kinds:
        if kind not in _UPDATE_TYPES:
            raise BadRequest(f"there is no update type {kind} here")
    return kinds


def _preview(name: str, value: Any) -> dict[str, Any]:
    options: dict[str, Any] = _json(dict)(name, value)
    _only(options, {"is_disabled", "url", "prefer_small_media", "show_above_text"}, "LinkPreviewOptions")
    return options


def _reply_parameters(name: str, value: Any) -> dict[str, Any]:
    options: dict[str, Any] = _json(dict)(name, value)
    _only(options, {"message_id", "chat_id", "allow_sending_without_reply"}, "ReplyParameters")
    if not isinstance(options.get("message_id"), int):
        raise BadRequest("reply_parameters needs message_id")
    return options


_OBJECT, _ARRAY = _json(dict), _json(list)
_SCOPE = {"scope": (_OBJECT, False), "language_code": (_text, False)}

METHODS: dict[str, dict[str, tuple[Callable[[str, Any], Any], bool]]] = {
    "getMe": {},
    "getUpdates": {
        "offset": (_integer, False),
        "limit": (_integer, False),
        "timeout": (_integer, False),
        "allowed_updates": (_allowed_updates, False),
    },
    "setWebhook": {
        "url": (_text, True),
        "max_connections": (_integer, False),
        "allowed_updates": (_allowed_updates, False),
        "drop_pending_updates": (_boolean, False),
        "secret_token": (_text, False),
    },
    "deleteWebhook": {"drop_pending_updates": (_boolean, False)},
    "getWebhookInfo": {},
    "sendMessage": {
        "chat_id": (_integer, True),
        "message_thread_id": (_integer, False),
        "text": (_text, True),
        "entities": (_ARRAY, False),
        "link_preview_options": (_preview, False),
        "disable_notification": (_boolean, False),
        "protect_content": (_boolean, False),
        "reply_parameters": (_reply_parameters, False),
        "reply_markup": (_OBJECT, False),
    },
    "editMessageText": {
        "chat_id": (_integer, True),
        "message_id": (_integer, True),
        "text": (_text, True),
        "entities": (_ARRAY, False),
        "link_preview_options": (_preview, False),
        "reply_markup": (_OBJECT, False),
    },
    "deleteMessage": {"chat_id": (_integer, True), "message_id": (_integer, True)},
    "answerCallbackQuery": {
        "callback_query_id": (_text, True),
        "text": (_text, False),
        "show_alert": (_boolean, False),
    },
    "setMyCommands": {"commands": (_ARRAY, True), **_SCOPE},
    "getMyCommands": _SCOPE,
}
