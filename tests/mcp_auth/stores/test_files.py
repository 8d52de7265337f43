"""What files promise on top of the contract: across processes, on the disk, and when somebody damaged them."""

from __future__ import annotations

import asyncio
import concurrent.futures.thread  # noqa: F401 - a user without rights could not load it later
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from shutil import rmtree
from typing import Any

import msgspec
import pytest

from bench.contestants.common import system_calls
from mcp_auth.errors import Busy, StoreError
from mcp_auth.outcome import Next
from mcp_auth.records import BrowserBinding, Requester, encode, grant_key
from mcp_auth.stores import index
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileBackend, FileStore
from tests.mcp_auth.stores.backends import URL, connection, grant, key_form, sign_in, tokens
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> FileStore:
    return FileStore(home)


def grant_file(home: Path, server: str = "notes") -> Path:
    return home / "grants" / f"{grant_key('shared', server)}.json"


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- processes -------------------------------------------------------------------------------

_COUNT = """
import asyncio, sys
from pathlib import Path
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileBackend, FileStore
from tests.mcp_auth.stores.backends import URL, grant

async def main():
    store = FileStore(Path(sys.argv[1]))
    for _ in range(int(sys.argv[2])):
        while True:
            found = await store.grants.get("shared", "notes", URL) or grant()
            found.refresh_failures += 1
            if await store.grants.put_if(found) is not None:
                break

asyncio.run(main())
"""


def test_processes_that_write_at_once_lose_nothing(home: Path) -> None:
    writers = [python(_COUNT, home, 15) for _ in range(3)]
    for writer in writers:
        _, errors = writer.communicate(timeout=PATIENCE)
        assert writer.returncode == 0, errors
    found, _ = FileStore(home).grants.read("shared", "notes", URL)
    assert found is not None and (found.refresh_failures, found.version) == (45, 45)


_HOLD = """
import asyncio, sys
from pathlib import Path
from mcp_auth.stores.files import FileStore

async def main():
    async with FileStore(Path(sys.argv[1])).grants.lease("shared", "notes", ttl=3600, wait=20):
        print("held", flush=True)
        sys.stdin.readline()

asyncio.run(main())
"""


async def test_a_lease_excludes_other_processes_and_ends_with_its_holder(home: Path, store: FileStore) -> None:
    holder = python(_HOLD, home)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Busy):
            async with store.grants.lease("shared", "notes", ttl=30, wait=0.05):
                pytest.fail("two hold the lease")
        # The kernel takes it back at once, whatever its time to live was
        holder.send_signal(signal.SIGKILL)
        async with store.grants.lease("shared", "notes", ttl=30, wait=20):
            pass
    finally:
        holder.kill()
        holder.communicate()


async def test_homes_have_slots_of_their_own(tmp_path: Path) -> None:
    slots = {await FileStore(tmp_path / str(number)).sign_ins.slot("shared", "notes") for number in range(3)}
    assert len(slots) == 3


async def test_a_reader_sees_a_write_that_the_clock_of_the_disk_cannot_tell_apart(home: Path) -> None:
    # Given a record that one process reads while it is as young as the clock can tell, however busy this machine is
    store, reader = Store(FileBackend(home)), Store(FileBackend(home))
    first = await store.grants.put_if(grant(name="1"))
    assert first is not None
    now = time.time_ns() + 60_000_000_000
    os.utime(grant_file(home), ns=(now, now))
    assert await reader.grants.get("shared", "notes", URL) == first
    # When another writes it in the same tick of the clock, and the file system gives it the same number
    path = grant_file(home)
    second = msgspec.structs.replace(first, tokens=tokens("2"), version=2)
    path.write_bytes(encode(second))
    os.utime(path, ns=(now, now))
    # Then it is seen all the same
    assert await reader.grants.get("shared", "notes", URL) == second


# -- rights ----------------------------------------------------------------------------------

_WATCHED = """
import asyncio, os, stat, sys
from pathlib import Path

home = Path(sys.argv[1])
loose = set()

def look(event, arguments):
    # Each event comes before its call is made, so what the call before it created is looked at.
    for folder, _, files in os.walk(home):
        for path in (Path(folder), *(Path(folder) / name for name in files)):
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            if mode != (0o700 if path.is_dir() else 0o600):
                loose.add(f"{path.name} {mode:o}")

busy = False

def hook(event, arguments):
    global busy
    if busy or not event.startswith(("open", "os.", "fcntl.", "shutil.")):
        return
    busy = True
    try:
        look(event, arguments)
    finally:
        busy = False

from mcp_auth.config.env_file import remove, write
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileBackend, FileStore
from tests.mcp_auth.stores.backends import URL, connection, grant, key_form, sign_in
import filelock, dotenv.parser, mcp_auth.stores.hermes

async def main():
    store = FileStore(home)
    async with store.grants.lease("shared", "notes", ttl=30, wait=5):
        first = await store.grants.put_if(grant())
        await store.grants.put_if(first)
    slot = await store.sign_ins.slot("shared", "notes")
    await store.sign_ins.put_if(sign_in(slot))
    await store.key_forms.put_if(key_form(slot))
    await store.profiles.put_if(connection())
    write(home / ".env", {"KEY": "value"})
    write(home / ".env", {"KEY": "other"})
    await store.grants.delete_if(await store.grants.get("shared", "notes", URL))

os.umask(0)
sys.addaudithook(hook)
asyncio.run(main())
look(None, None)
busy = True
print(sorted(loose), len(list(home.rglob("*"))))
"""


def test_every_file_and_folder_is_its_owner_s_alone_from_its_creation(home: Path) -> None:
    watched = python(_WATCHED, home)
    out, errors = watched.communicate(timeout=PATIENCE)
    assert watched.returncode == 0, errors
    loose, _, count = out.strip().rpartition(" ")
    assert (loose, int(count) > 8) == ("[]", True)


# -- damage ----------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "half": b'{"server":"notes","owner":"shared","serv',
    "zeros": b"\0" * 200,
    "binary": b"\xff\xfe\x80",
    "list": b"[]",
    "number": b"7",
    "other-object": b'{"a":1}',
    "wrong-type": b'{"server":1,"owner":"shared","server_url":7}',
    "newer": b'{"server":"notes","owner":"shared","server_url":{"sealed":"2027"}}',
    "deep": b'{"server":' + b"[" * 100_000,
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in DAMAGED.items()])
async def test_a_damaged_grant_is_an_error_that_names_the_file_and_nothing_writes_over_it(
    home: Path, store: FileStore, data: bytes
) -> None:
    assert await store.grants.put_if(grant()) is not None
    path = grant_file(home)
    path.write_bytes(data)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: store.grants.get("shared", "notes", URL),
        lambda: store.grants.put_if(grant()),
        lambda: store.grants.put_if(grant(version=1)),
        lambda: store.grants.delete_if(grant()),
        lambda: FileStore(home).grants.get("shared", "notes", URL),
    ]
    for call in calls:
        with pytest.raises(StoreError) as caught:
            await call()
        assert str(path) in caught.value.message
        assert caught.value.next_step == Next("auth", "notes")
        assert path.read_bytes() == data


async def test_a_damaged_grant_is_left_out_of_the_list_and_logged(
    home: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    for server in ("notes", "other"):
        assert await store.grants.put_if(grant(server)) is not None
    grant_file(home).write_bytes(b'{"tokens": "SECRET')
    assert [found.server for found in await store.grants.list()] == ["other"]
    assert "is damaged" in caplog.text and "SECRET" not in caplog.text


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in DAMAGED.items()])
async def test_a_damaged_sign_in_or_finding_counts_as_none_and_gives_way(
    home: Path, store: FileStore, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    slot = await store.sign_ins.slot("shared", "notes")
    assert await store.sign_ins.put_if(sign_in(slot)) is not None
    assert await store.profiles.put_if(connection()) is not None
    for folder in ("sign-ins", "connections"):
        next((home / folder).glob("*.json")).write_bytes(data)
    assert await store.sign_ins.get(slot) is None
    assert await store.sign_ins.latest("shared", "notes") is None
    assert await store.sign_ins.list() == []
    assert await store.profiles.get(URL) is None
    assert "is damaged" in caplog.text
    assert await store.sign_ins.put_if(sign_in(slot)) is not None
    assert await store.profiles.put_if(connection()) is not None


def test_a_grant_of_a_newer_version_with_more_members_is_read(home: Path) -> None:
    store = FileStore(home)
    written = store.grants.write(grant())
    assert written is not None
    path = grant_file(home)
    path.write_bytes(path.read_bytes()[:-1] + b',"from_2027":{"a":[1]}}')
    assert FileStore(home).grants.read("shared", "notes", URL) == (written, False)
    again = FileStore(home).grants.write(written)
    assert again is not None and again.version == 2


async def test_a_damaged_salt_is_an_error_that_says_what_to_do(home: Path, store: FileStore) -> None:
    await store.sign_ins.slot("shared", "notes")
    (home / "sign-ins" / ".salt").write_bytes(b"short")
    with pytest.raises(StoreError, match=r"\.salt is damaged") as caught:
        await FileStore(home).sign_ins.slot("shared", "notes")
    assert "remove that file" in str(caught.value.next_step)


# -- what cannot be read or written ----------------------------------------------------------


async def every_call(store: FileStore) -> dict[str, Exception | None]:
    """Each method of the store with what it raised."""

    async def lease() -> None:
        async with store.grants.lease("shared", "notes", ttl=30, wait=1):
            pass

    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "grants.get": lambda: store.grants.get("shared", "notes", URL),
        "grants.put_if": lambda: store.grants.put_if(grant()),
        "grants.delete_if": lambda: store.grants.delete_if(grant()),
        "grants.list": lambda: store.grants.list(),
        "sign_ins.slot": lambda: store.sign_ins.slot("shared", "notes"),
        "sign_ins.get": lambda: store.sign_ins.get("0" * 32),
        "sign_ins.latest": lambda: store.sign_ins.latest("shared", "notes"),
        "sign_ins.put_if": lambda: store.sign_ins.put_if(sign_in("0" * 32)),
        "sign_ins.list": lambda: store.sign_ins.list(),
        "key_forms.get": lambda: store.key_forms.get("0" * 32),
        "key_forms.put_if": lambda: store.key_forms.put_if(key_form("0" * 32)),
        "key_forms.list": lambda: store.key_forms.list(),
        "connections.get": lambda: store.profiles.get(URL),
        "connections.put_if": lambda: store.profiles.put_if(connection()),
        "lease": lease,
    }
    raised: dict[str, Exception | None] = {}
    for name, call in calls.items():
        try:
            await call()
            raised[name] = None
        except Exception as error:
            raised[name] = error
    return raised


WRITING = {"grants.put_if", "sign_ins.slot", "sign_ins.put_if", "key_forms.put_if", "connections.put_if", "lease"}


def break_by_loop(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(path.name)


def break_by_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file, not a folder")


@pytest.mark.parametrize("spoil", [break_by_loop, break_by_file])
@pytest.mark.parametrize("what", ["home", "its folders"])
async def test_where_no_folder_can_be_made_every_call_answers_or_raises_a_store_error(
    home: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoiled = (
        [home]
        if what == "home"
        else [home / name for name in ("grants", "sign-ins", "key-forms", "connections", "leases")]
    )
    for path in spoiled:
        spoil(path)
    raised = await every_call(FileStore(home))
    assert {name for name, error in raised.items() if error is not None} >= WRITING
    for name, error in raised.items():
        assert error is None or isinstance(error, StoreError), (name, error)
        assert error is None or str(home) in str(error)


_RACE = """
import asyncio, sys
from pathlib import Path
from mcp_auth.stores.base import Store
from mcp_auth.stores.files import FileBackend, FileStore
from tests.mcp_auth.stores.backends import connection, sign_in

async def main():
    store = FileStore(Path(sys.argv[1]))
    slots = [await store.sign_ins.slot("shared", f"server-{number}") for number in range(50)]
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for slot in slots:
        won += await store.sign_ins.put_if(sign_in(slot)) is not None
    won += await store.profiles.put_if(connection()) is not None
    print(won)

asyncio.run(main())
"""


@pytest.mark.parametrize("has_hard_links", [True, False], ids=["hard links", "no hard links"])
def test_of_processes_that_create_the_same_records_each_has_one_winner(home: Path, has_hard_links: bool) -> None:
    without = "import os\ndef link(*_): raise PermissionError(1, 'no hard links here')\nos.link = link\n"
    racers = [python(_RACE if has_hard_links else without + _RACE, home) for _ in range(4)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=PATIENCE) for racer in racers]

    assert sum(int(won) for won, _ in answers) == 51, answers
    assert not list(home.rglob("*.tmp"))


@pytest.fixture
def plain_user() -> Iterator[Path]:
    """A folder of an account that rights apply to: root reads everything."""
    folder = Path(tempfile.mkdtemp(prefix="slash-mcp-"))
    is_root = os.geteuid() == 0
    # Loaded while everything can be read still.
    import filelock  # noqa: F401

    if is_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        for path, _, _ in os.walk(folder):
            Path(path).chmod(0o700)
        rmtree(folder)


@pytest.mark.parametrize("mode", [0o000, 0o500])
async def test_without_rights_every_call_answers_or_raises_a_store_error_and_loses_nothing(
    plain_user: Path, mode: int
) -> None:
    home = plain_user / "home"
    first = await FileStore(home).grants.put_if(grant())
    assert first is not None
    whole = grant_file(home).read_bytes()
    folders = [Path(path) for path, _, _ in os.walk(home)]
    for folder in reversed(folders):
        folder.chmod(mode)
    raised = await every_call(FileStore(home))
    for folder in folders:
        folder.chmod(0o700)
    for name, error in raised.items():
        assert error is None or isinstance(error, StoreError), (name, error)
    assert (raised["grants.get"] is None) == (mode == 0o500)
    assert isinstance(raised["sign_ins.put_if"], StoreError)
    assert grant_file(home).read_bytes() == whole


async def test_an_unreadable_grant_is_an_error_and_stays(plain_user: Path) -> None:
    home = plain_user / "home"
    assert await FileStore(home).grants.put_if(grant()) is not None
    path = grant_file(home)
    whole = path.read_bytes()
    path.chmod(0o000)
    store = FileStore(home)
    for call in (store.grants.get("shared", "notes", URL), store.grants.put_if(grant())):
        with pytest.raises(StoreError, match="cannot be read"):
            await call
    # The list of all is not stopped by it
    assert await store.grants.list() == []
    path.chmod(0o600)
    assert path.read_bytes() == whole


async def test_a_full_disk_is_an_error_and_the_old_grant_stays(home: Path, store: FileStore) -> None:
    import resource

    first = await store.grants.put_if(grant())
    assert first is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            await store.grants.put_if(msgspec.structs.replace(first, tokens=tokens("2")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert await FileStore(home).grants.get("shared", "notes", URL) == first
    assert [path.name for path in (home / "grants").glob(".*.tmp")] == []


async def test_what_a_killed_writer_left_is_swept_after_an_hour(home: Path, store: FileStore) -> None:
    await store.grants.put_if(grant())
    old, young = home / "grants" / ".old.tmp", home / "grants" / ".young.tmp"
    for path in (old, young):
        path.write_text("half")
    os.utime(old, (1, 1))
    assert await asyncio.to_thread(FileStore(home).grants.write, grant("other")) is not None
    assert (old.exists(), young.exists()) == (False, True)


async def test_no_write_leaves_a_file_open(home: Path, store: FileStore) -> None:
    kept = grant()
    open_files = 0
    for turn in range(20):
        written = await store.grants.put_if(kept)
        assert written is not None
        kept = written
        if turn == 4:
            # By now every lock has its file.
            open_files = len(os.listdir("/proc/self/fd"))
    assert len(os.listdir("/proc/self/fd")) <= open_files


async def test_every_change_of_a_grant_shows_to_who_remembers_one(store: FileStore) -> None:
    seen = [store.grants.written]
    kept = await store.grants.put_if(grant())
    assert kept is not None
    seen.append(store.grants.written)
    assert await store.grants.delete_if(kept)
    seen.append(store.grants.written)
    assert await store.grants.get("shared", "notes", URL) is None
    assert len({id(one) for one in seen}) == 3 and store.grants.written is seen[-1]


async def test_a_grant_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append("folder" if path.is_dir() else "file")
        fsync(descriptor)

    def named(before: Path, after: Path) -> None:
        done.append("name")
        replace(before, after)

    first = await store.grants.put_if(grant(owner="person:ann"))
    assert first is not None
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", named)
    assert await store.grants.put_if(first) is not None
    assert done == ["file", "name", "folder"]
    done.clear()
    # What is only known of a server may be lost in a power cut
    known = await store.profiles.put_if(connection())
    assert known is not None and await store.profiles.put_if(known) is not None
    assert done == ["name", "name"]


# -- open and due ----------------------------------------------------------------------------


async def slots_of(store: FileStore, count: int) -> None:
    for number in range(count):
        slot = await store.sign_ins.slot("shared", f"n{number}")
        assert (
            await store.sign_ins.put_if(sign_in(slot, f"n{number}", binding=BrowserBinding(code=f"code{number}")))
            is not None
        )


async def costs(store: FileStore) -> int:
    """The system calls of a look for a code, and of one for ends."""

    async def look() -> None:
        assert len(await store.sign_ins.open(code="code3")) == 1
        assert await store.sign_ins.open(principal="telegram:9") == []
        assert await store.sign_ins.due(1.0) == []

    await look()
    return len(await system_calls(look))


async def test_a_look_costs_the_same_however_many_sign_ins_are_open(tmp_path: Path) -> None:
    few, many = FileStore(tmp_path / "few"), FileStore(tmp_path / "many")
    await slots_of(few, 5)
    await slots_of(many, 200)
    assert await costs(many) == await costs(few) < 8


async def test_a_log_that_begins_anew_loses_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_LOG_MAX", 300)
    store, reader = FileStore(home), FileStore(home)
    place: object = None
    for number in range(40):
        slot = await store.sign_ins.slot("shared", f"n{number}")
        assert await store.sign_ins.put_if(sign_in(slot, f"n{number}")) is not None
        place, keys = await reader.sign_ins.changes(place)
        assert keys is None or keys == [slot]
        if number % 7 == 0:
            assert len(await reader.sign_ins.open()) == number + 1
    assert len(await reader.sign_ins.open()) == 40


async def test_a_home_of_before_has_no_log_and_is_looked_through(home: Path, store: FileStore) -> None:
    await slots_of(store, 3)
    (home / "sign-ins" / ".changes").unlink()
    other = FileStore(home)
    assert len(await other.sign_ins.open()) == len(await store.sign_ins.open()) == 3
    slot = await store.sign_ins.slot("shared", "new")
    assert await store.sign_ins.put_if(sign_in(slot, "new")) is not None
    assert len(await other.sign_ins.open()) == len(await store.sign_ins.open()) == 4


async def test_news_that_goes_with_a_grant_is_on_the_disk_before_it(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await store.grants.put_if(grant(origin=Requester(principal="telegram:1", chat={"platform": "telegram"})))
    assert first is not None
    row = await store.grants.news_of(first, 1.0)
    done: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(path.name if path.is_dir() else f"a file in {path.parent.name}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    assert await store.grants.put_if(first, row) is not None
    assert done == ["a file in outbox", "outbox", "a file in grants", "grants"]
