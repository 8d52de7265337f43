"""The refresh transaction: one refresh for everybody, and no grant lost to a bad answer."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from email.utils import formatdate
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_auth import McpAuth
from mcp_auth.errors import ReauthorizationNeeded, RefreshUnavailable, SignInNeeded
from mcp_auth.oauth.refresh import is_due
from mcp_auth.oauth.renewal import _SURE_AFTER, _backoff
from mcp_auth.outcome import Next
from mcp_auth.records import NO_TROUBLE, RefreshMark, Tokens, sha256
from mcp_auth.status import AuthState
from mcp_auth.stores.memory import MemoryStore
from tests.homes import Clock, open_auth, signed_in, write_home
from tests.mcp_auth.grants import grant_of, granted, tokens_of, told_of
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer


async def refreshing(oauth: OAuthServer) -> None:
    """Until a refresh has arrived at the server."""
    async with asyncio.timeout(PATIENCE):
        while not any(one.form.get("grant_type") == "refresh_token" for one in oauth.requests("/token")):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("lifetime", "left", "due"),
    [
        *[(3600, 400, False), (3600, 301, False), (3600, 300, True), (3600, 299, True)],
        *[(100, 25, False), (100, 21, False), (100, 20, True), (100, 19, True), (10, 3, False), (10, 0, True)],
    ],
)
def test_a_refresh_is_due_in_the_last_fifth_at_most_five_minutes_ahead(lifetime: int, left: int, due: bool) -> None:
    tokens = Tokens(access_token="a", obtained_at=1000.0, expires_at=1000.0 + lifetime)
    assert is_due(tokens, 1000.0 + lifetime - left) is due


def test_a_token_without_an_end_is_never_due() -> None:
    assert not is_due(Tokens(access_token="a"), 1e12)


async def test_defect_1_after_a_restart_an_expired_token_is_refreshed(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    async with McpAuth.open(home=home) as first:
        await signed_in(first)
        old = await first.access_token("notes")
    clock.ahead = 4000
    async with McpAuth.open(home=home, clock=clock) as second:
        assert (await second.access_token("notes")) != old
    assert oauth.refreshes == 1


async def test_defect_2_a_refresh_goes_to_the_token_endpoint_of_the_metadata_after_a_restart_too(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    oauth.knobs.issuer_path = "/tenant"
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    async with McpAuth.open(home=home) as first:
        await signed_in(first)
    clock.ahead = 4000
    async with McpAuth.open(home=home, clock=clock) as second:
        await second.access_token("notes")
    assert [s.form["grant_type"] for s in oauth.requests("/tenant/token")] == ["authorization_code", "refresh_token"]
    assert oauth.requests("/token") == []


async def test_defect_8_and_pain_6_a_hundred_tasks_refresh_once(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        answered = oauth.knobs.token_gate = threading.Event()
        clock.ahead = 4000
        tasks = [asyncio.create_task(auth.access_token("notes")) for _ in range(100)]
        await refreshing(oauth)
        answered.set()
        tokens = await asyncio.gather(*tasks)
    assert len(set(tokens)) == 1
    assert (oauth.refreshes, oauth.families_killed) == (1, 0)


async def test_defect_8_and_pain_6_instances_that_share_a_home_refresh_once(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    instances = [McpAuth.open(home=home, clock=clock) for _ in range(8)]
    await signed_in(instances[0])
    answered = oauth.knobs.token_gate = threading.Event()
    clock.ahead = 4000
    tasks = [asyncio.create_task(auth.access_token("notes")) for auth in instances]
    await refreshing(oauth)
    answered.set()
    tokens = await asyncio.gather(*tasks)
    assert len(set(tokens)) == 1
    assert (oauth.refreshes, oauth.families_killed) == (1, 0)
    for auth in instances:
        await auth.close()


async def test_duty_resource_stands_in_refresh_requests(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead = 4000
        await auth.access_token("notes")
    assert oauth.requests("/token")[-1].form["resource"] == oauth.url


async def test_pain_9_an_answer_without_refresh_token_and_scope_keeps_both(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    oauth.knobs.challenge_scope = "a b"
    oauth.knobs.rotate = False
    async with granted(tmp_path, oauth, clock) as auth:
        before = await tokens_of(auth)
        oauth.knobs.scope_answer = ""
        clock.ahead = 4000
        await auth.access_token("notes")
        after = await tokens_of(auth)
    assert after.access_token != before.access_token
    assert (after.refresh_token, after.scope) == (before.refresh_token, "a b")


@pytest.mark.parametrize(
    "answer",
    [
        PlainTextResponse("slow down", 429, headers={"Retry-After": "7"}),
        PlainTextResponse("bad gateway", 502),
        PlainTextResponse("unavailable", 503),
        JSONResponse({"error": "temporarily_unavailable"}, 400),
        JSONResponse({"error": "invalid_request"}, 400),
        JSONResponse({"error": "server_error"}, 200),
        PlainTextResponse("<html>login</html>", 200),
    ],
)
async def test_defect_7_and_pain_8_only_invalid_grant_is_final(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, answer: Response
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await tokens_of(auth)
        oauth.knobs.token_answers = [answer]
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable) as caught:
            await auth.access_token("notes")
        assert await tokens_of(auth) == before
        assert (await auth.status("notes")).auth is AuthState.SIGNED_IN
        # Nobody asks again at once
        asked = len(oauth.requests("/token"))
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")
        assert len(oauth.requests("/token")) == asked
        # And after the wait all is well
        clock.ahead += caught.value.retry_after + 1
        assert (await auth.access_token("notes")) != before.access_token


@pytest.mark.parametrize(("said", "wait"), [("7", 7), ("0", 1), ("99999", 3600), ("soon", 5)])
async def test_retry_after_is_honoured_for_an_hour_at_most(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, said: str, wait: float
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        oauth.knobs.token_answers = [PlainTextResponse("", 429, headers={"Retry-After": said})]
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable) as caught:
            await auth.access_token("notes")
        assert caught.value.retry_after == wait


@pytest.mark.parametrize(("ahead", "least", "most"), [(600, 500, 600), (-90, 1, 1), (9999, 3600, 3600)])
async def test_retry_after_may_be_a_date(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, ahead: int, least: float, most: float
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead = 4000
        date = formatdate(clock() + ahead, usegmt=True)
        oauth.knobs.token_answers = [PlainTextResponse("", 429, headers={"Retry-After": date})]
        with pytest.raises(RefreshUnavailable) as caught:
            await auth.access_token("notes")
        assert least <= caught.value.retry_after <= most


async def test_a_failed_refresh_ahead_of_time_gives_the_token_that_still_works(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        oauth.knobs.token_answers = [PlainTextResponse("", 503)]
        clock.ahead = 3400
        assert await auth.access_token("notes") == before


async def test_a_server_that_cannot_be_reached_keeps_all(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        grant = await grant_of(auth)
        assert grant.metadata is not None
        dead = msgspec.structs.replace(grant.metadata, token_endpoint="http://127.0.0.1:9/token")
        await auth.store.grants.put_if(msgspec.structs.replace(grant, metadata=dead))
        clock.ahead = 4000
        with pytest.raises(RefreshUnavailable, match="cannot be reached"):
            await auth.access_token("notes")
        after = await grant_of(auth)
        assert (after.tokens, after.refresh_mark) == (grant.tokens, None)


@pytest.mark.parametrize("still_works", [True, False])
async def test_a_request_that_cannot_be_made_is_no_lost_answer(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, still_works: bool
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        grant = await grant_of(auth)
        assert grant.registration is not None
        good, asked = grant.registration, len(oauth.requests("/token"))
        odd = msgspec.structs.replace(good, token_endpoint_auth_method="tls_client_auth")
        await auth.store.grants.put_if(msgspec.structs.replace(grant, registration=odd))
        clock.ahead = 3400 if still_works else 4000
        for _ in range(3):
            if still_works:
                assert await auth.access_token("notes") == before
            else:
                with pytest.raises(RefreshUnavailable, match="way of authentication") as caught:
                    await auth.access_token("notes")
                assert caught.value.next_step == Next("auth", "notes")
            clock.ahead += 30
        after = await grant_of(auth)
        assert (after.tokens, after.refresh_mark, len(oauth.requests("/token"))) == (grant.tokens, None, asked)
        # And with a registration that can be used all is well
        await auth.store.grants.put_if(msgspec.structs.replace(after, registration=good))
        clock.ahead += 400
        assert await auth.access_token("notes") != before


async def test_invalid_grant_ends_the_grant_and_says_so_once(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        told = told_of(auth)
        oauth.refresh.clear()
        clock.ahead = 4000
        for _ in range(3):
            with pytest.raises(ReauthorizationNeeded):
                await auth.access_token("notes")
        status = await auth.status("notes")
    assert (status.auth, status.next) == (AuthState.REAUTHORIZATION_NEEDED, Next("auth", "notes"))
    assert told == ["reauthorization_needed"]
    assert oauth.refreshes == 1


async def test_pain_7_a_late_invalid_grant_does_not_touch_a_newer_grant(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    # Given a refresh whose answer will be late and bad
    async with granted(tmp_path, oauth, clock) as auth:
        clock.ahead = 4000
        answered = oauth.knobs.token_gate = threading.Event()
        oauth.refresh.clear()
        task = asyncio.create_task(auth.access_token("notes"))
        await refreshing(oauth)
        # When another program writes newer tokens meanwhile
        grant = await grant_of(auth)
        newer = Tokens(access_token="newer", refresh_token="newer-r", expires_at=clock() + 3600, obtained_at=clock())
        assert await auth.store.grants.put_if(msgspec.structs.replace(grant, tokens=newer)) is not None
        answered.set()
        # Then those count
        assert await task == "newer"
        assert (await grant_of(auth)).reauthorization is None


async def test_invalid_client_keeps_a_living_access_token_and_marks_the_registration_dead(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        oauth.knobs.token_answers = [JSONResponse({"error": "invalid_client"}, 401)]
        clock.ahead = 3400
        assert await auth.access_token("notes") == before
        assert await auth.access_token("notes") == before
        assert oauth.refreshes == 0
        clock.ahead = 4000
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        await signed_in(auth)
        assert len(oauth.requests("/register")) == 2


async def test_a_lost_answer_is_sent_once_more_and_never_a_third_time(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        sent = (await tokens_of(auth)).refresh_token
        oauth.knobs.token_answers = ["drop", "drop", "drop"]
        for _ in range(4):
            clock.ahead += 4000
            with pytest.raises((RefreshUnavailable, ReauthorizationNeeded)):
                await auth.access_token("notes")
    times = [s.form.get("refresh_token") for s in oauth.requests("/token")].count(sent)
    assert times == 2


async def test_a_lost_answer_leaves_the_access_token_to_its_end(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await auth.access_token("notes")
        oauth.knobs.token_answers = ["drop"]
        clock.ahead = 3400
        assert await auth.access_token("notes") == before
        clock.ahead = 3500
        assert await auth.access_token("notes") == before
        assert len(oauth.requests("/token")) == 2


async def test_after_a_crash_between_sending_and_storing_it_is_sent_once_more(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    oauth.knobs.rotate = False
    async with granted(tmp_path, oauth, clock) as auth:
        grant = await grant_of(auth)
        token = (await tokens_of(auth)).refresh_token or ""
        mark = RefreshMark(token_sha256=sha256(token))
        await auth.store.grants.put_if(msgspec.structs.replace(grant, refresh_mark=mark))
        clock.ahead = 4000
        assert (await auth.access_token("notes")).startswith("at-")
        assert (await grant_of(auth)).refresh_mark is None


async def test_the_mark_is_on_the_disk_before_the_token_is_sent(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        answered = oauth.knobs.token_gate = threading.Event()
        clock.ahead = 4000
        task = asyncio.create_task(auth.access_token("notes"))
        await refreshing(oauth)
        mark = (await grant_of(auth)).refresh_mark
        answered.set()
        assert mark is not None and mark.count == 1
        await task


async def test_a_cancelled_caller_does_not_stop_the_refresh(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with granted(tmp_path, oauth, clock) as auth:
        before = await tokens_of(auth)
        answered = oauth.knobs.token_gate = threading.Event()
        clock.ahead = 4000
        task = asyncio.create_task(auth.access_token("notes"))
        await refreshing(oauth)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        answered.set()
        async with asyncio.timeout(PATIENCE):
            while (await tokens_of(auth)).access_token == before.access_token:
                await asyncio.sleep(0.01)
        assert oauth.refreshes == 1


@pytest.mark.parametrize("missing", ["refresh_token", "metadata", "registration"])
async def test_what_cannot_be_refreshed_needs_a_person_and_nothing_is_sent(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, missing: str
) -> None:
    """As of a grant that only Hermes stored, whose other files are gone."""
    async with granted(tmp_path, oauth, clock, store=MemoryStore()) as auth:
        grant = await grant_of(auth)
        if missing == "refresh_token":
            assert grant.tokens is not None
            changed = msgspec.structs.replace(grant, tokens=msgspec.structs.replace(grant.tokens, refresh_token=None))
        else:
            changed = msgspec.structs.replace(grant, **{missing: None})
        assert await auth.store.grants.put_if(changed) is not None
        oauth.forget()
        assert (await auth.access_token("notes")).startswith("at-"), "until it ends"
        clock.ahead = 4000
        with pytest.raises(ReauthorizationNeeded) as caught:
            await auth.access_token("notes")
        assert caught.value.next_step == Next("auth", "notes")
        assert oauth.seen == []


async def test_tokens_are_bound_to_the_url_of_the_server(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    store = MemoryStore()
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, store=store) as auth:
        await signed_in(auth)
    moved = {"notes": {"url": oauth.url.replace("/mcp", "/other"), "auth": "oauth"}}
    async with open_auth(tmp_path, moved, store=store) as auth:
        with pytest.raises(SignInNeeded, match="url"):
            await auth.access_token("notes")
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED


@pytest.mark.parametrize("answer", ["drop", PlainTextResponse("", 503)], ids=["lost", "503"])
async def test_whoever_joins_a_refresh_that_fails_is_not_given_the_token_that_was_refused(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, answer: Any
) -> None:
    """One who asks ahead of time falls back on the token that is still good; the other was told that it is not."""
    async with granted(tmp_path, oauth, clock) as auth:
        old, entry = await auth.access_token("notes"), auth.config.servers["notes"]
        clock.ahead = 3310
        answered = oauth.knobs.token_gate = threading.Event()
        oauth.knobs.token_answers = [answer] * 4
        ahead = asyncio.create_task(auth.access_token("notes"))
        await refreshing(oauth)
        refused = asyncio.create_task(auth.parts.refresher.access_token(entry, "shared", refused=old))
        await asyncio.sleep(0)
        answered.set()
        assert await ahead == old
        with pytest.raises(RefreshUnavailable):
            await refused


@pytest.mark.parametrize(
    ("failures", "retry_after", "wait"),
    [
        *[(0, None, 5), (1, None, 10), (5, None, 160), (6, None, 300), (10**6, None, 300)],
        *[(0, 0.0, 1), (0, 1.5, 1.5), (3, 7.0, 7), (0, 3600.0, 3600), (0, 3601.0, 3600)],
    ],
)
def test_the_wait_doubles_up_to_five_minutes_and_a_server_s_word_counts_up_to_an_hour(
    failures: int, retry_after: float | None, wait: float
) -> None:
    assert _backoff(failures, retry_after) == wait


async def test_a_refresh_is_tried_again_at_the_second_that_was_said(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        await signed_in(auth)
        now[0] += 4000
        oauth.knobs.token_answers = [PlainTextResponse("", 503, {"Retry-After": "60"})]
        with pytest.raises(RefreshUnavailable):
            await auth.access_token("notes")
        for early in (59, 0.5):
            now[0] += early
            with pytest.raises(RefreshUnavailable):
                await auth.access_token("notes")
        before = len(oauth.requests("/token"))
        now[0] += 0.5
        assert await auth.access_token("notes")
        assert len(oauth.requests("/token")) == before + 1


async def test_a_no_is_believed_after_so_long_and_at_that_very_second(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        await signed_in(auth)
        now[0] += 4000
        refused_at = now[0]
        for later in (0.0, _SURE_AFTER - 1):
            now[0] = refused_at + later
            oauth.knobs.token_answers = [JSONResponse({"error": "invalid_request"}, 400)]
            with pytest.raises(RefreshUnavailable):
                await auth.access_token("notes")
        await auth.store.grants.put_if(msgspec.structs.replace(await grant_of(auth), refresh_not_before=None))
        now[0] = refused_at + _SURE_AFTER
        oauth.knobs.token_answers = [JSONResponse({"error": "invalid_request"}, 400)]
        with pytest.raises(ReauthorizationNeeded, match="refuses to renew"):
            await auth.access_token("notes")


ENDED, DPOP = "the authorization server ended the grant", "its tokens are of the type DPoP, and only bearer tokens"
BROKEN = "127.0.0.1 broke off in the middle of its answer (RemoteProtocolError)."
# What the grant knows afterwards, as far as it differs from one without trouble. `in` and `since`: seconds from now.
AFTERWARDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "new tokens": (None, {}),
    "the end of the grant": (
        JSONResponse({"error": "invalid_grant"}, 400),
        {"reauthorization": ENDED, "reauthorization_told": True, "last_error": "invalid_grant"},
    ),
    "the end of the registration": (
        JSONResponse({"error": "invalid_client"}, 401),
        {"registration_dead": True, "reauthorization_told": True, "last_error": "invalid_client"},
    ),
    "a no of another kind": (
        JSONResponse({"error": "invalid_request"}, 400),
        {"failed": 1, "in": 5, "refresh_may_be_tried": True, "refresh_refused": True, "last_error": "invalid_request"},
    ),
    "trouble": (
        PlainTextResponse("", 503),
        {"failed": 1, "in": 5, "refresh_may_be_tried": True, "last_error": "HTTP 503"},
    ),
    "trouble for a minute": (
        PlainTextResponse("", 503, {"Retry-After": "60"}),
        {"failed": 1, "in": 60, "last_error": "HTTP 503"},
    ),
    "half an answer": ("drop", {"failed": 1, "in": 5, "last_error": BROKEN, "marked": 1}),
    "tokens of another type": (
        JSONResponse({"access_token": "x", "token_type": "DPoP"}),
        {
            **{"reauthorization": f"{DPOP} can be used", "reauthorization_now": True, "reauthorization_told": True},
            **{"in": 3600, "refresh_may_be_tried": True},
        },
    ),
}


@pytest.mark.parametrize("what", AFTERWARDS)
@pytest.mark.parametrize("before", ["good", "ahead of time", "doubted"])
async def test_after_each_answer_the_grant_knows_this_and_no_more(
    tmp_path: Path, oauth: OAuthServer, what: str, before: str
) -> None:
    answer, expected = AFTERWARDS[what]
    signed_in_at = 1_800_000_000.0
    now = [signed_in_at]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        await signed_in(auth)
        now[0] += 3400 if before == "ahead of time" else 4000
        doubts = {"reauthorization": "doubted", "reauthorization_now": True}
        failures = {"refresh_failures": 2, "refresh_failing_since": now[0] - 100, "last_error": "before"}
        if before == "doubted":
            changed = msgspec.structs.replace(await grant_of(auth), **doubts, **failures)
            assert await auth.store.grants.put_if(changed) is not None
        told = told_of(auth)
        oauth.knobs.token_answers = [answer] if answer is not None else []
        with contextlib.suppress(ReauthorizationNeeded, RefreshUnavailable):
            await auth.access_token("notes")
        grant = await grant_of(auth)

    expected = dict(expected)
    failed, wait, marked = expected.pop("failed", 0), expected.pop("in", None), expected.pop("marked", None)
    state = {**NO_TROUBLE, "reauthorization_told": False, "registration_dead": False}
    if before == "doubted" and what != "new tokens":
        # Nothing but new tokens takes a doubt back, and whoever waits for a person waits an hour.
        state |= doubts | failures
        failed, wait = failed + 2, wait and 3600
    elif failed:
        state |= {"refresh_failing_since": now[0]}
    if what == "the end of the grant":
        state |= {"reauthorization_now": False}
    state |= {"refresh_failures": failed, "refresh_not_before": None if wait is None else now[0] + wait}
    state |= expected
    if expected.get("refresh_refused") and before != "ahead of time":
        # Only with the access at its end does such a no count.
        state |= {"refresh_refused_at": now[0]}
    assert {name: getattr(grant, name) for name in state} == state
    assert (grant.refresh_mark and grant.refresh_mark.count) == marked
    news = "refreshed" if what == "new tokens" else "reauthorization_needed"
    assert told == ([news] if what == "new tokens" or state["reauthorization_told"] else [])
