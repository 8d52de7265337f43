"""Who reads a room, and the rooms between the bot and one person, which the bot makes so that nobody else is let in.

What nio knows of a room may be a part only (clients load members lazily), so privacy is asked of the homeserver.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import defaultdict
from typing import Any
from urllib.parse import quote

import nio
from aiohttp import ClientResponse

from adapters.matrix.calls import call
from adapters.refusals import Elsewhere, Later, Misconfigured, PrivateDeliveryUnavailable, Refused
from gateway import sentences

_log = logging.getLogger(__name__)

# What changes who reads a room.
STATE_EVENTS = (nio.RoomMemberEvent, nio.RoomJoinRulesEvent, nio.RoomHistoryVisibilityEvent, nio.RoomEncryptionEvent)
# Changes are heard of; this is for what was not.
_CHECKED_SECONDS = 60.0
_CANDIDATES = 5
_State = dict[tuple[str, str], dict[str, Any]]


class Rooms:
    """What is private, and where to find a person alone. The rooms with people are `m.direct` on the homeserver."""

    def __init__(self, client: nio.AsyncClient) -> None:
        self._client = client
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._mine: dict[str, str] = {}
        self._checked: dict[tuple[str, str], float] = {}

    def owns(self, room_id: str) -> bool:
        """Whether this is a room with a person that was found or made here."""
        return room_id in self._mine.values()

    async def is_private(self, room_id: str, user: str) -> bool:
        """Whether only `user` and the bot are in it or asked into it, and nobody can come in without being asked.

        Raises:
            Refused: the homeserver does not answer.
        """
        checked_at = self._checked.get((room_id, user))
        if checked_at is not None and time.monotonic() - checked_at < _CHECKED_SECONDS:
            return True
        room = self._client.rooms.get(room_id)
        if room is not None and max(len(room.users), room.joined_count) > 2:
            return False
        state = await self._state(room_id)
        if state is None or not self._is_between(state, user):
            return False
        self._checked[room_id, user] = time.monotonic()
        return True

    async def leave(self, room_id: str) -> None:
        """Go, or do not come, and leave nothing of the room behind.

        Raises:
            Refused: the homeserver does not answer.
        """
        self._forget_checks(room_id)
        await call(self._client.room_leave(room_id), nio.RoomLeaveResponse)
        await call(self._client.room_forget(room_id), nio.RoomForgetResponse)

    async def on_state(self, room: nio.MatrixRoom, event: object) -> None:
        """A callback for `STATE_EVENTS`: look again before the next private word."""
        self._forget_checks(room.room_id)

    def _forget_checks(self, room_id: str) -> None:
        for key in [key for key in self._checked if key[0] == room_id]:
            del self._checked[key]

    async def with_person(self, user: str) -> str:
        """The room with `user`.

        Raises:
            PrivateDeliveryUnavailable: they cannot be invited.
            Refused: the homeserver does not answer.
        """
        async with self._locks[user]:
            room_id = self._mine.get(user)
            if room_id is None or not await self.is_private(room_id, user):
                room_id = await self._find(user) or await self._make(user)
                self._mine[user] = room_id
            return room_id

    async def _find(self, user: str) -> str | None:
        for room_id in reversed((await self._direct()).get(user, [])[-_CANDIDATES:]):
            state = await self._state(room_id)
            if state is not None and await self._is_usable(room_id, state, user):
                return room_id
        return None

    async def _is_usable(self, room_id: str, state: _State, user: str) -> bool:
        """Made by the bot and readable for it; the person is in it or can be asked back."""
        if ("m.room.encryption", "") in state or state.get(("m.room.create", ""), {}).get("sender") != self._me:
            return False
        if self._is_between(state, user):
            return True
        membership = _value(state, "m.room.member", "membership", user)
        alone = self._present(state) == {self._me}
        if membership == "ban" or not alone:
            return False
        try:
            await call(self._client.room_invite(room_id, user), nio.RoomInviteResponse)
        except Elsewhere:
            return False
        return True

    async def _make(self, user: str) -> str:
        # What was said before the person came is for them.
        history = {"history_visibility": "invited"}
        making = self._client.room_create(
            name=sentences.ROOM_NAME,
            is_direct=True,
            preset=nio.RoomPreset.private_chat,
            invite=[user],
            # Nobody lets anybody else in.
            power_level_override={"invite": 100, "state_default": 100},
            initial_state=[
                {"type": "m.room.history_visibility", "state_key": "", "content": history},
                {"type": "m.room.guest_access", "state_key": "", "content": {"guest_access": "forbidden"}},
            ],
        )
        try:
            made = await call(making, nio.RoomCreateResponse)
        except (Later, Misconfigured):
            raise
        except Refused as error:
            raise PrivateDeliveryUnavailable(how=sentences.ROOM_REFUSED, why=error.message) from None
        direct = await self._direct()
        direct.setdefault(user, []).append(made.room_id)
        await self._remember(direct)
        return str(made.room_id)

    async def _state(self, room_id: str) -> _State | None:
        try:
            answer = await call(self._client.room_get_state(room_id), nio.RoomGetStateResponse)
        except Elsewhere:
            return None
        return {(event["type"], event["state_key"]): event for event in answer.events}

    def _is_between(self, state: _State, user: str) -> bool:
        return (
            self._present(state) == {self._me, user}
            and _value(state, "m.room.member", "membership", self._me) == "join"
            and _value(state, "m.room.join_rules", "join_rule") in ("invite", "private")
            and _value(state, "m.room.history_visibility", "history_visibility") != "world_readable"
        )

    def _present(self, state: _State) -> set[str]:
        """Who is in it, was asked into it or asks to be."""
        there = ("join", "invite", "knock")
        return {
            key
            for (kind, key), event in state.items()
            if kind == "m.room.member" and event["content"].get("membership") in there
        }

    @property
    def _me(self) -> str:
        return str(self._client.user_id)

    async def _direct(self) -> dict[str, list[str]]:
        try:
            return dict((await call(self._client.list_direct_rooms(), nio.DirectRoomsResponse)).rooms)
        except Elsewhere:
            # Nothing is stored under that name yet.
            return {}

    async def _remember(self, direct: dict[str, list[str]]) -> None:
        # nio reads this account data and has no word for writing it.
        path = f"/_matrix/client/v3/user/{quote(self._me, safe='')}/account_data/m.direct"
        headers = {"Authorization": f"Bearer {self._client.access_token}", "Content-Type": "application/json"}
        answer = await call(self._client.send("PUT", path, json.dumps(direct), headers), ClientResponse)
        answer.release()
        if not answer.ok:
            _log.warning("the room with a person is not remembered (%d); a restart makes a new one", answer.status)


def _value(state: _State, kind: str, name: str, key: str = "") -> str | None:
    value = state.get((kind, key), {}).get("content", {}).get(name)
    return value if isinstance(value, str) else None
