"""All JSON that servers send, made at random: whatever it holds, what follows is a sentence or a success."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import sentences
from gateway.sentences import auth_state, facts
from gateway.surfaces import in_chat
from mcp_auth import McpAuth
from mcp_auth.errors import CredentialsNeeded, McpAuthError
from mcp_auth.oauth.server_json import json_object
from mcp_auth.states import OPEN
from mcp_auth.status import ConnectionState, ConnectionStatus
from tests.homes import ME, open_auth, signed_in
from tests.servers.oauth import OAuthServer, authorize

# Lone surrogates, controls and characters of every plane among them.
TEXTS = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["", " ", "\ud800", "a\udfff b", "\x00", "http://[", "https://\ud800/", "javascript:alert(1)", "null", "0"]
)
NUMBERS = st.integers(-5, 5) | st.sampled_from([10**400, -(10**400), 2**63, 1e308, -0.0]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MISSING = object()


def changed(good: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """A good document with some members changed, missing or added; now and then any JSON, or none."""
    members = st.dictionaries(st.sampled_from(sorted(good)) | TEXTS, VALUES | st.just(MISSING), min_size=1, max_size=3)
    documents = members.map(lambda some: {k: v for k, v in {**good, **some}.items() if v is not MISSING})
    odd = st.sampled_from([b"", b"{", b'{"a":' * 50_000, b'{"expires_in":' + b"1" * 5000 + b"}", b"\xff\xfe{\x00}\x00"])
    return documents.map(_bytes) | VALUES.map(_bytes) | odd


def _bytes(document: Any) -> bytes:
    return json.dumps(document).encode()


def examples(count: int) -> Any:
    return settings(max_examples=count, suppress_health_check=[HealthCheck.function_scoped_fixture])


def in_a_folder(go: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    """In memory where the system has such a place: hundreds of homes are written, and each write is synced."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        asyncio.run(go(Path(folder)))


def check_words(*texts: str | None) -> None:
    """What is said to a person can be written down anywhere."""
    for text in texts:
        (text or "").encode()


async def check_states(auth: McpAuth) -> None:
    status = await auth.status("notes")
    check_words(
        *(in_chat(value) for row in facts(status, time.time()) for value in row), auth_state(status, time.time())
    )
    away = ConnectionStatus(ConnectionState.UNREACHABLE, detail=status.not_renewable)
    check_words(sentences.tested(status, away, 0.0).text)


async def sign_in(auth: McpAuth, oauth: OAuthServer) -> bool:
    """As a person does; False where it ended with a sentence. Nothing is left half done."""
    try:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
    except McpAuthError as error:
        check_words(str(error))
        return False
    check_words(started.link)
    if not started.link.startswith(f"{oauth.origin}/authorize?"):
        assert await auth.cancel("notes")
        return False
    redirect = await asyncio.to_thread(authorize, started.link)
    try:
        await auth.paste(redirect, ME.principal)
        return True
    except McpAuthError as error:
        check_words(str(error))
        return False
    finally:
        (record,) = await auth.store.sign_ins.list()
        # Either the answer did not count, and the right one still does, or it has ended
        assert record.status != "exchanging"


def documents(oauth: OAuthServer) -> dict[str, dict[str, Any]]:
    """What the server says when all is well, by path."""
    return {
        "/.well-known/oauth-protected-resource/mcp": {
            "resource": oauth.url,
            "authorization_servers": [oauth.issuer],
            "scopes_supported": ["read"],
            "resource_name": "Notes",
        },
        "/.well-known/oauth-authorization-server": {
            "issuer": oauth.issuer,
            "authorization_endpoint": f"{oauth.origin}/authorize",
            "token_endpoint": f"{oauth.origin}/token",
            "registration_endpoint": f"{oauth.origin}/register",
            "revocation_endpoint": f"{oauth.origin}/revoke",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "scopes_supported": ["read", "offline_access"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        },
        "/register": {
            "client_id": "c-1",
            "client_secret": "s-1",
            "client_secret_expires_at": 0,
            "token_endpoint_auth_method": "client_secret_post",
            "redirect_uris": ["http://127.0.0.1:1/callback"],
            "client_name": "slash-mcp",
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "scope": "read",
        },
        "/token": token_answer(),
    }


def token_answer() -> dict[str, Any]:
    return {
        "access_token": "at-new",
        "refresh_token": "rt-new",
        "token_type": "Bearer",
        "expires_in": 3600,
        "scope": "read",
        "id_token": "e30.e30.x",
        "error": None,
        "error_description": None,
        "authed_user": {"id": "U1"},
    }


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
        "/register",
        "/token",
    ],
)
@given(data=st.data())
@examples(25)
def test_a_sign_in_ends_with_a_sentence_or_a_success(oauth: OAuthServer, path: str, data: st.DataObject) -> None:
    oauth.reset()
    oauth.knobs.raw = {path: data.draw(changed(documents(oauth)[path]))}
    oauth.knobs.raw_status = data.draw(st.sampled_from([200, 200, 200, 201, 400, 401, 403, 500]))

    async def go(folder: Path) -> None:
        async with open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            await sign_in(auth, oauth)
            await check_states(auth)
            # And when the server has come to its senses, a sign-in works
            oauth.knobs.raw = {}
            started = await auth.sign_in("notes", "shared", ME, listen=False, fresh=True)
            await auth.paste(await asyncio.to_thread(authorize, started.link), ME.principal)
            assert all(record.status not in OPEN for record in await auth.store.sign_ins.list())

    in_a_folder(go)


@given(data=st.data())
@examples(60)
def test_a_refresh_leaves_no_spent_token_in_place(oauth: OAuthServer, data: st.DataObject) -> None:
    oauth.reset()
    body = data.draw(changed(token_answer()))
    oauth.knobs.raw_status = data.draw(st.sampled_from([200, 200, 200, 201, 400, 401, 403, 404, 429, 500]))
    ahead = 0.0

    async def go(folder: Path) -> None:
        nonlocal ahead
        servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
        async with open_auth(folder, servers, clock=lambda: time.time() + ahead) as auth:
            await signed_in(auth)
            oauth.knobs.raw = {"/token": body}
            ahead = 4000
            try:
                token: str | None = await auth.access_token("notes")
            except CredentialsNeeded as error:
                token = None
                check_words(str(error))
            grant = await auth.store.grants.get("shared", "notes", oauth.url)
            assert grant is not None and grant.tokens is not None
            said = json_object(body) or {}
            if said.get("refresh_token") == "rt-new":
                # Spent is what was sent
                assert grant.tokens.refresh_token == "rt-new"
            if token is not None:
                assert grant.tokens.access_token == token
            if said.get("access_token") == "at-new" and said.get("token_type") == "Bearer":
                assert token == "at-new"
            assert grant.refresh_mark is None
            await check_states(auth)

    in_a_folder(go)


@given(claims=changed({"email": "ada@example.com", "sub": "1", "name": "Ada"}))
@examples(15)
def test_an_id_token_of_any_kind_is_a_name_or_nothing(oauth: OAuthServer, claims: bytes) -> None:
    oauth.reset()
    token = f"e30.{base64.urlsafe_b64encode(claims[:4000]).decode().rstrip('=')}.x"
    oauth.knobs.raw = {"/token": _bytes({**token_answer(), "id_token": token})}

    async def go(folder: Path) -> None:
        async with open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            assert await sign_in(auth, oauth)
            await check_states(auth)

    in_a_folder(go)


@given(body=changed({"error": "invalid_request"}))
@examples(10)
def test_a_sign_out_is_one_whatever_is_said_to_the_revocation(oauth: OAuthServer, body: bytes) -> None:
    oauth.reset()

    async def go(folder: Path) -> None:
        async with open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            await signed_in(auth)
            oauth.knobs.raw = {"/revoke": body}
            result = await auth.logout("notes")
            assert result.deleted
            assert await auth.store.grants.get("shared", "notes", oauth.url) is None

    in_a_folder(go)


@given(
    body=changed(
        {"jsonrpc": "2.0", "id": 1, "result": {"tools": [{"name": "add", "inputSchema": {"type": "object"}}]}}
    ),
    status=st.sampled_from([200, 200, 400, 401, 403, 500]),
)
@examples(15)
def test_a_server_may_answer_anything(oauth: OAuthServer, body: bytes, status: int) -> None:
    oauth.reset()

    async def go(folder: Path) -> None:
        async with open_auth(folder, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            await signed_in(auth)
            oauth.knobs.raw, oauth.knobs.raw_status = {"/mcp": body}, status
            found = await auth.probe("notes", timeout=5)
            check_words(found.detail)
            oauth.knobs.raw = {}
            assert (await auth.probe("notes", insist=True)).tools is not None

    in_a_folder(go)


@given(VALUES)
def test_what_comes_through_the_door_can_be_stored_and_shown(value: Any) -> None:
    document = json_object(_bytes({"value": value}))
    assert document is not None
    json.dumps(document, ensure_ascii=False).encode()


def test_a_number_of_more_digits_than_python_reads_costs_nobody_the_document() -> None:
    assert json_object(b'{"access_token": "at", "expires_in": ' + b"1" * 5000 + b"}") == {
        "access_token": "at",
        "expires_in": float("inf"),
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a":' * 100_000, b"null"])
def test_what_is_no_object_is_none(body: bytes) -> None:
    assert json_object(body) is None
