"""The table of kinds of links: whoever handles links asks the row, and a kind has all that a kind needs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mcp_auth.kinds import KINDS, LinkKind
from mcp_auth.stores.memory import MemoryStore
from mcp_auth.web.kinds import _PAGES

ROOT = Path(__file__).parents[2]
# Only the end of a sign-in is told with its record.
MAY_ASK = {"mcp_auth/changes.py"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.verb)
def test_a_kind_has_a_page_and_a_view_of_the_store(kind: LinkKind) -> None:
    assert kind in _PAGES
    assert MemoryStore().links(kind) is not None


def test_kinds_are_told_apart_by_each_of_their_names() -> None:
    for name in ("record", "verb", "letter", "view"):
        assert len({getattr(kind, name) for kind in KINDS}) == len(KINDS)


def test_nobody_asks_a_record_for_its_class() -> None:
    classes = {kind.record.__name__ for kind in KINDS}
    asking = set()
    for file in [*ROOT.glob("mcp_auth/**/*.py"), *ROOT.glob("gateway/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                named = {one.id for one in ast.walk(node.args[1]) if isinstance(one, ast.Name)}
                if named & classes:
                    asking.add(str(file.relative_to(ROOT)))
    assert asking <= MAY_ASK
