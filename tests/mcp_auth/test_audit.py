"""The audit log: what is in it, what never is, and how it stays readable and bounded."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mcp_auth import audit as module
from mcp_auth.audit import MAX_BYTES, Audit, Event
from mcp_auth.errors import McpAuthError, StoreError
from mcp_auth.records import Requester, sha256
from tests.homes import ME, open_auth, signed_in
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize


def raw_lines(home: Path) -> list[str]:
    return (home / "audit.jsonl").read_text().splitlines()


def test_an_event_is_one_json_object_a_line(tmp_path: Path) -> None:
    audit = Audit(tmp_path, lambda: 1_795_600_000.25)

    audit.write(
        Event.SIGN_IN_ENDED, who="telegram:1", server="notes", owner="shared", outcome="done", ticket=sha256("t")
    )
    audit.write(Event.DENIED, who="cli:local", whom="telegram:2")

    first, second = (json.loads(line) for line in raw_lines(tmp_path))
    assert first == {
        "time": "2026-11-25T09:46:40.250000Z",
        "what": "sign_in_ended",
        "who": "telegram:1",
        "server": "notes",
        "owner": "shared",
        "outcome": "done",
        "ticket": sha256("t"),
    }
    assert set(second) == {"time", "what", "who", "whom"}
    assert [line.what for line in audit.lines()] == [Event.SIGN_IN_ENDED, Event.DENIED]
    assert next(audit.lines()).at == 1_795_600_000.25


def test_the_file_is_for_its_owner_alone_and_opening_writes_nothing(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "home")
    assert list(audit.lines()) == []
    assert not (tmp_path / "home").exists()

    audit.write(Event.REFRESHED, server="notes")

    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / "audit.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "hostile",
    [
        'x\n{"what":"allowed","who":"telegram:666"}',
        "x\r\x1b[2K\x1b]0;owned\x07",
        "x\u2028\u202e\x00",
        "\ud800",
        "y" * 9000,
    ],
    ids=["newline", "escape", "unicode", "surrogate", "long"],
)
def test_attack_a_name_cannot_forge_a_line_or_move_the_cursor(tmp_path: Path, hostile: str) -> None:
    audit = Audit(tmp_path)

    audit.write(Event.COMMAND_REFUSED, who=hostile, whom=hostile, server=hostile, owner=hostile, outcome=hostile)

    (line,) = raw_lines(tmp_path)
    found = json.loads(line)
    assert found["what"] == "command_refused"
    assert found["outcome"] == "other"
    assert all(found[key].isprintable() and len(found[key]) <= 200 for key in ("who", "whom", "server", "owner"))
    assert len(line) < 1200


def test_what_is_no_word_no_hash_and_no_name_is_left_out(tmp_path: Path) -> None:
    audit = Audit(tmp_path)

    audit.write(
        Event.SIGN_IN_ENDED,
        server="https://as.example/authorize?code=CANARY&state=CANARY",
        outcome="token CANARY was refused",
        ticket="CANARY-the-ticket-itself",
    )

    assert "CANARY" not in raw_lines(tmp_path)[0]


def test_it_is_bounded_and_the_newest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    audit = Audit(tmp_path)

    for number in range(200):
        audit.write(Event.REFRESHED, server=f"server {number}")

    files = sorted(path.name for path in tmp_path.glob("audit*"))
    assert files == ["audit.jsonl", *(f"audit.jsonl.{number}" for number in range(1, 5))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.glob("audit*"))
    kept = [line.server for line in audit.lines()]
    assert kept == [f"server {number}" for number in range(200 - len(kept), 200)]
    assert len(kept) > 40


def _write_many(home: str, name: str) -> None:
    audit = Audit(Path(home))
    for number in range(150):
        audit.write(Event.REFRESHED, who=f"{name}:{number}", server="x" * 60)


def test_processes_neither_mix_their_lines_nor_lose_them_while_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 40_000)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(str(tmp_path), name)) for name in ("a", "b", "c", "d")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(PATIENCE)

    found = [line.who for line in Audit(tmp_path).lines()]

    assert (tmp_path / "audit.jsonl.1").exists()
    assert len(found) == len(set(found)) == 600


def test_a_torn_line_costs_itself_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(tmp_path)
    audit.write(Event.REFRESHED, server="one")
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write('{"time":"2026-11-2\n{"time":"soon","what":"refreshed"}\n')
    audit.write(Event.REFRESHED, server="two")

    assert [line.server for line in audit.lines()] == ["one", "two"]
    assert "audit.jsonl:2 is damaged" in caplog.text


def test_a_log_that_cannot_be_written_is_said_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    audit = Audit(tmp_path)

    audit.write(Event.REFRESHED, server="one")
    audit.write(Event.REFRESHED, server="two")

    assert len(caplog.records) == 1
    assert "events are not recorded" in caplog.text
    with pytest.raises(StoreError):
        list(audit.lines())


# -- what is recorded ------------------------------------------------------------------------


async def test_a_sign_in_a_refresh_and_a_logout_leave_their_lines(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        oauth.expire_access_tokens()
        await auth.probe("notes")
        await auth.logout("notes", by="cli:local")
        found = [(line.what, line.who, line.server, line.owner, line.outcome) for line in auth.audit.lines()]

    assert found == [
        (Event.SIGN_IN_BEGUN, "cli:local", "notes", "shared", None),
        (Event.SIGN_IN_ENDED, "cli:local", "notes", "shared", "done"),
        (Event.REFRESHED, None, "notes", "shared", None),
        (Event.SIGNED_OUT, "cli:local", "notes", "shared", None),
    ]


@pytest.mark.parametrize("outcome", ["refused", "failed", "cancelled", "expired"])
async def test_every_end_of_a_sign_in_is_recorded(tmp_path: Path, oauth: OAuthServer, outcome: str) -> None:
    now = [1_795_600_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        started = await auth.sign_in("notes", "shared", Requester(principal="telegram:1"), listen=False)
        await _end(auth, oauth, started.link, outcome, now)
        last = list(auth.audit.lines())[-1]

    assert (last.what, last.outcome) == (Event.SIGN_IN_ENDED, outcome)
    assert (last.who, last.whom) == ((None, "telegram:1") if outcome == "cancelled" else ("telegram:1", None))


async def _end(auth: Any, oauth: OAuthServer, link: str, outcome: str, now: list[float]) -> None:
    if outcome == "cancelled":
        await auth.cancel("notes")
        return
    if outcome == "expired":
        now[0] += 3600
        await auth.sweep()
        return
    if outcome == "refused":
        oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "CANARY"}
    redirect = await asyncio.to_thread(authorize, link)
    if outcome == "failed":
        redirect = redirect.replace("code=", "code=wrong")
    with pytest.raises(McpAuthError):
        await auth.paste(redirect, "telegram:1")


async def test_no_secret_and_no_link_is_ever_in_it(tmp_path: Path, oauth: OAuthServer) -> None:
    servers = {
        "notes": {"url": oauth.url, "auth": "oauth"},
        "weather": {"url": oauth.url, "headers": {"Authorization": "Bearer ${WEATHER_KEY}"}},
    }
    async with open_auth(tmp_path, servers) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        redirect = await asyncio.to_thread(authorize, started.link)
        await auth.paste(redirect, ME.principal)
        token = await auth.access_token("notes")
        await auth.try_keys("weather", {"WEATHER_KEY": "sk-canary-0123456789"}, by="cli:local")
        await auth.set_keys("weather", {"WEATHER_KEY": "sk-canary-0123456789"}, by="cli:local")
        grant = await auth.store.grants.get("shared", "notes", oauth.url)
        await auth.logout("notes")
        text = (auth.config.home / "audit.jsonl").read_text()

    assert [json.loads(line)["what"] for line in text.splitlines()] == [
        "sign_in_begun",
        "sign_in_ended",
        "key_refused",
        "key_set",
        "signed_out",
    ]
    assert grant is not None and grant.tokens is not None
    state = started.sign_in.state
    for secret in (token, grant.tokens.refresh_token, state, "sk-canary", "http", "code=", redirect, started.link):
        assert secret and secret not in text


@pytest.mark.parametrize("what", [Event.COMMAND_REFUSED, Event.WRONG_CODE, Event.KEY_REFUSED, Event.PAIRING_ASKED])
@pytest.mark.parametrize("accounts", [1, 5, 2_000])
def test_attack_one_member_cannot_push_the_others_out_of_the_log_in_a_day(
    tmp_path: Path, what: Event, accounts: int
) -> None:
    now = [1_700_000_000.0]
    audit = Audit(tmp_path, lambda: now[0])
    audit.write(Event.SIGNED_OUT, who="telegram:2", server="notes", owner="shared")
    # As often as anybody may ask, all day long
    for number in range(20_000):
        audit.write(what, who=f"telegram:{number % accounts}", server="notes" * 40, outcome="logout")
    lines = list(audit.lines())
    assert lines[0].what is Event.SIGNED_OUT
    assert sum(path.stat().st_size for path in tmp_path.glob("audit.jsonl*")) < MAX_BYTES
    counted = sum(1 + line.more for line in lines[1:])
    assert 0 < counted <= 20_000
    now[0] += 86_400
    audit.write(what, who="telegram:0", outcome="logout")
    assert list(audit.lines())[-1].more == 0, "a new day"


def test_what_changed_something_is_always_recorded(tmp_path: Path) -> None:
    audit = Audit(tmp_path)
    for event in Event:
        for _ in range(300):
            audit.write(event, who="telegram:1")
    found = Counter(line.what for line in audit.lines())
    changes = (Event.SIGNED_OUT, Event.KEY_SET, Event.ALLOWED, Event.DENIED, Event.LINK_CONTINUED, Event.SIGN_IN_BEGUN)
    for event in changes:
        assert found[event] == 300
