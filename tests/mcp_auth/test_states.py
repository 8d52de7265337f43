"""The tables of states: each step that exists, and that no walk reaches an exchange without what has to come first."""

from __future__ import annotations

import ast
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_auth import states
from mcp_auth.outcome import Outcome
from mcp_auth.records import BrowserBinding, KeyForm, Linked, Registration, Requester, ServerMetadata, SignIn, Status
from mcp_auth.states import (
    CONTINUED,
    ENDED,
    IN_FLIGHT,
    OPEN,
    RELEASED,
    SHOWS_CODE,
    UNPROVEN,
    WAITING,
    ForbiddenStep,
    stepped,
)

ROOT = Path(__file__).parents[2]
ALL: tuple[Status, ...] = get_args(Status)
STOPS = "refused failed expired cancelled"
TABLES: dict[str, dict[Status, str]] = {
    "direct": {
        "started": f"exchanging {STOPS}",
        "exchanging": "done failed",
    },
    "verified": {
        "started": f"opened {STOPS}",
        "opened": f"opened confirmed {STOPS}",
        "confirmed": f"opened exchanging {STOPS}",
        "exchanging": "done failed",
    },
    "without-script": {
        "started": f"opened {STOPS}",
        "opened": f"opened confirmed {STOPS}",
        "confirmed": f"opened answered {STOPS}",
        "answered": f"opened answered exchanging {STOPS}",
        "exchanging": "done failed",
    },
    "key-form": {
        "started": f"opened {STOPS}",
        "opened": f"opened confirmed {STOPS}",
        "confirmed": f"opened exchanging {STOPS}",
        "exchanging": "done failed confirmed",
    },
}


def record(kind: str, status: Status = "started") -> Linked:
    told = {
        "id": "x",
        "server": "notes",
        "owner": "shared",
        "status": status,
        "origin": Requester(principal="cli:local"),
        "created_at": 1.0,
        "expires_at": 2.0,
    }
    if kind == "key-form":
        return KeyForm(**told, binding=BrowserBinding())  # type: ignore[arg-type]
    gates = {
        "direct": None,
        "verified": BrowserBinding(kept_in="storage"),
        "without-script": BrowserBinding(kept_in="cookie"),
    }
    return SignIn(
        **told,  # type: ignore[arg-type]
        binding=gates[kind],
        server_url="https://notes.example.com/mcp",
        issuer="https://as.example.com",
        metadata=ServerMetadata(issuer="", authorization_endpoint="", token_endpoint=""),
        registration=Registration(client_id="c", issuer="", source="configured", redirect_uri=""),
    )


@pytest.mark.parametrize("after", ALL)
@pytest.mark.parametrize("before", ALL)
@pytest.mark.parametrize("kind", TABLES)
def test_a_record_goes_only_where_its_table_says(kind: str, before: Status, after: Status) -> None:
    it = record(kind, before)
    if after not in TABLES[kind].get(before, "").split():
        with pytest.raises(ForbiddenStep, match=f"^{before} -> {after}$"):
            stepped(it, after, 7.0)
        return
    moved = stepped(it, after, 7.0, end=Outcome("said", "So it went."))
    assert (moved.status, moved.end and moved.end.code) == (after, "said")
    assert moved.ended_at == (7.0 if after in ENDED else None)
    # What was read stays as it was.
    assert (it.status, it.end, it.ended_at) == (before, None, None)


@pytest.mark.parametrize("kind", TABLES)
@given(st.lists(st.sampled_from(ALL), max_size=30))
def test_no_walk_leads_to_an_exchange_past_the_proof_nor_out_of_an_end(kind: str, events: list[Status]) -> None:
    it, walked = record(kind), ["started"]
    for event in events:
        try:
            it = stepped(it, event, 7.0)
        except ForbiddenStep:
            continue
        walked.append(it.status)
    for before, after in pairwise(walked):
        assert before not in ENDED
        if after == "exchanging":
            needed = {"direct": "started", "without-script": "answered"}.get(kind, "confirmed")
            assert before == needed
        if after == "confirmed":
            # By the proof, and for a form by what could not be stored.
            assert before in ("opened", "exchanging")
        if after == "done":
            assert before == "exchanging"


def test_a_browser_that_is_bound_anew_walks_by_its_own_table() -> None:
    opened = stepped(record("without-script", "confirmed"), "opened", 7.0, binding=BrowserBinding(kept_in="storage"))
    released = stepped(opened, "confirmed", 7.0)
    assert stepped(released, "exchanging", 7.0).status == "exchanging"
    with pytest.raises(ForbiddenStep):
        stepped(
            stepped(record("verified", "opened"), "confirmed", 7.0, binding=BrowserBinding(kept_in="cookie")),
            "exchanging",
            7.0,
        )


def test_the_named_sets_part_the_states() -> None:
    assert set(ALL) == OPEN | ENDED
    assert not OPEN & ENDED
    assert IN_FLIGHT | WAITING == OPEN
    assert UNPROVEN | RELEASED == WAITING
    assert not UNPROVEN & RELEASED
    assert SHOWS_CODE < CONTINUED < WAITING


def test_only_the_tables_move_a_record() -> None:
    """Nobody else writes a status: neither as an attribute nor in a copy."""
    found = []
    for file in sorted(ROOT.glob("mcp_auth/**/*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found += [file.name for one in targets if isinstance(one, ast.Attribute) and one.attr == "status"]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
                found += [file.name for word in node.keywords if word.arg == "status"]
    assert found == [Path(states.__file__).name]
