"""What Discord and discord.py say no with, as the tree of refusals has it."""

from __future__ import annotations

from typing import Any

import aiohttp
import discord
import pytest

from adapters.discord.interactions import Acknowledged, Expired, refusal_of
from adapters.refusals import Elsewhere, Later, Misconfigured, Refused


class _Response:
    reason = ""

    def __init__(self, status: int) -> None:
        self.status = status


def answer(status: int, code: int = 0) -> discord.HTTPException:
    kind = {403: discord.Forbidden, 404: discord.NotFound}.get(status, discord.HTTPException)
    kind = discord.DiscordServerError if status >= 500 else kind
    response: Any = _Response(status)
    return kind(response, {"code": code, "message": "canary"})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answer(404, 10062), Expired),
        (answer(404, 10015), Expired),
        (answer(404, 10008), Expired),
        (answer(401, 50027), Expired),
        (answer(400, 40060), Acknowledged),
        (answer(400, 50083), Elsewhere),
        (answer(403, 50007), Elsewhere),
        (answer(403, 50013), Elsewhere),
        (answer(404, 10003), Elsewhere),
        (answer(401), Misconfigured),
        (answer(400, 50035), Refused),
        (answer(503), Later),
        (discord.RateLimited(60.0), Later),
        (discord.LoginFailure("canary"), Misconfigured),
        (discord.GatewayNotFound(), Later),
        (discord.ClientException("canary"), Refused),
        (aiohttp.ClientError("canary"), Later),
        (TimeoutError(), Later),
        (OSError("canary"), Later),
    ],
    ids=lambda value: getattr(value, "__name__", None) or f"{type(value).__name__}-{getattr(value, 'code', '')}",
)
def test_every_error_has_its_place_in_the_tree(error: Exception, kind: type[Refused]) -> None:
    refusal = refusal_of(error)

    assert type(refusal) is kind
    assert "canary" not in str(refusal)


@pytest.mark.parametrize(
    "error", [discord.RateLimited(60.0), answer(503), TimeoutError()], ids=["rate", "down", "slow"]
)
def test_what_the_library_has_repeated_is_not_repeated_once_more(error: Exception) -> None:
    refusal = refusal_of(error)

    assert isinstance(refusal, Later)
    assert refusal.wait == float("inf")
