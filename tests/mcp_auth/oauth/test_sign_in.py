"""The two halves of a sign-in: the link, and the answer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec
import pytest

from mcp_auth import McpAuth, Requester
from mcp_auth.errors import (
    AlreadyFinished,
    AuthorizationRefused,
    CallbackRejected,
    SignInError,
    SignInExpired,
    TokenRequestFailed,
    UnknownSignIn,
    WrongIssuer,
    WrongPerson,
)
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding
from mcp_auth.oauth.exchange import previous_of
from mcp_auth.outcome import Next
from mcp_auth.records import ServerMetadata, ServerProfile, SignIn, Tokens, encode
from mcp_auth.states import STALE_CLAIM
from mcp_auth.status import AuthState
from mcp_auth.stores.files import FileStore
from tests.homes import ME, Clock, open_auth, query_of, signed_in, write_home
from tests.mcp_auth.stores.backends import URL, grant
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer, authorize


def opened(tmp_path: Path, oauth: OAuthServer, *, clock: Clock | None = None, **options: Any) -> McpAuth:
    servers = {"notes": {"url": oauth.url, "auth": "oauth", "oauth": options}}
    return open_auth(tmp_path, servers, **({"clock": clock} if clock else {}))


async def redirect_of(auth: McpAuth, origin: Requester = ME) -> str:
    started = await auth.sign_in("notes", "shared", origin, listen=False)
    return await asyncio.to_thread(authorize, started.link)


# -- the link ------------------------------------------------------------------------------------


async def test_duty_pkce_s256_state_and_redirect_stand_in_the_link(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        query = query_of(started.link)
        verifier = started.sign_in.code_verifier or ""
        expected = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        assert (query["response_type"], query["code_challenge_method"]) == ("code", "S256")
        assert query["code_challenge"] == expected
        assert query["state"] == started.sign_in.state
        assert query["redirect_uri"].startswith("http://127.0.0.1:")


async def test_duty_issuer_verifier_and_state_are_stored_before_the_link_is_given(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with opened(tmp_path, oauth) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        # On the disk: another process reads it
        stored = await FileStore(auth.config.home).sign_ins.latest("shared", "notes")
        assert stored is not None
        assert (stored.issuer, stored.state, stored.code_verifier) == (
            oauth.issuer,
            started.sign_in.state,
            started.sign_in.code_verifier,
        )


async def test_duty_resource_stands_in_authorization_and_token_requests(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        assert oauth.requests("/authorize")[0].query["resource"] == oauth.url
        assert oauth.requests("/token")[0].form["resource"] == oauth.url


async def test_duty_resource_stands_in_authorization_and_token_requests_as_the_metadata_names_it(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    # Given a server below the resource that its metadata speaks for, at the well-known address of that resource
    oauth.knobs.prm["resource"], oauth.knobs.prm_path = oauth.origin, "root"
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
    assert oauth.requests("/authorize")[0].query["resource"] == oauth.origin
    assert oauth.requests("/token")[0].form["resource"] == oauth.origin


async def test_duty_resource_can_be_turned_off_per_server(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth, resource=False) as auth:
        await signed_in(auth)
    assert "resource" not in oauth.requests("/authorize")[0].query
    assert "resource" not in oauth.requests("/token")[0].form


@pytest.mark.parametrize(
    ("configured", "challenge", "supported", "expected"),
    [
        ("mine", "asked", ["all"], "mine"),
        (None, "asked", ["all"], "asked"),
        (None, None, ["all", "more"], "all more"),
        (None, None, None, None),
        (None, None, [], None),
    ],
)
async def test_duty_scope_is_configuration_else_challenge_else_supported_else_omitted(
    tmp_path: Path,
    oauth: OAuthServer,
    configured: str | None,
    challenge: str | None,
    supported: list[str] | None,
    expected: str | None,
) -> None:
    oauth.knobs.challenge_scope = challenge
    oauth.knobs.prm["scopes_supported"] = supported
    # The SDK falls back to these; the specification does not.
    oauth.knobs.metadata["scopes_supported"] = ["from-the-authorization-server"]
    async with opened(tmp_path, oauth, **({"scope": configured} if configured else {})) as auth:
        assert query_of((await auth.sign_in("notes", "shared", ME, listen=False)).link).get("scope") == expected


@pytest.mark.parametrize(("listed", "expected"), [(True, "a offline_access"), (False, "a")])
async def test_duty_offline_access_only_when_listed(
    tmp_path: Path, oauth: OAuthServer, listed: bool, expected: str
) -> None:
    oauth.knobs.challenge_scope = "a"
    oauth.knobs.metadata["scopes_supported"] = ["a", "offline_access"] if listed else ["a"]
    async with opened(tmp_path, oauth) as auth:
        assert query_of((await auth.sign_in("notes", "shared", ME, listen=False)).link)["scope"] == expected


async def test_authorize_params_are_added_and_cannot_replace_ours(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["authorization_endpoint"] = f"{oauth.origin}/authorize?tenant=7&state=evil"
    async with opened(tmp_path, oauth, authorize_params={"prompt": "login"}) as auth:
        query = query_of((await auth.sign_in("notes", "shared", ME, listen=False)).link)
    assert (query["prompt"], query["tenant"]) == ("login", "7")
    assert query["state"] != "evil"


def test_pain_10_google_is_asked_for_a_refresh_token_in_its_own_words() -> None:
    from mcp_auth.oauth.vendors import authorize_params

    assert authorize_params("https://accounts.google.com") == {"access_type": "offline", "prompt": "consent"}
    assert authorize_params("https://accounts.google.com.evil.example") == {}


async def test_pain_10_the_words_of_an_issuer_stand_in_its_links(tmp_path: Path, oauth: OAuthServer) -> None:
    google = ServerMetadata(
        issuer="https://accounts.google.com",
        authorization_endpoint="https://accounts.google.com/o/oauth2/v2/auth",
        token_endpoint="https://oauth2.googleapis.com/token",
    )
    async with opened(tmp_path, oauth, client_id="mine") as auth:
        # Given a server that is known to be behind Google
        known = ServerProfile(server_url=oauth.url, needs_sign_in=True, metadata=google, fetched_at=time.time())
        assert await auth.store.profiles.put_if(known) is not None
        query = query_of((await auth.sign_in("notes", "shared", ME, listen=False)).link)
    assert (query["access_type"], query["prompt"]) == ("offline", "consent")
    assert oauth.seen == []


async def test_pain_19_the_same_open_sign_in_is_handed_out_again(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        first = await auth.sign_in("notes", "shared", ME, listen=False)
        oauth.forget()
        second = await auth.sign_in("notes", "shared", ME, listen=False)
        assert (second.link, second.reused) == (first.link, True)
        assert oauth.seen == []
        # And a link asked for twice at once is one link
        third, fourth = await asyncio.gather(*(auth.sign_in("notes", "shared", ME, listen=False) for _ in range(2)))
        assert third.link == fourth.link == first.link


async def test_pain_19_two_beginnings_at_once_make_one_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        links = {
            s.link for s in await asyncio.gather(*(auth.sign_in("notes", "shared", ME, listen=False) for _ in range(5)))
        }
        assert len(links) == 1


async def test_pain_19_a_link_lives_ten_minutes(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, clock=clock) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert started.expires_at - started.sign_in.created_at == pytest.approx(600)
        redirect = await asyncio.to_thread(authorize, started.link)
        clock.ahead = 601
        with pytest.raises(SignInExpired):
            await auth.paste(redirect, ME.principal)
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
        assert oauth.requests("/token") == []


async def test_an_open_sign_in_of_somebody_else_is_left_alone(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, clock=clock) as auth:
        await auth.sign_in("notes", "shared", Requester(principal="telegram:1"))
        for later, left in (
            (0, "10 more minutes"),
            (400, "3 more minutes"),
            (550, "1 more minute"),
            (590, "1 more minute"),
        ):
            clock.ahead = later
            with pytest.raises(SignInError, match=rf"Another account .* lives for {left}\.") as caught:
                await auth.sign_in("notes", "shared", ME, listen=False)
            assert caught.value.next_step == Next("cancel", "notes")


# -- the answer ----------------------------------------------------------------------------------


async def test_a_finished_sign_in_stores_everything_that_a_refresh_needs(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        grant = await auth.store.grants.get("shared", "notes", oauth.url)
    assert grant is not None and grant.tokens is not None
    assert grant.issuer == oauth.issuer
    assert grant.server_url == oauth.url
    assert grant.metadata is not None and grant.metadata.token_endpoint == f"{oauth.issuer}/token"
    assert grant.registration is not None and grant.registration.issuer == oauth.issuer
    assert grant.tokens.expires_at is not None and grant.tokens.refresh_token is not None


async def test_a_sign_in_is_finished_in_another_process_after_a_restart(tmp_path: Path, oauth: OAuthServer) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    async with McpAuth.open(home=home) as first:
        redirect = await redirect_of(first)
    async with McpAuth.open(home=home) as second:
        assert (await second.paste(redirect, ME.principal)).status == "done"


async def test_a_redirect_counts_once(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        await auth.paste(redirect, ME.principal)
        with pytest.raises(AlreadyFinished):
            await auth.paste(redirect, ME.principal)
        assert len(oauth.requests("/token")) == 1


async def test_two_answers_at_once_are_exchanged_once(tmp_path: Path, oauth: OAuthServer) -> None:
    exchanged = oauth.knobs.token_gate = threading.Event()
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        pastes = [asyncio.create_task(auth.paste(redirect, ME.principal)) for _ in range(5)]
        # Four are turned away while the one that came first is still under way.
        async with asyncio.timeout(PATIENCE):
            while sum(paste.done() for paste in pastes) < 4:
                await asyncio.sleep(0.005)
        exchanged.set()
        results = await asyncio.gather(*pastes, return_exceptions=True)
    assert [r.status for r in results if not isinstance(r, BaseException)] == ["done"]
    assert all(isinstance(r, AlreadyFinished) for r in results if isinstance(r, BaseException))
    assert len(oauth.requests("/token")) == 1


async def exchanging(auth: McpAuth, oauth: OAuthServer) -> asyncio.Task[SignIn]:
    """A sign-in whose code the token endpoint is looking at."""
    redirect = await redirect_of(auth)
    task = asyncio.create_task(auth.paste(redirect, ME.principal))
    async with asyncio.timeout(PATIENCE):
        while not oauth.requests("/token"):
            await asyncio.sleep(0.005)
    return task


async def test_what_is_being_exchanged_is_neither_cancelled_nor_begun_again(tmp_path: Path, oauth: OAuthServer) -> None:
    exchanged = oauth.knobs.token_gate = threading.Event()
    async with opened(tmp_path, oauth) as auth:
        task = await exchanging(auth, oauth)
        for ask in (auth.cancel("notes"), auth.sign_in("notes", "shared", ME, listen=False)):
            with pytest.raises(SignInError, match="being signed in right now"):
                await ask
        exchanged.set()
        assert (await task).status == "done"


async def test_a_browser_that_goes_away_does_not_stop_the_exchange(tmp_path: Path, oauth: OAuthServer) -> None:
    exchanged = oauth.knobs.token_gate = threading.Event()
    async with opened(tmp_path, oauth) as auth:
        task = await exchanging(auth, oauth)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        exchanged.set()
        started = (await auth.store.sign_ins.list())[0]
        assert (await auth.wait(started, PATIENCE)).status == "done"


@pytest.mark.parametrize("change", ["forged", "other-slot", "missing", "garbage"])
async def test_a_wrong_state_is_refused_and_the_right_answer_still_counts(
    tmp_path: Path, oauth: OAuthServer, change: str
) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        query = query_of(redirect)
        right = query["state"]
        query["state"] = {
            "forged": right[:-3] + ("aaa" if not right.endswith("aaa") else "bbb"),
            "other-slot": "0" * 32 + right[32:],
            "missing": "",
            "garbage": "../../etc/passwd",
        }[change]
        base = redirect.partition("?")[0]
        with pytest.raises(UnknownSignIn):
            await auth.finish(AuthorizationResponse(**query, redirect_uri=base), Binding())
        assert oauth.requests("/token") == []
        assert (await auth.paste(redirect, ME.principal)).status == "done"


async def test_a_code_that_cannot_be_sent_spends_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        code = query_of(redirect)["code"]
        with pytest.raises(CallbackRejected):
            await auth.paste(redirect.replace(code, "\ud83d"), ME.principal)
        assert (await auth.paste(redirect, ME.principal)).status == "done"


async def test_defect_9_a_wrong_state_does_not_show_the_expected_one(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        state = query_of(await redirect_of(auth))["state"]
        wrong = state[:-1] + ("a" if state[-1] != "a" else "b")
        with pytest.raises(UnknownSignIn) as caught:
            await auth.finish(AuthorizationResponse(code="c0de", state=wrong, iss=oauth.issuer), Binding())
    assert state not in str(caught.value) and wrong not in str(caught.value)


@pytest.mark.parametrize(
    ("advertised", "sent", "accepted"),
    [
        (True, "right", True),
        (True, "missing", False),
        (True, "wrong", False),
        (None, "right", True),
        (None, "missing", True),
        (None, "wrong", False),
    ],
)
async def test_duty_iss_is_checked_before_the_code_is_sent(
    tmp_path: Path, oauth: OAuthServer, advertised: bool | None, sent: str, accepted: bool
) -> None:
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = advertised
    oauth.knobs.iss = sent
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        if accepted:
            assert (await auth.paste(redirect, ME.principal)).status == "done"
            return
        with pytest.raises(WrongIssuer):
            await auth.paste(redirect, ME.principal)
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("variant", ["{iss}/", "{iss}?", "{upper}"])
async def test_duty_iss_is_compared_without_normalisation(tmp_path: Path, oauth: OAuthServer, variant: str) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        query = query_of(redirect)
        query["iss"] = variant.format(iss=oauth.issuer, upper=oauth.issuer.upper())
        with pytest.raises(WrongIssuer):
            await auth.paste(f"{redirect.partition('?')[0]}?{urlencode(query)}", ME.principal)
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("iss", ["wrong", "missing"])
async def test_duty_an_error_with_a_foreign_iss_is_neither_shown_nor_acted_on(
    tmp_path: Path, oauth: OAuthServer, iss: str
) -> None:
    oauth.knobs.iss = iss
    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "visit evil.example"}
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        with pytest.raises(WrongIssuer) as caught:
            await auth.paste(redirect, ME.principal)
        assert "evil" not in str(caught.value)
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_OPEN


async def test_defect_6_an_error_of_the_authorization_server_ends_the_sign_in(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "Ada said\r\nno \x1b[31m"}
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        with pytest.raises(AuthorizationRefused) as caught:
            await auth.paste(redirect, ME.principal)
        assert caught.value.message == "Access was denied: Ada said no [31m."
        record = (await auth.store.sign_ins.list())[0]
        assert (record.status, record.code_verifier) == ("refused", None)


async def test_another_person_cannot_finish_it(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        with pytest.raises(WrongPerson):
            await auth.paste(redirect, "telegram:666")
        assert oauth.requests("/token") == []


async def test_an_answer_at_another_address_than_the_registered_one_is_refused(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        moved = urlsplit(redirect)._replace(path="/elsewhere").geturl()
        with pytest.raises(CallbackRejected):
            await auth.paste(moved, ME.principal)
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("gone", [False, True])
async def test_a_code_is_not_sent_for_a_server_that_is_configured_otherwise_by_now(
    tmp_path: Path, oauth: OAuthServer, gone: bool
) -> None:
    entry = {"url": oauth.url, "auth": "oauth"}
    async with open_auth(tmp_path, {"notes": entry}) as auth:
        redirect = await redirect_of(auth)
    moved = {} if gone else {"notes": {**entry, "url": f"{oauth.origin}/other"}}
    async with open_auth(tmp_path, {**moved, "mail": entry}) as auth:
        with pytest.raises(TokenRequestFailed, match="no longer configured with that url"):
            await auth.paste(redirect, ME.principal)
        (ended,) = await auth.store.sign_ins.list()
    assert ended.status == "failed"
    assert oauth.requests("/token") == []


def test_what_a_re_authorization_can_bring_back_is_a_grant_that_still_works() -> None:
    good = grant(resource=URL, account="ada", signed_in_at=5.0)
    tokens = good.tokens
    assert tokens is not None
    kept = previous_of(good, URL, now=0)
    assert kept is not None
    assert (kept.tokens, kept.issuer, kept.resource, kept.account) == (tokens, good.issuer, URL, "ada")
    ended = msgspec.structs.replace(tokens, refresh_token=None, expires_at=100.0)
    for worthless in (
        None,
        msgspec.structs.replace(good, tokens=None),
        msgspec.structs.replace(good, server_url=f"{URL}/other"),
        msgspec.structs.replace(good, reauthorization="ended"),
        msgspec.structs.replace(good, tokens=ended),
    ):
        assert previous_of(worthless, URL, now=100) is None
    for worth in (
        msgspec.structs.replace(good, tokens=msgspec.structs.replace(ended, refresh_token="rt")),
        msgspec.structs.replace(good, tokens=msgspec.structs.replace(ended, expires_at=None)),
        msgspec.structs.replace(good, tokens=msgspec.structs.replace(ended, expires_at=101.0)),
    ):
        assert previous_of(worth, URL, now=100) is not None
    # One that never worked gives way to the one before it
    between = msgspec.structs.replace(good, previous=kept, reauthorization="the server refuses it")
    assert previous_of(between, URL, now=0) == kept


async def test_a_bare_code_is_taken_when_it_can_belong_to_one_sign_in_only(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = None
    async with opened(tmp_path, oauth) as auth:
        code = query_of(await redirect_of(auth))["code"]
        with pytest.raises(CallbackRejected):
            await auth.paste(code, "telegram:666")
        assert (await auth.paste(code, ME.principal)).status == "done"


async def test_a_bare_code_belongs_to_the_sign_in_of_who_pastes_it(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = None
    entry = {"url": oauth.url, "auth": "oauth"}
    async with open_auth(tmp_path, {"notes": entry, "others": entry}) as auth:
        # Given somebody else's open sign-in beside mine
        await auth.sign_in("others", "shared", Requester(principal="telegram:7"), listen=False)
        code = query_of(await redirect_of(auth))["code"]
        done = await auth.paste(code, ME.principal)
        assert (done.server, done.status) == ("notes", "done")


async def test_what_ends_on_a_page_of_its_own_is_never_pasted(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth, redirect_uri="https://bot.example.com/callback") as auth:
        redirect = await redirect_of(auth)
        with pytest.raises(CallbackRejected, match="nothing to paste"):
            await auth.paste(redirect, ME.principal)
        assert oauth.requests("/token") == []


async def test_a_bare_code_is_refused_where_the_issuer_advertises_iss(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        code = query_of(await redirect_of(auth))["code"]
        with pytest.raises(CallbackRejected, match="bare code"):
            await auth.paste(code, ME.principal)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "invalid_code"},
        {"ok": False, "error": "bad_redirect"},
        {},
        {"access_token": ""},
        {"access_token": 7},
        {"access_token": "two words", "token_type": "bearer"},
        {"access_token": "at\r\nX-Evil: 1", "token_type": "bearer"},
        {"access_token": "at", "token_type": "DPoP"},
        {"access_token": "at", "token_type": ["bearer"]},
    ],
)
async def test_pain_24_an_error_with_http_200_is_an_error(
    tmp_path: Path, oauth: OAuthServer, body: dict[str, Any]
) -> None:
    from starlette.responses import JSONResponse

    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        oauth.knobs.token_answers = [JSONResponse(body, 200)]
        with pytest.raises(TokenRequestFailed) as caught:
            await auth.paste(redirect, ME.principal)
        (ended,) = await auth.store.sign_ins.list()
    # What is said here is kept for those who ask later
    assert (ended.status, ended.result) == ("failed", caught.value.outcome)


@pytest.mark.parametrize(
    ("error", "shown"),
    [("e" * 60, "e" * 60), ("e" * 61, "HTTP 400"), ("no\nway", "HTTP 400"), ("n\u00f6", "HTTP 400"), ("", "HTTP 400")],
)
async def test_only_a_short_plain_error_code_is_repeated(
    tmp_path: Path, oauth: OAuthServer, error: str, shown: str
) -> None:
    from starlette.responses import JSONResponse

    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        oauth.knobs.token_answers = [JSONResponse({"error": error}, 400)]
        with pytest.raises(TokenRequestFailed) as caught:
            await auth.paste(redirect, ME.principal)
    assert shown in caught.value.message
    assert not error or (error in caught.value.message) is (error == shown)


@pytest.mark.parametrize("where", ["error", "error_description"])
async def test_what_a_server_repeats_of_the_code_is_not_shown(tmp_path: Path, oauth: OAuthServer, where: str) -> None:
    from starlette.responses import JSONResponse

    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        code = query_of(redirect)["code"]
        body = {
            "error": "invalid_grant",
            "error_description": "no",
            where: f"{'long ' * 35 * (where != 'error')}{code}",
        }
        oauth.knobs.token_answers = [JSONResponse(body, 400)]
        with pytest.raises(TokenRequestFailed) as caught:
            await auth.paste(redirect, ME.principal)
        ended = (await auth.store.sign_ins.list())[0]
    for text in (str(caught.value), str(ended.result)):
        assert not any(code[:n] in text for n in range(8, len(code)))


async def test_pain_24_without_expires_in_a_token_is_valid_until_a_401(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.expires_in = None
    clock = Clock()
    async with opened(tmp_path, oauth, clock=clock) as auth:
        await signed_in(auth)
        clock.ahead = 400 * 86400
        assert (await auth.access_token("notes")).startswith("at-")
        assert oauth.refreshes == 0


async def test_pain_21_a_failed_re_authorization_keeps_the_working_grant(tmp_path: Path, oauth: OAuthServer) -> None:
    from starlette.responses import JSONResponse

    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        before = await auth.access_token("notes")
        redirect = await redirect_of(auth)
        oauth.knobs.token_answers = [JSONResponse({"error": "server_error"}, 500)]
        with pytest.raises(TokenRequestFailed):
            await auth.paste(redirect, ME.principal)
        assert await auth.access_token("notes") == before
        # And while it was open, and when it is cancelled or refused
        await auth.sign_in("notes", "shared", ME, listen=False)
        assert await auth.cancel("notes")
        assert await auth.access_token("notes") == before


async def test_pain_21_new_tokens_that_do_not_work_give_way_to_the_old_ones(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        before = await auth.access_token("notes")
        # Given new tokens that the server itself does not know
        old_access = dict(oauth.access)
        oauth.knobs.give_refresh_token = False
        await signed_in(auth)
        oauth.access = old_access
        # When they are tried
        outcome = await auth.confirm_works("notes")
        # Then the old grant is back
        assert outcome.state == "refused"
        assert await auth.access_token("notes") == before


async def test_pain_15_success_is_a_token_and_an_authenticated_call(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a server whose tools can be listed without a token
    oauth.knobs.protected = False
    async with opened(tmp_path, oauth) as auth:
        assert (await auth.probe("notes")).state != "ready"
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
        oauth.knobs.protected = True
        await signed_in(auth)
        assert (await auth.confirm_works("notes")).state == "ready"
        assert all(s.headers.get("authorization", "").startswith("Bearer at-") for s in oauth.requests("/mcp")[-2:])


async def test_pain_5_the_owner_is_in_every_key(tmp_path: Path, oauth: OAuthServer) -> None:
    from mcp_auth.errors import SignInNeeded

    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth, owner="person:ann")
        assert (await auth.access_token("notes", "person:ann")).startswith("at-")
        for other in ("shared", "person:bob", "principal:telegram:1"):
            with pytest.raises(SignInNeeded):
                await auth.access_token("notes", other)
        with pytest.raises(ValueError, match="owner"):
            await auth.access_token("notes", "ann")


async def test_pain_14_a_dead_registration_is_made_anew_at_the_next_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        from starlette.responses import JSONResponse

        oauth.knobs.token_answers = [JSONResponse({"error": "invalid_client"}, 401)]
        with pytest.raises(TokenRequestFailed):
            await auth.paste(redirect, ME.principal)
        await signed_in(auth)
        assert len(oauth.requests("/register")) == 2


async def test_pain_14_a_page_that_never_comes_back_leads_to_a_new_look(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, clock=clock) as auth:
        await signed_in(auth)
        await auth.sign_in("notes", "shared", ME, listen=False)
        clock.ahead = 700
        assert await auth.open_sign_ins() == []
        oauth.forget()
        await auth.sign_in("notes", "shared", ME, listen=False)
        assert oauth.requests("/.well-known/oauth-authorization-server")


async def test_a_claim_of_a_process_that_died_turns_into_try_again(tmp_path: Path, oauth: OAuthServer) -> None:
    clock = Clock()
    async with opened(tmp_path, oauth, clock=clock) as auth:
        redirect = await redirect_of(auth)
        record = (await auth.store.sign_ins.list())[0]
        claimed = msgspec.structs.replace(record, status="exchanging", claimed_at=clock())
        assert await auth.store.sign_ins.put_if(claimed) is not None
        with pytest.raises(AlreadyFinished):
            await auth.paste(redirect, ME.principal)
        clock.ahead = 60
        assert await auth.open_sign_ins() == []
        # Looking writes nothing
        assert (await auth.store.sign_ins.list())[0].status == "exchanging"
        await auth.sweep()
        assert (await auth.store.sign_ins.list())[0].status == "failed"
        await signed_in(auth)


async def test_an_open_sign_in_is_one_small_record_and_no_task(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        before = asyncio.all_tasks()
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert asyncio.all_tasks() == before
        assert len(encode(started.sign_in)) < 2048


async def test_the_account_of_the_id_token_is_shown(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com", "sub": "1"}
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        assert (await auth.status("notes")).account == "ada@example.com"


async def test_duty_names_and_texts_of_a_server_are_cleaned(tmp_path: Path, oauth: OAuthServer) -> None:
    from starlette.responses import JSONResponse

    evil = "ada\x1b[31m\u202egnp.exe\r\n/mcp auth evil"
    async with opened(tmp_path, oauth) as auth:
        redirect = await redirect_of(auth)
        oauth.knobs.token_answers = [JSONResponse({"error": "invalid_grant", "error_description": evil}, 400)]
        with pytest.raises(TokenRequestFailed) as caught:
            await auth.paste(redirect, ME.principal)
        oauth.knobs.id_token_claims = {"email": evil}
        await signed_in(auth)
        account = (await auth.status("notes")).account
    for text in (caught.value.message, account or ""):
        assert "ada" in text and text.isprintable()


async def test_duty_a_grant_that_ends_without_a_refresh_token_says_so(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.give_refresh_token = False
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        status = await auth.status("notes")
    assert status.auth is AuthState.SIGNED_IN
    assert not status.refreshable
    assert status.expires_at is not None


@pytest.mark.parametrize(
    ("status", "body", "revoked"),
    [
        (200, b"", True),
        (200, b'{"error": null}', True),
        (200, b'{"error": "none", "ok": true}', True),
        (204, b"", True),
        (202, b"revoked", True),
        (200, b'{"error": "unsupported_token_type"}', False),
        (200, b'{"ok": false, "error": {"code": "no"}}', False),
        (302, b"", False),
        (400, b'{"error": "invalid_request"}', False),
        (503, b"", False),
    ],
)
async def test_a_revocation_is_believed_where_the_server_says_that_it_is_done(
    tmp_path: Path, oauth: OAuthServer, status: int, body: bytes, revoked: bool
) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        oauth.knobs.raw, oauth.knobs.raw_status = {"/revoke": body}, status
        result = await auth.logout("notes")
    assert (result.deleted, result.revoked) == (True, revoked)


async def test_logout_says_which_of_revoked_and_deleted_happened(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        await signed_in(auth)
        assert (await auth.logout("notes")).revoked is True
        assert oauth.access == {} and oauth.refresh == {}
        await signed_in(auth)
        oauth.knobs.revocation_status = 503
        result = await auth.logout("notes")
        assert (result.deleted, result.revoked) == (True, False)
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
        assert (await auth.logout("notes")).deleted is False


async def test_duty_tokens_are_stored_for_their_owner_alone(tmp_path: Path, oauth: OAuthServer) -> None:
    import os
    import stat

    async with opened(tmp_path, oauth) as auth:
        home = auth.config.home
        before = os.umask(0)
        try:
            await signed_in(auth)
        finally:
            os.umask(before)
    for path in home.rglob("*"):
        if path.name == "config.yaml":
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_pain_23_two_servers_whose_names_read_alike_share_no_grant(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given two names that Hermes would keep in one file
    servers = {"my api": {"url": oauth.url, "auth": "oauth"}, "my/api": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers) as auth:
        for name, other in (("my api", "my/api"), ("my/api", "my api")):
            status = await auth.status(name)
            # Then neither is used, and each names the other
            assert status.auth is AuthState.MISCONFIGURED
            assert other in (status.detail or "")


async def test_many_people_finish_at_the_same_server_in_the_same_moment(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        owners = [f"person:p{number}" for number in range(40)]
        started = [await auth.sign_in("notes", owner, ME, listen=False) for owner in owners]
        redirects = await asyncio.gather(*(asyncio.to_thread(authorize, one.link) for one in started))

        finished = await asyncio.gather(*(auth.paste(redirect, ME.principal) for redirect in redirects))

        assert {one.status for one in finished} == {"done"}
        for owner in owners:
            assert await auth.access_token("notes", owner)


async def test_a_link_lives_until_its_very_second(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        # A bare code names no sign-in, so it can only belong to one that lives
        now[0] = started.sign_in.expires_at - 1
        assert [one.id for one in await auth.open_sign_ins()] == [started.sign_in.id]
        now[0] = started.sign_in.expires_at
        with pytest.raises(CallbackRejected, match="does not say which"):
            await auth.paste("abcdef", ME.principal)
        assert await auth.open_sign_ins() == []
        await auth.sweep()
        ended = await auth.store.sign_ins.get(started.sign_in.id)
        assert ended is not None and ended.status == "expired"


@pytest.mark.parametrize(("later", "status"), [(-1.0, "exchanging"), (0.0, "failed")])
async def test_a_claim_is_that_of_a_dead_process_only_after_its_time(
    tmp_path: Path, oauth: OAuthServer, later: float, status: str
) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        sign_in = (await auth.sign_in("notes", "shared", ME, listen=False)).sign_in
        claimed = msgspec.structs.replace(sign_in, status="exchanging", claimed_at=now[0])
        assert await auth.store.sign_ins.put_if(claimed) is not None
        now[0] += STALE_CLAIM + later
        await auth.sweep()
        found = await auth.store.sign_ins.get(sign_in.id)
        assert found is not None and found.status == status


async def test_what_died_after_the_grant_was_stored_is_done(tmp_path: Path, oauth: OAuthServer) -> None:
    now = [1_800_000_000.0]
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        await signed_in(auth)
        sign_in = (await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)).sign_in
        # In the second in which the grant was stored
        claimed = msgspec.structs.replace(sign_in, status="exchanging", claimed_at=now[0])
        assert await auth.store.sign_ins.put_if(claimed) is not None
        now[0] += STALE_CLAIM + 1
        await auth.sweep()
        found = await auth.store.sign_ins.get(sign_in.id)
        assert found is not None and found.status == "done"


def test_an_old_grant_is_worth_something_until_the_second_of_its_end() -> None:
    tokens = Tokens(access_token="at", expires_at=100.0)
    assert previous_of(grant(tokens=tokens), URL, 99.0) is not None
    assert previous_of(grant(tokens=tokens), URL, 100.0) is None
    assert previous_of(grant(tokens=msgspec.structs.replace(tokens, refresh_token="rt")), URL, 100.0) is not None
    assert previous_of(grant(tokens=msgspec.structs.replace(tokens, expires_at=None)), URL, 100.0) is not None


@pytest.mark.parametrize("timeout", [None, 120])
async def test_a_sign_in_holds_all_that_its_end_needs(
    tmp_path: Path, oauth: OAuthServer, timeout: float | None
) -> None:
    now = [1_800_000_000.0]
    oauth.knobs.challenge_scope = "read"
    options = {} if timeout is None else {"timeout": timeout}
    servers = {"notes": {"url": oauth.url, "auth": "oauth", "oauth": options}}
    async with open_auth(tmp_path, servers, clock=lambda: now[0]) as auth:
        first = (await auth.sign_in("notes", "person:ann", ME, listen=False)).sign_in
        again = await auth.sign_in("notes", "person:ann", ME, listen=False)
        assert (again.reused, again.sign_in.id, again.sign_in.state) == (True, first.id, first.state)
        await signed_in(auth, owner="person:bob")
        now[0] += 10
        second = (await auth.sign_in("notes", "person:bob", ME, fresh=True, listen=False)).sign_in

    assert (first.server, first.owner, first.server_url) == ("notes", "person:ann", oauth.url)
    assert (first.status, first.origin, first.created_at) == ("started", ME, now[0] - 10)
    assert first.expires_at == first.created_at + (timeout or 600)
    assert (first.issuer, first.metadata.issuer) == (oauth.issuer, oauth.issuer)
    assert first.registration.client_id == query_of(first.authorization_url or "")["client_id"]
    assert first.redirect_uri == query_of(first.authorization_url or "")["redirect_uri"]
    assert (first.resource, first.scope, first.step_up_scope, first.scope_before) == (oauth.url, "read", None, None)
    assert (first.registration_reused, first.binding) == (False, None)
    assert (second.owner, second.scope, second.scope_before) == ("person:bob", "read", "read")
    assert second.created_at == now[0]
