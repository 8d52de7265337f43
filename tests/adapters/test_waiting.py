from __future__ import annotations

import os
from pathlib import Path

import pytest

from adapters.waiting import Waiting
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, Text

DAY = 86400.0


def news(text: str) -> Reply:
    return Reply((Text(text, tone="good"),))


def said(replies: list[Reply]) -> list[str]:
    return [block.text for reply in replies for block in reply.blocks if isinstance(block, Text)]


def files(home: Path) -> list[Path]:
    return sorted((home / "chat").glob("*")) if (home / "chat").exists() else []


def test_news_is_taken_once_oldest_first_under_any_address(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "chat")
    for to, text in (("US.1", "first"), ("US.1", "second"), ("1650", "third"), ("US.1", "second"), ("US.2", "other")):
        waiting.add(to, news(text), is_news=True)

    later = Waiting(tmp_path / "chat")
    taken, answers = later.take("US.1", "1650")
    assert (said(taken), answers) == (["first", "second", "third"], [])
    assert taken[0].blocks == (Text("first", tone="good"),)
    assert later.take("US.1", "1650") == ([], [])
    assert len(files(tmp_path)) == 1


def test_five_for_a_person_and_a_month_is_what_is_kept(tmp_path: Path) -> None:
    now = 1000.0
    waiting = Waiting(tmp_path / "chat", lambda: now)
    for number in range(7):
        waiting.add("US.1", news(f"number {number}"), is_news=True)
        now += 8 * DAY

    assert said(waiting.take("US.1")[0]) == ["number 4", "number 5", "number 6"]
    for number in range(7):
        waiting.add("US.1", news(f"number {number}"), is_news=True)
    assert said(waiting.take("US.1")[0]) == [f"number {number}" for number in (2, 3, 4, 5, 6)]


def test_there_is_room_for_some_people_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.waiting._PEOPLE", 3)
    waiting = Waiting(tmp_path / "chat")
    for number in range(5):
        waiting.add(f"US.{number}", news("something"), is_news=True)
        for path in files(tmp_path):
            was = path.stat().st_mtime
            os.utime(path, (was - 10, was - 10))

    assert len(files(tmp_path)) == 3
    assert [bool(waiting.take(f"US.{number}")[0]) for number in range(5)] == [False, False, True, True, True]


@pytest.mark.parametrize(
    "reply",
    [
        news("open https://bot.example.com/a/canary"),
        Reply((Text("a form"),), buttons=(Button("Open", url="https://bot.example.com/k/canary"),)),
        Reply((Checklist((ChecklistItem("notes", ItemState.LINK, "open", link="https://as.example/canary"),)),)),
        news("canary" * 1000),
    ],
    ids=["address", "button", "checklist", "endless"],
)
def test_no_link_gets_into_a_file_and_what_is_news_is_told_all_the_same(tmp_path: Path, reply: Reply) -> None:
    waiting = Waiting(tmp_path / "chat")
    waiting.add("US.1", reply, is_news=True)

    assert files(tmp_path) == []
    assert waiting.take("US.1") == ([], [reply])


def test_an_answer_stays_in_memory_because_it_may_hold_a_code(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path / "chat")
    waiting.add("US.1", news("slash-mcp allow ACDE-FGHJ"), is_news=False)

    assert files(tmp_path) == []
    assert said(waiting.take("US.1")[1]) == ["slash-mcp allow ACDE-FGHJ"]


@pytest.mark.parametrize("broken", ["{", '{"news": 1}', '{"news": [{"texts": [["x", "loud"]], "at": 1}]}'])
def test_a_damaged_file_costs_its_news_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    waiting = Waiting(tmp_path / "chat")
    waiting.add("US.1", news("first"), is_news=True)
    (path,) = files(tmp_path)
    path.write_text(broken)

    waiting.add("US.1", news("second"), is_news=True)

    assert said(waiting.take("US.1")[1]) == ["second"]
    assert f"remove {path}" in caplog.text


def test_where_nothing_can_be_written_news_waits_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "chat").write_text("a file where the folder should be")
    waiting = Waiting(tmp_path / "chat")
    waiting.add("US.1", news("first"), is_news=True)

    assert said(waiting.take("US.1")[1]) == ["first"]
    assert "kept in memory only" in caplog.text
