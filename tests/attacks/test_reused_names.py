"""A name of `people:` that is given to somebody else: nothing that was stored for the one before is theirs."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from gateway.invocations import Principal
from mcp_auth.config.models import Server
from mcp_auth.errors import ReauthorizationNeeded
from mcp_auth.listing import local_statuses
from mcp_auth.outcome import Next
from mcp_auth.records import Requester
from mcp_auth.status import AuthState
from mcp_auth.stores.files import FileStore
from tests.attacks.scene import KEY, api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, link_of, proven, public_gateway
from tests.servers.oauth import OAuthServer, authorize

PERSON = "person:ann"
DISCORD = Principal("discord", "42")


def people(*accounts: Principal) -> dict[str, Any]:
    """`ann` is whoever has these accounts."""
    named = tuple(str(one) for one in accounts)
    return {"identity": "per_user", "allow": (str(ANN), str(BOB), str(DISCORD)), "people": {"ann": named}}


async def sign_in_as_ann(home: Path, oauth: OAuthServer, *servers: Server) -> FileStore:
    """Ann signs in to notes and sets a key, with the accounts telegram:100001 and discord:42."""
    options = people(ANN, DISCORD)
    async with public_gateway(home, *servers, store=FileStore(home), **options) as gateway, Browser() as browser:
        oauth.knobs.api_key = None
        chat = Chat(gateway, ANN)
        page = await proven(chat, browser, await link_of(chat))
        assert (await browser.open(await browser.authorize(page))).heading == "notes is connected"
        await gateway.auth.set_keys("my-api", {"MY_API_KEY": KEY}, PERSON, by=str(ANN))
        (grant, keys) = sorted(await gateway.auth.store.grants.list(), key=lambda one: one.server == "my-api")
        assert grant.accounts == keys.accounts == (str(ANN), str(DISCORD))
    return FileStore(home)


@pytest.mark.parametrize(
    ("now", "good"),
    [((ANN, DISCORD), True), ((DISCORD,), True), ((ANN, BOB), True), ((BOB,), False), ((), False)],
    ids=["the same", "one account less", "one more", "somebody else", "nobody"],
)
async def test_a_grant_belongs_to_whoever_still_has_one_of_its_accounts(
    tmp_path: Path, oauth: OAuthServer, now: tuple[Principal, ...], good: bool
) -> None:
    servers = (notes(oauth), api(oauth))
    store = await sign_in_as_ann(tmp_path, oauth, *servers)

    async with public_gateway(tmp_path, *servers, store=store, **people(*now)) as gateway:
        auth = gateway.auth
        status, key = await auth.status("notes", PERSON), await auth.status("my-api", PERSON)
        cold = local_statuses(gateway.config, lambda server: PERSON, time.time())
        assert [one.auth for one in cold] == [status.auth, key.auth]
        assert len(await auth.reused_names()) == (0 if good else 2)
        if good:
            assert (status.auth, key.auth) == (AuthState.SIGNED_IN, AuthState.KEY_SET)
            assert await auth.access_token("notes", PERSON)
            return
        assert (status.auth, status.next) == (AuthState.REAUTHORIZATION_NEEDED, Next("auth", "notes"))
        assert key.auth is AuthState.KEY_MISSING
        for asked in (auth.access_token("notes", PERSON), auth.headers("notes", PERSON)):
            with pytest.raises(ReauthorizationNeeded, match="None of the accounts that made it"):
                await asked
        assert KEY not in str(await auth.key_variables("my-api", PERSON))


async def test_whoever_has_the_name_now_signs_in_anew_and_gets_nothing_of_before(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    servers = (notes(oauth), api(oauth))
    store = await sign_in_as_ann(tmp_path, oauth, *servers)
    async with public_gateway(tmp_path, *servers, store=store, **people(BOB)) as gateway, Browser() as browser:
        bob = Chat(gateway, BOB)
        assert "reauthorization needed" in words((await bob.say("notes"))[-1])
        page = await proven(bob, browser, await link_of(bob))
        # The new access does not work: what was there before is not brought back.
        oauth.knobs.mcp_answers = [PlainTextResponse("", 401) for _ in range(6)]
        await browser.open(await browser.authorize(page))
        oauth.knobs.mcp_answers = []
        (grant,) = [one for one in await store.grants.list() if one.server == "notes"]
        assert grant.accounts == (str(BOB),)
        assert grant.previous is None
        await gateway.auth.set_keys("my-api", {"MY_API_KEY": "sk-bob-0123456789"}, PERSON, by=str(BOB))
        (keys,) = [one for one in await store.grants.list() if one.server == "my-api"]
        assert (keys.accounts, list(keys.keys.values())) == ((str(BOB),), ["sk-bob-0123456789"])


async def test_what_an_older_version_stored_stays_whose_it_is(tmp_path: Path, oauth: OAuthServer) -> None:
    """It did not write down by whom: nothing says that it is somebody else's."""
    servers = (notes(oauth), api(oauth))
    store = await sign_in_as_ann(tmp_path, oauth, *servers)
    for grant in await store.grants.list():
        grant.accounts = ()
        assert await store.grants.put_if(grant) is not None
    async with public_gateway(tmp_path, *servers, store=store, **people(BOB)) as gateway:
        assert (await gateway.auth.status("notes", PERSON)).auth is AuthState.SIGNED_IN


async def test_the_operator_is_told_when_it_serves(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    from gateway.serve import _warn_of_reused_names

    caplog.set_level(logging.WARNING)
    servers = (notes(oauth), api(oauth))
    store = await sign_in_as_ann(tmp_path, oauth, *servers)
    async with public_gateway(tmp_path, *servers, store=store, **people(BOB)) as gateway:
        await _warn_of_reused_names(gateway)
    assert "notes: what is stored for ann was made by telegram:100001, discord:42" in caplog.text
    assert "slash-mcp logout notes --as ann" in caplog.text


async def test_made_by_the_operator_for_somebody_it_is_that_persons(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **people(ANN)) as gateway, Browser() as browser:
        started = await gateway.auth.sign_in("notes", PERSON, Requester(principal="cli:local"))
        await browser.open(await asyncio.to_thread(authorize, started.link))
        (grant,) = await gateway.auth.store.grants.list()
        assert grant.accounts == (str(ANN),)
        assert (await gateway.auth.status("notes", PERSON)).auth is AuthState.SIGNED_IN
