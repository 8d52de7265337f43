"""A server's status: two axes with closed states, the evidence behind them, and the one next command.

Everything here is pure: local state in, status out. No network, no clock but the one given.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from mcp_auth.config.models import Server
from mcp_auth.errors import StoreError
from mcp_auth.outcome import Next
from mcp_auth.records import Grant, ServerProfile, SignIn
from mcp_auth.shown import brief_address, masked_address
from mcp_auth.states import OPEN

NO_SIGN_IN = "it wants a credential and offers no sign-in"
GIVE_KEY = "give its entry headers with its API key"
GIVE_CREDENTIAL = f"{GIVE_KEY}, or auth: oauth with oauth.legacy: true for a server of 2025-03-26"
_SCOPE_SHOWN = 160


class AuthState(StrEnum):
    NONE_NEEDED = "none_needed"
    SIGNED_IN = "signed_in"
    SIGN_IN_NEEDED = "sign_in_needed"
    SIGN_IN_OPEN = "sign_in_open"
    REAUTHORIZATION_NEEDED = "reauthorization_needed"
    KEY_SET = "key_set"
    KEY_MISSING = "key_missing"
    CLIENT_REGISTRATION_NEEDED = "client_registration_needed"
    DISABLED = "disabled"
    MISCONFIGURED = "misconfigured"


NEEDS_SIGN_IN = frozenset(
    {
        AuthState.SIGN_IN_NEEDED,
        AuthState.SIGN_IN_OPEN,
        AuthState.REAUTHORIZATION_NEEDED,
        AuthState.CLIENT_REGISTRATION_NEEDED,
    }
)


class ConnectionState(StrEnum):
    NOT_CHECKED = "not_checked"
    READY = "ready"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


class ConnectionStatus(msgspec.Struct, frozen=True):
    """The connection axis. `ms` is the time to connect and list the tools."""

    state: ConnectionState = ConnectionState.NOT_CHECKED
    tools: tuple[str, ...] | None = None
    ms: int | None = None
    detail: str | None = None


class ServerStatus(msgspec.Struct, frozen=True):
    """One server's line. `target` is its host or its command's name; `address` says more of it, for the terminal alone.

    `next` is what a person can do about it, or None.

    `expires_at`: when the access ends for good (signed in, without a refresh token) or when the
    open sign-in's link dies; epoch seconds. `not_renewable`: signed in, and why the access cannot be
    renewed, for now or for good.
    """

    name: str
    transport: str
    target: str
    tools: str
    auth: AuthState
    detail: str | None = None
    account: str | None = None
    expires_at: float | None = None
    next: Next | None = None
    variables: tuple[str, ...] = ()
    scopes: str | None = None
    issuer: str | None = None
    last_error: str | None = None
    address: str = ""
    refreshable: bool = False
    not_renewable: str | None = None
    not_renewable_since: float | None = None
    connection: ConnectionStatus = ConnectionStatus()


def local_status(
    server: Server,
    *,
    grant: Grant | None,
    sign_in: SignIn | None,
    connection: ServerProfile | None,
    missing: tuple[str, ...],
    now: float,
    damaged: str | None = None,
) -> ServerStatus:
    """The status from what is stored here.

    Args:
        missing: variables that the entry needs and nothing gives.
        damaged: why the grant that is stored cannot be used, a sentence; `grant` is None then.
    """
    auth = _auth(server, grant, sign_in, connection, missing, now)
    if damaged is not None and auth.state in (AuthState.SIGN_IN_NEEDED, AuthState.CLIENT_REGISTRATION_NEEDED):
        auth = _Auth(AuthState.REAUTHORIZATION_NEEDED, damaged.removesuffix("."), next=Next("auth", server.name))
    return ServerStatus(
        name=server.name,
        transport=server.transport,
        target=brief_address(server),
        address=masked_address(server),
        tools=_tools(server),
        auth=auth.state,
        detail=auth.detail,
        account=auth.account,
        expires_at=auth.expires_at,
        next=auth.next,
        variables=missing if auth.state is AuthState.KEY_MISSING else (),
        scopes=grant.tokens.scope if grant is not None and grant.tokens is not None else None,
        issuer=grant.issuer if grant is not None else None,
        last_error=grant.last_error if grant is not None else None,
        refreshable=_refreshable(grant),
        not_renewable=auth.not_renewable,
        not_renewable_since=auth.not_renewable_since,
    )


def unreadable_status(server: Server, error: StoreError) -> ServerStatus:
    """The status of a server of which something that is stored cannot be read; the others have their own."""
    return local_status(
        msgspec.structs.replace(server, problem=error.message.removesuffix(".")),
        grant=None,
        sign_in=None,
        connection=None,
        missing=(),
        now=0.0,
    )


def wants_sign_in(status: ServerStatus) -> bool:
    """Whether a sign-in is what this server needs next; it may still work for a while."""
    if status.auth is AuthState.SIGNED_IN:
        return status.next is not None and status.next.verb == "auth"
    return status.auth in NEEDS_SIGN_IN


def uses_oauth(server: Server, connection: ServerProfile | None) -> bool:
    """Whether this server is signed in to: the configuration says so, or the kept finding of a probe does."""
    if server.url is None or server.problem is not None:
        return False
    if server.auth == "oauth":
        return True
    return not server.headers and connection is not None and connection.needs_sign_in is True


def needs_a_look(server: Server, connection: ServerProfile | None) -> bool:
    """Whether nothing says if this server wants a sign-in, so that it is probed once; after trouble, each time."""
    return (
        server.enabled
        and server.problem is None
        and server.url is not None
        and server.auth is None
        and not server.headers
        and (connection is None or connection.needs_sign_in is None or connection.trouble is not None)
    )


class _Auth(msgspec.Struct, frozen=True):
    state: AuthState
    detail: str | None = None
    account: str | None = None
    expires_at: float | None = None
    next: Next | None = None
    not_renewable: str | None = None
    not_renewable_since: float | None = None


def _auth(
    server: Server,
    grant: Grant | None,
    sign_in: SignIn | None,
    connection: ServerProfile | None,
    missing: tuple[str, ...],
    now: float,
) -> _Auth:
    if server.problem is not None:
        return _Auth(AuthState.MISCONFIGURED, server.problem)
    if not server.enabled:
        return _Auth(AuthState.DISABLED)
    if missing:
        return _Auth(AuthState.KEY_MISSING, ", ".join(missing), next=Next("key", server.name))
    if uses_oauth(server, connection):
        return _oauth(server, grant, sign_in, connection, now)
    if _has_variables(server):
        return _Auth(AuthState.KEY_SET, next=Next("test", server.name))
    if connection is not None and connection.trouble is not None and server.url is not None:
        return _Auth(AuthState.MISCONFIGURED, f"{connection.trouble}; {GIVE_KEY}")
    return _Auth(AuthState.NONE_NEEDED, next=Next("test", server.name))


def _oauth(
    server: Server, grant: Grant | None, sign_in: SignIn | None, connection: ServerProfile | None, now: float
) -> _Auth:
    sign_in_next = Next("auth", server.name)
    good = _good_grant(server, grant, now)
    if sign_in is not None and sign_in.server_url == server.url and sign_in.status in OPEN and sign_in.expires_at > now:
        if good is None:
            return _Auth(AuthState.SIGN_IN_OPEN, expires_at=sign_in.expires_at, next=sign_in_next)
        return good
    if good is not None:
        return good
    if grant is not None and grant.tokens is not None and grant.server_url == server.url:
        return _Auth(AuthState.REAUTHORIZATION_NEEDED, _why_dead(grant), grant.account, next=sign_in_next)
    if connection is not None and connection.registration_needed is not None and server.oauth.client_id is None:
        # `auth` says again where to register, and with which redirect URI.
        return _Auth(AuthState.CLIENT_REGISTRATION_NEEDED, connection.registration_needed, next=sign_in_next)
    if sign_in is not None and sign_in.server_url == server.url and sign_in.status == "failed":
        return _Auth(AuthState.SIGN_IN_NEEDED, sign_in.result.sentence if sign_in.result else None, next=sign_in_next)
    trouble = connection.trouble if connection is not None and server.auth is None else None
    return _Auth(AuthState.SIGN_IN_NEEDED, trouble, next=sign_in_next)


def _good_grant(server: Server, grant: Grant | None, now: float) -> _Auth | None:
    """Signed in: an access token that still lives, or a refresh token that is still worth sending."""
    if grant is None or grant.tokens is None or grant.server_url != server.url:
        return None
    tokens = grant.tokens
    alive = grant.access_refused_at is None and (tokens.expires_at is None or tokens.expires_at > now)
    if grant.step_up_scope is not None and not beyond_ceiling(server, grant.step_up_scope):
        return None
    dead_end = grant.reauthorization is not None or grant.registration_dead
    if dead_end and (not alive or grant.reauthorization_now):
        return None
    refreshable = _refreshable(grant)
    if not alive and not refreshable:
        return None
    why, since = None, None
    if dead_end:
        why = _why_dead(grant)
    elif refreshable and grant.refresh_failures and (grant.refresh_refused or not alive):
        why, since = (grant.last_error or "no answer").rstrip("."), grant.refresh_failing_since
    return _Auth(
        AuthState.SIGNED_IN,
        account=grant.account,
        expires_at=None if refreshable else tokens.expires_at,
        # Where somebody said no, a new sign-in is the way out that is known; where nobody answered, it is time.
        next=Next("auth" if dead_end or (why and grant.refresh_refused) else "test", server.name),
        not_renewable=why,
        not_renewable_since=since,
    )


def _refreshable(grant: Grant | None) -> bool:
    if grant is None or grant.tokens is None or grant.tokens.refresh_token is None:
        return False
    if grant.reauthorization is not None or grant.registration_dead:
        return False
    mark = grant.refresh_mark
    return mark is None or mark.count < 2


def is_pinned(server: Server) -> bool:
    """Whether `oauth.scope` is all that may ever be asked for."""
    return server.oauth.scope is not None and not server.oauth.step_up


def beyond_ceiling(server: Server, wanted: str) -> list[str]:
    """The scopes of `wanted` that a pinned `oauth.scope` does not hold."""
    if not is_pinned(server):
        return []
    allowed = (server.oauth.scope or "").split()
    return [scope for scope in wanted.split() if scope not in allowed]


def _why_dead(grant: Grant) -> str:
    if grant.step_up_scope is not None:
        return f"it asks for more access: {shown_scope(grant.step_up_scope)}"
    if grant.reauthorization is not None:
        return grant.reauthorization
    if grant.registration_dead:
        return "the authorization server no longer knows our client"
    if grant.refresh_mark is not None and grant.refresh_mark.count >= 2:
        return "two refresh requests got no answer"
    return "the access has ended, and there is no refresh token"


def shown_scope(scope: str) -> str:
    """The scopes that a sentence names; a server may list any number."""
    return scope if len(scope) <= _SCOPE_SHOWN else f"{scope[:_SCOPE_SHOWN].rpartition(' ')[0]} …".lstrip()


def _has_variables(server: Server) -> bool:
    if server.url is not None and server.headers:
        return True
    return any("${" in value for value in server.env.values())


def _tools(server: Server) -> str:
    chosen = server.tools.include or server.tools.exclude
    if not chosen:
        return "all"
    return f"{len(chosen)} {'selected' if server.tools.include else 'excluded'}"
