"""Which hosts belong together, what is refused because they do not, and which host a person is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcp_auth.errors import DiscoveryFailed, MixedEndpoints
from mcp_auth.net.rules import NetworkRules
from mcp_auth.net.sites import browser_host, check_endpoints, issued_elsewhere, site_of
from mcp_auth.oauth.discovery import read_metadata
from mcp_auth.records import Requester
from tests.adapters.cli.typed import Run
from tests.browser import Browser
from tests.homes import ME, open_auth, write_home
from tests.servers.oauth import OAuthServer

ANN = Requester(principal="telegram:100001", display_name="Ann")
PUBLIC = "https://bot.example.com"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://login.example.com/a", "https://api.example.com:8443/t", True),
        ("https://EXAMPLE.com", "https://example.com.", True),
        ("https://bücher.example.de", "https://xn--bcher-kva.example.de", True),
        ("https://accounts.google.com", "https://oauth2.googleapis.com", False),
        # Letters as browsers read them (UTS 46), not as IDNA 2003 did: these are two domains of two owners
        ("https://straße.example", "https://strasse.example", False),
        ("https://straße.example", "https://xn--strae-oqa.example", True),
        ("https://βόλος.example", "https://βόλοσ.example", False),
        ("https://login\u3002example\u3002com", "https://example.com", True),
        ("https://\uff25XAMPLE.com", "https://example.com", True),
        # A browser goes to the first name of these, or nowhere
        ("https://good.example\\.evil.example", "https://evil.example", False),
        ("https://good.example%2F.evil.example", "https://evil.example", False),
        ("https://good%2Eevil.example", "https://evil.example", False),
        # What many share is below a public suffix: each is a site of its own
        ("https://ann.github.io", "https://bob.github.io", False),
        ("https://ann.workers.dev", "https://bob.workers.dev", False),
        ("https://a.co.uk", "https://b.co.uk", False),
        ("https://x.a.co.uk", "https://a.co.uk", True),
        ("https://co.uk", "https://a.co.uk", False),
        ("https://github.io", "https://ann.github.io", False),
        ("https://ann.github.io.", "https://ann.github.io:8443", True),
        ("https://ann.s3.amazonaws.com", "https://bob.s3.amazonaws.com", False),
        ("https://city.kobe.jp", "https://other.kobe.jp", False),
        # No registrable domain: the host itself
        ("https://keycloak:8443", "https://keycloak:9443", True),
        ("https://keycloak", "https://other", False),
        ("https://10.0.0.5", "https://10.0.0.5:8443", True),
        ("https://10.0.0.5", "https://11.0.0.5", False),
        ("https://10.5", "https://10.0.0.5", True),
        ("https://12.10.5", "https://13.10.5", False),
        ("https://a.unknown-suffix", "https://b.unknown-suffix", False),
        ("https://[2001:db8::1]", "https://[2001:db8:0::1]", True),
        # On loopback the port tells one service from the next
        ("http://127.0.0.1:7000/a", "http://127.0.0.1:7000/t", True),
        ("http://127.0.0.1:7000", "http://127.0.0.1:7001", False),
        ("http://localhost:7000", "http://127.0.0.1:7000", False),
        ("http://localhost.:7000", "http://localhost:7000", True),
        ("http://ann.localhost:7000", "http://bob.localhost:7000", False),
    ],
)
def test_a_site_is_a_registrable_domain(one: str, other: str, same: bool) -> None:
    assert (site_of(one) == site_of(other)) is same


# Where browser, code and name of an authorization server are, as real ones have it, and whether an answer can be
# mixed up. Without the scheme; the last: whether `iss` is promised (RFC 9207).
SHAPES = [
    # issuer, authorization endpoint, token endpoint, iss, usable, the other hosts that are said
    ("accounts.google.com", "accounts.google.com/o/oauth2/v2/auth", "oauth2.googleapis.com/token", False, True, True),
    ("as.example", "as.example/authorize", "as.example/token", False, True, False),
    ("as.example", "www.as.example/authorize", "api.as.example/token", False, True, False),
    ("mcp.vendor.example", "login.idp.example/authorize", "login.idp.example/token", False, True, True),
    ("mcp.vendor.example", "login.idp.example/authorize", "api.vendor.example/token", True, True, True),
    ("mcp.vendor.example", "login.idp.example/authorize", "api.vendor.example/token", False, False, True),
    ("evil.example", "accounts.google.com/o/oauth2/v2/auth", "evil.example/token", False, False, True),
    ("evil.github.io", "good.github.io/authorize", "evil.github.io/token", False, False, True),
    ("10.0.0.5", "10.0.0.6/authorize", "10.0.0.5/token", False, False, True),
]


@pytest.mark.parametrize(("issuer", "authorize", "token", "iss", "usable", "is_said"), SHAPES)
def test_an_answer_that_could_be_mixed_up_is_refused_and_other_sites_are_said(
    issuer: str, authorize: str, token: str, iss: bool, usable: bool, is_said: bool
) -> None:
    document = {
        "issuer": f"https://{issuer}",
        "authorization_endpoint": f"https://{authorize}",
        "token_endpoint": f"https://{token}",
        "authorization_response_iss_parameter_supported": iss,
    }
    metadata = read_metadata(document, NetworkRules.for_url("https://server.example/mcp"))

    assert browser_host(metadata) == authorize.partition("/")[0]
    assert bool(issued_elsewhere(metadata)) is is_said
    if usable:
        check_endpoints(metadata)
        return
    with pytest.raises(MixedEndpoints) as refused:
        check_endpoints(metadata)
    assert authorize.partition("/")[0] in refused.value.message


def elsewhere(oauth: OAuthServer, other: OAuthServer, *, token: bool, iss: bool) -> None:
    """The browser is sent to `other`; the tokens come from there too, or from `oauth`."""
    oauth.knobs.metadata["authorization_endpoint"] = f"{other.origin}/authorize"
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = iss
    if token:
        oauth.knobs.metadata["token_endpoint"] = f"{other.origin}/token"


def test_the_command_line_refuses_a_mix_up_and_registers_nothing(tmp_path: Path, oauth: OAuthServer, run: Run) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    with OAuthServer().running() as other:
        elsewhere(oauth, other, token=False, iss=False)
        done = run("--home", home, "auth", "notes", "--no-wait", "--no-browser")

        assert done.code != 0
        assert "different sites" in done.out + done.err
        assert other.seen == []
    assert oauth.requests("/register") == []


# Authorization endpoints of one hostile authorization server, https://evil.example/token, and what is said of them.
ELSEWHERE_TO_BROWSERS = [
    ("https://good.example\\authorize\\.evil.example/", "browsers read in their own way"),
    ("https://good.example%5C.evil.example/authorize", "browsers read in their own way"),
    ("https://good.example%2F.evil.example/authorize", "browsers read in their own way"),
    ("https://good.example .evil.example/authorize", "browsers read in their own way"),
    ("https://good.example;.evil.example/authorize", "browsers read in their own way"),
    ("https://good..evil.example/authorize", "browsers read in their own way"),
    ("https://localhost/authorize", "different sites"),
    ("https://good.example/authorize", "different sites"),
]


@pytest.mark.parametrize(("authorize", "said"), ELSEWHERE_TO_BROWSERS)
def test_the_command_line_sends_no_browser_to_a_host_that_it_reads_differently(
    tmp_path: Path, oauth: OAuthServer, run: Run, authorize: str, said: str
) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    oauth.knobs.metadata["authorization_endpoint"] = authorize
    oauth.knobs.metadata["token_endpoint"] = "https://evil.example/token"
    oauth.knobs.metadata["authorization_response_iss_parameter_supported"] = False
    done = run("--home", home, "auth", "notes", "--no-wait", "--no-browser")

    assert done.code != 0
    assert said in done.out + done.err
    assert oauth.requests("/register") == []


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "localhost.", "x.localhost", "ip6-localhost", "127.0.0.1", "127.1", "0x7f.1", "2130706433"),
        *("\uff11\uff12\uff17.0.0.1", "\u24dbocalhost", "[::1]", "[::]", "[::ffff:127.0.0.1]", "0.0.0.0.", "0"),
    ],
)
@pytest.mark.parametrize("member", ["authorization_endpoint", "token_endpoint"])
def test_metadata_from_the_network_aims_no_browser_at_this_machine(host: str, member: str) -> None:
    document = {
        "issuer": "https://evil.example",
        "authorization_endpoint": "https://evil.example/authorize",
        "token_endpoint": "https://evil.example/token",
        member: f"https://{host}/x",
    }
    with pytest.raises(DiscoveryFailed, match="this machine itself"):
        read_metadata(document, NetworkRules.for_url("https://server.example/mcp"))
    read_metadata(document, NetworkRules.for_url("http://127.0.0.1:9000/mcp"))


@pytest.mark.parametrize(("token", "iss"), [(True, False), (False, True)])
async def test_a_sign_in_over_several_sites_is_shown_on_every_page_and_recorded(
    tmp_path: Path, oauth: OAuthServer, token: bool, iss: bool
) -> None:
    servers = {"notes": {"url": oauth.url, "auth": "oauth"}}
    with OAuthServer().running() as other:
        elsewhere(oauth, other, token=token, iss=iss)
        oauth.knobs.metadata["authorization_endpoint"] = f"http://login.localhost:{other.port}/authorize"
        if token:
            oauth.knobs.metadata["token_endpoint"] = f"http://login.localhost:{other.port}/token"
        async with (
            open_auth(
                tmp_path, servers, {"public_url": PUBLIC, "allow": ["telegram:100001"], "verify": "none"}
            ) as auth,
            Browser(auth.asgi_app()) as browser,
        ):
            started = await auth.sign_in("notes", "shared", ANN)
            page = await browser.open(started.link)
            way_out = await browser.press(page)

    # The start page, where the browser goes, and where the access comes from
    assert "login.localhost" in page.text
    assert "access is issued by 127.0.0.1" in page.text
    assert "On to login.localhost" in way_out.text
    assert (started.host, started.issued_elsewhere) == ("login.localhost", ("127.0.0.1",))
    begun = json.loads((tmp_path / "home" / "audit.jsonl").read_text().splitlines()[0])
    assert begun["what"] == "sign_in_begun"
    assert begun["hosts"] == ["login.localhost", "127.0.0.1"]


async def test_a_sign_in_at_one_site_needs_no_such_line(tmp_path: Path, oauth: OAuthServer) -> None:
    async with open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}) as auth:
        started = await auth.sign_in("notes", "shared", ME, listen=False)
        assert (started.host, started.issued_elsewhere) == ("127.0.0.1", ())
    assert "hosts" not in (tmp_path / "home" / "audit.jsonl").read_text()


def test_the_terminal_names_the_host_that_the_browser_goes_to(tmp_path: Path, oauth: OAuthServer, run: Run) -> None:
    home = write_home(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}})
    oauth.knobs.metadata["authorization_endpoint"] = f"http://login.localhost:{oauth.port}/authorize"
    done = run("--home", home, "auth", "notes", "--no-wait", "--no-browser")
    assert "sign in at login.localhost (access is issued by 127.0.0.1)" in done.out
    assert "at login.localhost, access from 127.0.0.1" in run("--home", home, "audit").out
