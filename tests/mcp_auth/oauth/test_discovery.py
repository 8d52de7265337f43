"""Discovery: the duties of the specification, against a server that can break each of them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from mcp_auth.errors import (
    AddressRefused,
    ClientRegistrationNeeded,
    DiscoveryFailed,
    IssuerMismatch,
    PkceNotSupported,
    ResourceMismatch,
    Unreachable,
)
from mcp_auth.net.http import Http
from mcp_auth.net.rules import NetworkRules
from mcp_auth.oauth.discovery import read_metadata
from tests.homes import ME, open_auth, query_of, signed_in
from tests.patience import PATIENCE
from tests.servers.oauth import OAuthServer

PRM_PATH = "/.well-known/oauth-protected-resource/mcp"
PRM_HEADER = "/elsewhere/.well-known/oauth-protected-resource"
PRM_ROOT = "/.well-known/oauth-protected-resource"


async def link(tmp_path: Path, server: OAuthServer, **entry: Any) -> str:
    async with open_auth(tmp_path, {"notes": {"url": server.url, "auth": "oauth", **entry}}) as auth:
        return (await auth.sign_in("notes", "shared", ME, listen=False)).link


@pytest.mark.parametrize(
    ("where", "asked"),
    [
        # The path is a good guess, so it is asked for while the challenge is still on its way.
        ("header", [PRM_PATH, PRM_HEADER]),
        ("path", [PRM_PATH]),
        ("root", [PRM_PATH, PRM_ROOT]),
    ],
)
async def test_duty_protected_resource_metadata_is_found_at_header_then_path_then_root(
    tmp_path: Path, oauth: OAuthServer, where: str, asked: list[str]
) -> None:
    oauth.knobs.prm_path = where
    assert (await link(tmp_path, oauth)).startswith(f"{oauth.issuer}/authorize?")
    assert [seen.path for seen in oauth.seen if "oauth-protected-resource" in seen.path] == asked


async def test_duty_every_question_names_the_revision_of_the_protocol(tmp_path: Path, oauth: OAuthServer) -> None:
    await link(tmp_path, oauth)
    asked = [seen for seen in oauth.seen if seen.path == "/mcp" or "well-known" in seen.path]
    assert len(asked) >= 3
    assert {seen.headers.get("mcp-protocol-version") for seen in asked} == {"2025-11-25"}


async def test_duty_the_url_in_the_challenge_comes_before_the_well_known_ones(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a challenge that names a place of its own, and another document at the well-known path
    with OAuthServer().running() as other:
        oauth.knobs.prm_path = "header"
        real = oauth._prm

        def both(path: str) -> Response:
            wrong = {"resource": oauth.url, "authorization_servers": [other.issuer]}
            return JSONResponse(wrong) if path == PRM_PATH else real(path)

        monkeypatch.setattr(oauth, "_prm", both)
        assert (await link(tmp_path, oauth)).startswith(f"{oauth.issuer}/authorize?")
        assert oauth.requests(PRM_ROOT) == []
        assert other.seen == []


async def test_duty_of_several_authorization_servers_one_is_chosen_and_kept(tmp_path: Path, oauth: OAuthServer) -> None:
    with OAuthServer().running() as other:
        oauth.knobs.prm["authorization_servers"] = [oauth.issuer, other.issuer]
        async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            await signed_in(auth)
            # When the list is turned round, whoever is signed in there already stays there
            oauth.knobs.prm["authorization_servers"] = [other.issuer, oauth.issuer]
            started = await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
            assert started.link.startswith(f"{oauth.issuer}/authorize?")
            assert other.seen == []


async def test_duty_scope_of_the_challenge_is_read_by_the_grammar(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.challenge = f'Bearer error_scope="wrong", scope="right", resource_metadata="{oauth.origin}{PRM_PATH}"'
    assert query_of(await link(tmp_path, oauth))["scope"] == "right"


@pytest.mark.parametrize(
    ("issuer_path", "well_known", "asked"),
    [
        ("", "oauth", ["/.well-known/oauth-authorization-server"]),
        ("", "oidc-suffix", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"]),
        ("/t", "oauth", ["/.well-known/oauth-authorization-server/t"]),
        ("/t", "oidc-path", ["/.well-known/oauth-authorization-server/t", "/.well-known/openid-configuration/t"]),
        (
            "/t",
            "oidc-suffix",
            [
                "/.well-known/oauth-authorization-server/t",
                "/.well-known/openid-configuration/t",
                "/t/.well-known/openid-configuration",
            ],
        ),
    ],
)
async def test_duty_server_metadata_is_asked_for_in_the_fixed_order(
    tmp_path: Path, oauth: OAuthServer, issuer_path: str, well_known: str, asked: list[str]
) -> None:
    oauth.knobs.issuer_path, oauth.knobs.well_known = issuer_path, well_known
    await link(tmp_path, oauth)
    paths = [s.path for s in oauth.seen if "oauth-authorization-server" in s.path or "openid-configuration" in s.path]
    assert paths == asked


@pytest.mark.parametrize("issuer", ["https://evil.example.com", "{issuer}/x", "{issuer}//", "{upper}"])
async def test_duty_issuer_must_be_identical_to_the_one_asked_for(
    tmp_path: Path, oauth: OAuthServer, issuer: str
) -> None:
    oauth.knobs.metadata["issuer"] = issuer.format(issuer=oauth.issuer, upper=oauth.issuer.upper())
    with pytest.raises(IssuerMismatch):
        await link(tmp_path, oauth)
    assert oauth.requests("/register") == []


@pytest.mark.parametrize("methods", [None, [], ["plain"]])
async def test_duty_pkce_is_refused_when_not_advertised_and_defect_5(
    tmp_path: Path, oauth: OAuthServer, methods: list[str] | None
) -> None:
    oauth.knobs.metadata["code_challenge_methods_supported"] = methods
    with pytest.raises(PkceNotSupported):
        await link(tmp_path, oauth)


async def test_duty_the_2025_03_26_fallback_without_pkce_metadata_is_an_explicit_choice(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.prm_path = None
    oauth.knobs.metadata["code_challenge_methods_supported"] = None
    with pytest.raises(PkceNotSupported):
        await link(tmp_path, oauth)
    assert "code_challenge=" in await link(tmp_path, oauth, oauth={"legacy": True})
    # What is advertised counts with that choice too
    oauth.knobs.metadata["code_challenge_methods_supported"] = ["plain"]
    with pytest.raises(PkceNotSupported):
        await link(tmp_path / "plain", oauth, oauth={"legacy": True})


async def test_duty_a_legacy_server_without_any_metadata_needs_the_choice_too(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    oauth.knobs.prm_path = None
    oauth.knobs.well_known = "none"
    with pytest.raises(DiscoveryFailed):
        await link(tmp_path, oauth)
    assert (await link(tmp_path, oauth, oauth={"legacy": True})).startswith(f"{oauth.origin}/authorize?")


async def test_a_legacy_server_may_publish_openid_metadata_instead(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.prm_path = None
    oauth.knobs.well_known = "oidc-path"
    oauth.knobs.metadata["authorization_endpoint"] = f"{oauth.origin}/v2/authorize"
    assert (await link(tmp_path, oauth)).startswith(f"{oauth.origin}/v2/authorize?")


@pytest.mark.parametrize("resource", ["https://evil.example.com/mcp", "{origin}/other", "{url}/below", None])
async def test_duty_metadata_of_another_resource_is_refused(
    tmp_path: Path, oauth: OAuthServer, resource: str | None
) -> None:
    oauth.knobs.prm["resource"] = resource.format(origin=oauth.origin, url=oauth.url) if resource else None
    with pytest.raises(ResourceMismatch):
        await link(tmp_path, oauth)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_trouble_at_the_metadata_is_not_taken_for_its_absence(
    tmp_path: Path, oauth: OAuthServer, status: int
) -> None:
    oauth.knobs.prm_status = status
    with pytest.raises(Unreachable):
        await link(tmp_path, oauth)
    assert oauth.requests("/register") == []


BAD = ["http://as.example.com/x", "http://10.0.0.5/x", "ftp://127.0.0.1/x", "https://u:p@127.0.0.1/x"]


@pytest.mark.parametrize("url", BAD)
@pytest.mark.parametrize(
    "where",
    ["authorization_endpoint", "token_endpoint", "issuer", "prm"],
)
async def test_duty_https_for_every_oauth_url(tmp_path: Path, oauth: OAuthServer, where: str, url: str) -> None:
    if where == "issuer":
        oauth.knobs.prm["authorization_servers"] = [url]
    elif where == "prm":
        oauth.knobs.challenge, oauth.knobs.prm_path = f'Bearer resource_metadata="{url}"', None
    else:
        oauth.knobs.metadata[where] = url
    with pytest.raises(AddressRefused):
        await link(tmp_path, oauth)
    assert oauth.requests("/register") == []


@pytest.mark.parametrize(
    ("status", "trouble"),
    [(429, True), (500, True), (503, True), (404, False), (403, False), (428, False), (430, False), (499, False)],
)
@pytest.mark.parametrize("legacy", [False, True])
async def test_trouble_at_the_authorization_server_is_for_now_and_nothing_is_concluded(
    tmp_path: Path, oauth: OAuthServer, status: int, trouble: bool, legacy: bool
) -> None:
    """Also where the server's origin is its own authorization server (2025-03-26)."""
    oauth.knobs.metadata_status = status
    oauth.knobs.prm_path = None if legacy else "path"
    with pytest.raises(DiscoveryFailed) as caught:
        await link(tmp_path, oauth)
    assert isinstance(caught.value, Unreachable) is trouble
    asked = [seen for seen in oauth.seen if "/.well-known/o" in seen.path and "protected" not in seen.path]
    # The next address may know more
    assert len(asked) > 1
    assert oauth.requests("/register") == []


@pytest.mark.parametrize("url", [*BAD, "javascript:alert(1)", "x", 5, ["https://as.example/register"], {}])
async def test_a_registration_endpoint_that_cannot_be_used_is_left_out(
    tmp_path: Path, oauth: OAuthServer, url: object
) -> None:
    oauth.knobs.metadata["registration_endpoint"] = url
    with pytest.raises(ClientRegistrationNeeded):
        await link(tmp_path, oauth)
    # A client of the operator's own needs none
    assert "client_id=ours" in await link(tmp_path / "own", oauth, oauth={"client_id": "ours"})


@pytest.mark.parametrize("url", [*BAD, "javascript:alert(1)", "x", 5, ["https://as.example/revoke"], {}])
async def test_a_revocation_endpoint_that_cannot_be_used_is_left_out(
    tmp_path: Path, oauth: OAuthServer, url: object
) -> None:
    oauth.knobs.metadata["revocation_endpoint"] = url
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        result = await auth.logout("notes")
    # A logout says so instead
    assert (result.deleted, result.revoked) == (True, None)


@pytest.mark.parametrize("endpoint", ["javascript:alert(1)", "data:text/html,x", "file:///etc/passwd"])
async def test_duty_a_url_that_is_no_web_address_never_becomes_a_link(
    tmp_path: Path, oauth: OAuthServer, endpoint: str
) -> None:
    oauth.knobs.metadata["authorization_endpoint"] = endpoint
    with pytest.raises(AddressRefused):
        await link(tmp_path, oauth)


@pytest.mark.parametrize("host", ["http://127.0.0.1:7777", "http://localhost:7777", "https://[::1]:7777"])
@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint"])
def test_duty_ssrf_metadata_may_not_lead_to_private_addresses_of_this_machine_either(member: str, host: str) -> None:
    issuer = "https://as.example"
    document = {"issuer": issuer, "authorization_endpoint": f"{issuer}/a", "token_endpoint": f"{issuer}/t"}
    document[member] = f"{host}/x"
    with pytest.raises((DiscoveryFailed, AddressRefused)):
        read_metadata(document, NetworkRules.for_url("https://public.example/mcp"))
    # A server of this machine has its authorization server there too
    read_metadata(document, NetworkRules.for_url("http://127.0.0.1:7000/mcp"))


@pytest.mark.parametrize(
    ("allow", "fits"),
    [
        (("localhost",), True),
        (("LOCALHOST",), True),
        (("login.localhost",), False),
        (("127.0.0.0/8",), False),
        ((), False),
    ],
)
def test_the_operator_may_allow_a_name_of_this_machine_in_metadata(allow: tuple[str, ...], fits: bool) -> None:
    rules = NetworkRules.for_url("https://public.example/mcp", allow=allow)
    document = {
        "issuer": "https://as.example",
        "authorization_endpoint": "http://localhost:7777/authorize",
        "token_endpoint": "https://as.example/token",
    }
    if fits:
        assert read_metadata(document, rules).authorization_endpoint == document["authorization_endpoint"]
        return
    with pytest.raises(DiscoveryFailed):
        read_metadata(document, rules)


@pytest.mark.parametrize("issuer", ["https://192.168.1.1", "https://169.254.169.254", "https://[fd00:ec2::254]"])
async def test_duty_ssrf_metadata_may_not_lead_to_private_addresses(
    tmp_path: Path, oauth: OAuthServer, issuer: str
) -> None:
    oauth.knobs.prm["authorization_servers"] = [issuer]
    with pytest.raises(AddressRefused):
        await link(tmp_path, oauth)


async def test_duty_ssrf_a_redirect_to_another_origin_is_not_followed(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.responses import RedirectResponse

    with OAuthServer().running() as other:
        monkeypatch.setattr(oauth, "_metadata", lambda path: RedirectResponse(f"{other.origin}{path}"))
        with pytest.raises(DiscoveryFailed):
            await link(tmp_path, oauth)
        assert other.seen == []


@pytest.mark.parametrize("allowed", [False, True])
async def test_duty_ssrf_a_name_is_resolved_once_and_the_address_that_was_checked_is_connected_to(
    oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    # Given a name of a public server that stands for this machine, and at the second look for another one
    answers = ["127.0.0.1", "203.0.113.1"]
    asked: list[str] = []

    async def resolve(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answers[len(asked) - 1], port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    url = f"{'http' if allowed else 'https'}://rebind.example:{oauth.port}/somewhere"
    # The operator may name a private server, metadata of a public one may not
    rules = NetworkRules.for_url(url if allowed else "https://public.example/mcp", allow_http=True)
    http = Http()
    if allowed:
        answer = await http.fetch(rules, "GET", url, credentials=False)
        assert (answer.status, asked) == (404, ["rebind.example"])
    else:
        with pytest.raises(AddressRefused):
            await http.fetch(rules, "GET", url)
        assert (oauth.seen, asked) == ([], ["rebind.example"])
    await http.close()


async def test_a_redirect_within_the_origin_is_followed(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.responses import RedirectResponse

    real = oauth._metadata
    moved = "/moved/.well-known/here"

    def metadata(path: str) -> object:
        return real("/.well-known/oauth-authorization-server") if path == moved else RedirectResponse(moved)

    monkeypatch.setattr(oauth, "_metadata", metadata)
    assert (await link(tmp_path, oauth)).startswith(f"{oauth.issuer}/authorize?")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"issuer": 1}', b"\xff\xfe", b"[" * 100_000])
async def test_metadata_that_is_no_metadata_is_said_in_a_sentence(
    tmp_path: Path, oauth: OAuthServer, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.responses import Response

    monkeypatch.setattr(oauth, "_metadata", lambda path: Response(body, 200, media_type="application/json"))
    with pytest.raises(DiscoveryFailed) as caught:
        await link(tmp_path, oauth)
    assert caught.value.message


async def test_an_endless_body_is_cut_off(tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.responses import Response

    monkeypatch.setattr(oauth, "_metadata", lambda path: Response(b" " * 3_000_000, 200))
    with pytest.raises(Unreachable, match="kB"):
        await link(tmp_path, oauth)


async def test_the_probe_and_the_metadata_request_go_out_together(tmp_path: Path, oauth: OAuthServer) -> None:
    # Given a server that answers no request for its tools before its metadata was asked for
    answered = oauth.knobs.mcp_gate = threading.Event()
    looking = asyncio.create_task(link(tmp_path, oauth))
    async with asyncio.timeout(PATIENCE):
        while not (oauth.requests(PRM_PATH) and oauth.requests("/mcp")):
            await asyncio.sleep(0.005)
    answered.set()
    await looking
    assert len(oauth.seen) == 4


async def test_a_repeat_sign_in_needs_nothing_on_the_wire(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        oauth.forget()
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert oauth.seen == []
        assert not started.reused


async def test_what_was_looked_up_is_good_for_a_day_at_most(tmp_path: Path, oauth: OAuthServer) -> None:
    ahead = 0.0
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    async with open_auth(tmp_path, servers, clock=lambda: time.time() + ahead) as auth:
        await signed_in(auth)
        for hours, looked_up in ((23, False), (25, True)):
            ahead = hours * 3600.0
            oauth.forget()
            await signed_in(auth)
            assert bool(oauth.requests("/.well-known/oauth-authorization-server")) is looked_up
            assert oauth.requests("/register") == []


async def test_a_server_that_refuses_a_good_token_is_looked_up_again(tmp_path: Path, oauth: OAuthServer) -> None:
    with OAuthServer().running() as other:
        async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
            await signed_in(auth)
            # Given a server that moved: it names another authorization server, and asks for another scope
            oauth.knobs.prm["authorization_servers"] = [other.issuer]
            oauth.knobs.challenge_scope = "new"
            oauth.access.clear()
            oauth.refresh.clear()
            await auth.probe("notes")
            started = await auth.sign_in("notes", "shared", ME, listen=False)
            assert started.link.startswith(f"{other.issuer}/authorize?")
            assert query_of(started.link)["scope"] == "new"
            # Where nobody knows the client of before
            assert query_of(started.link)["client_id"] in other.clients


async def test_fresh_looks_everything_up_again(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        await signed_in(auth)
        oauth.forget()
        await auth.sign_in("notes", "shared", ME, fresh=True, listen=False)
        assert oauth.requests("/.well-known/oauth-authorization-server")
