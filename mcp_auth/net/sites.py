"""Which hosts belong together, and where a sign-in really leads. Pure.

A site is a registrable domain: what one can buy below a public suffix. `login.example.co.uk` and `api.example.co.uk`
are one; `ann.github.io` and `bob.github.io` are two.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcp_auth.errors import MixedEndpoints
from mcp_auth.net.rules import ascii_host, is_loopback_host, literal_address, port_of, shown_host
from mcp_auth.records import ServerMetadata

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


@lru_cache(maxsize=1024)
def site_of(url: str) -> str:
    """The site of an absolute URL, to be compared and not to be shown.

    A host without a registrable domain is a site by itself: an address, a name of one's own network, a public suffix.
    On loopback the port tells one service from the next.
    """
    parts = urlsplit(url)
    given = (parts.hostname or "").lower()
    host = ascii_host(given)
    if host is None:
        return given
    if is_loopback_host(host):
        return f"{host}:{port_of(parts)}"
    return _registrable(host)


def browser_host(metadata: ServerMetadata) -> str:
    """The host that a person's browser is sent to, fit for a sentence."""
    return host_of(metadata.authorization_endpoint)


def issued_elsewhere(metadata: ServerMetadata) -> tuple[str, ...]:
    """The hosts of token endpoint and issuer that are on other sites than the one the browser is sent to."""
    seen = site_of(metadata.authorization_endpoint)
    others = [url for url in (metadata.token_endpoint, metadata.issuer) if site_of(url) != seen]
    return tuple(dict.fromkeys(host_of(url) for url in others))


def check_endpoints(metadata: ServerMetadata) -> None:
    """Whether an answer of the authorization endpoint can only be meant for this token endpoint.

    An authorization server that names somebody else's authorization endpoint gets the code that was made there
    (mix-up, RFC 9700 section 4.4), unless the answer says who it comes from (RFC 9207).

    Raises:
        MixedEndpoints: nothing ties the authorization endpoint to the rest, and no `iss` is promised.
    """
    if metadata.authorization_response_iss_parameter_supported:
        return
    seen = site_of(metadata.authorization_endpoint)
    if seen in (site_of(metadata.issuer), site_of(metadata.token_endpoint)):
        return
    browser, issuer = browser_host(metadata), host_of(metadata.issuer)
    raise MixedEndpoints(
        f"{issuer} would send the browser to {browser}, and the code from there to {host_of(metadata.token_endpoint)}. "
        "These are different sites, and nothing in the answer would say whom it comes from (RFC 9207), "
        "so it is not used.",
        next_step="report it to whoever runs the server",
    )


def host_of(url: str) -> str:
    """The host of a URL, fit for a sentence: what is no ASCII as a browser sends it (`xn--...`)."""
    host = urlsplit(url).hostname or ""
    return shown_host(ascii_host(host) or host)


@lru_cache(maxsize=1024)
def _registrable(host: str) -> str:
    return literal_address(host) or _suffixes().privatesuffix(host) or host


@cache
def _suffixes() -> PublicSuffixList:
    # The list takes 60 ms to read, and hosts are compared at a sign-in only.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
