"""A message of a Matrix room: read once, and from then on a value. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import nio

from gateway.invocations import ChatRef, Invocation, Principal

PLATFORM = "matrix"


@dataclass(frozen=True, slots=True)
class Incoming:
    """`text`: without the quotation that older clients put before an answer. `age`: seconds since it was sent."""

    room: str
    user: str
    name: str
    text: str
    event_id: str
    age: float
    thread: str | None

    def invocation(self, text: str) -> Invocation:
        """It as an invocation of `text`. Who reads along has to be asked."""
        chat = place(self.room, self.user, private=False)
        if self.thread is not None:
            chat.data["thread"] = self.thread
        return Invocation(Principal(PLATFORM, self.user), chat, text, False, self.event_id, self.name)


def read(room: nio.MatrixRoom, event: nio.RoomMessageText) -> Incoming | None:
    """None: it is our own, or an edit of what was read already."""
    relation = event.source.get("content", {}).get("m.relates_to")
    relation = relation if isinstance(relation, dict) else {}
    if event.sender == room.own_user_id or relation.get("rel_type") == "m.replace":
        return None
    lines = event.body.split("\n")
    if "m.in_reply_to" in relation:
        while lines and lines[0].startswith("> "):
            lines.pop(0)
    # The homeserver's own count, where it gives one.
    age = event.source.get("unsigned", {}).get("age")
    return Incoming(
        room=room.room_id,
        user=event.sender,
        name=room.user_name(event.sender) or event.sender,
        text="\n".join(lines).strip(),
        event_id=event.event_id,
        age=age / 1000 if isinstance(age, int | float) else time.time() - event.server_timestamp / 1000,
        thread=relation.get("event_id") if relation.get("rel_type") == "m.thread" else None,
    )


def place(room: str, user: str, *, private: bool) -> ChatRef:
    data: dict[str, Any] = {"room": room, "user": user, "private": private}
    return ChatRef(PLATFORM, data)
