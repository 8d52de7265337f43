"""JSON that a foreign server sent, as data that can be stored and shown: the one door for all of it."""

from __future__ import annotations

import json
from typing import Any


def json_object(body: bytes) -> dict[str, Any] | None:
    """The object in `body`; None when it holds no JSON object.

    Lone surrogates, which no UTF-8 file can hold, become U+FFFD. A number with more digits than Python reads becomes
    infinity, which is better than to lose the whole document.
    """
    try:
        document = _storable(json.loads(body, parse_int=_number))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _number(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(name): _storable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    return value


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value
