"""The rooms between the bot and one person, made by the bot, so that nobody else can be let in."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from typing import Any
from urllib.parse import quote

from nio import AsyncClient, MatrixRoom
from nio.api import RoomPreset
from nio.responses import (
    DirectRoomsResponse,
    ErrorResponse,
    RoomCreateResponse,
    RoomGetStateResponse,
    RoomInviteResponse,
)

from adapters.base import PrivateDeliveryUnavailable
from adapters.matrix.calls import call
from gateway import sentences

_log = logging.getLogger(__name__)

# A room is looked at again after so many seconds: people leave.
_FRESH_SECONDS = 60.0
_CANDIDATES = 5


class DirectRooms:
    """Finds or makes the room with a person, and remembers it as `m.direct` on the homeserver."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._known: dict[str, tuple[str, float]] = {}

    def owns(self, room_id: str) -> bool:
        """Whether this is one of the rooms that were found or made here."""
        return any(room_id == known for known, _ in self._known.values())

    async def with_person(self, user: str) -> str:
        """The room with `user`.

        Raises:
            PrivateDeliveryUnavailable: they cannot be invited.
            NotSent: the homeserver does not answer.
        """
        async with self._locks[user]:
            room_id, looked_at = self._known.get(user, ("", 0.0))
            if not room_id or time.monotonic() - looked_at > _FRESH_SECONDS:
                room_id = await self._found(user) or await self._made(user)
                self._known[user] = (room_id, time.monotonic())
            return room_id

    def forget(self, user: str) -> None:
        """Look again next time."""
        self._known.pop(user, None)

    async def _found(self, user: str) -> str | None:
        for room_id in reversed((await self._direct()).get(user, [])[-_CANDIDATES:]):
            if await self._is_usable(room_id, user):
                return room_id
        return None

    async def _is_usable(self, room_id: str, user: str) -> bool:
        """Made by the bot, not encrypted, closed to everybody else; the person is in it or can be asked back."""
        answer = await call(self._client.room_get_state(room_id))
        if not isinstance(answer, RoomGetStateResponse):
            return False
        state = {(event["type"], event["state_key"]): event for event in answer.events}
        me = self._client.user_id
        members = {
            key: event["content"].get("membership") for (kind, key), event in state.items() if kind == "m.room.member"
        }
        present = {key for key, membership in members.items() if membership in ("join", "invite", "knock")}
        closed = (
            state.get(("m.room.create", ""), {}).get("sender") == me
            and ("m.room.encryption", "") not in state
            and _value(state, "m.room.join_rules", "join_rule") == "invite"
            and _value(state, "m.room.history_visibility", "history_visibility") != "world_readable"
            and members.get(me) == "join"
            and present <= {me, user}
        )
        if not closed or members.get(user) == "ban":
            return False
        return user in present or isinstance(await call(self._client.room_invite(room_id, user)), RoomInviteResponse)

    async def _made(self, user: str) -> str:
        made = await call(
            self._client.room_create(
                name=sentences.ROOM_NAME,
                is_direct=True,
                preset=RoomPreset.private_chat,
                invite=[user],
                # Nobody else is let in, by whomever. What was said before the person joined is for them.
                power_level_override={"invite": 100, "state_default": 100},
                initial_state=[
                    {
                        "type": "m.room.history_visibility",
                        "state_key": "",
                        "content": {"history_visibility": "invited"},
                    },
                    {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "forbidden"}},
                ],
            )
        )
        if not isinstance(made, RoomCreateResponse):
            raise PrivateDeliveryUnavailable(made.status_code)
        direct = await self._direct()
        direct.setdefault(user, []).append(made.room_id)
        await self._remember(direct)
        return str(made.room_id)

    async def _direct(self) -> dict[str, list[str]]:
        answer = await call(self._client.list_direct_rooms())
        return dict(answer.rooms) if isinstance(answer, DirectRoomsResponse) else {}

    async def _remember(self, direct: dict[str, list[str]]) -> None:
        # nio reads this account data and has no word for writing it.
        path = f"/_matrix/client/v3/user/{quote(self._client.user_id, safe='')}/account_data/m.direct"
        headers = {"Authorization": f"Bearer {self._client.access_token}", "Content-Type": "application/json"}
        answer = await call(self._client.send("PUT", path, json.dumps(direct), headers))
        answer.release()
        if not answer.ok:
            _log.warning(
                "the room with a person is not remembered (%d); after a restart a new one is made", answer.status
            )


def is_private(room: MatrixRoom) -> bool:
    """Whether only one person and the bot are in it, and nobody can come in without being let in."""
    return (
        room.joined_count == 2
        and room.invited_count == 0
        and room.join_rule in ("invite", "private")
        and room.history_visibility != "world_readable"
    )


def _value(state: dict[tuple[str, str], Any], kind: str, name: str) -> str | None:
    value = state.get((kind, ""), {}).get("content", {}).get(name)
    return value if isinstance(value, str) else None


def is_refused(answer: object) -> bool:
    """The homeserver says that the bot may not write there, or that the room is gone."""
    return isinstance(answer, ErrorResponse) and answer.status_code in ("M_FORBIDDEN", "M_NOT_FOUND", "M_UNKNOWN_ROOM")
