"""From a server's URL to its authorization server: RFC 9728, then RFC 8414 and OpenID discovery.

Issuers and endpoints are compared and kept as the raw strings of the JSON.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcp_auth.config.models import Server
from mcp_auth.errors import (
    AddressRefused,
    DiscoveryFailed,
    IssuerMismatch,
    McpAuthError,
    NoMetadata,
    PkceNotSupported,
    ResourceMismatch,
    SignInError,
    Unreachable,
)
from mcp_auth.metadata import missing, server_metadata, text, texts
from mcp_auth.net import resources
from mcp_auth.net.http import REQUEST_TIMEOUT, Answer, Http, LostAnswer
from mcp_auth.net.issuers import fits, is_template
from mcp_auth.net.issuers import is_same as issuers_are_same
from mcp_auth.net.responses import Seen, shown_url
from mcp_auth.net.rules import NetworkRules, joined, leads_here
from mcp_auth.net.sites import check_endpoints, host_of, site_of
from mcp_auth.oauth.challenge import BearerChallenge, bearer_challenge
from mcp_auth.oauth.server_json import json_object
from mcp_auth.oauth.tokens import plain
from mcp_auth.records import ServerMetadata, ServerProfile

logger = logging.getLogger(__name__)

# What is looked up is good for a day; a failed sign-in or a changed challenge ends it earlier.
METADATA_LIFETIME = 24 * 3600.0

# As many authorization servers as a server may send us to.
_MAX_SERVERS = 3

_PROTOCOL_HEADERS = {"MCP-Protocol-Version": "2025-11-25"}
_PROBE_BODY = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}'


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of a discovery: what to remember of the server, without a version or registrations."""

    metadata: ServerMetadata
    resource: str | None
    resource_scopes: list[str] | None
    resource_name: str | None
    challenge: BearerChallenge | None


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What a request without credentials was answered: its status, and a challenge that came along."""

    status: int
    challenge: BearerChallenge | None
    seen: Seen | None = None


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
    if answer.status >= 300:
        challenge = bearer_challenge(answer.headers.get_list("www-authenticate"))
    return ProbeAnswer(answer.status, challenge, Seen.of(answer.status, answer.headers, server.url))


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a server itself says: whether it refuses who has no credential, and its protected resource metadata.

    `found_at`: where that document was. `trouble`: the metadata could not be had, which says nothing of whether it is
    published. `seen`: the answer of the probe, for a sentence.
    """

    is_refused: bool
    challenge: BearerChallenge | None
    document: dict[str, Any] | None
    trouble: Unreachable | None = None
    found_at: str | None = None
    seen: Seen | None = None

    @property
    def wants_credential(self) -> bool:
        """Metadata of the website around it says nothing of an open server."""
        return self.is_refused or self.document is not None


async def probe(
    http: Http, rules: NetworkRules, server: Server, *, known: BearerChallenge | None = None
) -> ProbeResult:
    """Ask a server what it wants. The probe and the request for its metadata go out together.

    `known`: a challenge that it sent before.

    Raises:
        Unreachable: no answer to the probe.
    """
    from mcp.client.auth.utils import build_protected_resource_metadata_discovery_urls as resource_urls

    url = server.url or ""
    guesses = resource_urls(None, url)
    answer, first = await asyncio.gather(
        probe_without_credentials(http, rules, server, {}), _get(http, rules, guesses[0]), return_exceptions=True
    )
    if isinstance(answer, BaseException):
        raise answer
    challenge = answer.challenge or known
    asked: dict[str, Answer | BaseException] = {guesses[0]: first}
    every = challenge.all_resource_metadata if challenge else ()
    named = [target for each in every if (target := joined(url, each)) is not None]
    found, trouble = None, None
    try:
        found = await _resource_metadata(http, rules, [*named, *guesses], asked)
    except Unreachable as error:
        trouble = error
    found_at, document = found or (None, None)
    if challenge is not None and found_at in named:
        # Of several, the one that is worth asking again.
        challenge = replace(challenge, resource_metadata=found_at, more_resource_metadata=())
    # Cloudflare Access sends a browser's redirect along with the challenge that an agent can act on.
    is_refused = answer.status in (401, 403) or (answer.challenge is not None and bool(named))
    return ProbeResult(is_refused, challenge, document, trouble, found_at, answer.seen)


async def discover(
    http: Http, rules: NetworkRules, server: Server, asked: ProbeResult, *, prefer: str | None = None
) -> Discovery:
    """Find the authorization server of `server`, which was `asked`.

    `prefer`: the issuer to take where the server names several.

    Raises:
        DiscoveryFailed: no usable metadata. ResourceMismatch, IssuerMismatch, PkceNotSupported, MixedEndpoints: it
            must not be used. Unreachable: no answer.
    """
    if asked.trouble is not None:
        raise asked.trouble
    if asked.document is None:
        metadata = await _legacy_metadata(http, rules, server, asked)
        return Discovery(_check_metadata(metadata, server), None, None, None, asked.challenge)
    document = await _document_for(http, rules, server, asked.document, asked.found_at)
    return Discovery(
        metadata=await _first_usable(http, rules, server, document, prefer),
        resource=text(document.get("resource")),
        resource_scopes=texts(document.get("scopes_supported")),
        resource_name=text(document.get("resource_name")),
        challenge=asked.challenge,
    )


def _check_metadata(metadata: ServerMetadata, server: Server) -> ServerMetadata:
    _check_pkce(metadata, server)
    check_endpoints(metadata)
    return metadata


async def look_up_again(http: Http, rules: NetworkRules, server: Server, issuer: str) -> ServerMetadata:
    """The metadata of an issuer that is known, as it is now.

    Raises:
        SignInError and its children, Unreachable: there is none that may be used.
    """
    return _check_metadata(await _server_metadata(http, rules, server, issuer), server)


def is_warm(profile: ServerProfile | None, server: Server, now: float) -> bool:
    """Whether a sign-in can start from what is remembered, without a request."""
    return (
        profile is not None
        and profile.metadata is not None
        and profile.chosen_issuer == server.oauth.issuer
        and profile.fetched_at is not None
        and now - profile.fetched_at < METADATA_LIFETIME
    )


async def _get(http: Http, rules: NetworkRules, url: str) -> Answer:
    return await http.fetch(rules, "GET", url, headers=_PROTOCOL_HEADERS)


async def _resource_metadata(
    http: Http, rules: NetworkRules, urls: list[str], asked: dict[str, Answer | BaseException]
) -> tuple[str, dict[str, Any]] | None:
    """The first document in the specification's order and where it is, or None when the server publishes none."""
    trouble: Unreachable | None = None
    for url in dict.fromkeys(urls):
        try:
            answer = asked.get(url) or await _get(http, rules, url)
            if isinstance(answer, BaseException):
                raise answer
        except Unreachable as error:
            trouble = trouble or error
            continue
        if _is_in_trouble(answer):
            # A server in trouble says nothing about whether it publishes metadata.
            trouble = trouble or _trouble("The server", answer)
            continue
        document = json_object(answer.body)
        if answer.status == 200 and document is not None and texts(document.get("authorization_servers")):
            return url, document
    if trouble is not None:
        raise trouble
    return None


class DiscoveryTrouble(Unreachable, DiscoveryFailed):
    """The metadata could not be had for now."""

    code = "discovery_failed"


def _is_in_trouble(answer: Answer) -> bool:
    return answer.status == 429 or answer.status >= 500


def _trouble(who: str, answer: Answer) -> DiscoveryTrouble:
    seen, todo = Seen.of(answer.status, answer.headers, answer.url).words()
    return DiscoveryTrouble(f"{who} does not give its metadata right now ({seen}).", next_step=todo or "try again")


async def _document_for(
    http: Http, rules: NetworkRules, server: Server, document: dict[str, Any], found_at: str | None
) -> dict[str, Any]:
    """The metadata that may speak for this server (RFC 9728 section 3.3).

    It names the server's own URL, or what `oauth.resource` says where that is set. Anybody with a path of their own on
    a host could say that they speak for a path above: that counts only when the well-known address made of that very
    path says so too, and then it is that document which counts.
    """
    resource, wanted = text(document.get("resource")), _wanted_resource(server)
    if resource is None:
        raise ResourceMismatch(
            "The server's protected resource metadata names no resource.",
            next_step="report it to whoever runs the server",
        )
    # `oauth.resource` is what must match where it is set; else both spellings of the URL, with its query and without.
    is_set = isinstance(server.oauth.resource, str)
    if any(resources.is_same(resource, one) for one in ((wanted,) if is_set else (wanted, server.url or ""))):
        return document
    if not resources.is_above(resource, wanted):
        raise _other_resource(resource, wanted, is_set=is_set)
    parent = resources.well_known_of(resource)
    if parent == found_at:
        return document
    answer = await _get(http, rules, parent)
    if _is_in_trouble(answer):
        raise _trouble("The server", answer)
    said = json_object(answer.body) if answer.status == 200 else None
    named = text(said.get("resource")) if said is not None else None
    if (
        said is None
        or named is None
        or not resources.is_same(named, resource)
        or not texts(said.get("authorization_servers"))
    ):
        raise _other_resource(resource, wanted, is_set=is_set)
    # In the spelling of the server itself, which may differ by a slash.
    return {**said, "resource": resource}


def _wanted_resource(server: Server) -> str:
    configured = server.oauth.resource
    return configured if isinstance(configured, str) else resources.resource_of(server.url or "")


def _other_resource(resource: str, wanted: str, *, is_set: bool) -> ResourceMismatch:
    """`is_set`: `wanted` is what `oauth.resource` says."""
    instead = (
        f"set oauth.resource to {_named(resource)}, or take it out" if is_set else f"put {_named(resource)} as url"
    )
    return ResourceMismatch(
        f"The server's metadata speaks for {_named(resource)} and not for {_named(wanted)} (RFC 9728 section 3.3), "
        "so it is not used.",
        next_step=f"if that is where the server is, {instead}; else report it to whoever runs it",
    )


def _named(resource: str) -> str:
    """A resource as far as a sentence names it: without what may be a secret in its path."""
    shown = resource if resources.is_origin(resource) else shown_url(resource)
    return plain(shown, 160) or "nothing"


async def _first_usable(
    http: Http, rules: NetworkRules, server: Server, document: dict[str, Any], prefer: str | None
) -> ServerMetadata:
    """The metadata of the first authorization server that can be used, of those that the server names.

    One that was in use before comes first. While it is in trouble it is waited for, and so is the first one with a
    client that was registered by hand: another one would not know our client. What is wrong with the first is told when
    no other helps.
    """
    named = list(dict.fromkeys(texts(document.get("authorization_servers")) or []))
    named.sort(key=lambda issuer: not issuers_are_same(issuer, prefer))
    trouble: McpAuthError | None = None
    for issuer in named[:_MAX_SERVERS]:
        try:
            return _check_metadata(await _server_metadata(http, rules, server, issuer), server)
        except (SignInError, Unreachable) as error:
            is_for_now = isinstance(error, Unreachable) and not isinstance(error, AddressRefused)
            if is_for_now and (server.oauth.client_id is not None or issuers_are_same(issuer, prefer)):
                raise
            trouble = trouble or error
    if trouble is None:
        raise AssertionError("metadata without an authorization server is not taken")
    raise trouble


async def _server_metadata(http: Http, rules: NetworkRules, server: Server, named: str) -> ServerMetadata:
    """The metadata of the authorization server that the server names, or of the one that the operator chose instead.

    The operator's choice is first asked for itself. Only where it publishes nothing may the one that the server
    names speak for it, and then with endpoints on its site alone.
    """
    chosen = server.oauth.issuer
    if chosen is None:
        found = await _fetch_published(http, rules, named, lambda said: issuers_are_same(said, named))
        if found is None:
            raise _no_metadata(named)
        if not issuers_are_same(found.issuer, named):
            raise IssuerMismatch(
                f"The server names the authorization server {_spelled(named)}, which calls itself "
                f"{_spelled(found.issuer)} (RFC 8414 section 3.3), so it is not used.",
                next_step=_if_trusted(found.issuer),
            )
        return found

    def is_chosen(said: str) -> bool:
        return issuers_are_same(said, chosen) or fits(chosen, said) or fits(said, chosen)

    # No address can be made of a template.
    own = None if is_template(chosen) else await _fetch_published(http, rules, chosen, is_chosen)
    if own is not None:
        return _as_chosen(chosen, own)
    said = None if issuers_are_same(named, chosen) else await _fetch_published(http, rules, named, is_chosen)
    if said is None:
        raise _no_metadata(chosen)
    metadata = _as_chosen(chosen, said)
    endpoints = (
        metadata.authorization_endpoint,
        metadata.token_endpoint,
        metadata.registration_endpoint,
        metadata.revocation_endpoint,
    )
    elsewhere = [endpoint for endpoint in endpoints if endpoint is not None and site_of(endpoint) != site_of(chosen)]
    if elsewhere:
        raise IssuerMismatch(
            f"oauth.issuer is {_spelled(chosen)}, which publishes no metadata of its own, and the one that "
            f"{host_of(named)} publishes for it leads to {host_of(elsewhere[0])}, so it is not used.",
            next_step="report it to whoever runs the server",
        )
    return metadata


def _as_chosen(chosen: str, found: ServerMetadata) -> ServerMetadata:
    """Metadata of the issuer that `oauth.issuer` names. Where a template is in play, the id token has to settle it."""
    if is_template(found.issuer) and fits(found.issuer, chosen):
        return msgspec.structs.replace(found, issuer=chosen, id_token_issuer=chosen)
    if is_template(chosen) and (found.issuer == chosen or fits(chosen, found.issuer)):
        return msgspec.structs.replace(found, id_token_issuer=found.issuer)
    if issuers_are_same(found.issuer, chosen):
        return found
    raise IssuerMismatch(
        f"oauth.issuer is {_spelled(chosen)}, and the metadata calls itself {_spelled(found.issuer)} "
        "(RFC 8414 section 3.3), so it is not used.",
        next_step="correct oauth.issuer, or report it to whoever runs the server",
    )


async def _fetch_published(
    http: Http, rules: NetworkRules, issuer: str, is_right: Callable[[str], bool]
) -> ServerMetadata | None:
    """What an issuer's own well-known addresses say; None: nothing.

    An address in trouble, or with something that cannot be used, is passed over; its trouble is told when no other
    one helps. A document of another issuer than the right one is given back where there is nothing better.

    Raises:
        DiscoveryFailed, Unreachable.
    """
    rules.check_url(issuer, credentials=True)
    trouble: McpAuthError | None = None
    others: ServerMetadata | None = None
    until = asyncio.get_running_loop().time() + REQUEST_TIMEOUT
    for candidate in _metadata_urls(issuer):
        try:
            answer = await _get(http, rules, candidate)
            if _is_in_trouble(answer):
                raise _trouble(f"The authorization server {host_of(issuer)}", answer)
            document = json_object(answer.body) if answer.status == 200 else None
            if document is not None:
                found = read_metadata(document, rules)
                if is_right(found.issuer):
                    return found
                others = others or found
        except (LostAnswer, AddressRefused, DiscoveryFailed) as error:
            trouble = trouble or error
        if asyncio.get_running_loop().time() > until:
            break
    if others is not None:
        return others
    if trouble is not None:
        raise trouble
    return None


def _metadata_urls(issuer: str) -> list[str]:
    """RFC 8414 and OpenID discovery, in the specification's order, and last the form that Okta and Atlassian have."""
    from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls as metadata_urls

    urls = metadata_urls(issuer, issuer)
    if urlsplit(issuer).path.rstrip("/"):
        urls.append(f"{issuer.rstrip('/')}/.well-known/oauth-authorization-server")
    return urls


def _spelled(issuer: str) -> str:
    """An issuer as it is written, fit for a sentence."""
    return plain(issuer, 160) or "nothing"


def _if_trusted(issuer: str) -> str:
    """What an operator may do who knows the authorization server that calls itself by another name."""
    report = "report it to whoever runs the server"
    return f"{report}; if you trust both names, set oauth.issuer: {issuer}" if _spelled(issuer) == issuer else report


def _no_metadata(issuer: str) -> DiscoveryFailed:
    return DiscoveryFailed(
        f"The authorization server {host_of(issuer)} publishes no metadata.",
        next_step="report it to whoever runs the server",
    )


async def _legacy_metadata(http: Http, rules: NetworkRules, server: Server, asked: ProbeResult) -> ServerMetadata:
    """2025-03-26: the server's origin is its own authorization server, and may publish nothing at all."""
    parts = urlsplit(server.url or "")
    origin = f"{parts.scheme}://{parts.netloc}"
    if server.oauth.issuer is not None:
        rules.check_url(origin, credentials=True)
        return await _server_metadata(http, rules, server, origin)
    metadata = await _fetch_published(http, rules, origin, lambda said: issuers_are_same(said, origin))
    if metadata is not None:
        if not issuers_are_same(metadata.issuer, origin):
            raise IssuerMismatch(
                f"The server is at {_spelled(origin)}, and its own metadata names the issuer "
                f"{_spelled(metadata.issuer)}, so it is not used.",
                next_step=_if_trusted(metadata.issuer),
            )
        return metadata
    if not server.oauth.legacy:
        raise _nothing_published(asked.seen)
    return ServerMetadata(
        issuer=origin,
        authorization_endpoint=f"{origin}/authorize",
        token_endpoint=f"{origin}/token",
        registration_endpoint=f"{origin}/register",
    )


def _nothing_published(seen: Seen | None) -> NoMetadata:
    """Why there is nothing to sign in at, with what the server itself answered where that says more."""
    why, todo = "", "check the url; for a server of the 2025-03-26 revision set oauth.legacy: true"
    if seen is not None and not seen.is_usable and seen.status != 401:
        what, better = seen.words()
        why, todo = f" ({what})", better or todo
    return NoMetadata(
        f"The server publishes no OAuth metadata, so there is nothing to sign in at{why}.", next_step=todo
    )


def read_metadata(document: dict[str, Any], rules: NetworkRules) -> ServerMetadata:
    """The metadata we act on, every endpoint checked: https, or loopback. A bad one that is optional is left out.

    Raises:
        DiscoveryFailed: required members are missing.
        AddressRefused: an endpoint that must not be used.
    """
    if lacking := missing(document):
        raise DiscoveryFailed(
            f"The authorization server's metadata is incomplete (RFC 8414 section 2): no {' and no '.join(lacking)}.",
            next_step="report it to whoever runs the server",
        )
    metadata = server_metadata(document)
    for endpoint in (metadata.authorization_endpoint, metadata.token_endpoint):
        _check_endpoint(endpoint, rules)
    # Who needs them says then what is not offered: a registration, or at a logout the revocation.
    for name in ("registration_endpoint", "revocation_endpoint"):
        endpoint = getattr(metadata, name)
        if endpoint is None:
            continue
        try:
            _check_endpoint(endpoint, rules)
        except (AddressRefused, DiscoveryFailed) as error:
            logger.warning("the %s of %s is left out: %s", name, host_of(metadata.issuer), error.message)
            metadata = msgspec.structs.replace(metadata, **{name: None})
    return metadata


def _check_endpoint(endpoint: str, rules: NetworkRules) -> None:
    host = rules.check_url(endpoint, credentials=True).hostname or ""
    if leads_here(host) and not rules.on_loopback and host not in rules.allow_names:
        # The person's browser opens the first of these; nobody else's server may aim it at this machine.
        raise DiscoveryFailed(
            "The authorization server's metadata points to this machine itself, so it is not used.",
            next_step="report it to whoever runs the server",
        )


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
