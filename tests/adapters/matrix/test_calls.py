"""Calls to a homeserver that does not answer as it should: each ends in a word of the tree of refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from nio import AsyncClient, AsyncClientConfig
from nio.responses import JoinedRoomsResponse, RoomSendError, RoomSendResponse, WhoamiResponse

from adapters.matrix import calls
from adapters.matrix.calls import call, refusal_of
from adapters.refusals import Elsewhere, Later, Misconfigured, Refused, TooLong
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


async def test_an_answer_is_handed_on_and_a_refusal_is_raised(client: AsyncClient, ann: Member) -> None:
    who = await call(client.whoami(), WhoamiResponse)
    assert who.user_id == ann.user_id
    sending = client.room_send("!nowhere:matrix.test", "m.room.message", {"msgtype": "m.text", "body": "x"})
    with pytest.raises(Elsewhere, match="the homeserver answers M_"):
        await call(sending, RoomSendResponse)


async def test_a_refused_token_is_told_with_what_to_do(client: AsyncClient) -> None:
    client.access_token = "of-nobody"
    with pytest.raises(Misconfigured) as refused:
        await call(client.joined_rooms(), JoinedRoomsResponse)
    assert str(refused.value) == (
        "The homeserver refuses the access token (M_UNKNOWN_TOKEN). Next: log in again and set gateway.matrix.token"
    )


async def test_a_rate_limit_that_does_not_pass_is_for_later() -> None:
    with loopback_homeserver() as homeserver:
        ann = await homeserver.register("ann")
        room = await ann.create_room()
        await homeserver.limit_rate(ann.user_id, per_second=1, burst=0)
        client = AsyncClient(ann.url, ann.user_id, config=_ONE_TRY)
        client.access_token = ann.token
        try:
            with pytest.raises(Later, match="rate limit did not pass"):
                sending = client.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "x"})
                await call(sending, RoomSendResponse)
        finally:
            await client.close()


async def test_a_homeserver_that_is_not_there_is_for_later() -> None:
    nowhere = AsyncClient(f"http://127.0.0.1:{free_port()}", "@ann:matrix.test", config=_ONE_TRY)
    nowhere.access_token = "secret-of-ann"
    try:
        with pytest.raises(Later, match="the homeserver does not answer") as away:
            await call(nowhere.joined_rooms(), JoinedRoomsResponse)
    finally:
        await nowhere.close()
    assert "secret-of-ann" not in str(away.value)


async def test_one_that_says_nothing_is_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALL_SECONDS", 0.01)
    # Connections are taken, and never answered.
    with loopback_socket() as silent:
        silent.listen()
        client = AsyncClient(f"http://127.0.0.1:{silent.getsockname()[1]}", "@ann:matrix.test", config=_ONE_TRY)
        client.access_token = "secret-of-ann"
        try:
            with pytest.raises(Later, match=r"the homeserver does not answer \(TimeoutError\)"):
                await call(client.joined_rooms(), JoinedRoomsResponse)
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("M_UNKNOWN_TOKEN", Misconfigured),
        ("M_MISSING_TOKEN", Misconfigured),
        ("M_USER_DEACTIVATED", Misconfigured),
        ("M_USER_LOCKED", Misconfigured),
        ("M_LIMIT_EXCEEDED", Later),
        ("M_FORBIDDEN", Elsewhere),
        ("M_NOT_FOUND", Elsewhere),
        ("M_TOO_LARGE", TooLong),
        ("M_UNKNOWN", Refused),
        ("", Refused),
    ],
)
def test_every_code_has_its_place_in_the_tree(code: str, kind: type[Refused]) -> None:
    refusal = refusal_of(RoomSendError("canary", code))

    assert type(refusal) is kind
    assert "canary" not in str(refusal)
