from __future__ import annotations

import pytest

from mcp_auth.errors import AddressRefused, ConfigError
from mcp_auth.net.rules import NetworkRules, is_loopback_host, is_loopback_url, origin_of, shown_host, with_ipv6_forms

PUBLIC = NetworkRules.for_url("https://mcp.example.com/mcp")
LAN = NetworkRules.for_url("https://nas.lan:8443/mcp")
LOCAL = NetworkRules.for_url("http://127.0.0.1:9000/mcp")


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "::",
        "fc00::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "::ffff:127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",
        "2001:0:7f00:1::",
        "::7f00:1",
        "::a00:1",
        "::ffff:0:7f00:1",
        "fec0::1",
        "5f00::1",
        "240.0.0.1",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_ssrf_metadata_of_a_public_server_may_not_lead_to_a_private_address(address: str) -> None:
    with pytest.raises(AddressRefused):
        PUBLIC.check_address("as.example.com", 443, address)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
    ],
)
@pytest.mark.parametrize("rules", [PUBLIC, LAN, LOCAL])
def test_ssrf_cloud_metadata_is_never_contacted_even_where_all_is_allowed(rules: NetworkRules, address: str) -> None:
    wide_open = NetworkRules.for_url("https://169.254.169.254/mcp", allow=("0.0.0.0/0", "::/0"))
    for each in (rules, wide_open):
        with pytest.raises(AddressRefused):
            each.check_address(each.host, each.port, address)


def test_a_configured_server_may_itself_be_private() -> None:
    LAN.check_address("nas.lan", 8443, "192.168.1.5")
    with pytest.raises(AddressRefused):
        LAN.check_address("nas.lan", 22, "192.168.1.5")
    with pytest.raises(AddressRefused):
        LAN.check_address("router.lan", 8443, "192.168.1.1")


def test_loopback_metadata_is_for_servers_on_loopback() -> None:
    LOCAL.check_address("localhost", 9001, "127.0.0.1")
    with pytest.raises(AddressRefused):
        LOCAL.check_address("nas.lan", 80, "192.168.1.5")


def test_public_addresses_are_fine() -> None:
    PUBLIC.check_address("as.example.com", 443, "93.184.215.14")
    PUBLIC.check_address("as.example.com", 443, "2606:2800:21f:cb07:6820:80da:af6b:8b2c")


def test_the_operator_may_allow_hosts_and_networks() -> None:
    rules = NetworkRules.for_url("https://mcp.example.com/mcp", allow=("keycloak.lan", "10.1.0.0/16"))
    rules.check_address("keycloak.lan", 443, "192.168.7.7")
    rules.check_address("other", 443, "10.1.2.3")
    with pytest.raises(AddressRefused):
        rules.check_address("other", 443, "10.2.2.3")
    with pytest.raises(ConfigError, match=r"network\.allow"):
        NetworkRules.for_url("https://x/", allow=("10.0.0.0/99",))


@pytest.mark.parametrize(
    "url",
    [
        "http://as.example.com/token",
        "ftp://as.example.com/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://user:pass@as.example.com/",
        "https://user@as.example.com/",
        "https://:pass@as.example.com/",
        "https://@as.example.com/",
        "https:///nohost",
        "https://h:99999/",
        "",
    ],
)
def test_https_is_required_for_every_oauth_url_loopback_excepted(url: str) -> None:
    with pytest.raises(AddressRefused):
        PUBLIC.check_url(url, credentials=True)


def test_plain_http_with_allow_http_never_carries_oauth() -> None:
    rules = NetworkRules.for_url("http://nas.lan/mcp", allow_http=True)
    rules.check_url("http://nas.lan/mcp", credentials=False)
    with pytest.raises(AddressRefused):
        rules.check_url("http://nas.lan/mcp", credentials=True)
    with pytest.raises(AddressRefused):
        rules.check_url("http://other.lan/mcp", credentials=False)


def test_loopback_is_known_in_all_its_spellings() -> None:
    assert all(is_loopback_host(h) for h in ("localhost", "LOCALHOST", "a.localhost", "127.9.9.9", "::1", "[::1]"))
    assert not any(is_loopback_host(h) for h in ("localhost.evil.com", "127.0.0.1.nip.io", "10.0.0.1", ""))
    assert is_loopback_url("http://127.0.0.1:1/cb")
    assert not is_loopback_url("https://127.0.0.1:1/cb")


def test_an_origin_has_its_default_port() -> None:
    assert origin_of("HTTPS://Example.com/x") == ("https", "example.com", 443)
    assert origin_of("http://example.com:8080") == ("http", "example.com", 8080)


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "a.localhost", "LOCALHOST.", "localhost.localdomain", "localhost4", "localhost6"),
        *(
            "ip6-localhost",
            "ip6-loopback",
            "127.1",
            "0x7f.1",
            "017700000001",
            "2130706433",
            "[::1]",
            "::ffff:127.0.0.1",
        ),
        *("10.1", "0xa000001", "192.168.1.1", "[fc00::1]", "169.254.169.254", "2852039166", "fd00:ec2::254"),
        *("metadata.google.internal", "METADATA.GOOG.", "metadata", "instance-data"),
    ],
)
def test_ssrf_a_proxy_is_asked_for_nothing_that_is_known_to_be_inside(host: str) -> None:
    with pytest.raises(AddressRefused):
        PUBLIC.check_proxied("https", host, 443)
    with pytest.raises(AddressRefused):
        PUBLIC.check_proxied("https", host, None, credentials=True)


def test_a_proxy_finds_out_what_names_stand_for_and_reads_no_credential() -> None:
    for host in ("as.example.com", "metadata.example.com", "93.184.215.14", "localhost.example.com", "0x7f.example"):
        PUBLIC.check_proxied("https", host, 443, credentials=True)
    LAN.check_proxied("https", "nas.lan", 8443)
    LOCAL.check_proxied("https", "localhost", 9001)
    with pytest.raises(AddressRefused):
        LOCAL.check_proxied("http", "127.0.0.1", 9000)
    plain = NetworkRules.for_url("http://nas.lan/mcp", allow_http=True)
    plain.check_proxied("http", "nas.lan", None)
    with pytest.raises(AddressRefused):
        plain.check_proxied("http", "nas.lan", None, credentials=True)
    # The default port is the scheme's: the configured server is known by it
    own = NetworkRules.for_url("https://10.0.0.7/mcp")
    own.check_proxied("https", "10.0.0.7", None)
    with pytest.raises(AddressRefused):
        own.check_proxied("https", "10.0.0.7", 80)
    own_plain = NetworkRules.for_url("http://10.0.0.7/mcp", allow_http=True)
    own_plain.check_proxied("http", "10.0.0.7", None)


def test_an_allowed_network_is_one_of_its_own_version() -> None:
    rules = NetworkRules.for_url("https://mcp.example.com/mcp", allow=("fc00::/7", "10.0.0.0/8"))
    rules.check_address("other", 443, "10.0.0.1")
    rules.check_address("other", 443, "fc00::1")
    with pytest.raises(AddressRefused):
        rules.check_address("other", 443, "192.168.0.1")
    with pytest.raises(AddressRefused):
        rules.check_address("other", 443, "fe80::1")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("as.example.com", "as.example.com"),
        ("", "the host"),
        ("b\u00fccher.example", "b?cher.example"),
        ("a\x1b[31m\r\nb", "a?[31m??b"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_host_is_shown_as_far_as_it_is_fit_for_a_sentence(host: str, shown: str) -> None:
    assert shown_host(host) == shown


def test_networks_of_ipv4_are_known_in_the_form_of_a_listener_on_ipv6_too() -> None:
    assert with_ipv6_forms(["10.0.0.7/8", "192.0.2.1", "fd00::1/64"]) == [
        *("10.0.0.0/8", "192.0.2.1/32", "fd00::/64"),
        *("::ffff:10.0.0.0/104", "::ffff:192.0.2.1/128"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://good.example\\.evil.example/",
        "https://good.example\\@evil.example/",
        "https://good.example%2f.evil.example/",
        "https://good%2Eexample/",
        "https://good.example;evil.example/",
        "https://good.example .evil.example/",
        "https://good.example'.evil.example/",
        "https://good..example/",
        "https://.good.example/",
        "https://good.example../",
        "https://a\u200db.example/",
    ],
)
def test_a_host_that_a_browser_takes_for_another_is_none(url: str) -> None:
    for rules in (PUBLIC, LAN, LOCAL):
        with pytest.raises(AddressRefused):
            rules.check_url(url, credentials=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example.com./x\\y",
        "https://MCP.example.com:8443/",
        "https://my_service:8443/",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        "https://[2001:db8::1]:8443/",
        "https://[fe80::1%25eth0]/",
        "https://10.0.0.5/",
    ],
)
def test_a_host_that_everybody_reads_alike_is_one(url: str) -> None:
    assert PUBLIC.check_url(url, credentials=True).hostname
