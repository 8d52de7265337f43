"""Calls to a homeserver that does not answer as it should: each ends, and the log says why once."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import pytest
from nio import AsyncClient, AsyncClientConfig
from nio.responses import RoomSendError, WhoamiResponse

from adapters.matrix import calls
from adapters.matrix.calls import call
from adapters.tasks import NotSent
from tests.platforms.matrix import loopback_homeserver
from tests.platforms.synapse import Homeserver, Member
from tests.ports import free_port
from tests.servers.threads import loopback_socket

# nio's own tries would outlast any test.
_ONE_TRY = AsyncClientConfig(encryption_enabled=False, max_limit_exceeded=0, max_timeouts=1, backoff_factor=0)


@pytest.fixture
async def ann(homeserver_of_test: Homeserver) -> Member:
    return await homeserver_of_test.register("ann")


@pytest.fixture
async def client(ann: Member) -> AsyncIterator[AsyncClient]:
    made = AsyncClient(ann.url, ann.user_id, config=_ONE_TRY)
    made.access_token = ann.token
    yield made
    await made.close()


def words(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "adapters.matrix.calls"]


async def test_an_answer_is_handed_on_and_so_is_a_refusal_that_a_caller_understands(
    client: AsyncClient, ann: Member, caplog: pytest.LogCaptureFixture
) -> None:
    who = await call(client.whoami())
    assert isinstance(who, WhoamiResponse) and who.user_id == ann.user_id
    refused = await call(client.room_send("!nowhere:matrix.test", "m.room.message", {"msgtype": "m.text", "body": "x"}))
    assert isinstance(refused, RoomSendError) and refused.status_code in ("M_FORBIDDEN", "M_NOT_FOUND")
    assert words(caplog) == []


async def test_a_refused_token_is_given_up_with_what_to_do(
    client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.access_token = "of-nobody"
    with pytest.raises(NotSent):
        await call(client.joined_rooms())
    (line,) = words(caplog)
    assert line == (
        "something was given up: the homeserver refuses the access token (M_UNKNOWN_TOKEN). "
        "Next: log in again and set gateway.matrix.token"
    )
    assert "of-nobody" not in caplog.text


async def test_a_rate_limit_that_does_not_pass_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with loopback_homeserver() as homeserver:
        ann = await homeserver.register("ann")
        room = await ann.create_room()
        await homeserver.limit_rate(ann.user_id, per_second=1, burst=0)
        client = AsyncClient(ann.url, ann.user_id, config=_ONE_TRY)
        client.access_token = ann.token
        try:
            with pytest.raises(NotSent):
                await call(client.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "x"}))
        finally:
            await client.close()
    assert words(caplog) == ["something was given up: the homeserver's rate limit did not pass (M_LIMIT_EXCEEDED)"]


async def test_a_homeserver_that_is_not_there_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = AsyncClient(f"http://127.0.0.1:{free_port()}", "@ann:matrix.test", config=_ONE_TRY)
    nowhere.access_token = "secret-of-ann"
    try:
        with pytest.raises(NotSent):
            await call(nowhere.joined_rooms())
    finally:
        await nowhere.close()
    (line,) = words(caplog)
    assert line.startswith("something was given up: the homeserver does not answer (")
    assert "secret-of-ann" not in caplog.text


async def test_one_that_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.01)
    # Connections are taken, and never answered.
    with loopback_socket() as silent:
        silent.listen()
        client = AsyncClient(f"http://127.0.0.1:{silent.getsockname()[1]}", "@ann:matrix.test", config=_ONE_TRY)
        client.access_token = "secret-of-ann"
        try:
            with pytest.raises(NotSent):
                await call(client.joined_rooms())
        finally:
            await client.close()
    assert words(caplog) == ["something was given up: the homeserver does not answer (TimeoutError)"]
