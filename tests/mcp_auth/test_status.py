"""The status: every state of both axes by its evidence, and the one command that comes next."""

from __future__ import annotations

import asyncio
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from mcp_auth.config.models import OAuthOptions, Server, ToolFilter
from mcp_auth.errors import ClientRegistrationNeeded, NotAllowed, SignInNeeded
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import (
    Grant,
    RefreshMark,
    Registration,
    Requester,
    ServerMetadata,
    ServerProfile,
    SignIn,
    Status,
    Tokens,
)
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus, local_status
from tests.homes import ME, open_auth, signed_in
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer

NOW = 1_900_000_000.0
URL = "https://notes.example/mcp"
METADATA = ServerMetadata(issuer="https://i", authorization_endpoint="https://i/a", token_endpoint="https://i/t")
CLIENT = Registration(client_id="c", issuer="https://i", source="dynamic", redirect_uri="http://127.0.0.1:1/callback")
OAUTH = Server(name="notes", url=URL, auth="oauth")
KEYED = Server(name="notes", url=URL, headers={"Authorization": "Bearer ${KEY}"})
OPEN = Server(name="notes", url=URL)
STDIO = Server(name="notes", command="npx", args=("-y", "thing"), transport="stdio")


def grant(expires_in: float | None = 3600, refresh_token: str | None = "rt", **fields: Any) -> Grant:
    ends = None if expires_in is None else NOW + expires_in
    tokens = Tokens(access_token="at", refresh_token=refresh_token, expires_at=ends, scope="read")
    values = {"server_url": URL, "issuer": "https://i", "account": "ada", "tokens": tokens, **fields}
    return Grant(server="notes", owner="shared", metadata=METADATA, registration=CLIENT, **values)


def mark(count: int) -> RefreshMark:
    return RefreshMark(token_sha256="0", count=count)


def sign_in(status: Status = "started", expires_in: float = 300, url: str = URL, **fields: Any) -> SignIn:
    return SignIn(
        id="0" * 32,
        server="notes",
        owner="shared",
        server_url=url,
        status=status,
        origin=Requester(principal="cli:local"),
        created_at=NOW - 300,
        expires_at=NOW + expires_in,
        issuer="https://i",
        metadata=METADATA,
        registration=CLIENT,
        **fields,
    )


def known(needs_sign_in: bool | None = True, **fields: Any) -> ServerProfile:
    return ServerProfile(server_url=URL, needs_sign_in=needs_sign_in, **fields)


@dataclass
class Case:
    """What is stored, and what the status says of it."""

    state: AuthState
    next: str | None
    server: Server = OAUTH
    grant: Grant | None = None
    sign_in: SignIn | None = None
    connection: ServerProfile | None = None
    missing: tuple[str, ...] = ()
    detail: str | None = None
    expires_at: float | None = None
    account: str | None = None


A = AuthState
AUTH, KEY, TEST = Next("auth", "notes"), Next("key", "notes"), Next("test", "notes")
WRONG = Server(name="notes", url=URL, problem="url must be text", enabled=False)
OFF = Server(name="notes", url=URL, auth="oauth", enabled=False)
CASES = {
    # misconfigured: why; before anything else
    "bad-entry": Case(A.MISCONFIGURED, None, WRONG, grant(), missing=("KEY",), detail="url must be text"),
    "disabled": Case(A.DISABLED, None, OFF, grant(), sign_in(), missing=("KEY",)),
    # keys
    "key-missing": Case(A.KEY_MISSING, KEY, KEYED, missing=("KEY",), detail="KEY"),
    "keys-missing": Case(A.KEY_MISSING, KEY, STDIO, missing=("A", "B"), detail="A, B"),
    "client-secret-missing": Case(A.KEY_MISSING, KEY, OAUTH, missing=("SECRET",), detail="SECRET"),
    "key-set": Case(A.KEY_SET, TEST, KEYED),
    "literal-header": Case(A.KEY_SET, TEST, Server(name="notes", url=URL, headers={"X": "y"})),
    "key-in-env": Case(A.KEY_SET, TEST, Server(name="notes", command="x", env={"K": "${K}"}, transport="stdio")),
    # nothing needed
    "stdio": Case(A.NONE_NEEDED, TEST, STDIO),
    "stdio-with-plain-env": Case(
        A.NONE_NEEDED, TEST, Server(name="notes", command="x", env={"K": "v"}, transport="stdio")
    ),
    "open-server": Case(A.NONE_NEEDED, TEST, OPEN, connection=known(False)),
    "never-looked-at": Case(A.NONE_NEEDED, TEST, OPEN),
    # sign-in needed
    "no-grant": Case(A.SIGN_IN_NEEDED, AUTH),
    "found-to-need-one": Case(A.SIGN_IN_NEEDED, AUTH, OPEN, connection=known()),
    "grant-of-another-url": Case(A.SIGN_IN_NEEDED, AUTH, grant=grant(server_url="https://elsewhere")),
    "grant-without-tokens": Case(A.SIGN_IN_NEEDED, AUTH, grant=grant(tokens=None)),
    "link-expired": Case(A.SIGN_IN_NEEDED, AUTH, sign_in=sign_in(expires_in=-1)),
    "cancelled": Case(A.SIGN_IN_NEEDED, AUTH, sign_in=sign_in("cancelled")),
    "failed": Case(
        A.SIGN_IN_NEEDED,
        AUTH,
        sign_in=sign_in("failed", end=Outcome("failed", "It broke.")),
        detail="It broke.",
    ),
    "sign-in-of-another-url": Case(A.SIGN_IN_NEEDED, AUTH, sign_in=sign_in(url="https://elsewhere")),
    # sign-in open: until when
    "open": Case(A.SIGN_IN_OPEN, AUTH, sign_in=sign_in(), expires_at=NOW + 300),
    "opened": Case(A.SIGN_IN_OPEN, AUTH, sign_in=sign_in("opened"), expires_at=NOW + 300),
    "exchanging": Case(A.SIGN_IN_OPEN, AUTH, sign_in=sign_in("exchanging"), expires_at=NOW + 300),
    "open-after-dead-grant": Case(A.SIGN_IN_OPEN, AUTH, grant=grant(-1, None), sign_in=sign_in(), expires_at=NOW + 300),
    # signed in: who, and until when where it ends
    "signed-in": Case(A.SIGNED_IN, TEST, grant=grant(), account="ada"),
    "expired-but-refreshable": Case(A.SIGNED_IN, TEST, grant=grant(-1), account="ada"),
    "no-expiry": Case(A.SIGNED_IN, TEST, grant=grant(None, None), account="ada"),
    "ends": Case(A.SIGNED_IN, TEST, grant=grant(600, None), account="ada", expires_at=NOW + 600),
    "good-while-signing-in-again": Case(A.SIGNED_IN, TEST, grant=grant(), sign_in=sign_in(), account="ada"),
    "dead-refresh-living-access": Case(
        A.SIGNED_IN,
        AUTH,
        grant=grant(600, reauthorization="ended"),
        account="ada",
        expires_at=NOW + 600,
    ),
    "dead-client-living-access": Case(
        A.SIGNED_IN,
        AUTH,
        grant=grant(600, registration_dead=True),
        account="ada",
        expires_at=NOW + 600,
    ),
    "one-lost-answer": Case(A.SIGNED_IN, TEST, grant=grant(-1, refresh_mark=mark(1)), account="ada"),
    # reauthorization needed: why
    "ended": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(-1, None),
        account="ada",
        detail="the access has ended, and there is no refresh token",
    ),
    "revoked": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(-1, reauthorization="revoked"),
        account="ada",
        detail="revoked",
    ),
    "refused-by-the-server": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(reauthorization="refused", reauthorization_now=True),
        account="ada",
        detail="refused",
    ),
    "client-forgotten": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(-1, registration_dead=True),
        account="ada",
        detail="the authorization server no longer knows our client",
    ),
    "two-lost-answers": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(-1, refresh_mark=mark(2)),
        account="ada",
        detail="two refresh requests got no answer",
    ),
    "more-access": Case(
        A.REAUTHORIZATION_NEEDED,
        AUTH,
        grant=grant(step_up_scope="write"),
        account="ada",
        detail="it asks for more access: write",
    ),
    # client registration needed: why
    "no-registration": Case(
        A.CLIENT_REGISTRATION_NEEDED,
        AUTH,
        connection=known(registration_needed="i does not"),
        detail="i does not",
    ),
    "registered-by-hand": Case(
        A.SIGN_IN_NEEDED,
        AUTH,
        Server(name="notes", url=URL, auth="oauth", oauth=OAuthOptions(client_id="mine")),
        connection=known(registration_needed="i does not"),
    ),
    "signed-in-before-the-list-closed": Case(
        A.SIGNED_IN,
        TEST,
        grant=grant(),
        connection=known(registration_needed="i does not"),
        account="ada",
    ),
}


def status_of(case: Case) -> ServerStatus:
    return local_status(
        case.server, grant=case.grant, sign_in=case.sign_in, connection=case.connection, missing=case.missing, now=NOW
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_a_state_has_its_evidence_and_one_next_command(case: Case) -> None:
    status = status_of(case)
    assert (status.auth, status.next, status.detail) == (case.state, case.next, case.detail)
    assert (status.expires_at, status.account) == (case.expires_at, case.account)
    assert status.connection == ConnectionStatus()


def test_every_state_is_shown_above() -> None:
    assert {case.state for case in CASES.values()} == set(AuthState)


@given(
    server=st.sampled_from([case.server for case in CASES.values()]),
    grant=st.sampled_from([case.grant for case in CASES.values()]),
    sign_in=st.sampled_from([case.sign_in for case in CASES.values()]),
    connection=st.sampled_from([case.connection for case in CASES.values()]),
    missing=st.sampled_from([(), ("KEY",)]),
)
def test_any_evidence_gives_one_state_and_one_command(server: Server, **evidence: Any) -> None:
    status = local_status(server, now=NOW, **evidence)
    # What only an editor can change has no command.
    if status.auth in (A.DISABLED, A.MISCONFIGURED):
        assert status.next is None
    else:
        assert status.next in (AUTH, KEY, TEST)
    needs_a_reason = status.auth in (A.MISCONFIGURED, A.REAUTHORIZATION_NEEDED, A.CLIENT_REGISTRATION_NEEDED)
    assert status.detail or not needs_a_reason
    assert bool(status.variables) == (status.auth is A.KEY_MISSING)
    assert (status.expires_at is not None) or status.auth is not A.SIGN_IN_OPEN


@pytest.mark.parametrize(
    ("server", "transport", "target", "tools"),
    [
        (Server(name="a", url="https://a.example/mcp?key=secret"), "http", "https://a.example/mcp", "all"),
        (Server(name="a", url=URL, tools=ToolFilter(include=("x", "y_*"))), "http", URL, "2 selected"),
        (Server(name="a", url=URL, tools=ToolFilter(exclude=("x",))), "http", URL, "1 excluded"),
        (STDIO, "stdio", "npx -y thing", "all"),
    ],
)
def test_the_rest_of_the_line(server: Server, transport: str, target: str, tools: str) -> None:
    status = local_status(server, grant=None, sign_in=None, connection=None, missing=(), now=NOW)
    assert (status.transport, status.address, status.tools) == (transport, target, tools)
    assert status.target == {"stdio": "npx"}.get(transport, urlsplit(target).netloc), "for chats"


# -- the states as they come about -----------------------------------------------------------


@pytest.mark.parametrize("closed", ["no endpoint", "allow-list"])
async def test_a_failed_registration_is_kept_until_a_client_is_found(
    tmp_path: Path, oauth: OAuthServer, closed: str
) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        if closed == "allow-list":
            oauth.knobs.registration = PlainTextResponse("you are not on the list", 403)
        else:
            oauth.knobs.metadata["registration_endpoint"] = None
        with pytest.raises(ClientRegistrationNeeded) as caught:
            await auth.sign_in("notes", "shared", ME, listen=False)
        status = await auth.status("notes")
        assert (status.auth, status.detail) == (A.CLIENT_REGISTRATION_NEEDED, caught.value.message)
        # When the authorization server lets us in, the next sign-in finds a client, and a failed one is just that
        oauth.knobs.registration = None
        oauth.knobs.metadata.clear()
        await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
        assert (await auth.status("notes")).auth is A.SIGN_IN_OPEN
        await auth.cancel("notes")
        assert (await auth.status("notes")).auth is A.SIGN_IN_NEEDED


def closed(oauth: OAuthServer) -> None:
    """The server takes a key and nothing else."""
    oauth.knobs.prm_path, oauth.knobs.well_known, oauth.knobs.api_key = None, "none", "sk-1"


async def test_a_server_that_wants_a_credential_and_offers_no_sign_in_is_misconfigured(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    closed(oauth)
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        found = await auth.probe("notes")
        assert found.state is ConnectionState.REFUSED
        status = await auth.status("notes")
        assert (status.auth, status.next) == (A.MISCONFIGURED, None)
        assert "headers" in (status.detail or "") and "offers no sign-in" in (status.detail or "")
        with pytest.raises(NotAllowed, match="offers no sign-in") as caught:
            await auth.sign_in("notes", "shared", ME, listen=False)
        assert "headers" in str(caught.value.next_step)
        # Each look is a new one: the server may change its mind
        oauth.knobs.api_key, oauth.knobs.protected = None, False
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is A.NONE_NEEDED


async def test_a_server_that_closes_later_is_not_open_any_more(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.protected = False
    oauth.knobs.prm_path, oauth.knobs.well_known = None, "none"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is A.NONE_NEEDED
        closed(oauth)
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED
        assert (await auth.status("notes")).auth is A.MISCONFIGURED
        # And when it learns OAuth, it is signed in to
        oauth.knobs.api_key, oauth.knobs.protected = None, True
        oauth.knobs.prm_path, oauth.knobs.well_known = "path", "oauth"
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED
        assert (await auth.status("notes")).auth is A.SIGN_IN_NEEDED
        await signed_in(auth)
        assert (await auth.status("notes")).auth is A.SIGNED_IN


async def test_a_sign_in_that_cannot_begin_says_why(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a server that names an authorization server, which publishes nothing
    oauth.knobs.well_known = "none"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED
        status = await auth.status("notes")
        assert (status.auth, status.next) == (A.SIGN_IN_NEEDED, AUTH)
        assert "publishes no metadata" in (status.detail or "")
        oauth.knobs.well_known = "oauth"
        await auth.probe("notes")
        assert (await auth.status("notes")).detail is None


async def test_an_open_server_beside_somebody_elses_sign_in_is_open(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a website whose own sign-in is published at the origin, and is of no use to us
    oauth.knobs.protected, oauth.knobs.prm_path = False, None
    oauth.knobs.metadata["issuer"] = "https://accounts.example"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is A.NONE_NEEDED


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_open_server_whose_website_is_in_trouble_is_open(
    tmp_path: Path, oauth: OAuthServer, status: int
) -> None:
    oauth.knobs.protected, oauth.knobs.prm_status = False, status
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.READY
    # One that is closed is not known while its metadata cannot be had
    oauth.knobs.protected = True
    async with open_auth(tmp_path / "closed", {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.UNREACHABLE
        oauth.knobs.prm_status = 200
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED
        assert (await auth.status("notes")).auth is A.SIGN_IN_NEEDED


async def test_a_server_that_protects_a_tool_only_is_signed_in_to_once_it_asks(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.open_methods = ("initialize", "notifications/initialized", "server/discover", "tools/list")
    oauth.knobs.prm_path = "header"
    async with open_auth(tmp_path, {"notes": {"url": oauth.url}}) as auth:
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is A.NONE_NEEDED
        with pytest.raises(SignInNeeded):
            async with auth.session("notes") as client:
                await client.call_tool("add", {})
        assert (await auth.status("notes")).auth is A.SIGN_IN_NEEDED
        await signed_in(auth)
        async with auth.session("notes") as client:
            assert not (await client.call_tool("add", {})).is_error


# -- the connection axis ---------------------------------------------------------------------


def servers(oauth: OAuthServer) -> dict[str, Any]:
    return {"notes": {"url": oauth.url, "auth": "oauth", "tools": {"include": ["add", "se*"]}}}


async def test_ready_tells_the_selected_tools_and_the_time(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.mcp_delay = 0.02
    async with open_auth(tmp_path, servers(oauth)) as auth:
        await signed_in(auth)
        found = await auth.probe("notes")
    assert (found.state, found.tools) == (ConnectionState.READY, ("add", "search"))
    assert found.ms is not None and found.ms >= 40
    assert found.detail is None


async def test_not_checked_where_nothing_was_sent(tmp_path: Path, oauth: OAuthServer) -> None:
    entries = {
        "off": {"url": oauth.url, "auth": "oauth", "enabled": False},
        "wrong": {"url": oauth.url, "headers": 7},
        "key": {"url": oauth.url, "headers": {"Authorization": "Bearer ${NOT_SET}"}},
        "command": {"command": "x"},
    }
    async with open_auth(tmp_path, entries) as auth:
        found = {name: await auth.probe(name) for name in entries}
    assert {name: one.state for name, one in found.items()} == dict.fromkeys(entries, ConnectionState.NOT_CHECKED)
    assert "NOT_SET" in (found["key"].detail or "")
    assert oauth.seen == []


async def test_refused_by_us_without_a_grant_and_by_the_server_with_one(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        found = await auth.probe("notes")
        assert (found.state, found.detail) == (ConnectionState.NOT_CHECKED, "notes is not signed in.")
        await signed_in(auth)
        oauth.access.clear()
        oauth.refresh.clear()
        found = await auth.probe("notes")
        assert found.state is ConnectionState.REFUSED and found.detail
        # Finding no way in says something about the grant as well
        assert (await auth.status("notes")).auth is A.REAUTHORIZATION_NEEDED


async def test_tools_that_are_listed_without_a_token_are_no_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.protected = False
    async with open_auth(tmp_path, servers(oauth)) as auth:
        found = await auth.probe("notes")
        assert found.state is ConnectionState.NOT_CHECKED
        assert (await auth.status("notes")).auth is A.SIGN_IN_NEEDED


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("trouble", 500),
        PlainTextResponse("trouble", 503),
        HTMLResponse("<h1>a web page</h1>"),
        JSONResponse({"jsonrpc": "2.0", "id": 1}),
        JSONResponse([1, 2]),
        PlainTextResponse("", 404),
    ],
    ids=["500", "503", "html", "half", "list", "404"],
)
async def test_unreachable_says_why_whatever_the_server_says(
    tmp_path: Path, oauth: OAuthServer, answer: PlainTextResponse
) -> None:
    oauth.knobs.protected = False
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "headers": {"X": "y"}}}) as auth:
        oauth.knobs.mcp_answers = [answer] * 5
        found = await auth.probe("notes", timeout=PATIENCE)
    assert found.state is ConnectionState.UNREACHABLE
    assert found.detail


async def test_unreachable_where_nobody_listens(tmp_path: Path) -> None:
    async with open_auth(
        tmp_path, {"a": {"url": f"http://127.0.0.1:{free_port()}/mcp", "headers": {"X": "y"}}}
    ) as auth:
        found = await auth.probe("a")
    assert (found.state, "refused" in (found.detail or "")) == (ConnectionState.UNREACHABLE, True)


async def test_a_probe_ends_in_ten_seconds_unless_asked_otherwise(tmp_path: Path) -> None:
    limits = []

    async def noted(server: str, owner: str, *, timeout: float, **options: bool) -> ConnectionStatus:
        limits.append(timeout)
        return ConnectionStatus()

    async with open_auth(tmp_path, {"a": {"url": "http://127.0.0.1:9/mcp"}}) as auth:
        auth.parts.prober.probe = noted  # type: ignore[method-assign,assignment]
        await auth.probe("a")
        await auth.probe("a", insist=True)
    assert limits == [10.0, 30.0]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        async with open_auth(tmp_path, {"a": {"url": url, "headers": {"X": "y"}}, "b": {"url": url}}) as auth:
            found = await asyncio.gather(*(auth.probe(name, timeout=0.2) for name in ("a", "b")))
    for one in found:
        assert (one.state, "no answer" in (one.detail or "")) == (ConnectionState.UNREACHABLE, True)


async def test_looking_starts_no_command(tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = {"command": sys.executable, "args": ["-c", f"open({str(started)!r}, 'w')"]}
    async with open_auth(tmp_path, {"run": command}) as auth:
        await auth.status("run")
        await auth.statuses()
        assert (await auth.probe("run")).state is ConnectionState.NOT_CHECKED
        assert not started.exists()
        # That takes a word of the person
        assert (await auth.probe("run", timeout=PATIENCE, insist=True)).state is ConnectionState.UNREACHABLE
        assert started.exists()
