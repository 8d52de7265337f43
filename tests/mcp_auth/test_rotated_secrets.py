"""A pre-registered client whose secret the operator has changed: the same client, so its grants go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from mcp_auth import McpAuth
from mcp_auth.errors import ReauthorizationNeeded
from mcp_auth.listing import local_statuses
from mcp_auth.status import AuthState
from tests.homes import Clock, open_auth, signed_in
from tests.mcp_auth.grants import grant_of, told_of
from tests.servers.oauth import OAuthServer

OLD, NEW = "s3cret-of-before", "s3cret-of-now"


@asynccontextmanager
async def opened(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, secret: str | None = "${NOTES_SECRET}", **options: Any
) -> AsyncIterator[McpAuth]:
    block = {"client_id": "ours", **({"client_secret": secret} if secret is not None else {}), **options}
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth", "oauth": block}}, clock=clock) as auth:
        yield auth


def rotate(oauth: OAuthServer, secret: str) -> None:
    """The only secret that the authorization server takes from now on; before, it takes any."""
    oauth.clients["ours"] = {"client_secret": secret}


def write_env(tmp_path: Path, secret: str) -> None:
    (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
    (tmp_path / "home" / ".env").write_text(f"NOTES_SECRET={secret}\n")


async def auth_state(auth: McpAuth) -> AuthState:
    (listed,) = local_statuses(auth.config, lambda _: "shared", auth.parts.services.now())
    status = await auth.status("notes")
    assert (listed.auth, listed.next) == (status.auth, status.next)
    return status.auth


async def test_a_new_secret_in_env_is_used_at_the_next_refresh(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    write_env(tmp_path, OLD)
    async with opened(tmp_path, oauth, clock) as auth:
        await signed_in(auth)
        before = await auth.access_token("notes")
        told = told_of(auth)
        rotate(oauth, NEW)
        write_env(tmp_path, NEW)
        clock.ahead = 4000

        assert await auth.access_token("notes") != before

        assert told == ["refreshed"]
        assert not (await grant_of(auth)).registration_dead
        clock.ahead = 8000
        await auth.access_token("notes")
        assert oauth.refreshes == 2
    # The one of before was tried once
    sent = [seen.form.get("client_secret") for seen in oauth.requests("/token")]
    assert sent == [OLD, OLD, NEW, NEW]


async def test_a_grant_that_ended_by_the_old_secret_goes_on_with_the_new_one(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    """The server's side was changed first, and the configuration when that showed."""
    write_env(tmp_path, OLD)
    async with opened(tmp_path, oauth, clock) as auth:
        await signed_in(auth)
        told = told_of(auth)
        rotate(oauth, NEW)
        clock.ahead = 4000
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        assert await auth_state(auth) is AuthState.REAUTHORIZATION_NEEDED
        assert told == ["reauthorization_needed"]
    async with opened(tmp_path, oauth, clock, NEW) as auth:
        assert await auth_state(auth) is AuthState.SIGNED_IN
        told = told_of(auth)
        assert (await auth.probe("notes", insist=True)).tools
        assert await auth_state(auth) is AuthState.SIGNED_IN
        assert told == ["refreshed"]


async def test_a_new_secret_that_is_wrong_too_ends_the_grant_and_is_told(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    write_env(tmp_path, OLD)
    async with opened(tmp_path, oauth, clock) as auth:
        await signed_in(auth)
        rotate(oauth, NEW)
        write_env(tmp_path, "s3cret-mistyped")
        told = told_of(auth)
        clock.ahead = 4000
        for _ in range(3):
            with pytest.raises(ReauthorizationNeeded):
                await auth.access_token("notes")
        assert await auth_state(auth) is AuthState.REAUTHORIZATION_NEEDED
        assert told == ["reauthorization_needed"]
        assert len(oauth.requests("/token")) == 3
        rotate(oauth, NEW)
        write_env(tmp_path, NEW)
        assert await auth.access_token("notes")


async def test_a_process_with_the_configuration_of_before_leaves_alone_what_works(
    tmp_path: Path, oauth: OAuthServer, clock: Clock
) -> None:
    async with opened(tmp_path, oauth, clock, OLD) as older:
        await signed_in(older)
        rotate(oauth, NEW)
        async with opened(tmp_path, oauth, clock, NEW) as newer:
            for ahead, auth in ((4000, newer), (8000, older), (12000, newer)):
                clock.ahead = ahead
                assert await auth.access_token("notes")
    assert [seen.form.get("client_secret") for seen in oauth.requests("/token")] == [OLD, OLD, NEW, NEW, NEW]


@pytest.mark.parametrize("answer", ["invalid_client", "401 without a word"])
async def test_a_client_that_got_a_secret_or_another_way_to_send_it_goes_on(
    tmp_path: Path, oauth: OAuthServer, clock: Clock, answer: str
) -> None:
    async with opened(tmp_path, oauth, clock, None) as auth:
        await signed_in(auth)
    rotate(oauth, NEW)
    if answer != "invalid_client":
        oauth.knobs.token_answers = [PlainTextResponse("", 401)]
    clock.ahead = 4000
    async with opened(tmp_path, oauth, clock, NEW, token_endpoint_auth_method="client_secret_basic") as auth:
        assert await auth.access_token("notes")
        assert await auth_state(auth) is AuthState.SIGNED_IN
    assert oauth.requests("/token")[-1].headers["authorization"].startswith("Basic ")


async def test_another_client_id_is_another_client(tmp_path: Path, oauth: OAuthServer, clock: Clock) -> None:
    async with opened(tmp_path, oauth, clock, OLD) as auth:
        await signed_in(auth)
    rotate(oauth, NEW)
    clock.ahead = 4000
    async with opened(tmp_path, oauth, clock, NEW, client_id="theirs") as auth:
        with pytest.raises(ReauthorizationNeeded):
            await auth.access_token("notes")
        assert await auth_state(auth) is AuthState.REAUTHORIZATION_NEEDED
    assert NEW not in {seen.form.get("client_secret") for seen in oauth.requests("/token")}
