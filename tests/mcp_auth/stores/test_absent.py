"""One look at a folder tells a listing which files are still not there; none that came is missed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.contestants.common import system_calls
from mcp_auth.errors import RecordDamaged, StoreError
from mcp_auth.records import Stored, encode, grant_key
from mcp_auth.stores.files import FileStore
from tests.mcp_auth.stores.backends import URL, connection, grant, sign_in

PLACES = [("shared", f"s{number}", f"https://s{number}.example/mcp") for number in range(50)]
NOTES = ("shared", "notes", URL)
FOLDERS = ("grants", "sign-ins", "connections", "mcp-tokens")


@pytest.fixture
async def home(tmp_path: Path) -> Path:
    """A home in use: every folder is there, with something of a server that nobody asks for."""
    home = tmp_path / "home"
    store = FileStore(home)
    assert await store.grants.put_if(grant("other"))
    assert await store.sign_ins.put_if(sign_in(await store.sign_ins.slot("shared", "other"), "other"))
    assert await store.profiles.put_if(connection("https://other.example/mcp"))
    return home


def age(home: Path) -> None:
    """As if nothing had changed for an hour."""
    for name in FOLDERS:
        found = (home / name).stat()
        os.utime(home / name, ns=(found.st_atime_ns, found.st_mtime_ns - 3600 * 10**9))


async def calls_of(store: FileStore, places: list[tuple[str, str, str]]) -> int:
    async def listing() -> None:
        await store.get_many(places)

    return len(await system_calls(listing))


async def test_what_is_not_there_is_looked_for_once(home: Path) -> None:
    store = FileStore(home)
    age(home)
    await store.get_many(PLACES)
    # One look at each folder, however many servers there are
    assert await calls_of(store, PLACES) == len(FOLDERS)


async def test_where_nothing_was_ever_stored_nothing_is_looked_for(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "home")
    # One look at each folder, and one for the salt
    assert await calls_of(store, PLACES) == len(FOLDERS) + 1


async def test_a_young_folder_is_no_witness(home: Path) -> None:
    """Some file systems count whole seconds: a file that came since may have left the folder's time as it was."""
    store = FileStore(home)
    await store.get_many(PLACES)
    assert await calls_of(store, PLACES) > len(PLACES)


async def test_a_folder_of_the_future_is_no_witness(home: Path) -> None:
    store = FileStore(home)
    for name in FOLDERS:
        os.utime(home / name, ns=(2**62, 2**62))
    await store.get_many(PLACES)
    assert await calls_of(store, PLACES) > len(PLACES)


def _grant(home: Path) -> None:
    (home / "grants" / f"{grant_key('shared', 'notes')}.json").write_bytes(encode(grant(version=1)))


def _hermes(home: Path) -> None:
    token = {"access_token": "of hermes", "token_type": "Bearer", "expires_at": 2e9}
    (home / "mcp-tokens" / "notes.json").write_text(json.dumps(token))


def _sign_in(home: Path) -> None:
    begin = (
        "async def begin():\n    await store.sign_ins.put_if(sign_in(await store.sign_ins.slot('shared', 'notes')))\n"
    )
    _elsewhere(home, f"{begin}asyncio.run(begin())")


def _connection(home: Path) -> None:
    _elsewhere(home, "asyncio.run(store.profiles.put_if(connection()))")


def _elsewhere(home: Path, code: str) -> None:
    names = "from tests.mcp_auth.stores.backends import connection, sign_in"
    program = f"import asyncio, sys; from pathlib import Path; from mcp_auth.stores.files import FileStore; {names}\n"
    program += f"store = FileStore(Path(sys.argv[1]))\n{code}"
    subprocess.run([sys.executable, "-c", program, str(home)], check=True, cwd=Path(__file__).parents[3])


CHANGES: dict[str, tuple[Callable[[Path], None], Callable[[Stored], object]]] = {
    "a grant": (_grant, lambda stored: stored.grant),
    "tokens of Hermes": (_hermes, lambda stored: stored.grant),
    "a sign-in": (_sign_in, lambda stored: stored.sign_in),
    "a finding": (_connection, lambda stored: stored.connection),
}


@pytest.mark.parametrize(("change", "shown"), CHANGES.values(), ids=CHANGES)
async def test_what_somebody_else_writes_is_there_at_the_next_look(
    home: Path, change: Callable[[Path], None], shown: Callable[[Stored], object]
) -> None:
    store = FileStore(home)
    age(home)
    for _ in range(2):
        assert shown((await store.get_many([NOTES]))[0]) is None
    await asyncio.to_thread(change, home)
    assert shown((await store.get_many([NOTES]))[0]) is not None


async def test_folders_that_come_later_are_seen(tmp_path: Path) -> None:
    store, other = FileStore(tmp_path / "home"), FileStore(tmp_path / "home")
    assert await store.get_many([NOTES]) == [Stored()]
    assert await other.grants.put_if(grant())
    assert (await store.get_many([NOTES]))[0].grant is not None


async def test_a_link_whose_file_comes_later_is_followed(home: Path, tmp_path: Path) -> None:
    store, place = FileStore(home), tmp_path / "mounted-later.json"
    (home / "grants" / f"{grant_key('shared', 'notes')}.json").symlink_to(place)
    age(home)
    for _ in range(2):
        assert (await store.get_many([NOTES]))[0].grant is None
    # No folder of the home changes
    place.write_bytes(encode(grant(version=1)))
    assert (await store.get_many([NOTES]))[0].grant is not None


async def test_what_is_damaged_is_no_absence(home: Path) -> None:
    store, path = FileStore(home), home / "grants" / f"{grant_key('shared', 'notes')}.json"
    path.write_text("no record")
    age(home)
    for _ in range(2):
        assert isinstance((await store.get_many([NOTES]))[0].trouble, RecordDamaged)
    # Mended in place, so that the folder stays as it is
    path.write_bytes(encode(grant(version=1)))
    assert (await store.get_many([NOTES]))[0].grant is not None


async def test_a_mirror_that_cannot_be_mended_is_the_trouble_of_its_server(home: Path) -> None:
    store = FileStore(home)
    assert await store.grants.put_if(grant())
    (home / "mcp-tokens" / "notes.json").unlink()
    for lock in (home / "grants" / ".locks").iterdir():
        lock.unlink()
    (home / "grants" / ".locks").rmdir()
    (home / "grants" / ".locks").write_text("in the way")
    notes, nothing = await FileStore(home).get_many([NOTES, PLACES[0]])
    assert isinstance(notes.trouble, StoreError)
    assert nothing == Stored()
