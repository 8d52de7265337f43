from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from adapters.waiting import Waiting
from gateway.replies import Button, Checklist, ChecklistItem, ItemState, Reply, Text
from mcp_auth.stores.files import FileBackend

DAY = 86400.0


def news(text: str) -> Reply:
    return Reply((Text(text, tone="good"),))


def said(replies: list[Reply]) -> list[str]:
    return [block.text for reply in replies for block in reply.blocks if isinstance(block, Text)]


def files(home: Path) -> list[Path]:
    return sorted((home / "chat").glob("*.json")) if (home / "chat").exists() else []


async def test_news_is_taken_once_oldest_first_under_any_address(tmp_path: Path) -> None:
    waiting = Waiting(FileBackend(tmp_path), "chat")
    for to, text in (("US.1", "first"), ("US.1", "second"), ("1650", "third"), ("US.1", "second"), ("US.2", "other")):
        await waiting.add(to, news(text), is_news=True)

    later = Waiting(FileBackend(tmp_path), "chat")
    taken, answers = await later.take("US.1", "1650")
    assert (said(taken), answers) == (["first", "second", "third"], [])
    assert taken[0].blocks == (Text("first", tone="good"),)
    assert await later.take("US.1", "1650") == ([], [])
    assert len(files(tmp_path)) == 1


async def test_five_for_a_person_and_a_month_is_what_is_kept(tmp_path: Path) -> None:
    now = 1000.0
    waiting = Waiting(FileBackend(tmp_path), "chat", lambda: now)
    for number in range(7):
        await waiting.add("US.1", news(f"number {number}"), is_news=True)
        now += 8 * DAY

    assert said((await waiting.take("US.1"))[0]) == ["number 4", "number 5", "number 6"]
    for number in range(7):
        await waiting.add("US.1", news(f"number {number}"), is_news=True)
    assert said((await waiting.take("US.1"))[0]) == [f"number {number}" for number in (2, 3, 4, 5, 6)]


async def test_there_is_room_for_some_people_and_the_oldest_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.waiting._PEOPLE", 3)
    clock = count()
    waiting = Waiting(FileBackend(tmp_path), "chat", lambda: next(clock))
    for number in range(5):
        await waiting.add(f"US.{number}", news("something"), is_news=True)

    assert len(files(tmp_path)) == 3
    assert [bool((await waiting.take(f"US.{number}"))[0]) for number in range(5)] == [False, False, True, True, True]


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
async def test_no_link_gets_into_a_file_and_what_is_news_is_told_all_the_same(tmp_path: Path, reply: Reply) -> None:
    waiting = Waiting(FileBackend(tmp_path), "chat")
    await waiting.add("US.1", reply, is_news=True)

    assert files(tmp_path) == []
    assert await waiting.take("US.1") == ([], [reply])


async def test_an_answer_stays_in_memory_because_it_may_hold_a_code(tmp_path: Path) -> None:
    waiting = Waiting(FileBackend(tmp_path), "chat")
    await waiting.add("US.1", news("slash-mcp allow ACDE-FGHJ"), is_news=False)

    assert files(tmp_path) == []
    assert said((await waiting.take("US.1"))[1]) == ["slash-mcp allow ACDE-FGHJ"]


@pytest.mark.parametrize("broken", ["{", '{"news": 1}', '{"news": [{"texts": [["x", "loud"]], "at": 1}]}'])
async def test_a_damaged_file_costs_its_news_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    waiting = Waiting(FileBackend(tmp_path), "chat")
    await waiting.add("US.1", news("first"), is_news=True)
    (path,) = files(tmp_path)
    path.write_text(broken)

    await waiting.add("US.1", news("second"), is_news=True)

    assert said((await waiting.take("US.1"))[1]) == ["second"]
    assert str(path) in caplog.text and "is damaged" in caplog.text


async def test_where_nothing_can_be_written_news_waits_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "chat").write_text("a file where the folder should be")
    waiting = Waiting(FileBackend(tmp_path), "chat")
    await waiting.add("US.1", news("first"), is_news=True)

    assert said((await waiting.take("US.1"))[1]) == ["first"]
    assert "kept in memory only" in caplog.text


async def test_news_that_version_0_1_0_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "whatsapp").mkdir()
    # By the SHA-256 of US.1
    path = tmp_path / "whatsapp" / "0f11001709e4bc8fa3d6b3f41ae4c588.json"
    path.write_bytes(b'{"news":[{"texts":[["notes: signed in","good"]],"at":900.0}]}')
    waiting = Waiting(FileBackend(tmp_path), "whatsapp", lambda: 1000.0)
    await waiting.add("US.1", news("second"), is_news=True)
    assert said((await waiting.take("US.1"))[0]) == ["notes: signed in", "second"]
    assert await waiting.take("US.1") == ([], []) and not path.exists()
