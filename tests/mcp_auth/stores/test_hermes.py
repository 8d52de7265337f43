"""The mirror for Hermes: written after the truth, adopted when Hermes changed it, repaired on read."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from filelock import FileLock

from mcp_auth.records import NO_TROUBLE, Grant
from mcp_auth.stores import hermes
from mcp_auth.stores.files import FileStore
from tests.mcp_auth.stores.backends import ISSUER, METADATA, URL, grant, tokens


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> FileStore:
    return FileStore(home)


def mirror(home: Path, name: str = "notes") -> Path:
    return home / "mcp-tokens" / f"{name}.json"


def hermes_writes(home: Path, name: str = "notes", **members: Any) -> None:
    """As Hermes does: the whole file replaced, `exclude_none`, an absolute expiry and the issuer beside."""
    document = {
        "access_token": "at-hermes",
        "token_type": "Bearer",
        "expires_in": 3600,
        "refresh_token": "rt-hermes",
        "expires_at": time.time() + 3600,
        "hermes_issuer": ISSUER,
        **members,
    }
    path = mirror(home, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".hermes-tmp")
    temporary.write_text(json.dumps({k: v for k, v in document.items() if v is not None}, indent=2))
    temporary.replace(path)


async def put(store: FileStore, record: Grant) -> Grant:
    written = await store.grants.put_if(record)
    assert written is not None
    return written


async def get(store: FileStore) -> Grant:
    found = await store.grants.get("shared", "notes", URL)
    assert found is not None
    return found


def access(found: Grant | None) -> str | None:
    return found.tokens.access_token if found is not None and found.tokens is not None else None


# -- written ---------------------------------------------------------------------------------


async def test_the_three_files_have_the_form_that_hermes_reads(home: Path, store: FileStore) -> None:
    from mcp.shared.auth import OAuthClientInformationFull, OAuthMetadata, OAuthToken

    await put(store, grant())
    document = json.loads(mirror(home).read_bytes())
    assert document == {
        "access_token": "at-1",
        "token_type": "Bearer",
        "expires_in": 100_000_000,
        "expires_at": 2e9,
        "scope": "read",
        "refresh_token": "rt-1",
        "hermes_issuer": ISSUER,
    }
    # And the models that Hermes loads them with take them
    assert OAuthToken.model_validate(document).refresh_token == "rt-1"
    client = OAuthClientInformationFull.model_validate_json((home / "mcp-tokens/notes.client.json").read_bytes())
    assert (client.client_id, client.client_secret) == ("client-1", "client-secret")
    metadata = OAuthMetadata.model_validate_json((home / "mcp-tokens/notes.meta.json").read_bytes())
    assert str(metadata.token_endpoint) == f"{ISSUER}/token"


async def test_only_shared_grants_are_mirrored(home: Path, store: FileStore) -> None:
    await put(store, grant(owner="person:ann"))
    assert not (home / "mcp-tokens").exists()
    hermes_writes(home)
    found = await store.grants.get("person:ann", "notes", URL)
    assert access(found) == "at-1"
    assert await store.grants.get("principal:cli:local", "notes", URL) is None


async def test_tokens_of_another_scheme_are_not_mirrored_as_bearer_tokens(home: Path, store: FileStore) -> None:
    """Those before them are spent, so that Hermes must not go on with what its file holds."""
    stored = await put(store, grant(tokens=tokens()))
    assert json.loads(mirror(home).read_text())["token_type"] == "Bearer"

    other = msgspec.structs.replace(tokens("dpop"), token_type="DPoP")
    await put(store, msgspec.structs.replace(stored, tokens=other))

    assert list(mirror(home).parent.glob("notes*json")) == []
    assert access(await get(store)) == "at-dpop"
    # Nothing is missing that every read would have to make good
    assert store.grants.read("shared", "notes", URL)[1] is False
    assert not mirror(home).exists()


async def test_a_file_of_spent_bearer_tokens_that_could_not_be_removed_is_removed_by_a_later_read(
    home: Path, store: FileStore
) -> None:
    stored = await put(store, grant(tokens=tokens()))
    before = mirror(home).read_bytes()
    other = msgspec.structs.replace(tokens("dpop"), token_type="DPoP")
    await put(store, msgspec.structs.replace(stored, tokens=other))
    mirror(home).write_bytes(before)

    assert access(await get(store)) == "at-dpop"

    assert not mirror(home).exists()


async def test_tokens_of_another_scheme_in_a_file_of_hermes_are_not_adopted(home: Path, store: FileStore) -> None:
    hermes_writes(home, token_type="DPoP")
    assert await store.grants.get("shared", "notes", URL) is None
    hermes_writes(home, token_type="bearer")
    assert access(await get(store)) == "at-hermes"


async def test_a_deleted_grant_leaves_no_mirror_to_come_back_from(home: Path, store: FileStore) -> None:
    assert await store.grants.delete_if(await put(store, grant()))
    assert list((home / "mcp-tokens").glob("*.json")) == []
    assert await FileStore(home).grants.get("shared", "notes", URL) is None


# -- adopted ---------------------------------------------------------------------------------


async def test_tokens_that_hermes_refreshed_are_adopted_and_doubts_are_over(home: Path, store: FileStore) -> None:
    troubled = {name: 2e9 for name, good in NO_TROUBLE.items() if good is None and name.startswith("refresh")}
    told = {"reauthorization": "ended", "reauthorization_told": True, "access_refused_at": 1.0, "last_error": "no"}
    await put(store, grant(**troubled, **told, refresh_failures=3, refresh_refused=True, account="ada"))
    hermes_writes(home)
    found = await get(store)
    assert {name: getattr(found, name) for name in NO_TROUBLE} == NO_TROUBLE
    assert not found.reauthorization_told
    assert found.tokens is not None
    assert (found.tokens.access_token, found.tokens.refresh_token) == ("at-hermes", "rt-hermes")
    # What Hermes does not write is kept
    assert (found.tokens.scope, found.account, found.registration) == ("read", "ada", grant().registration)
    # And the next write stores it for good
    again = await put(store, found)
    assert access(await get(FileStore(home))) == "at-hermes"
    assert again.version == 2


async def test_an_answer_of_hermes_without_a_refresh_token_keeps_ours(home: Path, store: FileStore) -> None:
    await put(store, grant())
    hermes_writes(home, refresh_token=None, expires_at=None, expires_in=60)
    found = await get(store)
    assert found.tokens is not None and found.tokens.refresh_token == "rt-1"
    assert found.tokens.expires_at == pytest.approx(mirror(home).stat().st_mtime + 60)


async def test_a_sign_in_that_hermes_made_is_a_grant_here(home: Path, store: FileStore) -> None:
    hermes_writes(home)
    (home / "mcp-tokens/notes.meta.json").write_bytes(msgspec.json.encode(METADATA))
    client = {"client_id": "hermes-client", "redirect_uris": ["http://127.0.0.1:1/callback"], "issuer": ISSUER}
    (home / "mcp-tokens/notes.client.json").write_text(json.dumps(client))
    found = await get(store)
    assert (found.version, found.owner, found.server_url, found.issuer) == (0, "shared", URL, ISSUER)
    assert found.metadata is not None and found.metadata.token_endpoint == f"{ISSUER}/token"
    assert found.registration is not None and found.registration.client_id == "hermes-client"
    assert (await put(store, found)).version == 1
    assert await store.grants.delete_if(await get(store))
    assert await store.grants.get("shared", "notes", URL) is None


@pytest.mark.parametrize(
    ("client", "metadata", "expected"),
    [
        ({"client_id": "c", "redirect_uris": ["http://127.0.0.1:1/callback"]}, True, "http://127.0.0.1:1/callback"),
        ({"client_id": "c", "issuer": ISSUER}, True, ""),
        ({"client_id": "c", "redirect_uris": []}, True, ""),
        ({"client_id": "c", "redirect_uris": [7]}, True, ""),
        ({"client_id": "c", "redirect_uris": [""]}, True, ""),
        ({"client_id": "c", "redirect_uris": "http://127.0.0.1:1/"}, True, ""),
        ({"client_id": "c", "redirect_uris": None}, True, ""),
        ({"client_id": "c", "issuer": "https://other-login.example"}, True, None),
        ({"client_id": "c", "issuer": f"{ISSUER}/"}, True, ""),
        ({"client_id": ""}, True, None),
        ({"client_id": 7}, True, None),
        ({}, True, None),
        ([], True, None),
        ("client_id", True, None),
        (7, True, None),
        (None, True, None),
        ({"client_id": "c"}, False, None),
    ],
)
async def test_a_client_file_of_hermes_counts_as_far_as_it_says_something(
    home: Path, store: FileStore, client: Any, metadata: bool, expected: str | None
) -> None:
    """`expected`: the redirect URI of the registration; None: there is no registration, and the tokens count alone."""
    hermes_writes(home)
    if metadata:
        (home / "mcp-tokens/notes.meta.json").write_bytes(msgspec.json.encode(METADATA))
    (home / "mcp-tokens/notes.client.json").write_text(json.dumps(client))
    found = await get(store)
    assert access(found) == "at-hermes"
    if expected is None:
        assert found.registration is None
        return
    assert found.registration is not None
    assert (found.registration.client_id, found.registration.redirect_uri) == ("c", expected)


@pytest.mark.parametrize(
    ("member", "value", "kept"),
    [
        ("client_secret", "s3cret", "s3cret"),
        ("client_secret", "", None),
        ("client_secret", 7, None),
        ("token_endpoint_auth_method", "none", "none"),
        ("token_endpoint_auth_method", ["none"], None),
        ("client_secret_expires_at", 0, None),
        ("client_secret_expires_at", 2e9, 2e9),
        ("client_secret_expires_at", "soon", None),
    ],
)
async def test_a_member_of_another_type_in_hermes_client_file_counts_as_missing(
    home: Path, store: FileStore, member: str, value: Any, kept: Any
) -> None:
    hermes_writes(home)
    (home / "mcp-tokens/notes.meta.json").write_bytes(msgspec.json.encode(METADATA))
    (home / "mcp-tokens/notes.client.json").write_text(json.dumps({"client_id": "c", member: value}))
    found = (await get(store)).registration
    assert found is not None
    assert getattr(found, member) == kept


async def test_a_new_sign_in_takes_the_place_of_the_grant_and_of_its_mirror(home: Path, store: FileStore) -> None:
    """Its grant knows nothing of the mirror that is there, and Hermes has written nothing since."""
    first = await put(store, grant())
    await put(store, grant(name="2", version=first.version))
    assert access(await get(FileStore(home))) == "at-2"
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-2"
    # Unless Hermes has: then whoever signs in again looks first
    hermes_writes(home)
    assert await store.grants.put_if(grant(name="3", version=2)) is None
    assert access(await get(FileStore(home))) == "at-hermes"


async def test_a_grant_that_only_hermes_stored_can_be_deleted(home: Path, store: FileStore) -> None:
    hermes_writes(home)
    assert await store.grants.delete_if(await get(store)) is True
    assert await store.grants.get("shared", "notes", URL) is None
    assert not mirror(home).exists()


async def test_the_mirror_is_bound_to_the_url_and_the_issuer(home: Path, store: FileStore) -> None:
    await put(store, grant())
    hermes_writes(home)
    elsewhere = await store.grants.get("shared", "notes", "https://elsewhere.example/mcp")
    assert access(elsewhere) == "at-1"
    hermes_writes(home, hermes_issuer="https://other-login.example")
    assert access(await get(store)) == "at-1"


async def test_the_slash_of_an_empty_path_makes_no_other_issuer(home: Path, store: FileStore) -> None:
    await put(store, grant())
    hermes_writes(home, hermes_issuer=f"{ISSUER}/")
    assert access(await get(store)) == "at-hermes"


async def test_files_of_hermes_that_contradict_each_other_are_no_grant(home: Path, store: FileStore) -> None:
    hermes_writes(home, hermes_issuer="https://other-login.example")
    (home / "mcp-tokens/notes.meta.json").write_bytes(msgspec.json.encode(METADATA))
    assert await store.grants.get("shared", "notes", URL) is None
    # A sign-in of our own takes their place
    assert access(await put(store, grant())) == "at-1"
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-1"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'"x"', b'{"access_token":7}', b"\xff", b'{"access_token":' + b"[" * 100_000]
)
async def test_a_torn_file_of_hermes_is_not_adopted_but_repaired(home: Path, store: FileStore, data: bytes) -> None:
    await put(store, grant())
    mirror(home).write_bytes(data)
    assert access(await get(FileStore(home))) == "at-1"
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-1"


async def test_a_missing_file_is_written_again_on_read(home: Path, store: FileStore) -> None:
    await put(store, grant())
    mirror(home).unlink()
    assert access(await get(store)) == "at-1"
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-1"


# -- who was last ----------------------------------------------------------------------------


async def test_after_a_crash_between_truth_and_mirror_the_truth_counts(home: Path, store: FileStore) -> None:
    # Given a refreshed grant whose writer died before it came to the mirror
    first = await put(store, grant(name="1"))
    old = mirror(home).read_bytes()
    second = await put(store, msgspec.structs.replace(first, tokens=tokens("2")))
    mirror(home).write_bytes(old)
    # Then the old tokens in the mirror are not taken for Hermes' news
    assert access(await get(FileStore(home))) == "at-2"
    # But the mirror is brought up to date
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-2"
    assert (await get(store)).version == second.version


async def test_after_two_writes_that_did_not_reach_the_mirror_the_truth_counts(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hermes, "_MIRROR_WAIT", 0.05)
    first = await put(store, grant(name="1"))
    # Hermes' lock is taken, so that neither write gets to the mirror
    lock = FileLock(f"{mirror(home)}.refresh.lock", is_singleton=False)
    with lock:
        second = await put(store, msgspec.structs.replace(first, tokens=tokens("2")))
        await put(store, msgspec.structs.replace(second, tokens=tokens("3")))
        assert json.loads(mirror(home).read_bytes())["access_token"] == "at-1"
        assert access(await get(FileStore(home))) == "at-3"
    assert access(await get(FileStore(home))) == "at-3"
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-3"


async def test_a_write_does_not_bury_what_hermes_wrote_since_the_read(home: Path, store: FileStore) -> None:
    read = await put(store, grant())
    hermes_writes(home)
    # It lost the race, as against any other writer
    assert await store.grants.put_if(msgspec.structs.replace(read, account="ada")) is None
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-hermes"
    found = await get(store)
    written = await put(store, msgspec.structs.replace(found, account="ada"))
    assert (access(written), written.account) == ("at-hermes", "ada")


@pytest.mark.parametrize(
    ("access_token", "refresh_token", "adopted"),
    [("at-hermes", "rt-hermes", True), ("at-hermes", None, True), (None, "rt-hermes", True), (None, None, False)],
    ids=["both", "no-rotation", "refresh-alone", "neither"],
)
async def test_hermes_file_is_adopted_when_any_of_its_tokens_is_another(
    home: Path, store: FileStore, access_token: str | None, refresh_token: str | None, adopted: bool
) -> None:
    first = await put(store, grant())
    assert first.tokens is not None
    ours = first.tokens
    wanted = (access_token or ours.access_token, refresh_token or ours.refresh_token)
    hermes_writes(home, access_token=wanted[0], refresh_token=wanted[1], scope="said-by-hermes")
    found = await get(store)
    assert found.tokens is not None
    assert (found.tokens.access_token, found.tokens.refresh_token) == wanted
    assert (found.tokens.scope == "said-by-hermes") is adopted


async def test_grants_and_their_mirror_are_on_the_disk_before_they_get_their_names(
    home: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.add(path.name if path.is_dir() else f"a file in {path.parent.name}")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    await put(store, grant())
    assert synced >= {"a file in grants", "a file in mcp-tokens"}


# -- locks -----------------------------------------------------------------------------------


@pytest.fixture
def lock_of_hermes(home: Path) -> Iterator[FileLock]:
    (home / "mcp-tokens").mkdir(parents=True, mode=0o700)
    lock = FileLock(home / "mcp-tokens" / "notes.json.refresh.lock", is_singleton=False)
    yield lock
    lock.release(force=True)


async def test_a_lease_waits_for_hermes_and_hermes_for_it(store: FileStore, lock_of_hermes: FileLock) -> None:
    from filelock import Timeout

    from mcp_auth.errors import Busy

    with lock_of_hermes, pytest.raises(Busy):
        async with store.grants.lease("shared", "notes", ttl=30, wait=0.05):
            pytest.fail("Hermes is refreshing")
    async with store.grants.lease("shared", "notes", ttl=30, wait=1):
        with pytest.raises(Timeout):
            lock_of_hermes.acquire(blocking=False)
        # Writing under the lease does not wait for the lease itself
        await put(store, grant())
        with pytest.raises(Timeout):
            lock_of_hermes.acquire(blocking=False)
    lock_of_hermes.acquire(blocking=False)
    # Owners that Hermes knows nothing of are not held up by it
    async with store.grants.lease("person:ann", "notes", ttl=30, wait=0.05):
        pass


async def test_the_mirror_is_written_under_the_lock_of_hermes_and_after_the_truth(
    home: Path, store: FileStore, lock_of_hermes: FileLock
) -> None:
    lock_of_hermes.acquire()
    writing = asyncio.create_task(store.grants.put_if(grant()))
    await asyncio.sleep(0.1)
    assert not mirror(home).exists()
    lock_of_hermes.release()
    written = await writing
    assert written is not None and mirror(home).exists()
    truth = next((home / "grants").glob("*.json"))
    assert truth.stat().st_mtime_ns <= mirror(home).stat().st_mtime_ns


async def test_a_mirror_that_cannot_be_written_costs_nobody_the_grant(
    home: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    # A folder where Hermes' file should be
    mirror(home).mkdir(parents=True)
    first = await put(store, grant(name="1"))
    second = await put(store, msgspec.structs.replace(first, tokens=tokens("2")))
    assert await get(store) == second
    assert await get(FileStore(home)) == second
    assert "Hermes does not see the grant of notes" in caplog.text and "at-" not in caplog.text
    mirror(home).rmdir()
    assert await get(store) == second
    assert json.loads(mirror(home).read_bytes())["access_token"] == "at-2"


async def test_a_mirror_that_cannot_be_deleted_is_said_and_nothing_is_half_deleted(
    home: Path, store: FileStore
) -> None:
    from mcp_auth.errors import StoreError

    written = await put(store, grant())
    mirror(home).unlink()
    mirror(home).mkdir()
    with pytest.raises(StoreError, match=r"notes\.json"):
        await store.grants.delete_if(written)
    assert await get(store) == written


async def test_a_write_that_leaves_the_tokens_alone_does_not_wait_for_hermes(
    home: Path, store: FileStore, lock_of_hermes: FileLock
) -> None:
    first = await put(store, grant())
    with lock_of_hermes:
        await put(store, msgspec.structs.replace(first, last_error="HTTP 503"))


@pytest.mark.parametrize("lacking", ["issuer", "authorization_endpoint", "token_endpoint"])
async def test_metadata_of_hermes_that_lacks_something_counts_as_none(
    home: Path, store: FileStore, lacking: str
) -> None:
    hermes_writes(home, hermes_issuer=None)
    document = {name: value for name, value in msgspec.to_builtins(METADATA).items() if name != lacking}
    (home / "mcp-tokens/notes.meta.json").write_bytes(msgspec.json.encode(document))
    found = await get(store)
    assert (access(found), found.metadata, found.issuer, found.registration) == ("at-hermes", None, None, None)


async def test_the_client_file_says_all_that_hermes_asks_of_a_client(home: Path, store: FileStore) -> None:
    first = await put(store, grant())
    assert first.registration is not None
    # With other tokens each time: a write that leaves them alone leaves the mirror alone
    for turn, secret in enumerate((None, "s3cret"), 2):
        registration = msgspec.structs.replace(
            first.registration,
            client_secret=secret,
            client_secret_expires_at=None if secret is None else 2_000_000_000.5,
            token_endpoint_auth_method=None if secret is None else "client_secret_basic",
        )
        changed = msgspec.structs.replace(await get(store), registration=registration, tokens=tokens(str(turn)))
        await put(store, changed)
        expected = {
            "client_id": registration.client_id,
            "redirect_uris": [registration.redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "issuer": registration.issuer,
        }
        if secret is not None:
            expected |= {"client_secret": secret, "client_secret_expires_at": 2_000_000_000}
            expected |= {"token_endpoint_auth_method": "client_secret_basic"}
        assert json.loads((home / "mcp-tokens/notes.client.json").read_bytes()) == expected


async def test_a_mirror_that_cannot_be_written_is_complained_of_once_until_it_can(
    home: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    def complaints() -> int:
        return sum("does not see the grant" in record.message for record in caplog.records)

    place = home / "mcp-tokens" / "notes.json"
    place.mkdir(parents=True)
    written = await put(store, grant(name="1"))
    for turn in range(2, 5):
        written = await put(store, msgspec.structs.replace(written, tokens=tokens(str(turn))))
    assert complaints() == 1
    place.rmdir()
    written = await put(store, msgspec.structs.replace(written, tokens=tokens("5")))
    place.unlink()
    place.mkdir()
    await put(store, msgspec.structs.replace(written, tokens=tokens("6")))
    assert complaints() == 2
