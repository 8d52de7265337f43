"""The callback endpoint as a browser meets it."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from urllib.parse import quote, quote_from_bytes, urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_auth import McpAuth
from mcp_auth.errors import PortBusy, StoreError
from mcp_auth.stores.memory import MemoryStore
from mcp_auth.web.endpoint import Endpoint
from mcp_auth.web.loopback import is_ours
from tests.homes import ME, open_auth, query_of, signed_in, write_home
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.servers.oauth import OAuthServer, authorize, visit


def servers(oauth: OAuthServer, **options: object) -> dict[str, object]:
    return {"notes": {"url": oauth.url, "auth": "oauth", "oauth": options}}


async def get(url: str, method: str = "GET") -> httpx2.Response:
    async with httpx2.AsyncClient(verify=False, timeout=PATIENCE) as client:
        return await client.request(method, url)


async def test_the_redirect_is_received_and_the_page_says_so(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        page = await asyncio.to_thread(visit, await asyncio.to_thread(authorize, started.link))
        assert page.status_code == 200
        assert "notes is signed in" in page.text
        assert (await auth.wait(started.sign_in, PATIENCE)).status == "done"


@pytest.mark.parametrize("path", ["/favicon.ico", "/", "/callback/x", "/CALLBACK", "//callback", "/callback%00"])
async def test_pain_22_unknown_paths_are_404_and_change_nothing(tmp_path: Path, oauth: OAuthServer, path: str) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        redirect = await asyncio.to_thread(authorize, started.link)
        url = urlsplit(redirect)
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
            answer = await get(f"http://{url.netloc}{path}?{url.query}", method)
            assert answer.status_code in (404, 405), method
        assert oauth.requests("/token") == []
        assert (await asyncio.to_thread(visit, redirect)).status_code == 200


async def test_pain_22_and_pain_4_a_preview_by_head_does_not_spend_the_redirect(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        redirect = await asyncio.to_thread(authorize, started.link)
        assert (await get(redirect, "HEAD")).status_code == 405
        assert (await get(redirect, "OPTIONS")).status_code == 405
        assert (await get(redirect)).status_code == 200


async def test_a_replay_a_forgery_and_an_error_get_a_clear_page(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        redirect = await asyncio.to_thread(authorize, started.link)
        forged = redirect.replace(query_of(redirect)["state"], "0" * 32 + "." + "A" * 43)
        assert (await get(forged)).status_code == 400
        twice = f"{redirect}&code=other"
        assert (await get(twice)).status_code == 400
        assert (await get(redirect)).status_code == 200
        replay = await get(redirect)
        assert (replay.status_code, "used before" in replay.text) == (409, True)
        oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "<script>alert(1)</script>"}
        again = await auth.sign_in("notes", "shared", ME)
        refused = await get(await asyncio.to_thread(authorize, again.link))
        assert "Access was denied" in refused.text
        assert "<script>" not in refused.text
        assert (await auth.wait(again.sign_in, PATIENCE)).status == "refused"


async def test_pages_carry_headers_that_keep_them_to_themselves(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        page = await get(await asyncio.to_thread(authorize, started.link))
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_pain_11_one_endpoint_serves_every_open_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    many = {f"s{n}": {"url": oauth.url, "auth": "oauth"} for n in range(5)}
    async with open_auth(tmp_path, many) as auth:
        started = [await auth.sign_in(name, "shared", ME) for name in many]
        assert len({urlsplit(query_of(s.link)["redirect_uri"]).port for s in started}) == 1
        for each in reversed(started):
            assert (await get(await asyncio.to_thread(authorize, each.link))).status_code == 200
        for each in started:
            assert (await auth.wait(each.sign_in, PATIENCE)).status == "done"


async def test_pain_11_a_busy_port_gives_way_to_a_free_one_where_we_can_register_anew(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        port = auth.config.gateway.callback.port
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
            started = await auth.sign_in("notes", "shared", ME)
            used = urlsplit(query_of(started.link)["redirect_uri"]).port
            assert used != port
            assert (await get(await asyncio.to_thread(authorize, started.link))).status_code == 200
    assert len(oauth.requests("/register")) == 1


async def test_pain_11_a_busy_port_of_a_registered_client_is_an_error_that_names_port_and_key(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with open_auth(tmp_path, servers(oauth, client_id="mine")) as auth:
        port = auth.config.gateway.callback.port
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", port))
            stranger.listen()
            with pytest.raises(PortBusy) as caught:
                await auth.sign_in("notes", "shared", ME)
            with pytest.raises(PortBusy, match=r"gateway\.callback\.port"):
                await auth.listen()
    assert str(port) in str(caught.value)
    assert "redirect_port" in str(caught.value)


async def test_pain_11_an_earlier_registration_keeps_its_own_port(tmp_path: Path, oauth: OAuthServer) -> None:
    home = write_home(tmp_path, servers(oauth))
    async with McpAuth.open(home=home) as auth:
        await signed_in(auth)
        first = auth.config.gateway.callback.port
    other = write_home(tmp_path, servers(oauth))
    async with McpAuth.open(home=other) as auth:
        assert auth.config.gateway.callback.port != first
        started = await auth.sign_in("notes", "shared", ME)
        assert urlsplit(query_of(started.link)["redirect_uri"]).port == first
        assert (await get(await asyncio.to_thread(authorize, started.link))).status_code == 200
    assert len(oauth.requests("/register")) == 1


async def test_another_instance_of_the_same_home_uses_the_listener_and_waits_on_the_store(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    home = write_home(tmp_path, servers(oauth))
    async with McpAuth.open(home=home) as gateway, McpAuth.open(home=home) as command:
        await gateway.listen()
        started = await command.sign_in("notes", "shared", ME)
        assert started.listening
        waiting = asyncio.create_task(command.wait(started.sign_in, 10))
        assert (await get(await asyncio.to_thread(authorize, started.link))).status_code == 200
        assert (await waiting).status == "done"


async def test_a_restarted_gateway_listens_again_for_open_sign_ins(tmp_path: Path, oauth: OAuthServer) -> None:
    home = write_home(tmp_path, servers(oauth))
    async with McpAuth.open(home=home) as first:
        started = await first.sign_in("notes", "shared", ME)
        redirect = await asyncio.to_thread(authorize, started.link)
    with pytest.raises(httpx2.ConnectError):
        await get(redirect)
    async with McpAuth.open(home=home) as second:
        await second.resume()
        assert (await get(redirect)).status_code == 200


async def test_without_a_listener_the_link_says_that_nobody_listens(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, servers(oauth)) as auth:
        assert not (await auth.sign_in("notes", "shared", ME, listen=False)).listening


async def test_a_configured_redirect_uri_is_used_verbatim(tmp_path: Path, oauth: OAuthServer) -> None:
    port = free_port()
    uri = f"http://localhost:{port}/oauth/done"
    async with open_auth(tmp_path, servers(oauth, redirect_uri=uri)) as auth:
        started = await auth.sign_in("notes", "shared", ME)
        assert query_of(started.link)["redirect_uri"] == uri
        redirect = await asyncio.to_thread(authorize, started.link)
        assert (await get(redirect)).status_code == 200


async def test_a_host_s_own_access_log_gets_no_redirect_and_goes_on(
    tmp_path: Path, oauth: OAuthServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a program that runs another uvicorn, with its access log
    access = logging.getLogger("uvicorn.access")
    access.addHandler(caplog.handler)
    try:
        caplog.set_level(logging.INFO, "uvicorn.access")
        async with open_auth(tmp_path, servers(oauth)) as auth:
            started = await auth.sign_in("notes", "shared", ME)
            await asyncio.to_thread(visit, await asyncio.to_thread(authorize, started.link))
        # Then it holds that program's requests and none of ours
        assert caplog.handler in access.handlers
        assert any("/authorize" in record.getMessage() for record in caplog.records)
        assert not any("/callback?" in record.getMessage() for record in caplog.records)
    finally:
        access.removeHandler(caplog.handler)


_PIECES = st.sampled_from(
    ["state={state}", "code=abc", "iss={iss}", "iss=x", "error=access_denied", "code=%00", "%ff", ""]
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_PIECES | st.binary(max_size=12).map(quote_from_bytes) | st.text("=&%;+#?abc", max_size=9), max_size=5))
async def test_any_query_gets_a_page_and_never_an_error_of_ours(
    tmp_path: Path, oauth: OAuthServer, pieces: list[str]
) -> None:
    async with open_auth(tmp_path, servers(oauth), store=MemoryStore()) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        known = {"state": started.sign_in.state, "iss": quote(oauth.issuer, safe="")}
        query = "&".join(piece.format(**known) if "{" in piece else piece for piece in pieces)
        app = httpx2.ASGITransport(Endpoint(auth.parts.services, loopback_paths=("/callback",)))
        base = started.sign_in.redirect_uri.removesuffix("/callback")
        async with httpx2.AsyncClient(transport=app, base_url=base) as browser:
            page = await browser.get(f"/callback?{query}")
        assert page.status_code in (200, 400, 404)
        assert "<h1" in page.text


def test_a_home_that_cannot_be_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        is_ours(tmp_path / ("x" * 300), 8765)
