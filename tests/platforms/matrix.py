"""A homeserver on loopback: the part of the client-server API that matrix-nio, and people who speak it, use.

Written after https://spec.matrix.org/latest/client-server-api/, in memory, without federation and encryption. The same
tests run against it and against a real Synapse (`tests/platforms/synapse.py`), which stays the judge.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.platforms.synapse import SERVER, Homeserver
from tests.servers.threads import loopback_socket, serving

Json = dict[str, Any]
_BLOCKED = "org.matrix.msc4155.invite_permission_config"
_V3 = "/_matrix/client/v3"


class Refused(Exception):
    """A standard error answer (section "Standard error response")."""

    def __init__(self, status: int, errcode: str, **more: Any) -> None:
        super().__init__(errcode)
        self.answer = JSONResponse({"errcode": errcode, "error": "no", **more}, status)


def _forbidden() -> Refused:
    return Refused(403, "M_FORBIDDEN")


@dataclass
class Room:
    id: str
    creator: str
    # With the place of each in the one stream of this homeserver.
    events: list[tuple[int, Json]] = field(default_factory=list)
    state: dict[tuple[str, str], Json] = field(default_factory=dict)
    forgotten: set[str] = field(default_factory=set)

    def membership(self, user: str) -> str | None:
        found = self.state.get(("m.room.member", user))
        return str(found["content"]["membership"]) if found is not None else None

    def of(self, membership: str) -> list[str]:
        return [key for (kind, key) in self.state if kind == "m.room.member" and self.membership(key) == membership]

    def value(self, kind: str, name: str) -> Any:
        return self.state.get((kind, ""), {}).get("content", {}).get(name)

    def may(self, user: str, what: str, usual: int) -> bool:
        levels = self.state.get(("m.room.power_levels", ""), {}).get("content", {})
        own = levels.get("users", {}).get(user, levels.get("users_default", 0))
        return bool(own >= levels.get(what, usual))


@dataclass
class Limit:
    per_second: float
    burst: int
    left: float
    at: float


class LoopbackHomeserver(Homeserver):
    """Accounts, rooms and one stream of events."""

    def __init__(self, url: str) -> None:
        super().__init__(url, secrets.token_hex(8))
        self._tokens: dict[str, str] = {}
        self._rooms: dict[str, Room] = {}
        self._data: dict[tuple[str, str], Json] = {}
        self._limits: dict[str, Limit] = {}
        self._sent: dict[tuple[str, str], str] = {}
        self._position = 0
        self._moved: asyncio.Event | None = None

    async def limit_rate(self, user: str, per_second: int, burst: int) -> None:
        self._limits[user] = Limit(per_second, burst, burst, time.monotonic())

    # -- the API -------------------------------------------------------------------------------

    def app(self) -> Starlette:
        open_to_all = [("POST", "/register", self._register)]
        signed_in: list[tuple[str, str, Callable[[Request, str], Awaitable[Json]]]] = [
            ("GET", "/account/whoami", self._whoami),
            ("POST", "/logout", self._logout),
            ("GET", "/sync", self._sync),
            ("POST", "/createRoom", self._create),
            ("GET", "/joined_rooms", self._joined_rooms),
            ("POST", "/join/{room}", self._join),
            ("POST", "/rooms/{room}/join", self._join),
            ("POST", "/rooms/{room}/leave", self._leave),
            ("POST", "/rooms/{room}/forget", self._forget),
            ("POST", "/rooms/{room}/invite", self._invite),
            ("PUT", "/rooms/{room}/send/{kind}/{transaction}", self._send),
            ("PUT", "/rooms/{room}/redact/{event}/{transaction}", self._redact),
            ("PUT", "/rooms/{room}/typing/{user}", self._typing),
            ("GET", "/rooms/{room}/event/{event}", self._event),
            ("GET", "/rooms/{room}/state", self._whole_state),
            ("GET", "/rooms/{room}/state/{kind}", self._one_state),
            ("GET", "/rooms/{room}/state/{kind}/{key:path}", self._one_state),
            ("GET", "/user/{user}/account_data/{kind}", self._account_data),
            ("PUT", "/user/{user}/account_data/{kind}", self._set_account_data),
        ]
        routes = [Route(f"{_V3}{path}", _answering(work), methods=[method]) for method, path, work in open_to_all]
        routes += [
            Route(f"{_V3}{path}", _answering(self._as_user(work)), methods=[method]) for method, path, work in signed_in
        ]
        return Starlette(routes=routes, exception_handlers={404: _unrecognized, 405: _unrecognized})

    def _as_user(self, work: Callable[[Request, str], Awaitable[Json]]) -> Callable[[Request], Awaitable[Json]]:
        async def checked(request: Request) -> Json:
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            token = sent or request.query_params.get("access_token")
            if not token:
                raise Refused(401, "M_MISSING_TOKEN")
            user = self._tokens.get(token)
            if user is None:
                raise Refused(401, "M_UNKNOWN_TOKEN")
            return await work(request, user)

        return checked

    async def _register(self, request: Request) -> Json:
        name = (await request.json())["username"]
        token = secrets.token_urlsafe(24)
        self._tokens[token] = f"@{name}:{SERVER}"
        return {"user_id": f"@{name}:{SERVER}", "access_token": token, "device_id": "TEST", "home_server": SERVER}

    async def _whoami(self, request: Request, user: str) -> Json:
        return {"user_id": user, "device_id": "TEST", "is_guest": False}

    async def _logout(self, request: Request, user: str) -> Json:
        self._tokens = {token: owner for token, owner in self._tokens.items() if owner != user}
        self._notify()
        return {}

    # -- rooms ---------------------------------------------------------------------------------

    async def _create(self, request: Request, user: str) -> Json:
        asked = await request.json()
        invited = asked.get("invite", [])
        if any(user in self._data.get((one, _BLOCKED), {}).get("blocked_users", ()) for one in invited):
            raise _forbidden()
        room = Room(f"!{secrets.token_urlsafe(12)}:{SERVER}", user)
        self._rooms[room.id] = room
        is_public = asked.get("preset") == "public_chat"
        levels = {"users": {user: 100}, "users_default": 0, "invite": 0, "state_default": 50, "events_default": 0}
        begin = [
            ("m.room.create", "", {"creator": user, "room_version": "10"}),
            ("m.room.member", user, {"membership": "join"}),
            ("m.room.power_levels", "", {**levels, **asked.get("power_level_content_override", {})}),
            ("m.room.join_rules", "", {"join_rule": "public" if is_public else "invite"}),
            ("m.room.history_visibility", "", {"history_visibility": "shared"}),
            ("m.room.guest_access", "", {"guest_access": "forbidden" if is_public else "can_join"}),
        ]
        begin += [(one["type"], one.get("state_key", ""), one["content"]) for one in asked.get("initial_state", [])]
        if asked.get("name"):
            begin.append(("m.room.name", "", {"name": asked["name"]}))
        direct = {"is_direct": True} if asked.get("is_direct") else {}
        begin += [("m.room.member", one, {"membership": "invite", **direct}) for one in invited]
        for kind, key, content in begin:
            self._add(room, user, kind, content, key)
        return {"room_id": room.id}

    async def _join(self, request: Request, user: str) -> Json:
        room = self._rooms.get(request.path_params["room"])
        if room is None:
            raise Refused(404, "M_NOT_FOUND")
        now = room.membership(user)
        if now == "ban" or (now not in ("invite", "join") and room.value("m.room.join_rules", "join_rule") != "public"):
            raise _forbidden()
        if now != "join":
            self._add(room, user, "m.room.member", {"membership": "join"}, user)
        return {"room_id": room.id}

    async def _leave(self, request: Request, user: str) -> Json:
        room = self._rooms.get(request.path_params["room"])
        if room is None or room.membership(user) not in ("join", "invite"):
            raise _forbidden()
        self._add(room, user, "m.room.member", {"membership": "leave"}, user)
        return {}

    async def _forget(self, request: Request, user: str) -> Json:
        room = self._rooms.get(request.path_params["room"])
        if room is None or room.membership(user) == "join":
            raise Refused(400, "M_UNKNOWN")
        room.forgotten.add(user)
        return {}

    async def _invite(self, request: Request, user: str) -> Json:
        room = self._room(request, user)
        other = (await request.json())["user_id"]
        blocked = user in self._data.get((other, _BLOCKED), {}).get("blocked_users", ())
        if blocked or not room.may(user, "invite", 0) or room.membership(other) in ("join", "ban"):
            raise _forbidden()
        room.forgotten.discard(other)
        self._add(room, user, "m.room.member", {"membership": "invite"}, other)
        return {}

    async def _joined_rooms(self, request: Request, user: str) -> Json:
        return {"joined_rooms": [room.id for room in self._rooms.values() if room.membership(user) == "join"]}

    async def _whole_state(self, request: Request, user: str) -> Any:
        return [_shown(event) for event in self._room(request, user).state.values()]

    async def _one_state(self, request: Request, user: str) -> Json:
        found = self._room(request, user).state.get((request.path_params["kind"], request.path_params.get("key", "")))
        if found is None:
            raise Refused(404, "M_NOT_FOUND")
        content: Json = found["content"]
        return content

    def _room(self, request: Request, user: str) -> Room:
        """The room of this request, in which the user is."""
        room = self._rooms.get(request.path_params["room"])
        if room is None or room.membership(user) != "join":
            raise _forbidden()
        return room

    # -- messages ------------------------------------------------------------------------------

    async def _send(self, request: Request, user: str) -> Json:
        room = self._room(request, user)
        again = self._sent.get((user, request.path_params["transaction"]))
        if again is not None:
            return {"event_id": again}
        self._take_of_limit(user)
        event = self._add(room, user, request.path_params["kind"], await request.json())
        self._sent[user, request.path_params["transaction"]] = event["event_id"]
        return {"event_id": event["event_id"]}

    async def _redact(self, request: Request, user: str) -> Json:
        room = self._room(request, user)
        for _, event in room.events:
            if event["event_id"] == request.path_params["event"]:
                if event["sender"] != user and not room.may(user, "redact", 50):
                    raise _forbidden()
                event["content"] = {}
                redaction = self._add(room, user, "m.room.redaction", {"redacts": event["event_id"]})
                redaction["redacts"] = event["event_id"]
                return {"event_id": redaction["event_id"]}
        raise Refused(404, "M_NOT_FOUND")

    async def _typing(self, request: Request, user: str) -> Json:
        self._room(request, user)
        return {}

    async def _event(self, request: Request, user: str) -> Json:
        for _, event in self._room(request, user).events:
            if event["event_id"] == request.path_params["event"]:
                return _shown(event)
        raise Refused(404, "M_NOT_FOUND")

    def _add(self, room: Room, sender: str, kind: str, content: Json, key: str | None = None) -> Json:
        self._position += 1
        event: Json = {
            "type": kind,
            "room_id": room.id,
            "sender": sender,
            "content": content,
            "event_id": f"${secrets.token_urlsafe(16)}",
            "origin_server_ts": int(time.time() * 1000),
        }
        if key is not None:
            event["state_key"] = key
            room.state[kind, key] = event
        room.events.append((self._position, event))
        self._notify()
        return event

    def _take_of_limit(self, user: str) -> None:
        limit = self._limits.get(user)
        if limit is None:
            return
        now = time.monotonic()
        limit.left = min(float(limit.burst), limit.left + (now - limit.at) * limit.per_second)
        limit.at = now
        if limit.left < 1:
            wait = math.ceil((1 - limit.left) / limit.per_second * 1000)
            raise Refused(429, "M_LIMIT_EXCEEDED", retry_after_ms=wait)
        limit.left -= 1

    # -- account data --------------------------------------------------------------------------

    async def _account_data(self, request: Request, user: str) -> Json:
        self._check_own(request, user)
        found = self._data.get((user, request.path_params["kind"]))
        if found is None:
            raise Refused(404, "M_NOT_FOUND")
        return found

    async def _set_account_data(self, request: Request, user: str) -> Json:
        self._check_own(request, user)
        self._data[user, request.path_params["kind"]] = await request.json()
        return {}

    def _check_own(self, request: Request, user: str) -> None:
        if request.path_params["user"] != user:
            raise _forbidden()

    # -- sync ----------------------------------------------------------------------------------

    async def _sync(self, request: Request, user: str) -> Json:
        query = request.query_params
        since = _position(query.get("since"))
        if since is not None and since > self._position:
            raise Refused(400, "M_UNKNOWN")
        whole = query.get("full_state") == "true"
        ends = time.monotonic() + min(int(query.get("timeout", 0)), 30_000) / 1000
        while True:
            if user not in self._tokens.values():
                raise Refused(401, "M_UNKNOWN_TOKEN")
            rooms = self._news(user, since, whole)
            left = ends - time.monotonic()
            if any(rooms.values()) or since is None or whole or left <= 0:
                return {"next_batch": f"s{self._position}", "rooms": rooms, "account_data": {"events": []}}
            if self._moved is None:
                self._moved = asyncio.Event()
            try:
                async with asyncio.timeout(left):
                    await self._moved.wait()
            except TimeoutError:
                continue

    def _notify(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def _news(self, user: str, since: int | None, whole: bool) -> dict[str, Json]:
        rooms: dict[str, Json] = {"join": {}, "invite": {}, "leave": {}}
        for room in self._rooms.values():
            new = [event for place, event in room.events if place > (since or 0)]
            membership = room.membership(user)
            mine = [event for event in new if event["type"] == "m.room.member" and event["state_key"] == user]
            if membership == "join" and (new or since is None or whole):
                is_new = since is None or bool(mine)
                rooms["join"][room.id] = _joined(room, user, new, from_start=is_new, complete=is_new or whole)
            elif membership == "invite" and (mine or since is None):
                rooms["invite"][room.id] = {"invite_state": {"events": list(_stripped(room, user))}}
            elif membership in ("leave", "ban") and mine and since is not None and user not in room.forgotten:
                rooms["leave"][room.id] = {
                    "timeline": {"events": [_shown(one) for one in mine], "limited": False, "prev_batch": "s0"},
                    "state": {"events": []},
                    "account_data": {"events": []},
                }
        return rooms


def _joined(room: Room, user: str, new: list[Json], *, from_start: bool, complete: bool) -> Json:
    # Who has just come in reads the room from its beginning, where its history is shared.
    events = [event for _, event in room.events] if from_start else new
    if from_start and room.value("m.room.history_visibility", "history_visibility") in ("invited", "joined"):
        events = events[_first_of(events, user) :]
    timeline = events[-50:]
    state = [event for event in room.state.values() if event not in timeline] if complete else []
    return {
        "timeline": {"events": [_shown(one) for one in timeline], "limited": len(events) > 50, "prev_batch": "s0"},
        "state": {"events": [_shown(one) for one in state]},
        "account_data": {"events": []},
        "ephemeral": {"events": []},
        "summary": {
            "m.heroes": [one for one in (*room.of("join"), *room.of("invite")) if one != user][:5],
            "m.joined_member_count": len(room.of("join")),
            "m.invited_member_count": len(room.of("invite")),
        },
        "unread_notifications": {"notification_count": 0, "highlight_count": 0},
    }


def _first_of(events: list[Json], user: str) -> int:
    for index, event in enumerate(events):
        if event["type"] == "m.room.member" and event["state_key"] == user:
            return index
    return 0


def _stripped(room: Room, user: str) -> Iterator[Json]:
    invitation = room.state["m.room.member", user]
    for kind in ("m.room.create", "m.room.join_rules", "m.room.name", "m.room.encryption"):
        if (kind, "") in room.state:
            yield _shown(room.state[kind, ""])
    if ("m.room.member", invitation["sender"]) in room.state:
        yield _shown(room.state["m.room.member", invitation["sender"]])
    yield _shown(invitation)


def _shown(event: Json) -> Json:
    age = int(time.time() * 1000) - event["origin_server_ts"]
    return {**event, "unsigned": {"age": age}}


def _position(token: str | None) -> int | None:
    if token is None:
        return None
    if not token.removeprefix("s").isdecimal():
        raise Refused(400, "M_UNKNOWN")
    return int(token.removeprefix("s"))


def _answering(work: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        try:
            return JSONResponse(await work(request))
        except Refused as refused:
            return refused.answer

    return answer


async def _unrecognized(request: Request, error: Exception) -> Response:
    return JSONResponse({"errcode": "M_UNRECOGNIZED", "error": request.url.path}, 404)


@contextmanager
def loopback_homeserver() -> Iterator[LoopbackHomeserver]:
    """Runs until left, in a thread."""
    bound = loopback_socket()
    server = LoopbackHomeserver(f"http://127.0.0.1:{bound.getsockname()[1]}")
    server.names = itertools.count(1)
    with serving(server.app(), bound):
        yield server
