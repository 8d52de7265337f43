"""What Telegram says no with, calls that hold out, and how much one chat takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from telegram.error import (
    BadRequest,
    ChatMigrated,
    Conflict,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
    TimedOut,
)

from adapters.refusals import EditWindowClosed, Elsewhere, Later, Misconfigured, Refused, TooLong
from adapters.telegram.adapter import TelegramAdapter
from adapters.telegram.sending import Pace, SoAlready, refusal_of
from tests.gateway.chat import configure, open_gateway


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


class Api:
    """Answers with the given errors, then with the chat that was asked."""

    def __init__(self, *errors: TelegramError) -> None:
        self.errors = list(errors)
        self.asked: list[int] = []

    async def __call__(self, chat: int) -> int:
        self.asked.append(chat)
        if self.errors:
            raise self.errors.pop(0)
        return chat


def adapter_with(folder: Path, clock: Clock) -> TelegramAdapter:
    return TelegramAdapter(open_gateway(configure(folder)), sleep=clock.pause)


async def test_what_helps_is_tried_again(tmp_path: Path) -> None:
    clock = Clock()
    api = Api(RetryAfter(5), NetworkError("lost"), TimedOut(), RetryAfter(2))

    assert await adapter_with(tmp_path, clock).call(7, api) == 7
    assert clock.pauses == [5.0, 1.0, 2.0, 2.0]


async def test_a_group_that_moved_is_found(tmp_path: Path) -> None:
    api = Api(ChatMigrated(-100))

    assert await adapter_with(tmp_path, Clock()).call(-1, api) == -100
    assert api.asked == [-1, -100]


@pytest.mark.parametrize(
    ("errors", "tries", "refusal"),
    [
        ([NetworkError("lost")] * 9, 5, Later),
        ([RetryAfter(121)], 1, Later),
        ([BadRequest("no")], 1, Refused),
        ([Forbidden("no")], 1, Elsewhere),
    ],
    ids=["network", "flood", "bad", "forbidden"],
)
async def test_what_does_not_help_ends(
    errors: list[TelegramError], tries: int, refusal: type[Refused], tmp_path: Path
) -> None:
    api = Api(*errors)

    with pytest.raises(refusal):
        await adapter_with(tmp_path, Clock()).call(7, api)

    assert len(api.asked) == tries


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidToken("123:canary"), Misconfigured),
        (Conflict("terminated by other getUpdates request"), Misconfigured),
        (RetryAfter(3), Later),
        (TimedOut(), Later),
        (NetworkError("canary"), Later),
        (Forbidden("bot was blocked by the user"), Elsewhere),
        (BadRequest("Chat not found"), Elsewhere),
        (BadRequest("Message thread not found"), Elsewhere),
        (BadRequest("TOPIC_CLOSED"), Elsewhere),
        (BadRequest("Not enough rights to send text messages to the chat"), Elsewhere),
        (BadRequest("Message is too long"), TooLong),
        (BadRequest("Message to edit not found"), EditWindowClosed),
        (BadRequest("Message is not modified: same as before"), SoAlready),
        (BadRequest("Message to delete not found"), SoAlready),
        (BadRequest("something new"), Refused),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_error_has_its_place_in_the_tree(error: TelegramError, kind: type[Refused]) -> None:
    refusal = refusal_of(error)

    assert type(refusal) is kind
    assert "canary" not in str(refusal)


async def test_what_may_wait_keeps_to_one_message_a_second_and_chat() -> None:
    clock = Clock()
    pace = Pace(clock)
    for _ in range(20):
        while (wait := pace.full_for(7)) > 0:
            await clock.pause(wait)
        pace.note(7)

    assert pace.full_for(8) == 0.0
    assert 15.0 <= clock.now <= 20.0
