"""A home as version 0.1.0 wrote it, byte for byte, is read, found again, and carried over."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_auth.core import McpAuth
from mcp_auth.stores.files import FileStore
from tests.homes import write_home

URL = "https://notes.example/mcp"
SLOT = "6ab5a8fd9e5ce729e05170070a0eff96"
GRANT = "grants/2bac538b76048b409427036501874ba8b205cb88d00d1f4733ba6bd93bc66663.json"
FILES = {
    GRANT: (
        b'{"server":"notes","owner":"shared","server_url":"https://notes.example/mcp","version":1,'
        b'"issuer":"https://login.example","tokens":{"access_token":"at-1","refresh_token":"rt-1",'
        b'"expires_at":2000000000.0,"obtained_at":1900000000.0,"scope":"read"},"account":"ann@example.com",'
        b'"signed_in_at":1800000000.0,'
        b'"mirror_sha256":"55c24eae556b212c14df13187723af13756bc2b2fc99e438f62f2604607fac2d"}'
    ),
    "mcp-tokens/notes.json": (
        b'{\n  "access_token": "at-1",\n  "token_type": "Bearer",\n  "expires_in": 100000000,\n'
        b'  "expires_at": 2000000000.0,\n  "scope": "read",\n  "refresh_token": "rt-1",\n'
        b'  "hermes_issuer": "https://login.example"\n}'
    ),
    "sign-ins/.salt": (
        b"\x8coL\xbe\x1f\xf4\xecq\x1d|\x03\xcb\x81\xb2\x03.t\xcb\x12r\x93},\xf2\x1a\xcb\t\xcf6\x1a\x9c\x02"
    ),
    f"sign-ins/{SLOT}.json": (
        b'{"id":"6ab5a8fd9e5ce729e05170070a0eff96","server":"notes","owner":"shared","status":"done","origin":'
        b'{"principal":"telegram:1","display_name":"Ann","chat":{"platform":"telegram","data":{"chat":7},'
        b'"private":true}},"created_at":1900000000.0,"expires_at":1900000600.0,"version":2,"claimed_at":1900000055.0,'
        b'"ended_at":1900000060.0,"outcome":"Signed in to notes.","server_url":"https://notes.example/mcp",'
        b'"issuer":"https://login.example","metadata":{"issuer":"https://login.example","authorization_endpoint":'
        b'"https://login.example/authorize","token_endpoint":"https://login.example/token"},"registration":'
        b'{"client_id":"client-1","issuer":"https://login.example","source":"dynamic","redirect_uri":'
        b'"http://127.0.0.1:8765/callback","client_secret":"client-secret"}}'
    ),
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = write_home(tmp_path, {"notes": {"url": URL, "auth": "oauth"}})
    for name, data in FILES.items():
        path = home / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
    return home


async def test_its_grant_is_read_and_the_file_of_hermes_is_known_for_ours(home: Path) -> None:
    store = FileStore(home)
    found = await store.grants.get("shared", "notes", URL)
    assert found is not None and found.tokens is not None
    assert (found.version, found.account, found.tokens.access_token) == (1, "ann@example.com", "at-1")
    assert (home / GRANT).read_bytes() == FILES[GRANT]
    # What Hermes wrote since is its news, and the next write keeps it
    path = home / "mcp-tokens" / "notes.json"
    path.write_bytes(path.read_bytes().replace(b"at-1", b"at-2").replace(b"rt-1", b"rt-2"))
    renewed = await FileStore(home).grants.get("shared", "notes", URL)
    assert renewed is not None and renewed.tokens is not None and renewed.tokens.refresh_token == "rt-2"
    assert (await FileStore(home).grants.put_if(renewed)) is not None


async def test_its_sign_ins_are_found_by_their_slot_and_go_after_a_day_but_not_who_signed_in(home: Path) -> None:
    clock = [1_900_000_100.0]
    async with McpAuth.open(home=home, clock=lambda: clock[0]) as auth:
        assert await auth.store.sign_ins.slot("shared", "notes") == SLOT
        kept = await auth.store.sign_ins.latest("shared", "notes")
        assert kept is not None and kept.status == "done"
        await auth.sweep()
        assert await auth.store.sign_ins.get(SLOT) is not None
        clock[0] += 86_400
        await auth.sweep()
        assert await auth.store.sign_ins.get(SLOT) is None
        grant = await auth.store.grants.get("shared", "notes", URL)
        # Whose chat is to hear of its end
        assert grant is not None and grant.origin is not None
        assert grant.origin.principal == "telegram:1"
        row = await auth.store.grants.news_of(grant, clock[0])
        assert row is not None and row.origin.chat == {"platform": "telegram", "data": {"chat": 7}, "private": True}
