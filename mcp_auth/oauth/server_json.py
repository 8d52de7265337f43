"""JSON that a foreign server sent, as data that can be stored and shown: the one door for all of it."""

from __future__ import annotations

import json
import re
from typing import Any


def json_object(body: bytes) -> dict[str, Any] | None:
    """The object in `body`; None when it holds no JSON object.

    Lone surrogates, which no UTF-8 file can hold, and bytes of another character set become U+FFFD. A number with more
    digits than Python reads becomes infinity, a line break may stand in a text, and what is nested too deep is left
    out: all better than to lose the whole document.
    """
    try:
        text = body.decode(json.detect_encoding(body), "replace").strip("\ufeff\0 \t\r\n")
        try:
            document = _read(text)
        except RecursionError:
            document = _read(_shallow(text))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _read(text: str) -> Any:
    document = json.loads(text, parse_int=_number, strict=False)
    # Only an escape spells half a character.
    return _storable(document) if _HALF.search(text) else document


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


# Deeper than anything that is used, and far from what Python can read.
_DEEPEST = 32
_PARTS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]|[^"\[\]{}]+', re.DOTALL)


def _shallow(text: str) -> str:
    """JSON without what is nested deeper than anybody reads: `null` stands in its place."""
    kept: list[str] = []
    depth = 0
    for part in _PARTS.findall(text):
        depth += part in ("[", "{")
        if depth <= _DEEPEST:
            kept.append(part)
        elif depth == _DEEPEST + 1 and part in ("[", "{"):
            kept.append("null")
        depth -= part in ("]", "}")
    return "".join(kept)


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
