"""Whatever lies where a file of the home belongs: one server has a trouble, and the others are listed and work."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.invocations import LOCAL
from gateway.people import People
from mcp_auth import McpAuth
from mcp_auth.audit import Audit, Event
from mcp_auth.config.load import load
from mcp_auth.errors import StoreError
from mcp_auth.outcome import Next
from mcp_auth.records import grant_key
from mcp_auth.status import AuthState
from mcp_auth.stores.files import FileStore
from tests.adapters.cli.typed import Run
from tests.homes import ME, signed_in, write_home
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize

# A fifo that is opened waits for ever.
pytestmark = pytest.mark.timeout(PATIENCE)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "something").write_text("of somebody")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20_000_000_000)


def _bad_byte(path: Path) -> None:
    path.write_bytes(b'{"server":"notes\xff","paired":["\xff"]}\n')


def _torn(path: Path) -> None:
    path.write_bytes(b'{"server":"no')


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


SHAPES = [_fifo, _folder, _loop, _huge, _bad_byte, _torn, _empty, _deep, _device]
# What is no text file at all.
KINDS = [_fifo, _folder, _loop, _huge, _device]
Spoil = Callable[[Path], None]


def replaced(path: Path, spoil: Spoil) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    spoil(path)


@pytest.fixture
async def home(tmp_path: Path, oauth: OAuthServer) -> Path:
    """Two servers that are signed in to, one with a key, and one that needs nothing."""
    home = write_home(
        tmp_path,
        {
            "notes": {"url": oauth.url, "auth": "oauth"},
            "other": {"url": f"{oauth.url}?of=other", "auth": "oauth"},
            "weather": {"url": oauth.url, "headers": {"X-Key": "${WEATHER_KEY}"}},
            "local": {"command": "true"},
        },
    )
    (home / ".env").write_text("WEATHER_KEY=k\n")
    async with McpAuth.open(home=home) as auth:
        await signed_in(auth, "notes")
        await signed_in(auth, "other")
    return home


def states(run: Run, home: Path) -> dict[str, str]:
    done = run("--home", home, "list", "--json")
    assert done.code == 0, done.err
    return {one["name"]: one["auth"]["state"] for one in done.events[0]["servers"]}


GOOD = {"notes": "signed_in", "other": "signed_in", "weather": "key_set", "local": "none_needed"}


@pytest.mark.parametrize("spoil", SHAPES)
async def test_a_damaged_grant_is_the_trouble_of_its_server_and_a_sign_in_mends_it(home: Path, spoil: Spoil) -> None:
    path = home / "grants" / f"{grant_key('shared', 'notes')}.json"
    replaced(path, spoil)
    (home / "mcp-tokens" / "notes.json").unlink()
    async with McpAuth.open(home=home) as auth:
        listed = {one.name: one for one in await auth.statuses()}
        assert {name: one.auth.value for name, one in listed.items()} == {**GOOD, "notes": "reauthorization_needed"}
        assert "is damaged" in (listed["notes"].detail or "")
        assert listed["notes"].next == Next("auth", "notes")
        assert await auth.access_token("other")
        # It says so itself, and nothing hangs
        with pytest.raises(StoreError, match="is damaged"):
            await auth.access_token("notes")
        # And the command that is named works, and keeps what was there
        await signed_in(auth, "notes")
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        assert await auth.access_token("notes")
    (kept,) = path.parent.glob("*.damaged-*")
    assert os.path.lexists(kept)


@pytest.mark.parametrize("spoil", SHAPES)
def test_the_listing_shows_the_others_when_a_grant_is_damaged(run: Run, home: Path, spoil: Spoil) -> None:
    replaced(home / "grants" / f"{grant_key('shared', 'notes')}.json", spoil)
    (home / "mcp-tokens" / "notes.json").unlink()
    assert states(run, home) == {**GOOD, "notes": "reauthorization_needed"}
    done = run("--home", home, "logout", "notes")
    assert (done.code, "was damaged" in done.out) == (0, True)
    assert states(run, home) == {**GOOD, "notes": "sign_in_needed"}


@pytest.mark.parametrize("spoil", KINDS)
def test_an_env_file_that_is_none_is_the_trouble_of_those_who_need_it(run: Run, home: Path, spoil: Spoil) -> None:
    replaced(home / ".env", spoil)
    assert states(run, home) == {**GOOD, "weather": "misconfigured"}
    for command in ("test weather", "key weather --stdin", "doctor"):
        done = run("--home", home, *command.split(), stdin="new\n")
        assert done.code == 1
        assert ".env" in done.out + done.err
        assert "Traceback" not in done.err


def test_a_bad_byte_in_the_env_file_costs_one_variable_and_is_said_once(run: Run, home: Path) -> None:
    (home / ".env").write_bytes(b"OTHER=\xff\nWEATHER_KEY=k\n")
    done = run("--home", home, "list")
    assert done.code == 0
    assert done.err == f"slash-mcp: {home}/.env:1: OTHER is not UTF-8 text and counts as missing.\n"
    assert f"! {home}/.env:1: OTHER is not UTF-8 text" in run("--home", home, "doctor").out
    assert states(run, home) == GOOD


@pytest.mark.parametrize("spoil", SHAPES)
@pytest.mark.parametrize("place", ["record", ".salt", "folder"])
async def test_a_damaged_record_of_a_sign_in_counts_as_none(
    home: Path, oauth: OAuthServer, spoil: Spoil, place: str
) -> None:
    if place == "folder":
        for file in (home / "sign-ins").glob("**/*"):
            file.unlink() if file.is_file() else None
        (home / "sign-ins" / ".locks").rmdir()
        (home / "sign-ins").rmdir()
        spoil(home / "sign-ins")
    else:
        slot = await FileStore(home).sign_ins.slot("shared", "notes")
        replaced(home / "sign-ins" / (".salt" if place == ".salt" else f"{slot}.json"), spoil)
    async with McpAuth.open(home=home) as auth:
        assert {one.name: one.auth.value for one in await auth.statuses()} == GOOD
        assert await auth.access_token("other")
        if place == "record" and spoil is _loop:
            # What may be an answer of ours is not taken for none (`claims`), so a person looks at it.
            with pytest.raises(StoreError, match="cannot be read"):
                await signed_in(auth, "notes")
        elif place == "record":
            # And a sign-in can begin anew there
            await signed_in(auth, "notes")


@pytest.mark.parametrize("spoil", SHAPES)
async def test_what_is_known_of_a_server_is_found_out_anew(home: Path, oauth: OAuthServer, spoil: Spoil) -> None:
    key = hashlib.sha256(oauth.url.encode()).hexdigest()
    replaced(home / "connections" / f"{key}.json", spoil)
    async with McpAuth.open(home=home) as auth:
        assert {one.name: one.auth.value for one in await auth.statuses()} == GOOD
        await signed_in(auth, "notes")


@pytest.mark.parametrize("spoil", SHAPES)
@pytest.mark.parametrize("file", ["notes.json", "notes.client.json", "notes.meta.json"])
async def test_the_mirror_for_hermes_is_not_waited_for(home: Path, spoil: Spoil, file: str) -> None:
    replaced(home / "mcp-tokens" / file, spoil)
    async with McpAuth.open(home=home) as auth:
        assert await auth.access_token("notes")
        assert {one.name: one.auth.value for one in await auth.statuses()} == GOOD
        await signed_in(auth, "notes")
        assert await auth.access_token("notes")


@pytest.mark.parametrize("spoil", SHAPES)
def test_a_damaged_file_of_people_serves_nobody_on_a_guess(run: Run, home: Path, spoil: Spoil) -> None:
    replaced(home / "people.json", spoil)
    with pytest.raises(StoreError, match=r"people\.json"):
        People(load(home=home))
    assert states(run, home) == GOOD
    for command in ("people", "allow telegram:1", "doctor"):
        done = run("--home", home, *command.split())
        assert done.code == 1
        assert "people.json" in done.out + done.err


@pytest.mark.parametrize("spoil", KINDS)
def test_an_audit_log_that_is_no_file_stops_nobody(
    run: Run, home: Path, spoil: Spoil, caplog: pytest.LogCaptureFixture
) -> None:
    os.replace(home / "audit.jsonl", home / "audit.jsonl.1")
    if spoil is _device or spoil is _huge:
        pytest.skip("a device takes what is written, and a large file is rotated")
    spoil(home / "audit.jsonl")
    Audit(home).write(Event.DENIED, who=LOCAL, whom="telegram:1")
    assert "cannot be written" in caplog.text
    # What is kept elsewhere is shown, and then what is wrong
    done = run("--home", home, "audit")
    assert done.code == 1
    assert "notes" in done.out
    assert "audit.jsonl cannot be read" in done.err


@pytest.mark.parametrize("spoil", SHAPES)
@pytest.mark.parametrize("name", ["more.yaml", "more.mcp.json"])
def test_an_included_file_that_cannot_be_used_is_left_out(run: Run, home: Path, spoil: Spoil, name: str) -> None:
    spoil(home / name)
    (home / "good.yaml").write_text("mcp_servers: {late: {command: x}}\n")
    config = (home / "config.yaml").read_text()
    (home / "config.yaml").write_text(f"{config}include: [{name}, good.yaml]\n")
    assert states(run, home) == {**GOOD, "late": "none_needed"}
    if spoil not in (_empty,):
        assert name in run("--home", home, "list").err


async def test_a_link_that_began_before_the_grant_was_damaged_can_be_finished(home: Path) -> None:
    async with McpAuth.open(home=home) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        replaced(home / "grants" / f"{grant_key('shared', 'notes')}.json", _torn)
        redirect = await asyncio.to_thread(authorize, started.link)
        await auth.paste(redirect, ME.principal)
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
