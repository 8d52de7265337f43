"""From a server's URL to its authorization server: RFC 9728, then RFC 8414 and OpenID discovery.

Issuers and endpoints are compared and kept as the raw strings of the JSON.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcp_auth.challenge import BearerChallenge, bearer_challenge
from mcp_auth.config import Server
from mcp_auth.errors import DiscoveryFailed, IssuerMismatch, NoMetadata, PkceNotSupported, ResourceMismatch, Unreachable
from mcp_auth.http import Answer, Http
from mcp_auth.network import NetworkRules, is_loopback_host, shown_host
from mcp_auth.records import Connection, ServerMetadata, convert
from mcp_auth.sites import check_endpoints

# What is looked up is good for a day; a failed sign-in or a changed challenge ends it earlier.
METADATA_LIFETIME = 24 * 3600.0

_PROTOCOL_HEADERS = {"MCP-Protocol-Version": "2025-11-25"}
_PROBE_BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a discovery: what to remember of the server, without a version or registrations."""

    metadata: ServerMetadata
    resource: str | None
    resource_scopes: list[str] | None
    resource_name: str | None
    challenge: BearerChallenge | None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a request without credentials was answered: its status, and the challenge when it was 401 or 403."""

    status: int
    challenge: BearerChallenge | None


async def probe_without_credentials(
    http: Http, rules: NetworkRules, server: Server, headers: dict[str, str]
) -> ProbeAnswer:
    """One request as an MCP client would send it, without OAuth.

    `tools/list` needs no handshake, so an open server is left without a half-made session, and a
    server that protects only its tools says so.

    Raises:
        Unreachable: no answer.
    """
    if server.url is None:
        raise ValueError("only a server with a url can be probed")
    sent = {"Accept": "application/json, text/event-stream", **_PROTOCOL_HEADERS, **headers}
    if server.transport == "sse":
        answer = await http.fetch(
            rules, "GET", server.url, headers={**sent, "Accept": "text/event-stream"}, credentials=False, head_only=True
        )
    else:
        answer = await http.fetch(
            rules,
            "POST",
            server.url,
            headers={**sent, "Content-Type": "application/json"},
            content=_PROBE_BODY,
            credentials=False,
            head_only=True,
        )
    challenge = None
    if answer.status in (401, 403):
        challenge = bearer_challenge(answer.headers.get_list("www-authenticate"))
    return ProbeAnswer(answer.status, challenge)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a server itself says: whether it refuses who has no credential, and its protected resource metadata.

    `trouble`: the metadata could not be had, which says nothing of whether it is published.
    """

    is_refused: bool
    challenge: BearerChallenge | None
    document: dict[str, Any] | None
    trouble: Unreachable | None = None

    @property
    def wants_credential(self) -> bool:
        """Metadata of the website around it says nothing of an open server."""
        return self.is_refused or self.document is not None


async def ask(http: Http, rules: NetworkRules, server: Server, *, known: BearerChallenge | None = None) -> Asked:
    """Ask a server what it wants. The probe and the request for its metadata go out together.

    `known`: a challenge that it sent before.

    Raises:
        Unreachable: no answer to the probe.
    """
    from mcp.client.auth.utils import build_protected_resource_metadata_discovery_urls as resource_urls

    url = server.url or ""
    guesses = resource_urls(None, url)
    probe, first = await asyncio.gather(
        probe_without_credentials(http, rules, server, {}), _get(http, rules, guesses[0]), return_exceptions=True
    )
    if isinstance(probe, BaseException):
        raise probe
    challenge = probe.challenge or known
    asked: dict[str, Answer | BaseException] = {guesses[0]: first}
    named = challenge.resource_metadata if challenge else None
    document, trouble = None, None
    try:
        document = await _resource_metadata(http, rules, resource_urls(named, url), asked)
    except Unreachable as error:
        trouble = error
    return Asked(probe.status in (401, 403), challenge, document, trouble)


async def discover(
    http: Http, rules: NetworkRules, server: Server, asked: Asked, *, prefer: str | None = None
) -> Found:
    """Find the authorization server of `server`, which was `asked`.

    `prefer`: the issuer to take where the server names several.

    Raises:
        DiscoveryFailed: no usable metadata. ResourceMismatch, IssuerMismatch, PkceNotSupported: it must
            not be used. Unreachable: no answer.
    """
    document = asked.document
    if asked.trouble is not None:
        raise asked.trouble
    if document is None:
        metadata = await _legacy_metadata(http, rules, server)
        return Found(metadata, None, None, None, asked.challenge)
    resource = _check_resource(document, server.url or "")
    issuer = _choose_issuer(document, prefer)
    metadata = await _server_metadata(http, rules, issuer, server.url or "")
    _check_pkce(metadata, server)
    check_endpoints(metadata)
    return Found(
        metadata=metadata,
        resource=resource,
        resource_scopes=_strings(document.get("scopes_supported")),
        resource_name=document.get("resource_name") if isinstance(document.get("resource_name"), str) else None,
        challenge=asked.challenge,
    )


def is_warm(connection: Connection | None, now: float) -> bool:
    """Whether a sign-in can start from what is remembered, without a request."""
    return (
        connection is not None
        and connection.metadata is not None
        and connection.fetched_at is not None
        and now - connection.fetched_at < METADATA_LIFETIME
    )


async def _get(http: Http, rules: NetworkRules, url: str) -> Answer:
    return await http.fetch(rules, "GET", url, headers=_PROTOCOL_HEADERS)


async def _resource_metadata(
    http: Http, rules: NetworkRules, urls: list[str], asked: dict[str, Answer | BaseException]
) -> dict[str, Any] | None:
    """The first document in the specification's order, or None when the server publishes none."""
    trouble: Unreachable | None = None
    for url in dict.fromkeys(urls):
        try:
            answer = asked.get(url) or await _get(http, rules, url)
            if isinstance(answer, BaseException):
                raise answer
        except Unreachable as error:
            trouble = error
            continue
        if answer.status == 429 or answer.status >= 500:
            # A server in trouble says nothing about whether it publishes metadata.
            trouble = DiscoveryTrouble(f"The server answered HTTP {answer.status} to the metadata request.")
            continue
        document = _json_object(answer)
        if answer.status == 200 and document is not None and _strings(document.get("authorization_servers")):
            return document
    if trouble is not None:
        raise trouble
    return None


class DiscoveryTrouble(Unreachable, DiscoveryFailed):
    """The metadata could not be had for now."""

    code = "discovery_failed"


def _check_resource(document: dict[str, Any], url: str) -> str | None:
    """The `resource` of the metadata, when it may speak for `url` (RFC 9728 section 3.3, RFC 8707)."""
    from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url

    resource = document.get("resource")
    if not isinstance(resource, str):
        raise ResourceMismatch(
            "The server's protected resource metadata names no resource.",
            next_step="report it to whoever runs the server",
        )
    if not check_resource_allowed(resource_url_from_server_url(url), resource):
        raise ResourceMismatch(
            f"The server's metadata speaks for another resource, at {shown_host(urlsplit(resource).hostname or '')}.",
            next_step="check the url in the configuration; it must be the one that the server publishes",
        )
    return resource


def _choose_issuer(document: dict[str, Any], prefer: str | None) -> str:
    issuers = _strings(document.get("authorization_servers")) or []
    return prefer if prefer in issuers else issuers[0]


async def _server_metadata(http: Http, rules: NetworkRules, issuer: str, url: str) -> ServerMetadata:
    from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls as metadata_urls

    rules.check_url(issuer, credentials=True)
    host = shown_host(urlsplit(issuer).hostname or "")
    for candidate in metadata_urls(issuer, url):
        answer = await _get(http, rules, candidate)
        if answer.status == 429 or answer.status >= 500:
            raise DiscoveryTrouble(f"The authorization server {host} answered HTTP {answer.status}.")
        document = _json_object(answer) if answer.status == 200 else None
        if document is None:
            continue
        metadata = read_metadata(document, rules)
        if metadata.issuer != issuer:
            raise IssuerMismatch(
                f"The authorization server at {host} calls itself by another name than the one asked for "
                "(RFC 8414 section 3.3), so it is not used.",
                next_step="report it to whoever runs the server",
            )
        return metadata
    raise DiscoveryFailed(
        f"The authorization server {host} publishes no metadata.", next_step="report it to whoever runs the server"
    )


async def _legacy_metadata(http: Http, rules: NetworkRules, server: Server) -> ServerMetadata:
    """2025-03-26: the server's origin is its own authorization server, and may publish nothing at all."""
    from mcp.client.auth.utils import (
        build_oauth_authorization_server_metadata_discovery_urls as metadata_urls,
    )
    from mcp.client.auth.utils import issuers_match

    parts = urlsplit(server.url or "")
    origin = f"{parts.scheme}://{parts.netloc}"
    rules.check_url(origin, credentials=True)
    answer = await _get(http, rules, metadata_urls(None, server.url or "")[0])
    if answer.status == 429 or answer.status >= 500:
        raise DiscoveryTrouble(f"{shown_host(parts.hostname or '')} answered HTTP {answer.status}.")
    document = _json_object(answer) if answer.status == 200 else None
    if document is not None:
        metadata = read_metadata(document, rules)
        if not issuers_match(metadata.issuer, origin):
            raise IssuerMismatch(
                "The server's own metadata names another issuer than the server itself, so it is not used.",
                next_step="report it to whoever runs the server",
            )
        _check_pkce(metadata, server)
        check_endpoints(metadata)
        return metadata
    if not server.oauth.legacy:
        raise NoMetadata(
            "The server publishes no OAuth metadata, so there is nothing to sign in at.",
            next_step="check the url; for a server of the 2025-03-26 revision set oauth.legacy: true",
        )
    return ServerMetadata(
        issuer=origin,
        authorization_endpoint=f"{origin}/authorize",
        token_endpoint=f"{origin}/token",
        registration_endpoint=f"{origin}/register",
    )


def read_metadata(document: dict[str, Any], rules: NetworkRules) -> ServerMetadata:
    """The metadata we act on, every endpoint checked: https, or loopback.

    Raises:
        DiscoveryFailed: required members are missing or of the wrong type.
        AddressRefused: an endpoint that must not be used.
    """
    known = {
        name: value
        for name in ServerMetadata.__struct_fields__
        # Some servers send "" or null for what they do not have.
        if (value := document.get(name)) not in (None, "")
    }
    try:
        metadata = convert(ServerMetadata, known)
    except msgspec.ValidationError:
        raise DiscoveryFailed(
            "The authorization server's metadata is incomplete or of the wrong form (RFC 8414 section 2).",
            next_step="report it to whoever runs the server",
        ) from None
    for endpoint in (
        metadata.authorization_endpoint,
        metadata.token_endpoint,
        metadata.registration_endpoint,
        metadata.revocation_endpoint,
    ):
        if endpoint is None:
            continue
        host = rules.check_url(endpoint, credentials=True).hostname or ""
        if is_loopback_host(host) and not rules.on_loopback and host not in rules.allow_names:
            # The person's browser opens the first of these; nobody else's server may aim it at this machine.
            raise DiscoveryFailed(
                "The authorization server's metadata points to this machine itself, so it is not used.",
                next_step="report it to whoever runs the server",
            )
    return metadata


def _check_pkce(metadata: ServerMetadata, server: Server) -> None:
    methods = metadata.code_challenge_methods_supported
    if methods is not None and "S256" in methods:
        return
    if methods is None and server.oauth.legacy:
        return
    raise PkceNotSupported(
        "The authorization server does not offer PKCE with S256, which OAuth 2.1 requires; "
        "without it a stolen code could be used.",
        next_step="report it to whoever runs the server, or set oauth.legacy: true for a server of 2025-03-26",
    )


def _json_object(answer: Answer) -> dict[str, Any] | None:
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _strings(value: object) -> list[str] | None:
    if not isinstance(value, list):
        return None
    return [entry for entry in value if isinstance(entry, str)]
