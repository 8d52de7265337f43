"""Which client id: configured, metadata document, dynamic registration, or a person's help."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mcp_auth.config.models import OAuthOptions, Server
from mcp_auth.errors import ClientRegistrationNeeded, ConfigError, RegistrationRefused, SignInError, Unreachable
from mcp_auth.oauth.registration import (
    _error_code,
    _moment,
    client_registration_needed,
    configured_registration,
    usable_dynamic_registration,
)
from mcp_auth.oauth.vendors import where_to_register
from mcp_auth.records import Registration, ServerMetadata
from mcp_auth.status import AuthState
from tests.homes import ME, open_auth, query_of, signed_in, write_home
from tests.servers.oauth import OAuthServer, authorize

CIMD = "https://client.example.com/slash-mcp.json"


def entry(oauth: OAuthServer, **options: Any) -> dict[str, Any]:
    return {"notes": {"url": oauth.url, "auth": "oauth", "oauth": options}}


async def client_id(tmp_path: Path, oauth: OAuthServer, **options: Any) -> str:
    async with open_auth(tmp_path, entry(oauth, **options)) as auth:
        return query_of((await auth.sign_in("notes", "shared", ME, listen=False)).link)["client_id"]


async def test_duty_order_a_configured_client_comes_first(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["client_id_metadata_document_supported"] = True
    assert await client_id(tmp_path, oauth, client_id="mine", client_metadata_url=CIMD) == "mine"
    assert oauth.requests("/register") == []


async def test_duty_order_then_the_metadata_document_where_supported(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["client_id_metadata_document_supported"] = True
    assert await client_id(tmp_path, oauth, client_metadata_url=CIMD) == CIMD
    assert oauth.requests("/register") == []


async def test_duty_order_then_dynamic_registration(tmp_path: Path, oauth: OAuthServer) -> None:
    assert (await client_id(tmp_path, oauth, client_metadata_url=CIMD)).startswith("client-")
    oauth.knobs.metadata["client_id_metadata_document_supported"] = True
    assert (await client_id(tmp_path / "off", oauth, client_metadata_url=CIMD, cimd=False)).startswith("client-")


async def test_duty_order_at_last_the_person_is_asked_and_pain_12(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata["registration_endpoint"] = None
    async with open_auth(tmp_path, entry(oauth)) as auth:
        with pytest.raises(ClientRegistrationNeeded) as caught:
            await auth.sign_in("notes", "shared", ME, listen=False)
    port = auth.config.gateway.callback.port
    assert caught.value.redirect_uri == f"http://127.0.0.1:{port}/callback"
    assert caught.value.redirect_uri in str(caught.value.next_step)
    assert "client_id" in str(caught.value.next_step)


@pytest.mark.parametrize(
    ("issuer", "place"),
    [
        ("https://github.com/login/oauth", "OAuth Apps"),
        ("https://slack.com", "api.slack.com/apps"),
        ("https://mcp.slack.com", "api.slack.com/apps"),
        ("https://accounts.google.com", "Google Cloud console"),
        ("https://mcp.hubspot.com", "HubSpot"),
        ("https://mcp.asana.com", "my-apps"),
        ("https://login.microsoftonline.com/tenant/v2.0", "App registrations"),
    ],
)
def test_pain_12_a_vendor_that_registers_nobody_is_named_with_its_steps(issuer: str, place: str) -> None:
    metadata = ServerMetadata(issuer=issuer, authorization_endpoint=f"{issuer}/a", token_endpoint=f"{issuer}/t")
    uri = "https://bot.example.com/callback/x1"
    needed = client_registration_needed(Server(name="notes", url="https://notes.example/mcp"), metadata, uri)
    assert place in str(needed.next_step)
    assert f"redirect URI {uri} " in str(needed.next_step)


def test_pain_12_a_look_alike_gets_nobody_elses_steps() -> None:
    assert where_to_register("https://evil-hubspot.com") is None
    assert where_to_register("https://github.com.evil.example") is None


@pytest.mark.parametrize("status", [401, 403])
async def test_pain_13_registration_behind_an_allow_list_is_called_so(
    tmp_path: Path, oauth: OAuthServer, status: int
) -> None:
    oauth.knobs.registration = PlainTextResponse("you are not on the list", status)
    async with open_auth(tmp_path, entry(oauth)) as auth:
        with pytest.raises(RegistrationRefused, match="allow-list"):
            await auth.sign_in("notes", "shared", ME, listen=False)


@pytest.mark.parametrize(
    "answer",
    [
        JSONResponse({"error": "invalid_redirect_uri"}, 400),
        JSONResponse({"client_name": "no id"}, 201),
        PlainTextResponse("<html>", 200),
        JSONResponse({"client_id": "x", "token_endpoint_auth_method": "private_key_jwt"}, 201),
        JSONResponse({"client_id": "x", "token_endpoint_auth_method": "client_secret_basic"}, 201),
    ],
)
async def test_duty_a_refused_or_unusable_registration_has_a_meaningful_message(
    tmp_path: Path, oauth: OAuthServer, answer: Response
) -> None:
    oauth.knobs.registration = answer
    async with open_auth(tmp_path, entry(oauth)) as auth:
        with pytest.raises(RegistrationRefused) as caught:
            await auth.sign_in("notes", "shared", ME, listen=False)
    assert "redirect URI" in str(caught.value.next_step) or "client_id" in str(caught.value.next_step)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_trouble_at_the_registration_is_no_refusal(tmp_path: Path, oauth: OAuthServer, status: int) -> None:
    oauth.knobs.registration = PlainTextResponse("come back later", status)
    async with open_auth(tmp_path, entry(oauth)) as auth:
        with pytest.raises(Unreachable, match=str(status)) as caught:
            await auth.sign_in("notes", "shared", ME, listen=False)
        assert "auth notes" in str(caught.value.next_step)
        assert (await auth.status("notes")).auth is AuthState.SIGN_IN_NEEDED
        oauth.knobs.registration = None
        await auth.sign_in("notes", "shared", ME, listen=False)


async def test_duty_application_type_is_native_for_a_loopback_redirect(tmp_path: Path, oauth: OAuthServer) -> None:
    await client_id(tmp_path, oauth)
    sent = json.loads(oauth.requests("/register")[0].body)
    assert sent["application_type"] == "native"


async def test_duty_application_type_is_web_for_a_public_redirect(tmp_path: Path, oauth: OAuthServer) -> None:
    await client_id(tmp_path, oauth, redirect_uri="https://bot.example.com/callback")
    sent = json.loads(oauth.requests("/register")[0].body)
    assert (sent["application_type"], sent["redirect_uris"]) == ("web", ["https://bot.example.com/callback"])


async def test_duty_the_redirect_uri_is_registered_exactly_as_used(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
    sent = json.loads(oauth.requests("/register")[0].body)
    assert sent["redirect_uris"] == [query_of(started.link)["redirect_uri"]]


@pytest.mark.parametrize(
    ("uri", "fits"),
    [
        ("https://bot.example.com/cb", True),
        ("http://127.0.0.1:45678/cb", True),
        ("http://[::1]:45678/cb", True),
        ("http://bot.example.com/cb", False),
        ("http://192.168.1.7/cb", False),
        ("myapp://cb", False),
    ],
)
async def test_duty_the_redirect_uri_is_https_or_loopback(
    tmp_path: Path, oauth: OAuthServer, uri: str, fits: bool
) -> None:
    async with open_auth(tmp_path, entry(oauth, redirect_uri=uri)) as auth:
        if fits:
            started = await auth.sign_in("notes", "shared", ME, listen=False)
            assert query_of(started.link)["redirect_uri"] == uri
            return
        with pytest.raises(ConfigError, match="redirect_uri"):
            await auth.sign_in("notes", "shared", ME, listen=False)
    assert oauth.seen == []


async def test_duty_registration_and_tokens_are_kept_apart_per_issuer(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a registration at one issuer
    with OAuthServer().running() as other:
        home = write_home(tmp_path, entry(oauth))
        from mcp_auth import McpAuth

        async with McpAuth.open(home=home) as auth:
            await signed_in(auth)
            first = next(iter(oauth.clients))
            # When the server moves to another one
            oauth.knobs.prm["authorization_servers"] = [other.issuer]
            started = await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
            # Then that one gets a registration of its own, and never sees the first
            assert started.link.startswith(f"{other.issuer}/authorize?")
            assert query_of(started.link)["client_id"] != first
            assert not any(first in str(seen) for seen in other.seen)
            # And until then the old grant is refreshed where it is from
            oauth.expire_access_tokens()
            old = await auth.access_token("notes")
            assert (await auth.probe("notes")).state == "ready"
            assert (oauth.refreshes, other.requests("/token")) == (1, [])
            # And afterwards the new one belongs to the new issuer alone
            oauth.forget()
            await auth.paste(await asyncio.to_thread(authorize, started.link), ME.principal)
            grant = await auth.store.grants.get("shared", "notes", oauth.url)
            assert grant is not None and grant.tokens is not None and grant.registration is not None
            assert (grant.issuer, grant.registration.issuer) == (other.issuer, other.issuer)
            assert oauth.requests("/token") == [] and old not in str(other.seen)
            sent = f"{grant.tokens.access_token} {grant.tokens.refresh_token}"
            assert not any(token in str(oauth.seen) for token in sent.split())


async def test_duty_a_pre_registered_client_does_not_follow_a_changed_issuer(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    with OAuthServer().running() as other:
        async with open_auth(tmp_path, entry(oauth, client_id="mine")) as auth:
            await signed_in(auth)
            oauth.knobs.prm["authorization_servers"] = [other.issuer]
            url = auth.config.servers["notes"].url or ""
            connection = await auth.store.profiles.get(url)
            assert connection is not None
            connection.fetched_at = None
            await auth.store.profiles.put_if(connection)
            with pytest.raises(SignInError, match="moved"):
                await auth.sign_in("notes", "shared", ME, listen=False)
            assert other.requests("/authorize") == []
            # Somebody who looks everything up anew, and turns back at the other server's page, has agreed to nothing
            await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
            await auth.cancel("notes")
            with pytest.raises(SignInError, match="moved"):
                await auth.sign_in("notes", "shared", ME, listen=False)
            # Whoever finishes has
            started = await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
            await auth.paste(await asyncio.to_thread(authorize, started.link), ME.principal)
            assert (await auth.sign_in("notes", "shared", ME, listen=False)).link.startswith(other.issuer)


@pytest.mark.parametrize(
    ("supported", "method"),
    [(["client_secret_basic"], "client_secret_basic"), (["client_secret_post"], "client_secret_post"), (None, "none")],
)
async def test_the_token_endpoint_gets_the_authentication_it_asks_for(
    tmp_path: Path, oauth: OAuthServer, supported: list[str] | None, method: str
) -> None:
    oauth.knobs.metadata["token_endpoint_auth_methods_supported"] = supported
    if method != "none":
        oauth.knobs.registration_extra = {"client_secret": "s3cret/+&", "token_endpoint_auth_method": method}
    oauth.knobs.auth_method = method
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        assert (await auth.access_token("notes")).startswith("at-")


async def test_a_client_whose_secret_has_ended_is_registered_anew(tmp_path: Path, oauth: OAuthServer) -> None:
    for ends_in, registered in ((3600, 1), (30, 2)):
        oauth.reset()
        oauth.knobs.registration_extra = {
            "client_secret": "s3cret",
            "client_secret_expires_at": int(time.time()) + ends_in,
            "token_endpoint_auth_method": "client_secret_post",
        }
        async with open_auth(tmp_path / str(ends_in), entry(oauth)) as auth:
            await signed_in(auth)
            await signed_in(auth)
        assert len(oauth.requests("/register")) == registered


async def test_a_configured_secret_is_kept_with_no_connection(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, entry(oauth, client_id="mine", client_secret="s3cret-of-mine")) as auth:
        await signed_in(auth)
        home = auth.config.home
    (stored,) = (home / "connections").glob("*.json")
    assert '"client_id":"mine"' in stored.read_text()
    assert "s3cret" not in stored.read_text()


async def test_a_configured_client_that_was_taken_out_again_is_not_presented_as_a_registered_one(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    redirect_uri = "http://127.0.0.1:45672/callback"
    async with open_auth(tmp_path, entry(oauth, client_id="mine", redirect_uri=redirect_uri)) as auth:
        await signed_in(auth)
    assert (await client_id(tmp_path, oauth, redirect_uri=redirect_uri)).startswith("client-")
    assert len(oauth.requests("/register")) == 1


@pytest.mark.parametrize(
    ("secret", "supported", "method"),
    [
        (None, None, "none"),
        (None, ["client_secret_basic"], "none"),
        ("", ["client_secret_post"], "none"),
        ("s3cret", None, "client_secret_post"),
        ("s3cret", ["client_secret_basic"], "client_secret_basic"),
        ("s3cret", ["client_secret_basic", "client_secret_post"], "client_secret_post"),
        ("s3cret", ["private_key_jwt"], "client_secret_post"),
    ],
)
def test_a_configured_client_authenticates_by_what_it_has_and_the_issuer_supports(
    secret: str | None, supported: list[str] | None, method: str
) -> None:
    server = Server(name="notes", url="https://notes.example/mcp", oauth=OAuthOptions(client_id="mine"))
    issuer = "https://login.example"
    metadata = ServerMetadata(
        issuer=issuer,
        authorization_endpoint=f"{issuer}/a",
        token_endpoint=f"{issuer}/t",
        token_endpoint_auth_methods_supported=supported,
    )
    registration = configured_registration(server, secret, metadata, "http://127.0.0.1:1/callback")
    assert registration is not None
    assert (registration.client_id, registration.token_endpoint_auth_method) == ("mine", method)


async def test_pain_24_a_secret_without_a_method_is_client_secret_post(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.registration_extra = {"client_secret": "s3cret", "token_endpoint_auth_method": None}
    oauth.knobs.auth_method = "client_secret_post"
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)


async def test_a_new_redirect_uri_is_a_new_registration_and_an_old_one_is_reused(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, entry(oauth)) as auth:
        await signed_in(auth)
        await signed_in(auth)
        assert len(oauth.requests("/register")) == 1
    async with open_auth(tmp_path, entry(oauth, redirect_uri="http://127.0.0.1:45671/other")) as auth:
        await signed_in(auth)
        assert len(oauth.requests("/register")) == 2


NOW = 1_000.0
METADATA = ServerMetadata(issuer="https://as.example", authorization_endpoint="https://a", token_endpoint="https://t")
KNOWN = Registration(client_id="c", issuer="https://as.example", source="dynamic", redirect_uri="http://127.0.0.1/cb")


@pytest.mark.parametrize(
    ("known", "usable"),
    [
        ({}, True),
        ({"source": "configured"}, False),
        ({"source": "metadata_document"}, False),
        ({"issuer": "https://other.example"}, False),
        ({"redirect_uri": "http://127.0.0.1/other"}, False),
        ({"client_secret_expires_at": NOW + 60}, False),
        ({"client_secret_expires_at": NOW + 61}, True),
        ({"client_secret_expires_at": 0.0}, True),
        ({"scope": "a b"}, True),
        ({"scope": "a b c"}, True),
        ({"scope": "a"}, False),
        ({"scope": None}, True),
        ({"doubtful": True}, True),
    ],
    ids=str,
)
def test_an_earlier_client_is_used_where_all_of_it_still_fits(known: dict[str, Any], usable: bool) -> None:
    registration = msgspec.structs.replace(KNOWN, **known)
    found = usable_dynamic_registration([registration], METADATA, KNOWN.redirect_uri, "a b", NOW)
    assert found == (registration if usable else None)


def test_of_earlier_clients_the_newest_counts_and_a_doubtful_one_last() -> None:
    older, newer, doubtful = (
        msgspec.structs.replace(KNOWN, client_id=name, doubtful=name == "doubtful")
        for name in ("older", "newer", "doubtful")
    )
    assert usable_dynamic_registration([older, newer, doubtful], METADATA, KNOWN.redirect_uri, None, NOW) == newer
    assert usable_dynamic_registration([doubtful], METADATA, KNOWN.redirect_uri, None, NOW) == doubtful
    assert usable_dynamic_registration([], METADATA, KNOWN.redirect_uri, None, NOW) is None


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        *[(0, None), (1, 1.0), ("7", 7.0), (-1, None), (True, None), ("never", None), (None, None), ([1], None)],
        *[("inf", None), ("nan", None), (10**400, None), (1e300, 1e300)],
    ],
)
def test_when_a_secret_ends_is_a_time_or_never(value: object, moment: float | None) -> None:
    assert _moment(value) == moment


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        *[("invalid_redirect_uri", True), ("a.b-c", True), ("x", True), ("x" * 60, True)],
        *[("x" * 61, False), ("", False), ("two words", False), ("<b>", False), (7, False), (None, False)],
    ],
)
def test_an_error_code_of_a_registration_is_a_short_word(error: object, shown: bool) -> None:
    assert _error_code({"error": error}) == (error if shown else None)
    assert _error_code({}) is None
