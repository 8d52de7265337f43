"""What decides a row, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import report, rows
from bench.arena import Arena, Failed, Figure
from bench.rows import Result, Row


def never(row: Row, arena: Arena) -> Result:
    raise NotImplementedError


def result(ours: float | None, allowed: float | None, figures: dict[str, Figure] | None = None) -> Result:
    row = Row("link", "Sign-in to link", "at most 0.8 x the SDK", "ms", never)
    return Result(row, figures or {}, ours, allowed, "0.72 x sdk")


@pytest.mark.parametrize(
    ("ours", "allowed", "met", "twice"),
    [(0.8, 1.0, True, True), (1.5, 1.0, False, True), (2.1, 1.0, False, False), (None, 1.0, False, False)],
    ids=["met", "noise", "beyond", "not measured"],
)
def test_a_row_is_met_or_within_twice_its_target(ours: float | None, allowed: float, met: bool, twice: bool) -> None:
    assert (result(ours, allowed).within(), result(ours, allowed).within(2.0)) == (met, twice)


def test_a_contestant_that_fails_says_why_and_the_others_go_on() -> None:
    def fails() -> Any:
        raise Failed("it asks for a new sign-in")

    with Arena({}, rounds=2, quick=True) as arena:
        figures = arena.interleaved({"ours": lambda: {"seconds": 0.1, "requests": 4}, "sdk": fails}, "seconds")

    assert figures["ours"].values == [0.1, 0.1]
    text = report.as_text(result(0.1, 0.2, figures))
    assert "failed: it asks for a new sign-in" in text
    assert "100 ms, 4 requests" in text


def test_the_page_is_written_from_the_figures(tmp_path: Path) -> None:
    figures = {"limit": Figure([0.15]), "ours": Figure([0.17, 0.18, 0.19]), "sdk": Figure([0.25])}
    shown = result(0.18, 0.2, figures)
    shown.curves, shown.axis = {"ours": [(1, 180)]}, ("servers", "ms")

    report.write([shown], tmp_path, rounds=3, peers={})

    page = (tmp_path / "performance.md").read_text()
    assert "180 ms (170 to 190)" in page
    assert "$ scripts/bench" in page
    assert "images/performance-link.svg" in page
    assert "SDK 250 ms" in page


def test_the_servers_end_the_family_when_a_refresh_token_comes_twice() -> None:
    import httpx2

    with Arena({}, rounds=1, quick=True) as arena, httpx2.Client(base_url=arena.base, trust_env=False) as client:
        first = client.post("/s0/token", data={"grant_type": "authorization_code"}).json()["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": first}
        second = client.post("/s0/token", data=form).json()["refresh_token"]

        assert client.post("/s0/token", data=form).json() == {"error": "invalid_grant"}
        assert client.post("/s0/token", data={**form, "refresh_token": second}).status_code == 400


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)
