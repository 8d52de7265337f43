"""What `--json` writes is safe to look at on a terminal, and the same data for a program."""

from __future__ import annotations

import json
import unicodedata

import pytest

from adapters.terminal.screen import as_json_text, escaped

NASTY = ["\x9b31m", "\x85", "\u202eevil", "\u2066a\u2069", "\u200b", "\ufeff", "\u2028", "\x7f", "\x1b[2J"]
NASTY += ["\U000e0041", "\ud800"]


@pytest.mark.parametrize("text", [*NASTY, "Grüße", "日本", "👍", "a b"], ids=ascii)
def test_no_character_that_a_terminal_acts_on_is_written_as_it_is(text: str) -> None:
    line = as_json_text({"tools": [text], text: 1})
    assert json.loads(line) == {"tools": [text], text: 1}
    assert all(unicodedata.category(c)[0] not in "C" and unicodedata.category(c) not in ("Zl", "Zp") for c in line)
    assert escaped(line) == line


def test_what_can_be_read_is_left_to_read() -> None:
    assert as_json_text({"a": "Grüße 日本 👍"}) == '{"a": "Grüße 日本 👍"}'
