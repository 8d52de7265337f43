"""A grant ends only when it is over, and never pretends to live: what answers of token endpoints make of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_auth import McpAuth
from mcp_auth.errors import ReauthorizationNeeded, RefreshUnavailable, TokenRequestFailed
from mcp_auth.outcome import Next
from mcp_auth.records import Tokens
from mcp_auth.status import AuthState, ConnectionState, ServerStatus, wants_sign_in
from tests.homes import ME, Clock, signed_in, write_home
from tests.mcp_auth import token_shapes as shapes
from tests.mcp_auth.grants import grant_of, granted, opened, tokens_of, told_of
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize


def copies(response: Response, count: int = 20) -> list[Any]:
    return list(itertools.repeat(response, count))


async def change(auth: McpAuth, **changes: Any) -> None:
    assert await auth.store.grants.put_if(msgspec.structs.replace(await grant_of(auth), **changes)) is not None


def is_renewable(status: ServerStatus) -> bool:
    return status.auth is AuthState.SIGNED_IN and status.not_renewable is None


# -- what an answer means --------------------------------------------------------------------


@pytest.mark.parametrize("name", shapes.ENDED)
async def test_a_word_that_is_known_to_be_final_ends_the_grant_at_once(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        oauth.knobs.token_answers = copies(shapes.ENDED[name])
        clock.ahead = 4000
        for _ in range(2):
            with pytest.raises(ReauthorizationNeeded) as caught:
                await auth.access_token("notes")
        status = await auth.status("notes")
        # Our client is as good as before
        assert not (await grant_of(auth)).registration_dead
    assert caught.value.next_step == Next("auth", "notes")
    assert (status.auth, status.next) == (AuthState.REAUTHORIZATION_NEEDED, Next("auth", "notes"))
    assert told == ["reauthorization_needed"]
    # And nobody asks again
    assert len(oauth.requests("/token")) == 2


@pytest.mark.parametrize("name", shapes.REGISTRATION_ENDED)
async def test_a_client_that_is_not_known_any_more_wants_a_new_sign_in(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = [shapes.REGISTRATION_ENDED[name]]
        clock.ahead = 4000
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        await signed_in(auth)
    assert len(oauth.requests("/register")) == 2


@pytest.mark.parametrize("name", shapes.FOR_NOW)
async def test_trouble_of_the_moment_keeps_the_grant_and_is_said(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before, told = await tokens_of(auth), told_of(auth)
        clock.ahead = 4000
        # However often, and however long it takes
        for _ in range(3):
            oauth.knobs.token_answers = [shapes.FOR_NOW[name]]
            with pytest.raises(RefreshUnavailable) as caught:
                await auth.access_token("notes")
            clock.ahead += 4000
        status = await auth.status("notes")
        assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("test", "notes"))
        assert status.not_renewable and status.not_renewable in caught.value.message
        # A success alone explains nothing
        assert status.not_renewable != "HTTP 200"
        assert status.not_renewable_since == pytest.approx(time.time() + 4000, abs=60)
        assert (await tokens_of(auth), told) == (before, [])
        # And then all is well again
        assert (await auth.access_token("notes")) != before.access_token
        assert is_renewable(await auth.status("notes"))


@pytest.mark.parametrize("name", shapes.REFUSED_OAUTH | shapes.REFUSED)
async def test_a_definite_no_offers_a_new_sign_in_at_once_and_keeps_the_tokens(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before, told = await tokens_of(auth), told_of(auth)
        oauth.knobs.token_answers = copies((shapes.REFUSED_OAUTH | shapes.REFUSED)[name], 1)
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable) as caught:
            await auth.access_token("notes")
        assert caught.value.next_step == Next("auth", "notes")
        status = await auth.status("notes")
        assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("auth", "notes"))
        assert status.not_renewable and wants_sign_in(status)
        assert (await tokens_of(auth), told) == (before, [])
        clock.ahead += 10
        await auth.access_token("notes")
        assert is_renewable(await auth.status("notes"))


async def test_a_no_ahead_of_the_end_offers_a_new_sign_in_while_the_access_still_works(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        oauth.knobs.token_answers = [shapes.REFUSED_OAUTH["invalid_request"]]
        clock.ahead = 3400
        assert await auth.access_token("notes") == before
        status = await auth.status("notes")
    assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("auth", "notes"))
    assert status.not_renewable == "invalid_request"


@pytest.mark.parametrize("name", shapes.REFUSED_OAUTH)
async def test_an_oauth_error_that_is_heard_twice_in_ten_minutes_wants_a_person(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before, told = await tokens_of(auth), told_of(auth)
        oauth.knobs.token_answers = copies(shapes.REFUSED_OAUTH[name])
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")
        clock.ahead += 590
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        clock.ahead += 301
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        status = await auth.status("notes")
        assert (status.auth, status.next) == (AuthState.REAUTHORIZATION_NEEDED, Next("auth", "notes"))
        # The tokens are kept, and tried once an hour; one notice is enough
        assert await tokens_of(auth) == before
        asked = len(oauth.requests("/token"))
        for _ in range(2):
            clock.ahead += 1700
            with pytest.raises(ReauthorizationNeeded):
                await auth.access_token("notes")
        assert len(oauth.requests("/token")) == asked
        clock.ahead += 300
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        assert len(oauth.requests("/token")) == asked + 1
        assert told == ["reauthorization_needed"]
        # And by `test`
        oauth.knobs.token_answers = []
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert is_renewable(await auth.status("notes"))


async def test_trouble_does_not_make_a_grant_that_wants_a_person_be_tried_more_often(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = copies(shapes.REFUSED_OAUTH["invalid_request"])
        clock.ahead = 4000
        for _ in range(2):
            with pytest.raises((RefreshUnavailable, ReauthorizationNeeded)):
                await auth.access_token("notes")
            clock.ahead += 601
        oauth.knobs.token_answers = copies(shapes.FOR_NOW["503"])
        clock.ahead += 3600
        asked = len(oauth.requests("/token"))
        for _ in range(3):
            with pytest.raises(ReauthorizationNeeded):
                await auth.access_token("notes")
            clock.ahead += 1000
        assert len(oauth.requests("/token")) == asked + 1


@pytest.mark.parametrize("name", shapes.REFUSED)
async def test_a_no_that_is_no_oauth_error_never_wants_a_person_by_itself(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = copies(shapes.REFUSED[name])
        for _ in range(3):
            clock.ahead += 4000
            with pytest.raises(RefreshUnavailable):
                await auth.access_token("notes")
        status = await auth.status("notes")
    assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("auth", "notes"))


async def test_a_no_before_the_access_ended_does_not_count_towards_the_ten_minutes(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = copies(shapes.REFUSED_OAUTH["invalid_request"])
        clock.ahead = 3400
        await auth.access_token("notes")
        clock.ahead = 4100
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")


@pytest.mark.parametrize("name", shapes.NO_TOKENS)
async def test_at_a_sign_in_the_same_answers_end_it_with_a_sentence(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    async with opened(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        redirect = await asyncio.to_thread(authorize, started.link)
        oauth.knobs.token_answers = [shapes.NO_TOKENS[name]]
        with pytest.raises(TokenRequestFailed, match="did not give a token"):
            await auth.paste(redirect, ME.principal)
        (ended,) = await auth.store.sign_ins.list()
        assert (ended.status, ended.result and ended.result.next_step) == ("failed", Next("auth", "notes"))
        assert told[-1] == "sign_in_ended"
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED


# -- what the server says to an access token -------------------------------------------------


@pytest.mark.parametrize("name", shapes.FOR_NOW)
async def test_f1_a_401_and_trouble_at_the_refresh_marks_nothing(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    # Given a server whose tokens end without notice
    oauth.knobs.expires_in = None
    async with granted(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        oauth.access.clear()
        oauth.knobs.token_answers = [shapes.FOR_NOW[name]]
        found = await auth.probe("notes", insist=True)
        assert found.state is ConnectionState.UNREACHABLE and "could not be refreshed" in (found.detail or "")
        # The status says so, and that it is not for ever
        status = await auth.status("notes")
        assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("test", "notes"))
        assert status.not_renewable and status.not_renewable_since
        assert told == []
        # And with the trouble over, so is all of it; nobody has to wait who asks
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert is_renewable(await auth.status("notes"))


async def test_a_wait_that_the_server_asked_for_holds_for_test_too(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = [PlainTextResponse("", 429, {"Retry-After": "60"})]
        clock.ahead = 4000
        await auth.probe("notes", insist=True)
        asked = len(oauth.requests("/token"))
        assert "the next attempt is in 60 seconds" in ((await auth.probe("notes", insist=True)).detail or "")
        assert len(oauth.requests("/token")) == asked


async def test_a_fresh_token_that_is_refused_is_told_once_and_heals_with_an_agents_own_call(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        oauth.knobs.mcp_answers = copies(PlainTextResponse("", 401), 100)
        for _ in range(5):
            await auth.probe("notes")
            clock.ahead += 1000
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        # Refreshed about once an hour, so that nobody's server is flooded
        assert oauth.refreshes <= 3
        assert told.count("reauthorization_needed") == 1
        # When the server has come to its senses, any call shows it
        oauth.knobs.mcp_answers = []
        async with httpx2.AsyncClient(auth=auth.http_auth("notes"), timeout=PATIENCE) as client:
            hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
            await client.post(oauth.url, json=hello)
            assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
            assert (await client.post(oauth.url, json={**hello, "method": "tools/list"})).status_code == 200
        assert is_renewable(await auth.status("notes"))


@pytest.mark.parametrize("at_once", [1, 5])
async def test_a_refresh_that_brings_the_refused_access_token_again_is_asked_for_once(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, at_once: int
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        told, refused = told_of(auth), await auth.access_token("notes")
        asked = len(oauth.requests("/token"))
        answers = [shapes.Good().response(refused, f"rt-{n}") for n in range(12)]
        oauth.knobs.token_answers = [*answers, *copies(shapes.ENDED["invalid_grant"])]
        entry, refresher = auth.config.servers["notes"], auth.parts.refresher
        tries = [refresher.access_token(entry, "shared", refused=refused) for _ in range(at_once)]
        for error in await asyncio.gather(*tries, return_exceptions=True):
            assert isinstance(error, ReauthorizationNeeded) and error.next_step == Next("auth", "notes")
        assert len(oauth.requests("/token")) == asked + 1
        assert (await tokens_of(auth)).refresh_token == "rt-0"
        # And a call that is refused asks once too, and marks the grant so that it can heal
        oauth.knobs.mcp_answers = copies(PlainTextResponse("", 401), 50)
        await auth.probe("notes", insist=True)
        assert len(oauth.requests("/token")) == asked + 2
        grant = await grant_of(auth)
        assert (grant.tokens and grant.tokens.refresh_token, grant.reauthorization_now) == ("rt-1", True)
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        assert told.count("reauthorization_needed") == 1
        oauth.knobs.mcp_answers = []
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert is_renewable(await auth.status("notes"))


@pytest.mark.parametrize("refresh", ["works", "is-needed"])
async def test_a_grant_that_an_earlier_version_marked_falsely_heals_at_the_next_success(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, refresh: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        reason = "the server refuses its access token"
        await change(auth, reauthorization=reason, reauthorization_now=True)
        if refresh == "is-needed":
            clock.ahead = 4000
            oauth.access.clear()
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
        assert (await auth.probe("notes")).state is ConnectionState.READY
        assert is_renewable(await auth.status("notes"))


async def test_a_grant_that_seemed_refused_and_then_was_ended_is_not_tried_again(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        await change(auth, reauthorization="the server refuses its access token", reauthorization_now=True)
        oauth.knobs.token_answers = [shapes.ENDED["invalid_grant"]]
        for _ in range(3):
            clock.ahead += 4000
            assert (await auth.probe("notes", insist=True)).state is not ConnectionState.READY
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
    assert len(oauth.requests("/token")) == 2


async def test_a_grant_that_was_ended_stays_ended_when_the_server_refuses_its_access_too(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        oauth.knobs.token_answers = [shapes.ENDED["invalid_grant"]]
        clock.ahead = 3400
        await auth.access_token("notes")
        status = await auth.status("notes")
        assert (status.auth, status.next) == (AuthState.SIGNED_IN, Next("auth", "notes"))
        assert status.not_renewable == "the authorization server ended the grant"
        oauth.access.clear()
        for _ in range(2):
            assert (await auth.probe("notes", insist=True)).state is not ConnectionState.READY
            clock.ahead += 4000
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED
    # The dead refresh token was sent once, and its owner told once
    assert len(oauth.requests("/token")) == 2
    assert told.count("reauthorization_needed") == 1


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer error="invalid_token"',
        'Basic realm="x", Bearer error=invalid_token',
        'Bearer realm="x"; error="Invalid_Token"; error_description="over"',
        "Bearer error='invalid_token'",
        'Bearer realm="x", Bearer error="x", Bearer error=" invalid_token "',
    ],
)
async def test_invalid_token_counts_as_401_whatever_the_status(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, status: int, challenge: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.mcp_answers = [PlainTextResponse("", status, {"WWW-Authenticate": challenge})]
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert oauth.refreshes == 1
        oauth.knobs.mcp_answers = copies(PlainTextResponse("", status, {"WWW-Authenticate": challenge}), 50)
        assert (await auth.probe("notes", insist=True)).state is ConnectionState.REFUSED
        assert (await auth.status("notes")).auth is AuthState.REAUTHORIZATION_NEEDED


@pytest.mark.parametrize("status", [400, 403])
async def test_any_other_400_and_403_says_nothing_of_the_token(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, status: int
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        header = {"WWW-Authenticate": 'Bearer error="invalid_request"'}
        oauth.knobs.mcp_answers = copies(PlainTextResponse("", status, header), 50)
        await auth.probe("notes", insist=True)
        assert is_renewable(await auth.status("notes"))
    assert oauth.refreshes == 0


# -- what is good in an answer ---------------------------------------------------------------


@pytest.mark.parametrize("name", shapes.GOOD)
@pytest.mark.parametrize("moment", ["sign-in", "refresh"])
async def test_a_token_answer_is_used_for_what_is_good_in_it(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, moment: str, name: str
) -> None:
    shape = shapes.GOOD[name]
    async with opened(tmp_path, oauth, clock) as auth:
        if moment == "refresh":
            await signed_in(auth)
            clock.ahead = 4000
        started = await auth.sign_in("notes", "shared", ME, listen=False) if moment == "sign-in" else None
        oauth.knobs.token_answers = [shape.response("at-new", "rt-new")]
        if started is not None:
            await auth.paste(await asyncio.to_thread(authorize, started.link), ME.principal)
            assert (await auth.store.sign_ins.list())[0].status == "done"
        assert await auth.access_token("notes") == "at-new"
        tokens = await tokens_of(auth)
        assert (tokens.refresh_token, tokens.scope) == ("rt-new", shape.scope)
        if shape.lives is None:
            assert tokens.expires_at is None
        else:
            assert tokens.expires_at == pytest.approx(clock() + shape.lives, abs=60)
        assert is_renewable(await auth.status("notes"))


@pytest.mark.parametrize("has_refresh_token", [True, False])
async def test_a_lifetime_of_nothing_is_none_that_is_known_until_the_server_says_401(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, has_refresh_token: bool
) -> None:
    oauth.knobs.expires_in, oauth.knobs.give_refresh_token = 0, has_refresh_token
    async with granted(tmp_path, oauth, clock) as auth:
        for _ in range(2):
            assert (await auth.probe("notes", insist=True)).state is ConnectionState.READY
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        assert oauth.refreshes == 0
        # Where 0 meant what it says
        oauth.expire_access_tokens()
        found = await auth.probe("notes", insist=True)
        assert found.state is (ConnectionState.READY if has_refresh_token else ConnectionState.REFUSED)
        assert oauth.refreshes == (1 if has_refresh_token else 0)


@pytest.mark.parametrize(("scheme", "shown"), shapes.SCHEMES.items())
async def test_tokens_of_another_scheme_are_refused_by_name(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, scheme: str, shown: str
) -> None:
    shape = shapes.Good({"token_type": scheme})
    async with opened(tmp_path, oauth, clock) as auth:
        # At a sign-in nothing is stored
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        redirect = await asyncio.to_thread(authorize, started.link)
        oauth.knobs.token_answers = [shape.response("at-new", "rt-new")]
        with pytest.raises(TokenRequestFailed, match=f"type {shown},"):
            await auth.paste(redirect, ME.principal)
        await signed_in(auth)
        # At a refresh they are, as the refresh token of before is spent; and they are never sent as bearer tokens
        told = told_of(auth)
        clock.ahead = 4000
        oauth.knobs.token_answers = [shape.response("at-new", "rt-new")]
        for _ in range(2):
            with pytest.raises(ReauthorizationNeeded, match=f"type {shown},"):
                await auth.access_token("notes")
        assert (await tokens_of(auth)).refresh_token == "rt-new"
        status = await auth.status("notes")
        assert status.auth is AuthState.REAUTHORIZATION_NEEDED and shown in (status.detail or "")
        assert told == ["reauthorization_needed"]
    assert not any("at-new" in str(seen.headers) for seen in oauth.seen)


RESCUED: dict[str, tuple[int, dict[str, Any]]] = {
    "no-access-token": (200, {}),
    "null": (200, {"access_token": None}),
    "number": (200, {"access_token": 7}),
    "not-sendable": (200, {"access_token": "zwei W\u00f6rter"}),
    "error-beside-it": (200, {"error": "server_error"}),
    "error-400": (400, {"error": "invalid_request"}),
    "final-word": (400, {"error": "invalid_grant"}),
    "500": (500, {}),
}


@pytest.mark.parametrize("name", RESCUED)
async def test_a_new_refresh_token_is_stored_whatever_else_is_wrong(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, name: str
) -> None:
    status, body = RESCUED[name]
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = [JSONResponse({"refresh_token": "rt-new", **body}, status)]
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")
        grant = await grant_of(auth)
        assert (grant.tokens and grant.tokens.refresh_token, grant.refresh_mark) == ("rt-new", None)
        clock.ahead += 400
        with pytest.raises((RefreshUnavailable, ReauthorizationNeeded)):
            await auth.access_token("notes")
    assert oauth.requests("/token")[-1].form["refresh_token"] == "rt-new"


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_new_tokens_beside_an_error_are_stored_and_used(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, status: int
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        answer = {"error": "server_error", "access_token": "at-new", "refresh_token": "rt-new"}
        oauth.knobs.token_answers = [JSONResponse(answer, status)]
        clock.ahead = 4000
        assert await auth.access_token("notes") == "at-new"
        assert (await tokens_of(auth)).refresh_token == "rt-new"


@pytest.mark.parametrize(
    "new", ["rt new", "rt-n\u00fc", "rt\tnew", "r&t=1", "r" * 20_000], ids=lambda new: ascii(new[:9])
)
async def test_a_refresh_token_may_hold_anything_as_it_is_sent_in_a_form(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, new: str
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        for moment, access in ((4000, "at-1"), (8000, "at-2")):
            clock.ahead = moment
            oauth.knobs.token_answers = [shapes.Good().response(access, new)]
            assert await auth.access_token("notes") == access
            assert (await tokens_of(auth)).refresh_token == new
    assert oauth.requests("/token")[-1].form["refresh_token"] == new


async def test_an_error_that_repeats_the_spent_refresh_token_gives_nothing_new(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        sent = (await tokens_of(auth)).refresh_token
        answer = {"error": "invalid_grant", "refresh_token": sent, "access_token": sent}
        oauth.knobs.token_answers = [JSONResponse(answer, 400)]
        clock.ahead = 4000
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")


async def test_who_never_gets_a_turn_takes_what_others_have_refreshed(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_auth.oauth.refresh.LEASE_WAIT", 0.1)
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead = 4000
        async with auth.store.grants.lease("shared", "notes", ttl=45, wait=1):
            with pytest.raises(RefreshUnavailable):
                await auth.access_token("notes")
            monkeypatch.setattr("mcp_auth.oauth.refresh.LEASE_WAIT", 3.0)
            waiting = asyncio.create_task(auth.access_token("notes"))
            # Until it stands in line
            for _ in range(10):
                await asyncio.sleep(0)
            newer = Tokens(access_token="newer", refresh_token="newer-r", expires_at=clock() + 3600)
            await change(auth, tokens=newer)
            assert await waiting == "newer"
    assert oauth.refreshes == 0


# -- records of earlier versions -------------------------------------------------------------


async def test_what_0_1_0_stored_is_read_and_used(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    async with McpAuth.open(home=home) as auth:
        await signed_in(auth)
    # Given a grant with failures, as 0.1.0 wrote it
    (path,) = [file for file in (home / "grants").iterdir() if file.suffix == ".json"]
    known = json.loads(path.read_text())
    new = {
        "access_refused_at",
        "refresh_may_be_tried",
        "refresh_failing_since",
        "refresh_refused",
        "refresh_refused_at",
    }
    assert not new & set(known)
    path.write_text(json.dumps({**known, "refresh_failures": 3, "refresh_not_before": 1.0, "last_error": "HTTP 503"}))
    clock.ahead = 4000
    async with McpAuth.open(home=home, clock=clock) as auth:
        status = await auth.status("notes")
        assert (status.auth, status.not_renewable, status.not_renewable_since) == (
            AuthState.SIGNED_IN,
            "HTTP 503",
            None,
        )
        assert (await auth.access_token("notes")).startswith("at-")
        assert is_renewable(await auth.status("notes"))
