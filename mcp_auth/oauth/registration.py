"""Who we are at an issuer: configured client, client ID metadata document, or dynamic registration.

The order is the specification's (2026-07-28). Every registration is bound to its issuer and its
redirect URI; one of another issuer is never presented (SEP-2352).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

from mcp_auth.config.models import Config, Server
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.errors import ClientRegistrationNeeded, RegistrationRefused, SignInError, Unreachable
from mcp_auth.metadata import text
from mcp_auth.net import issuers
from mcp_auth.net.http import Answer, Http
from mcp_auth.net.responses import Seen
from mcp_auth.net.rules import NetworkRules, is_loopback_url, shown_host
from mcp_auth.net.sites import host_of
from mcp_auth.oauth.clients import method_for
from mcp_auth.oauth.profiles import Profiles, keep_registration
from mcp_auth.oauth.server_json import json_object
from mcp_auth.oauth.tokens import error_code, error_text, plain
from mcp_auth.oauth.vendors import where_to_register
from mcp_auth.outcome import Next
from mcp_auth.records import Registration, ServerMetadata, ServerProfile

CLIENT_NAME = "slash-mcp"
_REREGISTERED_EVERY = 3600.0

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Clients:
    """Chooses who we are at an issuer, and registers where nobody is to be had."""

    config: Config
    servers: Servers
    variables: Variables
    http: Http
    profiles: Profiles
    clock: Callable[[], float]

    async def choose(
        self, server: Server, profile: ServerProfile, redirect_uri: str, scope: str | None, *, fresh: bool
    ) -> tuple[Registration, bool]:
        """The client to be, and whether it was registered for an earlier sign-in. That none is to be had is kept.

        Raises:
            SignInError and its children, Unreachable.
        """
        if profile.metadata is None:
            raise ValueError("the profile must have been looked up")
        try:
            fixed = self._fixed(server, profile, profile.metadata, redirect_uri, fresh)
            if fixed is not None:
                found = fixed, False
            else:
                found = await self._dynamic(server, profile, profile.metadata, redirect_uri, scope, fresh)
        except ClientRegistrationNeeded as error:
            await self._note(profile, error.message)
            raise
        if profile.registration_needed is not None:
            await self._note(profile, None)
        return found

    async def _note(self, profile: ServerProfile, needed: str | None) -> None:
        def note(profile: ServerProfile) -> None:
            profile.registration_needed = needed

        await self.profiles.remember(profile.server_url, note)

    def _fixed(
        self, server: Server, profile: ServerProfile, metadata: ServerMetadata, redirect_uri: str, fresh: bool
    ) -> Registration | None:
        """The client that is given by the configuration or by a document."""
        secret = server.oauth.client_secret
        resolved = self.variables.resolve(secret) if secret is not None else None
        configured = configured_registration(server, resolved, metadata, redirect_uri)
        if configured is None:
            return metadata_document_registration(server, metadata, redirect_uri, self.config.gateway.public_url)
        if not fresh:
            check_configured_issuer(server, metadata, profile.registrations)
        return configured

    async def _dynamic(
        self,
        server: Server,
        profile: ServerProfile,
        metadata: ServerMetadata,
        redirect_uri: str,
        scope: str | None,
        fresh: bool,
    ) -> tuple[Registration, bool]:
        known = usable_dynamic_registration(profile.registrations, metadata, redirect_uri, scope, self.clock())
        is_known = known is not None and not fresh
        if known is not None and is_known and (not known.doubtful or not await self._take_turn(profile)):
            return known, True
        try:
            new = await register(self.http, self.servers.rules(server), server, metadata, redirect_uri, scope)
        except (SignInError, Unreachable) as error:
            if known is None or not is_known:
                raise
            logger.warning("%s registered no new client in place of a doubtful one: %s", server.name, error.code)
            return known, True
        if is_known:
            # Kept before it has worked: the next sign-in within the hour is not to register once more.
            await self.profiles.remember(profile.server_url, lambda profile: keep_registration(profile, new))
        return new, False

    async def _take_turn(self, profile: ServerProfile) -> bool:
        """Whether a new client may be registered now in place of a doubtful one: once an hour."""
        now, is_time = self.clock(), False

        def take_turn(profile: ServerProfile) -> None:
            nonlocal is_time
            last = profile.reregistered_at
            is_time = last is None or not 0 <= now - last < _REREGISTERED_EVERY
            if is_time:
                profile.reregistered_at = now

        await self.profiles.remember(profile.server_url, take_turn)
        return is_time


def configured_registration(
    server: Server, client_secret: str | None, metadata: ServerMetadata, redirect_uri: str
) -> Registration | None:
    """The pre-registered client of the configuration, bound to this issuer; None when there is none."""
    client_id = server.oauth.client_id
    if client_id is None:
        return None
    return Registration(
        client_id=client_id,
        issuer=metadata.issuer,
        source="configured",
        redirect_uri=redirect_uri,
        client_secret=client_secret,
        token_endpoint_auth_method=server.oauth.token_endpoint_auth_method
        or method_for(client_secret, metadata.token_endpoint_auth_methods_supported),
    )


def check_configured_issuer(server: Server, metadata: ServerMetadata, known: Sequence[Registration]) -> None:
    """A pre-registered client belongs to the issuer it was first used at; a changed issuer is said, not followed.

    Raises:
        SignInError: the server now names another authorization server.
    """
    for registration in known:
        same_client = registration.source == "configured" and registration.client_id == server.oauth.client_id
        if same_client and not issuers.is_same(registration.issuer, metadata.issuer):
            before = shown_host(urlsplit(registration.issuer).hostname or "")
            now = shown_host(urlsplit(metadata.issuer).hostname or "")
            raise SignInError(
                f"{server.name} moved from the authorization server {before} to {now}, "
                "and the configured client_id belongs to the first.",
                next_step=Next(
                    "auth",
                    server.name,
                    ("--fresh",),
                    on_host=True,
                    around=f"if that is right, run `{{}}` with a client_id of {now}",
                ),
            )


def metadata_document_registration(
    server: Server, metadata: ServerMetadata, redirect_uri: str, public_url: str | None = None
) -> Registration | None:
    """The client whose id is the URL of its metadata document, where the issuer supports that (SEP-991).

    The document is the configured one, else ours, which is for redirects to our public endpoint only.
    """
    url = server.oauth.client_metadata_url or own_document_url(redirect_uri, public_url)
    if url is None or not server.oauth.cimd or metadata.client_id_metadata_document_supported is not True:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.path in ("", "/"):
        raise SignInError(
            f"oauth.client_metadata_url of {server.name} must be an https URL with a path.",
            next_step="correct it in the configuration, or set cimd: false",
        )
    return Registration(
        client_id=url,
        issuer=metadata.issuer,
        source="metadata_document",
        redirect_uri=redirect_uri,
        token_endpoint_auth_method="none",
    )


def own_document_url(redirect_uri: str, public_url: str | None) -> str | None:
    """Where our endpoint serves the document of the client with this redirect URI; None when it serves none."""
    if public_url is None or not public_url.startswith("https://"):
        return None
    connection = redirect_uri.removeprefix(f"{public_url}/callback/")
    return f"{public_url}/client/{connection}.json" if connection != redirect_uri else None


def uses_own_document(server: Server) -> bool:
    """Whether the configuration leaves it to us who we are there, by a document of ours."""
    options = server.oauth
    return options.cimd and options.client_id is None and options.client_metadata_url is None


def client_document(server: Server, public_url: str, connection: str) -> dict[str, Any]:
    """The client ID metadata document of one connection: its `client_id` is its own URL."""
    return {
        "client_id": f"{public_url}/client/{connection}.json",
        "client_name": server.oauth.client_name or CLIENT_NAME,
        "client_uri": public_url,
        "redirect_uris": [f"{public_url}/callback/{connection}"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": server.oauth.application_type or "web",
    }


def usable_dynamic_registration(
    known: Sequence[Registration], metadata: ServerMetadata, redirect_uri: str, scope: str | None, now: float
) -> Registration | None:
    """An earlier dynamic registration at this issuer with exactly this redirect URI, when its secret still holds and
    it was made for no less scope than is asked for now. One that is doubted comes last.
    """
    fitting = [
        registration
        for registration in known
        if registration.source == "dynamic"
        and issuers.is_same(registration.issuer, metadata.issuer)
        and registration.redirect_uri == redirect_uri
        and not (registration.client_secret_expires_at and registration.client_secret_expires_at <= now + 60)
        and _covers(registration.scope, scope)
    ]
    return min(reversed(fitting), key=lambda registration: registration.doubtful, default=None)


def _covers(registered: str | None, asked: str | None) -> bool:
    return registered is None or asked is None or set(asked.split()) <= set(registered.split())


async def register(
    http: Http, rules: NetworkRules, server: Server, metadata: ServerMetadata, redirect_uri: str, scope: str | None
) -> Registration:
    """Register a client (RFC 7591).

    Raises:
        ClientRegistrationNeeded: there is no registration endpoint. RegistrationRefused: it said no.
        Unreachable: no answer, or one that says nothing of us.
    """
    if metadata.registration_endpoint is None:
        raise client_registration_needed(server, metadata, redirect_uri)
    answer = await http.fetch(
        rules,
        "POST",
        metadata.registration_endpoint,
        headers={"Content-Type": "application/json"},
        content=json.dumps(_request(server, metadata, redirect_uri, scope)).encode(),
    )
    if answer.status == 429 or answer.status >= 500:
        seen, _ = Seen.of(answer.status, answer.headers, answer.url).words()
        raise Unreachable(
            f"{host_of(metadata.issuer)} cannot register a client right now ({seen}).",
            next_step=Next("auth", server.name, around="wait a moment, then {}"),
        )
    if not 200 <= answer.status < 300:
        raise _refusal(server, metadata, redirect_uri, answer)
    registration = _accepted(server, metadata, redirect_uri, answer)
    return msgspec.structs.replace(registration, scope=_registered_scope(scope, answer))


def _registered_scope(asked: str | None, answer: Answer) -> str | None:
    """What the client was made for: what was asked for, and what the authorization server made of it."""
    said = (json_object(answer.body) or {}).get("scope")
    scopes = f"{asked or ''} {said if isinstance(said, str) else ''}".split()
    return " ".join(dict.fromkeys(scopes)) or None


def client_registration_needed(server: Server, metadata: ServerMetadata, redirect_uri: str) -> ClientRegistrationNeeded:
    """What to tell a person who has to register a client by hand: the exact redirect URI, and where."""
    host = shown_host(urlsplit(metadata.issuer).hostname or "")
    place = where_to_register(metadata.issuer)
    where = f" ({place})" if place else ""
    return ClientRegistrationNeeded(
        f"{host} registers no clients by itself, so {server.name} needs a client_id of your own.",
        redirect_uri=redirect_uri,
        next_step=(
            f"register an OAuth client at {host}{where} with the redirect URI {redirect_uri} "
            f"and write its client_id under mcp_servers.{server.name}.oauth"
        ),
    )


def _request(server: Server, metadata: ServerMetadata, redirect_uri: str, scope: str | None) -> dict[str, Any]:
    from mcp.shared.auth import OAuthClientMetadata
    from pydantic import AnyUrl

    native = is_loopback_url(redirect_uri)
    document = OAuthClientMetadata(
        redirect_uris=[AnyUrl(redirect_uri)],
        client_name=server.oauth.client_name or CLIENT_NAME,
        token_endpoint_auth_method=server.oauth.token_endpoint_auth_method
        or _method_to_ask_for(metadata.token_endpoint_auth_methods_supported),
        application_type=server.oauth.application_type or ("native" if native else "web"),
        scope=scope,
    ).model_dump(mode="json", exclude_none=True)
    # Registered exactly as it will be used: a URL model may rewrite it.
    document["redirect_uris"] = [redirect_uri]
    return document


def _accepted(server: Server, metadata: ServerMetadata, redirect_uri: str, answer: Answer) -> Registration:
    """The client in the answer: only what is used of it is read (RFC 7591 section 3.2.1), whatever else it echoes."""
    document = json_object(answer.body) or {}
    client_id, secret = _id_text(document.get("client_id")), _id_text(document.get("client_secret"))
    if client_id is None:
        raise _refusal(server, metadata, redirect_uri, answer)
    # Supabase and others leave the method out and want the secret in the form.
    method = text(document.get("token_endpoint_auth_method")) or method_for(
        secret, metadata.token_endpoint_auth_methods_supported
    )
    method = method.strip().lower()
    if method not in _METHODS or (method != "none" and secret is None):
        lacks = "and gave no client_secret" if method in _METHODS else "which is not supported"
        raise RegistrationRefused(
            f"{host_of(metadata.issuer)} registered a client in a form that cannot be used: it is to authenticate by "
            f"{plain(method, 40)}, {lacks}.",
            redirect_uri=redirect_uri,
            next_step=f"register a client by hand and write its client_id under mcp_servers.{server.name}.oauth",
        )
    return Registration(
        client_id=client_id,
        issuer=metadata.issuer,
        source="dynamic",
        redirect_uri=redirect_uri,
        client_secret=secret,
        client_secret_expires_at=_moment(document.get("client_secret_expires_at")),
        token_endpoint_auth_method=method,
    )


_METHODS = ("none", "client_secret_post", "client_secret_basic")


def _id_text(value: object) -> str | None:
    """A client's id or secret; a few servers give a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text(value)


def _moment(value: object) -> float | None:
    """When a secret ends, or None: RFC 7591 takes 0 for never, and what is no time at all is taken for that too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        at = float(value)
    except (ValueError, OverflowError):
        return None
    return at if 0 < at < math.inf else None


def _refusal(server: Server, metadata: ServerMetadata, redirect_uri: str, answer: Answer) -> RegistrationRefused:
    host = host_of(metadata.issuer)
    by_hand = client_registration_needed(server, metadata, redirect_uri).next_step
    document = json_object(answer.body) or {}
    error, said = _error_code(document), error_text(document)
    if error is None and "error_description" not in document and answer.status in (401, 403):
        return RegistrationRefused(
            f"{host} registers only clients on its allow-list (HTTP {answer.status}).",
            redirect_uri=redirect_uri,
            next_step=f"ask {host} to admit {CLIENT_NAME}, or {by_hand}",
        )
    described = plain(said, 200) if said is not None else None
    reason = f"{error or f'HTTP {answer.status}'}{f': {described}' if described else ''}"
    adjust = _adjustments(server, redirect_uri, f"{error or ''} {said or ''}".lower())
    return RegistrationRefused(
        f"{host} refused to register a client ({reason}).",
        redirect_uri=redirect_uri,
        next_step=f"{adjust}, or {by_hand}",
    )


def _adjustments(server: Server, redirect_uri: str, said: str) -> str:
    """What can be asked for otherwise, after the words of a refusal: the redirect URI, the scope, or either."""
    about_redirect, about_scope = "redirect" in said, "scope" in said
    ways = []
    if is_loopback_url(redirect_uri) and (about_redirect or not about_scope):
        other = "127.0.0.1" if "//localhost" in redirect_uri else "localhost"
        ways.append(f"set oauth.redirect_host: {other}, where it takes only that loopback name")
        ways.append("set gateway.public_url, where it takes only https redirect URIs")
    elif about_redirect or not about_scope:
        ways.append(f"check that it may redirect to {redirect_uri}, which is made of gateway.public_url")
    if about_scope or not about_redirect:
        ways.append("set oauth.scope to scopes that it allows")
    return ", or ".join(ways)


def _error_code(document: Mapping[str, Any]) -> str | None:
    """The code of an error answer: a short word, fit to be shown."""
    error = error_code(dict(document))
    if error is not None and len(error) <= 60 and all(c.isalnum() or c in "_-." for c in error):
        return error
    return None


def _method_to_ask_for(supported: Sequence[str] | None) -> Any:
    """A public client where that is possible: a secret on many machines is none (RFC 8252 section 8.5)."""
    if not supported or "none" in supported:
        return "none"
    # In the form first: some servers read the secret nowhere else, at revocation at least.
    for method in ("client_secret_post", "client_secret_basic"):
        if method in supported:
            return method
    return "none"
