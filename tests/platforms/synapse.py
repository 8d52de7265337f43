"""A real Synapse on loopback, which `scripts/services` installs, and people who use its client-server API.

The people speak HTTP themselves (https://spec.matrix.org/latest/client-server-api/), so that what the bot's library
gets wrong is not got wrong on both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import re
import secrets
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import yaml

from tests.patience import PATIENCE
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".cache" / "synapse" / "bin" / "python"
SERVER = "matrix.test"
_transactions = itertools.count(1)
# All of this is plain http; a context with the system's certificates would cost each client more than its request.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass
class Homeserver:
    url: str
    shared_secret: str
    names: Any = field(default_factory=lambda: itertools.count(1))

    async def register(self, name: str = "user") -> Member:
        """A new account; the name gets a number, because a homeserver never forgets one."""
        account = {
            "username": f"{name}{next(self.names)}",
            "password": secrets.token_hex(8),
            "auth": {"type": "m.login.dummy"},
        }
        async with httpx2.AsyncClient(verify=_NO_TLS, base_url=self.url, timeout=PATIENCE) as http:
            answer = (await http.post("/_matrix/client/v3/register", json=account)).json()
        return Member(self.url, answer["user_id"], answer["access_token"])

    async def limit_rate(self, user: str, per_second: int, burst: int) -> None:
        """A rate limit for one account alone, by the admin API."""
        admin = await self._admin()
        path = f"/_synapse/admin/v1/users/{quote(user)}/override_ratelimit"
        await admin.api("POST", path, {"messages_per_second": per_second, "burst_count": burst})

    async def _admin(self) -> Member:
        import hashlib
        import hmac

        async with httpx2.AsyncClient(verify=_NO_TLS, base_url=self.url, timeout=PATIENCE) as http:
            nonce = (await http.get("/_synapse/admin/v1/register")).json()["nonce"]
            name, password = f"admin{next(self.names)}", secrets.token_hex(8)
            said = "\0".join((nonce, name, password, "admin")).encode()
            mac = hmac.new(self.shared_secret.encode(), said, hashlib.sha1).hexdigest()
            account = {"nonce": nonce, "username": name, "password": password, "admin": True, "mac": mac}
            answer = (await http.post("/_synapse/admin/v1/register", json=account)).json()
        return Member(self.url, answer["user_id"], answer["access_token"])


@contextlib.contextmanager
def homeserver(folder: Path) -> Iterator[Homeserver]:
    """Runs until left. About three seconds to start."""
    assert PYTHON.exists(), "Synapse is not installed. Next: scripts/services"
    port, secret = free_port(), secrets.token_hex(16)
    started = Homeserver(f"http://127.0.0.1:{port}", secret)
    config = folder / "homeserver.yaml"
    config.write_text(yaml.safe_dump(_config(folder, port, secret)))
    command = [str(PYTHON), "-m", "synapse.app.homeserver", "-c", str(config)]
    subprocess.run([*command, "--generate-keys"], check=True, capture_output=True, cwd=folder)
    with (folder / "output.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            _wait_until_it_answers(started.url, process, folder)
            yield started
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, (folder / "output.log").read_text()
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", timeout=PATIENCE).status_code == 200:
                return
        assert time.monotonic() < deadline, (folder / "output.log").read_text()
        time.sleep(0.1)


def _config(folder: Path, port: int, secret: str) -> dict[str, Any]:
    plenty = {"per_second": 10_000, "burst_count": 10_000}
    listener = {
        "port": port,
        "bind_addresses": ["127.0.0.1"],
        "type": "http",
        "tls": False,
        "resources": [{"names": ["client"], "compress": False}],
    }
    log = {"version": 1, "handlers": {"out": {"class": "logging.StreamHandler"}}}
    (folder / "log.yaml").write_text(yaml.safe_dump({**log, "root": {"level": "WARNING", "handlers": ["out"]}}))
    return {
        "server_name": SERVER,
        "report_stats": False,
        "pid_file": str(folder / "synapse.pid"),
        "listeners": [listener],
        "database": {"name": "sqlite3", "args": {"database": str(folder / "homeserver.db")}},
        "media_store_path": str(folder / "media"),
        "signing_key_path": str(folder / "signing.key"),
        "log_config": str(folder / "log.yaml"),
        "macaroon_secret_key": secrets.token_hex(16),
        "form_secret": secrets.token_hex(16),
        "registration_shared_secret": secret,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        "trusted_key_servers": [],
        "bcrypt_rounds": 4,
        "experimental_features": {"msc4155_enabled": True},
        "rc_message": plenty,
        "rc_registration": plenty,
        "rc_login": {"address": plenty, "account": plenty, "failed_attempts": plenty},
        "rc_admin_redaction": plenty,
        "rc_joins": {"local": plenty, "remote": plenty},
        "rc_joins_per_room": plenty,
        "rc_invites": {"per_room": plenty, "per_user": plenty, "per_issuer": plenty},
        "rc_room_creation": plenty,
    }


@dataclass
class Message:
    """One message as its reader sees it now: edits shown, redactions gone."""

    event_id: str
    room: str
    sender: str
    msgtype: str
    body: str
    html: str
    mentions: dict[str, Any]

    @property
    def text(self) -> str:
        """What is read in a client that shows HTML: tags gone, every link with its address."""
        linked = re.sub(r'<a href="([^"]*)">(.*?)</a>', r"\2 \1", self.html)
        broken = linked.replace("<br>", "\n").replace("&nbsp;", " ")
        return html.unescape(re.sub(r"</?(?:strong|code)>", "", broken))


@dataclass
class Member:
    """One account: what a person does in a client. `listening` keeps `messages` up to date."""

    url: str
    user_id: str
    token: str
    accepts: bool = True
    messages: dict[str, Message] = field(default_factory=dict)
    invited_to: list[str] = field(default_factory=list)
    members: dict[str, dict[str, str]] = field(default_factory=dict)
    _member_since: dict[tuple[str, str], int] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def api(self, method: str, path: str, body: Any = None, *, fine: tuple[int, ...] = (200,)) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(verify=_NO_TLS, base_url=self.url, timeout=PATIENCE, headers=headers) as http:
            answer = await http.request(method, path, json=body if body is not None or method == "GET" else {})
        assert answer.status_code in fine, f"{method} {path}: {answer.status_code} {answer.text}"
        found: dict[str, Any] = answer.json()
        return found

    async def create_room(
        self,
        *invite: Member,
        preset: str = "private_chat",
        encrypted: bool = False,
        direct: bool | None = None,
    ) -> str:
        """`direct`: None: as clients have it, when there is one other."""
        state = []
        if encrypted:
            state.append(
                {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
            )
        body = {
            "preset": preset,
            "invite": [one.user_id for one in invite],
            "is_direct": len(invite) == 1 if direct is None else direct,
            "initial_state": state,
        }
        return str((await self.api("POST", "/_matrix/client/v3/createRoom", body))["room_id"])

    async def join(self, room: str) -> None:
        await self.api("POST", f"/_matrix/client/v3/join/{quote(room)}")

    async def leave(self, room: str) -> None:
        await self.api("POST", f"/_matrix/client/v3/rooms/{quote(room)}/leave")

    async def invite(self, room: str, other: Member, *, fine: tuple[int, ...] = (200,)) -> None:
        path = f"/_matrix/client/v3/rooms/{quote(room)}/invite"
        await self.api("POST", path, {"user_id": other.user_id}, fine=fine)

    async def say(self, room: str, text: str, msgtype: str = "m.text", **more: Any) -> str:
        return await self.send(room, {"msgtype": msgtype, "body": text, **more})

    async def send(self, room: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/{kind}/t{next(_transactions)}"
        return str((await self.api("PUT", path, content))["event_id"])

    async def edit(self, room: str, event_id: str, text: str) -> str:
        new = {"msgtype": "m.text", "body": text}
        relation = {"rel_type": "m.replace", "event_id": event_id}
        return await self.send(room, {**new, "body": f"* {text}", "m.new_content": new, "m.relates_to": relation})

    async def event(self, room: str, event_id: str) -> dict[str, Any]:
        return await self.api("GET", f"/_matrix/client/v3/rooms/{quote(room)}/event/{quote(event_id)}")

    async def state(self, room: str, kind: str, key: str = "") -> dict[str, Any]:
        return await self.api("GET", f"/_matrix/client/v3/rooms/{quote(room)}/state/{kind}/{key}")

    def refuse_invites_of(self, other: Member) -> None:
        """MSC4155: the homeserver turns them away."""
        kind = "org.matrix.msc4155.invite_permission_config"
        path = f"/_matrix/client/v3/user/{quote(self.user_id)}/account_data/{kind}"
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx2.put(
            f"{self.url}{path}", json={"blocked_users": [other.user_id]}, headers=headers, timeout=PATIENCE
        )
        assert answer.status_code == 200, answer.text

    async def logout(self) -> None:
        await self.api("POST", "/_matrix/client/v3/logout")

    # -- what they see -------------------------------------------------------------------------

    def from_others(self) -> list[Message]:
        return [message for message in self.messages.values() if message.sender != self.user_id]

    async def sees(self, words: str, timeout: float = PATIENCE) -> Message:
        """The newest message of others with these words, waited for."""
        found = await self.until(lambda: [one for one in self.from_others() if words in one.text], timeout)
        return found[-1]

    async def until(self, look: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        async with asyncio.timeout(timeout):
            while not (found := look()):
                self._changed.clear()
                await self._changed.wait()
            return found

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Member]:
        task = asyncio.create_task(self._listen())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _listen(self) -> None:
        since = ""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(verify=_NO_TLS, base_url=self.url, timeout=PATIENCE, headers=headers) as http:
            while True:
                query = {"timeout": "10000", **({"since": since} if since else {})}
                answer = (await http.get("/_matrix/client/v3/sync", params=query)).json()
                since = answer["next_batch"]
                rooms = answer.get("rooms", {})
                for room in rooms.get("invite", {}):
                    self.invited_to.append(room)
                    if self.accepts:
                        await self.join(room)
                for room, news in rooms.get("join", {}).items():
                    for event in (*news.get("state", {}).get("events", ()), *news["timeline"]["events"]):
                        self._take(room, event)
                self._changed.set()

    def _take_member(self, room: str, event: dict[str, Any]) -> None:
        # A sync gives state and timeline one after the other, and the state may be the newer one.
        key = (room, event["state_key"])
        if event["origin_server_ts"] >= self._member_since.get(key, 0):
            self._member_since[key] = event["origin_server_ts"]
            self.members.setdefault(room, {})[event["state_key"]] = event["content"]["membership"]

    def _take(self, room: str, event: dict[str, Any]) -> None:
        content = event["content"]
        if event["type"] == "m.room.member":
            self._take_member(room, event)
        if event["type"] == "m.room.redaction":
            self.messages.pop(content.get("redacts") or event.get("redacts", ""), None)
        if event["type"] != "m.room.message" or "body" not in content:
            return
        relation = content.get("m.relates_to", {})
        if relation.get("rel_type") == "m.replace":
            old = self.messages.get(relation["event_id"])
            if old is not None and old.sender == event["sender"]:
                self.messages[old.event_id] = _message(old.event_id, room, event["sender"], content["m.new_content"])
            return
        self.messages[event["event_id"]] = _message(event["event_id"], room, event["sender"], content)


def _message(event_id: str, room: str, sender: str, content: dict[str, Any]) -> Message:
    body = content["body"]
    shown = content.get("formatted_body", html.escape(body))
    return Message(event_id, room, sender, content["msgtype"], body, shown, content.get("m.mentions", {}))
