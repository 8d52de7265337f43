"""A client that the authorization server forgot is shed, and no good one is thrown away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_auth import McpAuth
from mcp_auth.errors import AuthorizationRefused, RefreshUnavailable, TokenRequestFailed
from mcp_auth.outcome import Next
from mcp_auth.records import Registration, ServerProfile
from mcp_auth.status import AuthState, ConnectionState
from mcp_auth.stores.memory import MemoryStore
from tests.homes import ME, Clock, open_auth, query_of, signed_in
from tests.mcp_auth.grants import grant_of, granted, opened, told_of
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize


async def link_of(auth: McpAuth, *, fresh: bool = False, owner: str = "shared") -> str:
    return (await auth.sign_in("notes", owner, ME, listen=False, fresh=fresh)).link


async def client_of(auth: McpAuth, *, fresh: bool = False) -> str:
    return query_of(await link_of(auth, fresh=fresh))["client_id"]


async def cancelled(auth: McpAuth, clock: Clock) -> None:
    assert await auth.cancel("notes")


async def expired(auth: McpAuth, clock: Clock) -> None:
    clock.ahead += 601
    await auth.sweep()


ENDS = {"cancelled": cancelled, "expired": expired}


def registered(oauth: OAuthServer) -> int:
    return len(oauth.requests("/register"))


async def known(auth: McpAuth) -> ServerProfile:
    connection = await auth.store.profiles.get(auth.config.servers["notes"].url or "")
    assert connection is not None
    return connection


async def test_fresh_registers_anew_and_the_grant_keeps_its_own_client(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        first = await client_of(auth)
        assert registered(oauth) == 1
        second = await client_of(auth, fresh=True)
        assert (registered(oauth), second == first) == (2, False)
        # The grant is refreshed by the client that it was made for
        clock.ahead = 4000
        await auth.access_token("notes")
    assert oauth.requests("/token")[-1].form["client_id"] == first


@pytest.mark.parametrize("end", ENDS)
async def test_a_browser_that_never_came_back_makes_its_client_doubtful_once_an_hour(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, end: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead += 1
        first = await client_of(auth)
        await ENDS[end](auth, clock)
        second = await client_of(auth)
        assert (registered(oauth), second == first) == (2, False)
        # The new one may be no better: within the hour it has to do
        await ENDS[end](auth, clock)
        assert (await client_of(auth), registered(oauth)) == (second, 2)
        await ENDS[end](auth, clock)
        clock.ahead += 3600
        assert await client_of(auth) not in (first, second)
        assert registered(oauth) == 3
        # The grant kept its own all the while
        clock.ahead += 4000
        await auth.access_token("notes")
    assert oauth.requests("/token")[-1].form["client_id"] == first


@pytest.mark.parametrize("end", ENDS)
async def test_a_client_with_which_another_sign_in_worked_since_is_not_doubted(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, end: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        first = await client_of(auth)
        clock.ahead += 1
        await signed_in(auth, owner="person:ann")
        await ENDS[end](auth, clock)
        assert (await client_of(auth), registered(oauth)) == (first, 1)


async def test_of_sign_ins_that_end_together_the_first_one_notes_that_the_client_works(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        links = [await link_of(auth, owner=f"person:p{number}") for number in range(3)]
        versions = []
        for link in links:
            clock.ahead += 1
            await auth.paste(await asyncio.to_thread(authorize, link), ME.principal)
            versions.append((await known(auth)).version)
        assert versions == [versions[0]] * 3


async def test_a_success_afterwards_ends_the_doubt(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        # Given a link of somebody else's that is open already, with the same client
        link = await link_of(auth, owner="person:ann")
        first = await client_of(auth)
        await cancelled(auth, clock)
        clock.ahead += 1
        await auth.paste(await asyncio.to_thread(authorize, link), ME.principal)
        assert (await client_of(auth), registered(oauth)) == (first, 1)


async def test_a_link_behind_which_no_browser_was_sent_on_casts_no_doubt(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    gateway = {"public_url": f"http://localhost:{free_port()}", "verify": "none", "allow": ["telegram:1"]}
    async with opened(tmp_path, oauth, clock, gateway=gateway) as auth:
        from mcp_auth.records import Requester

        somebody = Requester(principal="telegram:1")
        dynamic = Registration(
            client_id="c-1",
            issuer=oauth.issuer,
            source="dynamic",
            redirect_uri=(await auth.sign_in("notes", "shared", somebody, listen=False)).sign_in.redirect_uri,
        )
        await auth.cancel("notes")
        connection = await known(auth)
        connection.registrations = [dynamic]
        assert await auth.store.profiles.put_if(connection) is not None
        for _ in range(2):
            started = await auth.sign_in("notes", "shared", somebody, listen=False)
            assert started.sign_in.registration.client_id == "c-1"
            await auth.cancel("notes")


@pytest.mark.parametrize(
    ("answer", "is_doubted"),
    [
        (PlainTextResponse("", 401), True),
        (PlainTextResponse("Forbidden", 403), True),
        (JSONResponse({"message": "Unauthorized"}, 401), True),
        (JSONResponse({"error": "invalid_grant"}, 401), False),
        (JSONResponse({"error": "access_denied"}, 403), False),
        (PlainTextResponse("", 400), False),
        (PlainTextResponse("", 503), False),
    ],
)
async def test_a_client_that_is_refused_without_a_word_is_doubted(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, answer: Response, is_doubted: bool
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead += 1
        for _ in range(2):
            redirect = await asyncio.to_thread(authorize, await link_of(auth))
            oauth.knobs.token_answers = [answer]
            with pytest.raises(TokenRequestFailed):
                await auth.paste(redirect, ME.principal)
        # Once an hour
        assert registered(oauth) == (2 if is_doubted else 1)
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN


async def test_a_doubtful_client_is_better_than_none(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        first = await client_of(auth)
        await cancelled(auth, clock)
        oauth.knobs.registration = JSONResponse({"error": "access_denied"}, 403)
        assert await client_of(auth) == first


async def test_logout_forgets_the_client(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        first = await client_of(auth)
        await auth.logout("notes")
        assert (await known(auth)).registrations == []
        assert await client_of(auth) != first
        # What is signed out already has a client to be forgotten too
        await signed_in(auth, owner="person:ann")
        await auth.logout("notes")
        assert (await known(auth)).registrations == []


@pytest.mark.parametrize(
    ("registered_for", "asked", "is_reused"),
    [
        ("read write", "read", True),
        ("read write", "write read", True),
        ("read", "read write", False),
        ("read", None, True),
        (None, "read", True),
    ],
)
async def test_a_client_that_was_made_for_less_is_made_anew(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, registered_for: str | None, asked: str | None, is_reused: bool
) -> None:
    oauth.knobs.challenge_scope = registered_for
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.challenge_scope = asked
        connection = await known(auth)
        connection.challenge_scope, connection.fetched_at = None, None
        assert await auth.store.profiles.put_if(connection) is not None
        link = await link_of(auth)
    assert query_of(link).get("scope") == asked
    assert registered(oauth) == (1 if is_reused else 2)


async def test_the_scope_that_the_server_made_of_it_counts_too(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    oauth.knobs.registration_extra = {"scope": "read"}
    async with granted(tmp_path, oauth, clock) as auth:
        assert (await known(auth)).registrations[0].scope == "read"


@pytest.mark.parametrize("where", ["redirect", "token"])
async def test_invalid_scope_drops_a_client_of_before_and_no_new_one(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, where: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        for _ in range(2):
            link = await link_of(auth)
            if where == "redirect":
                oauth.knobs.authorize_error = {"error": "invalid_scope"}
                refused: type[Exception] = AuthorizationRefused
            else:
                oauth.knobs.token_answers = [JSONResponse({"error": "invalid_scope"}, 400)]
                refused = TokenRequestFailed
            with pytest.raises(refused):
                await auth.paste(await asyncio.to_thread(authorize, link), ME.principal)
            assert (await known(auth)).registrations == []
    assert registered(oauth) == 2


@pytest.mark.parametrize("error", ["access_denied", "server_error", "login_required"])
async def test_any_other_error_in_a_redirect_keeps_the_client(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, error: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.authorize_error = {"error": error}
        link = await link_of(auth)
        with pytest.raises(AuthorizationRefused):
            await auth.paste(await asyncio.to_thread(authorize, link), ME.principal)
        await client_of(auth)
    assert registered(oauth) == 1


# -- a token endpoint that moved -------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 405, 410, 301, 307])
async def test_a_token_endpoint_that_moved_within_its_site_is_found_again(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, status: int
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        oauth.knobs.gone = {"/token": status}
        oauth.knobs.metadata = {"token_endpoint": f"{oauth.origin}/v2/token"}
        clock.ahead = 4000
        assert await auth.access_token("notes") != before
        metadata = (await grant_of(auth)).metadata
        assert metadata is not None and metadata.token_endpoint == f"{oauth.origin}/v2/token"
    # It was looked up once
    assert len(oauth.requests("/v2/token")) == 1


async def test_a_connections_folder_that_cannot_be_written_costs_no_grant_whose_token_endpoint_is_gone(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        (auth.config.home / "connections").rename(auth.config.home / "away")
        (auth.config.home / "connections").write_text("no folder")
        oauth.knobs.gone = {"/token": 404}
        for _ in range(3):
            clock.ahead += 4000
            with pytest.raises(RefreshUnavailable, match="HTTP 404"):
                await auth.access_token("notes")
        oauth.knobs.gone = {}
        clock.ahead += 4000
        assert await auth.access_token("notes")


@pytest.mark.parametrize("trouble", [404, 410, 308, "refused"])
async def test_after_a_code_for_an_endpoint_that_is_gone_everything_is_looked_up_anew(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, trouble: int | str
) -> None:
    async with opened(tmp_path, oauth, clock) as auth:
        if trouble == "refused":
            oauth.knobs.metadata = {"token_endpoint": f"http://127.0.0.1:{free_port()}/token"}
        redirect = await asyncio.to_thread(authorize, await link_of(auth))
        oauth.knobs.gone = {"/token": trouble} if isinstance(trouble, int) else {}
        oauth.knobs.metadata = {"token_endpoint": f"{oauth.origin}/v2/token"}
        with pytest.raises(TokenRequestFailed) as failed:
            await auth.paste(redirect, ME.principal)
        assert trouble != 308 or "it redirects to 127.0.0.1" in str(failed.value)
        await signed_in(auth)
    assert len(oauth.requests("/v2/token")) == 1


async def test_a_sign_in_that_was_cancelled_with_its_browser_away_looks_everything_up_anew(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with opened(tmp_path, oauth, clock) as auth:
        await link_of(auth)
        oauth.knobs.metadata = {"authorization_endpoint": f"{oauth.origin}/authorize?moved=1"}
        await cancelled(auth, clock)
        assert query_of(await link_of(auth))["moved"] == "1"


@pytest.mark.parametrize("still_works", [False, True])
async def test_a_token_endpoint_that_moved_to_another_site_wants_a_new_sign_in(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, still_works: bool
) -> None:
    with OAuthServer().running() as other:
        async with granted(tmp_path, oauth, clock) as auth:
            before = await auth.access_token("notes")
            oauth.knobs.gone = {"/token": 404}
            oauth.knobs.metadata = {"token_endpoint": f"{other.origin}/token"}
            clock.ahead = 3400 if still_works else 4000
            found = await auth.probe("notes", insist=True)
            status = await auth.status("notes")
            if still_works:
                assert (await auth.access_token("notes"), found.state) == (before, ConnectionState.READY)
                assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("auth", "notes"))
            else:
                assert status.auth is AuthState.REAUTHORIZATION_NEEDED
                assert "now gives tokens at" in (status.detail or "")
            # And nothing was given to that one
            assert other.seen == []


async def test_a_refresh_token_never_goes_to_another_issuer_of_the_same_site(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with opened(tmp_path, oauth, clock) as auth:
        await signed_in(auth)
    # Given a token endpoint that is gone, and an operator who has chosen another issuer since
    oauth.knobs.gone = {"/token": 404}
    oauth.knobs.issuer_path = "/tenant"
    clock.ahead = 4000
    entry = {"url": oauth.url, "auth": "oauth", "oauth": {"issuer": oauth.issuer}}
    async with open_auth(tmp_path, {"notes": entry}, clock=clock) as auth:
        found = await auth.probe("notes", insist=True)
        status = await auth.status("notes")
    assert found.state is not ConnectionState.READY
    assert status.next == Next("auth", "notes")
    assert len(oauth.requests("/token")) == 2
    assert oauth.requests("/tenant/token") == []


# -- signing out -----------------------------------------------------------------------------


class _Loses(MemoryStore):
    """A store in which another program is always faster."""

    def __init__(self, *, lies: bool) -> None:
        super().__init__()
        self._lies = lies
        inner = self.grants.delete_if

        async def delete_if(grant: object) -> bool:
            return self._lies

        self.grants.delete_if = delete_if  # type: ignore[method-assign]
        self.really_delete = inner


@pytest.mark.parametrize("lies", [False, True])
@pytest.mark.parametrize("revocation", [200, 503])
async def test_logout_never_says_deleted_while_something_is_stored(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, lies: bool, revocation: int
) -> None:
    oauth.knobs.revocation_status = revocation
    async with granted(tmp_path, oauth, clock, store=_Loses(lies=lies)) as auth:
        told = told_of(auth)
        result = await auth.logout("notes")
        assert not result.deleted and "still stored here" in result.detail
        assert result.next_step == Next("logout", "notes") and "deleted" not in result.detail
        assert "signed_out" not in told
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN


# -- what nobody foresaw ---------------------------------------------------------------------


class _Breaks(MemoryStore):
    """A store that fails in a way that nobody foresaw once a grant is to be written."""

    def __init__(self) -> None:
        super().__init__()

        async def put_if(grant: object) -> None:
            raise ZeroDivisionError

        self.grants.put_if = put_if  # type: ignore[method-assign,assignment]


async def test_an_error_that_nobody_foresaw_ends_the_sign_in_and_tells_the_chat(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with opened(tmp_path, oauth, clock, store=_Breaks()) as auth:
        told = told_of(auth)
        redirect = await asyncio.to_thread(authorize, await link_of(auth))
        with pytest.raises(ZeroDivisionError):
            await auth.paste(redirect, ME.principal)
        (ended,) = await auth.store.sign_ins.list()
        assert (ended.status, ended.result and ended.result.next_step) == ("failed", Next("auth", "notes"))
        assert told[-1] == "sign_in_ended"
