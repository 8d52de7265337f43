"""Calls that hold out."""

from __future__ import annotations

import pytest
from telegram.error import BadRequest, ChatMigrated, Forbidden, NetworkError, RetryAfter, TelegramError, TimedOut

from adapters.telegram.sending import Sender


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


async def test_what_helps_is_tried_again() -> None:
    clock = Clock()
    api = Api(RetryAfter(5), NetworkError("lost"), TimedOut(), RetryAfter(2))

    assert await Sender(clock.pause, clock).call(7, api) == 7
    assert clock.pauses == [5.0, 1.0, 2.0, 2.0]


async def test_a_group_that_moved_is_found() -> None:
    api = Api(ChatMigrated(-100))

    assert await Sender(Clock().pause).call(-1, api) == -100
    assert api.asked == [-1, -100]


@pytest.mark.parametrize(
    ("errors", "tries"),
    [
        ([NetworkError("lost")] * 9, 5),
        ([RetryAfter(121)], 1),
        ([BadRequest("no")], 1),
        ([Forbidden("no")], 1),
    ],
    ids=["network", "flood", "bad", "forbidden"],
)
async def test_what_does_not_help_ends(errors: list[TelegramError], tries: int) -> None:
    api = Api(*errors)

    with pytest.raises(type(errors[0])):
        await Sender(Clock().pause).call(7, api)

    assert len(api.asked) == tries


async def test_what_may_wait_keeps_to_one_message_a_second_and_chat() -> None:
    clock = Clock()
    sender = Sender(clock.pause, clock)
    for _ in range(20):
        await sender.room(7)
        await sender.call(7, Api())
    await sender.room(8)

    assert 15.0 <= clock.now <= 20.0
