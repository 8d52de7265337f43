"""What decides a row, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import plot, report, rows
from bench.arena import SCRIPTS, Arena, Failed, Figure
from bench.rows import Check, Figures, Result, Row
from tests.patience import PATIENCE


def never(arena: Arena) -> Figures:
    raise NotImplementedError


ROW = Row("link", "Sign-in to link", "at most 0.8 x the SDK", "ms", never, lambda figures: [])


def result(figures: Figures, *checks: Check) -> Result:
    return Result(ROW, figures, list(checks))


def of(*values: float, **series: list[float]) -> Figure:
    return Figure(list(values), series=series)


def test_a_ratio_is_that_of_pairs_of_the_same_round_whatever_the_rounds_took() -> None:
    # The machine was three, and ten times as busy, in the second and third round
    figures = {"ours": of(1.1, 3.3, 22.0), "limit": of(1.0, 3.0, 10.0)}

    check = rows.ratio(figures, "limit", 1.2)

    assert (check.reached, check.best) == (pytest.approx(1.1), pytest.approx(1.1))
    assert check.holds()


@pytest.mark.parametrize(
    ("check", "met", "quick"),
    [
        (Check("ratio", 1.0, 1.0, 0.9), True, True),
        (Check("ratio, noise", 2.5, 1.0, 1.9), False, True),
        (Check("ratio, beyond twice", 2.5, 1.0, 2.1), False, False),
        (Check("count", 1, 1), True, True),
        (Check("count, one too many", 2, 1), False, False),
        (Check("not measured", None, 1), False, False),
    ],
    ids=lambda value: value.text if isinstance(value, Check) else None,
)
def test_the_short_form_forgives_ratios_their_noise_and_counts_nothing(check: Check, met: bool, quick: bool) -> None:
    assert (check.holds(), check.holds(quick=True)) == (met, quick)


def test_a_row_that_judges_nothing_is_not_met() -> None:
    assert not result({}).holds()
    assert not result({}).holds(quick=True)


@pytest.mark.parametrize("factor", [0.05, 1.0, 40.0], ids=["a fast machine", "this one", "a slow one"])
@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_the_speed_of_the_machine_decides_no_row(row: Row, factor: float) -> None:
    figures = {name: _slower(row, figure, factor) for name, figure in GOOD[row.name].items()}

    assert [check.text for check in Result(row, figures, row.judge(figures)).missed()] == []


@pytest.mark.parametrize("row", rows.ROWS, ids=lambda row: row.name)
def test_every_row_can_fail(row: Row) -> None:
    for name, figure in GOOD[row.name].items():
        if not name.startswith("ours"):
            continue
        for series in (None, *sorted(JUDGED[row.name])):
            worse = _worse(figure, series)
            if worse is None:
                continue
            figures = {**GOOD[row.name], name: worse}
            if name in ("ours, 10", "ours, 100", "ours, 1") and row.name in ("answers", "people"):
                # These are what the larger ones are compared with.
                continue
            assert not Result(row, figures, row.judge(figures)).holds(quick=True), (name, series)


def test_a_contestant_that_fails_leaves_no_verdict() -> None:
    figures = {"ours": of(0.1), "limit": Figure(why="it asks for a new sign-in")}

    assert not rows.ratio(figures, "limit", 1.0).holds(quick=True)


def _slower(row: Row, figure: Figure, factor: float) -> Figure:
    times = ("seconds", "first", "processor")
    series = {name: [v * factor if name in times else v for v in values] for name, values in figure.series.items()}
    values = figure.values if row.unit in ("B", "signed in") else [value * factor for value in figure.values]
    return Figure(values, series=series)


def _worse(figure: Figure, series: str | None) -> Figure | None:
    """The same, with one series out of all proportion."""
    if series is None:
        return None
    if series == "values":
        return Figure([value * 50 for value in figure.values], series=figure.series)
    if series == "signed_in":
        return Figure([value - 1 for value in figure.values], series=figure.series)
    if series not in figure.series:
        return None
    changed = {**figure.series, series: [value * 50 + 3 for value in figure.series[series]]}
    return Figure(figure.values, series=changed)


# What a good run gives, and which of its series decide.
GOOD: dict[str, Figures] = {
    "cold start": {
        "limit": of(0.03, processor=[0.03], mib=[25]),
        "ours": of(0.05, processor=[0.05], mib=[25]),
        "codex": of(0.06),
    },
    "link": {
        "limit": of(0.15, requests=[4]),
        "ours": of(0.15, requests=[4]),
        "sdk": of(0.21, requests=[4]),
    },
    "links": {
        "limit, 20": of(0.2, requests=[80]),
        "ours, 20": of(0.21, requests=[80]),
        "limit, 40": of(0.3, requests=[160]),
        "ours, 40": of(0.33, requests=[160]),
    },
    "repeat": {
        "limit": of(0.0002, requests=[0]),
        "ours": of(0.001, requests=[0]),
        "sdk": of(0.16, requests=[3]),
    },
    "concurrent": {
        "limit, 100": of(0.12, first=[0.2], requests=[200]),
        "ours, 100": of(0.12, first=[0.21], requests=[200]),
    },
    "layer": {
        "limit": of(1.0, calls=[0]),
        "ours": of(4.0, calls=[0]),
        "sdk": of(11.0, calls=[2]),
        "fastmcp": of(13.0, calls=[2]),
    },
    "completions": {
        "limit": of(300.0, processor=[0.001], syncs=[2], requests=[400]),
        "ours": of(240.0, processor=[0.002], syncs=[2], requests=[400]),
    },
    "waiting": {
        "limit, 10,000": of(10.0, bytes=[10], stored=[200], tasks=[0]),
        "ours, 10,000": of(1700.0, bytes=[1700], stored=[1650], tasks=[0]),
    },
    "storm": {
        "limit, 16": of(16, signed_in=[16], refreshes=[1], reused=[0]),
        "ours, 16": of(16, signed_in=[16], refreshes=[1], reused=[0]),
        "sdk, 16": of(1, signed_in=[1], refreshes=[1], reused=[15]),
    },
    "answers": {
        "limit, 1,000": of(0.004, processor=[0.004]),
        "ours, 10": of(0.0001, processor=[0.0001]),
        "ours, 100": of(0.0006, processor=[0.0006]),
        "ours, 1,000": of(0.006, processor=[0.006]),
        "ours in a chat, 1,000": of(0.008, processor=[0.008]),
        "limit, 100": of(0.0004, processor=[0.0004]),
        "ours with grants, 100": of(0.0012, processor=[0.0012]),
    },
    "people": {"ours, 1": of(0.0002, processor=[0.0002]), "ours, 1,000": of(0.0002, processor=[0.0002])},
}
JUDGED = {
    "cold start": {"values", "processor", "mib"},
    "link": {"values", "requests"},
    "links": {"values", "requests"},
    "repeat": {"values", "requests"},
    "concurrent": {"values", "first", "requests"},
    "layer": {"values", "calls"},
    "completions": {"processor", "syncs", "requests"},
    "waiting": {"bytes", "stored", "tasks"},
    "storm": {"signed_in", "refreshes", "reused"},
    "answers": {"processor"},
    "people": {"processor"},
}


def test_a_contestant_that_fails_says_why_and_the_others_go_on() -> None:
    def fails() -> Any:
        raise Failed("it asks for a new sign-in")

    with Arena({}, rounds=2, quick=True) as arena:
        figures = arena.interleaved({"ours": lambda: {"seconds": 0.1, "requests": 4}, "sdk": fails}, "seconds")

    assert figures["ours"].values == [0.1, 0.1]
    text = report.as_text(result(figures, Check("0.72 x sdk", 0.72, 0.8, 0.7)))
    assert "failed: it asks for a new sign-in" in text
    assert "100 ms, 4 requests" in text


def test_the_page_is_written_from_the_figures(tmp_path: Path) -> None:
    figures = {"limit": Figure([0.15]), "ours": Figure([0.17, 0.18, 0.19]), "sdk": Figure([0.25])}
    shown = result(figures, Check("0.72 x sdk", 0.72, 0.8, 0.7))
    shown.curves, shown.load = {"ours": [(1, 180)]}, (0.5, 7.0)

    report.write([shown], tmp_path, peers={})

    page = (tmp_path / "performance.md").read_text()
    assert "180 ms (170 to 190)" in page
    assert "$ scripts/bench" in page
    assert "images/performance-link.svg" in page
    assert "| SDK | 250 ms |" in page
    assert "load average was 0 to 7" in page


def test_the_servers_end_the_family_when_a_refresh_token_comes_twice() -> None:
    import httpx2

    with (
        Arena({}, rounds=1, quick=True) as arena,
        httpx2.Client(base_url=arena.base, trust_env=False, timeout=PATIENCE) as client,
    ):
        first = client.post("/s0/token", data={"grant_type": "authorization_code"}).json()["refresh_token"]
        form = {"grant_type": "refresh_token", "refresh_token": first}
        second = client.post("/s0/token", data=form).json()["refresh_token"]

        assert client.post("/s0/token", data=form).json() == {"error": "invalid_grant"}
        assert client.post("/s0/token", data={**form, "refresh_token": second}).status_code == 400


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({row.name for row in rows.ROWS}) == len(rows.ROWS)


def test_everybody_who_takes_part_has_a_line_in_the_plots() -> None:
    assert plot.COLORS.keys() == plot.LABELS.keys() == SCRIPTS.keys()
    assert len(set(plot.COLORS.values())) == len(SCRIPTS)
