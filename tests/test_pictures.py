"""The pictures of the documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.pictures import DISCORD, Bubble, Button, Caption, Span, draw
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_a_conversation_has_its_words_and_no_markup_of_theirs() -> None:
    items = [
        Bubble([[Span("/mcp")]], mine=True),
        Bubble([[Span("<b>"), Span("&", "bold")], []], author="B<t", note="&c", buttons=[Button("Sign in", link=True)]),
        Caption("later"),
    ]

    assert texts(draw("Chat <1>", items)) == ["Chat <1>", "/mcp", "<b>&", "", "Sign in ↗", "later"]
    entries = ["Chat <1>", "A", "Ada", "/mcp", "B", "B<t   &c", "<b>&", "", "Sign in ↗", "later"]
    assert texts(draw("Chat <1>", items, look=DISCORD)) == entries


def test_long_lines_are_wrapped_inside_the_bubble() -> None:
    words = ("word " * 60).strip()
    lines = texts(draw("Chat", [Bubble([[Span(words)], [Span("x" * 300, "code")]])]))[1:]

    assert max(map(len, lines)) < 80
    assert "".join(lines).replace(" ", "") == words.replace(" ", "") + "x" * 300


@pytest.mark.service
@pytest.mark.parametrize("platform", ["telegram", "slack", "discord", "whatsapp", "matrix"])
def test_the_picture_is_what_the_adapter_sends_today(platform: str, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.svg"
    # A whole platform starts in it, for Matrix a homeserver with keys of its own.
    subprocess.run([sys.executable, ROOT / "scripts" / f"draw_{platform}.py", drawn], check=True, timeout=5 * PATIENCE)

    assert drawn.read_text() == (ROOT / "docs" / "images" / f"{platform}.svg").read_text()
