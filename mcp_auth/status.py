"""A server's status: two axes with closed states, the evidence behind them, and the one next command.

Everything here is pure: local state in, status out. No network, no clock but the one given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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


class ConnectionState(StrEnum):
    NOT_CHECKED = "not_checked"
    READY = "ready"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """The connection axis. `ms` is the time to connect and list the tools."""

    state: ConnectionState = ConnectionState.NOT_CHECKED
    tools: tuple[str, ...] | None = None
    ms: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One server's line. `next` is a verb and its argument without the `/mcp` (`auth github`), or None.

    `expires_at`: when the access ends for good (signed in, without a refresh token) or when the
    open sign-in's link dies; epoch seconds.
    """

    name: str
    transport: str
    target: str
    tools: str
    auth: AuthState
    detail: str | None = None
    account: str | None = None
    expires_at: float | None = None
    next: str | None = None
    variables: tuple[str, ...] = ()
    scopes: str | None = None
    issuer: str | None = None
    last_error: str | None = None
    refreshable: bool = False
    connection: ConnectionStatus = ConnectionStatus()
