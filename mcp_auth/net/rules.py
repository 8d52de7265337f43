"""The network rules: which schemes and addresses a request for one server may use. Pure.

A server that the operator configured may be private. What its metadata points to may be private
only on the same origin, or where `gateway.network.allow` says so; loopback also when the server
itself is on loopback. Cloud metadata services are never asked.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import SplitResult, urljoin, urlsplit

import msgspec

from mcp_auth.errors import AddressRefused, ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# AWS/GCP/Azure/OpenStack, AWS ECS and EKS, Tencent, Alibaba, Oracle, Azure's host agent, AWS and GCP over IPv6.
_CLOUD_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)
_CLOUD_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog", "metadata", "instance-data"})
# Beside `localhost` and what ends in it: what the hosts files of distributions call loopback.
_LOOPBACK_NAMES = frozenset({"localhost.localdomain", "localhost4", "localhost6", "ip6-localhost", "ip6-loopback"})
# Labels of letters, digits, hyphens and, as is found in private networks, low lines.
_HOST_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that is given out to the world (RFC 4291). What `is_global` takes for it besides leads inside where it leads
# anywhere: site-local fec0::/10, IPv4 behind :: and ::ffff:0:0:0/96, a network's own translator at 64:ff9b:1::/48.
_IPV6_WORLD = ipaddress.ip_network("2000::/3")


class NetworkRules(msgspec.Struct, frozen=True):
    """The rules for one server. `host` and `port` are its configured origin; `allow` as in the configuration."""

    host: str
    port: int
    on_loopback: bool
    allow_http: bool = False
    allow_names: frozenset[str] = frozenset()
    allow_networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    @classmethod
    def for_url(cls, url: str, *, allow: tuple[str, ...] = (), allow_http: bool = False) -> NetworkRules:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        names: set[str] = set()
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for entry in allow:
            try:
                networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError:
                if "/" in entry:
                    raise ConfigError(
                        "gateway.network.allow holds an entry that is neither a host name nor a network",
                        key="gateway.network.allow",
                        next_step="write host names, addresses or blocks such as 10.0.0.0/8",
                    ) from None
                names.add(entry.lower())
        return cls(
            host=host,
            port=port_of(parts),
            on_loopback=is_loopback_host(host),
            allow_http=allow_http,
            allow_names=frozenset(names),
            allow_networks=tuple(networks),
        )

    def check_url(self, url: str, *, credentials: bool) -> SplitResult:
        """The parts of `url` when its scheme and form are allowed.

        `credentials`: OAuth travels on it, so plain http is for loopback only (RFC 9700, MCP authorization).

        Raises:
            AddressRefused: any other scheme, a user name in it, no host, or one that a browser takes for another.
        """
        try:
            parts = urlsplit(url)
            port = port_of(parts)
        except ValueError:
            raise AddressRefused("The server names a URL that cannot be read.") from None
        host = (parts.hostname or "").lower()
        if not host or parts.username is not None:
            raise AddressRefused("The server names a URL without a host, or with a user name in it.")
        if ascii_host(host) is None:
            raise AddressRefused(f"The server names a host that browsers read in their own way: {shown_host(host)}.")
        if parts.scheme == "https":
            return parts
        own = (host, port) == (self.host, self.port)
        if parts.scheme == "http" and (is_loopback_host(host) or (own and self.allow_http and not credentials)):
            return parts
        raise AddressRefused(
            f"{shown_host(host)} is not reached over https, and that is required here.",
            next_step="use https, or allow_http: true for a server without OAuth",
        )

    def check_address(self, host: str, port: int, address: str) -> None:
        """Allow or refuse the address that is about to be connected to.

        Raises:
            AddressRefused: cloud metadata, or a private address that nothing permits.
        """
        ip = effective_address(address)
        if ip in _CLOUD_METADATA:
            raise AddressRefused(f"{shown_host(host)} is a cloud metadata address; it is never contacted.")
        if (host.lower(), port) == (self.host, self.port) or host.lower() in self.allow_names:
            return
        if any(ip in network for network in self.allow_networks):
            return
        if ip.is_global and not ip.is_multicast and (ip.version == 4 or ip in _IPV6_WORLD):
            return
        if ip.is_loopback and self.on_loopback:
            return
        raise AddressRefused(
            f"{shown_host(host)} leads to a private address, and the server's metadata may not point there.",
            next_step="if that is intended, add the host to gateway.network.allow",
        )

    def check_proxied(self, scheme: str, host: str, port: int | None, *, credentials: bool = False) -> None:
        """Allow or refuse a request that a proxy is to carry out: it connects for us, from where it stands.

        What a name stands for is the proxy's to find out. What needs no finding out is checked here: an address in any
        spelling, loopback, and the names of metadata services. Plain http is read by the proxy, also to loopback.

        Raises:
            AddressRefused: as `check_url` and `check_address`.
        """
        if scheme != "https" and (credentials or not self.allow_http):
            raise AddressRefused(
                f"{shown_host(host)} is not reached over https, and gateway.network.proxy would read what is sent.",
                next_step="use https, or allow_http: true for a server without OAuth",
            )
        name = host.strip("[]").lower().rstrip(".")
        if name in _CLOUD_METADATA_NAMES:
            raise AddressRefused(f"{shown_host(host)} is a cloud metadata service; it is never contacted.")
        address = _spelled_address(name)
        if address is not None:
            self.check_address(name, port or (443 if scheme == "https" else 80), address)


@lru_cache(maxsize=1024)
def ascii_host(host: str) -> str | None:
    r"""The host that browsers and our own client go to, in ASCII and without a dot at its end; None: they may differ.

    Browsers take `https://as.example\.evil.example` to as.example, `%2E` for a dot, and letters by UTS 46. Who reads by
    RFC 3986 takes the first for a name below evil.example.
    """
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return None
        return host
    if not host.isascii():
        import idna

        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            return None
    host = host.lower()
    return host.rstrip(".") if _HOST_NAME.fullmatch(host) else None


@lru_cache(maxsize=1024)
def leads_here(host: str) -> bool:
    """Whether a browser that is sent to `host` ends at its own machine, in any spelling."""
    address = _spelled_address(ascii_host(host) or host)
    if address is None:
        return False
    ip = effective_address(address)
    return ip.is_loopback or ip.is_unspecified


@lru_cache(maxsize=1024)
def _spelled_address(name: str) -> str | None:
    """The address that a name stands for without a look-up. `name`: in lower case, without a dot at its end."""
    if is_loopback_host(name) or name in _LOOPBACK_NAMES:
        return "127.0.0.1"
    return literal_address(name)


def literal_address(host: str) -> str | None:
    """The address that `host` spells out, or None for a name. `127.1` and `0x7f000001` are 127.0.0.1 to resolvers."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    # The spellings of inet_aton(3), which the resolver of a proxy takes too.
    if not re.fullmatch(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", host):
        return None
    import socket

    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


@lru_cache(maxsize=1024)
def effective_address(text: str) -> Address:
    """The address that is really meant: IPv4 inside IPv6 (mapped, 6to4, Teredo, NAT64) is taken out."""
    ip = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip.teredo is not None:
        return ip.teredo[1]
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


@lru_cache(maxsize=1024)
def is_loopback_host(host: str) -> bool:
    """`localhost`, `*.localhost` (RFC 6761) and loopback literals."""
    host = host.lower().strip("[]")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return effective_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=1024)
def is_loopback_url(url: str) -> bool:
    """Whether `url` is plain http on loopback, the one place where OAuth may go without TLS (RFC 8252)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme == "http" and is_loopback_host(parts.hostname or "")


@lru_cache(maxsize=1024)
def port_of(parts: SplitResult) -> int:
    """The port, with the scheme's default. Raises ValueError for an impossible one."""
    if parts.port is not None:
        return parts.port
    return 80 if parts.scheme == "http" else 443


def joined(url: str, reference: str) -> str | None:
    """The address that `reference` names for whoever was at `url`; None when it names none."""
    try:
        return urljoin(url, reference)
    except ValueError:
        return None


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, lower-case host and port: what a credential is bound to."""
    parts = urlsplit(url)
    return parts.scheme.lower(), (parts.hostname or "").lower(), port_of(parts)


def with_ipv6_forms(networks: Iterable[str]) -> list[str]:
    """Addresses and networks, those of IPv4 also as a listener on `::` sees them (RFC 4291 section 2.5.5.2)."""
    given = [ipaddress.ip_network(one, strict=False) for one in networks]
    mapped = [f"::ffff:{one.network_address}/{96 + one.prefixlen}" for one in given if one.version == 4]
    return [*(str(one) for one in given), *mapped]


@lru_cache(maxsize=1024)
def shown_host(host: str) -> str:
    """A host name fit for a sentence: printable ASCII, at most 100 characters."""
    if not (host.isascii() and host.isprintable()):
        host = "".join(c if c.isascii() and c.isprintable() else "?" for c in host)
    return host[:100] or "the host"
