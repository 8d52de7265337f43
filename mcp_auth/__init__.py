"""Credentials for MCP servers: OAuth sign-ins in two halves, refreshes, API keys, sessions.

The names of `__all__` are the public ones, errors included; every other module is private and may change. They are
imported when first used, so that `import mcp_auth` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_auth.lazy import attribute

if TYPE_CHECKING:
    from mcp_auth.changes import Change
    from mcp_auth.config.load import load
    from mcp_auth.config.models import (
        CallbackOptions,
        Config,
        GatewayOptions,
        NetworkOptions,
        OAuthOptions,
        Server,
        Settings,
        ToolFilter,
    )
    from mcp_auth.core import McpAuth
    from mcp_auth.errors import (
        AddressRefused,
        AlreadyFinished,
        AuthorizationRefused,
        Busy,
        CallbackRejected,
        ClientRegistrationNeeded,
        CodeRejected,
        ConfigError,
        CredentialsNeeded,
        DiscoveryFailed,
        IssuerMismatch,
        KeyInvalid,
        KeyMissing,
        KeyRefused,
        McpAuthError,
        MixedEndpoints,
        NoMetadata,
        NotAllowed,
        NotConfirmedYet,
        NotProven,
        OtherBrowser,
        PkceNotSupported,
        PortBusy,
        ReauthorizationNeeded,
        RecordDamaged,
        RefreshUnavailable,
        RegistrationRefused,
        ResourceMismatch,
        ServerRefused,
        SignInError,
        SignInExpired,
        SignInNeeded,
        StoreError,
        TokenRequestFailed,
        TooManyOpenFiles,
        UnknownServer,
        UnknownSignIn,
        Unreachable,
        WritableByOthers,
        WrongCode,
        WrongIssuer,
        WrongPerson,
    )
    from mcp_auth.keys import (
        KeyTrial,
        KeyVariable,
        Verdict,
    )
    from mcp_auth.oauth.revocation import LogoutResult
    from mcp_auth.oauth.sign_in import StartedSignIn
    from mcp_auth.records import (
        SHARED,
        ChangeKind,
        Grant,
        KeyForm,
        Origin,
        SignIn,
    )
    from mcp_auth.status import (
        AuthState,
        ConnectionState,
        ConnectionStatus,
        ServerStatus,
    )
    from mcp_auth.stores.base import Store
    from mcp_auth.stores.memory import MemoryStore
    from mcp_auth.web.key_forms import StartedKeyForm

__all__ = [
    "SHARED",
    "AddressRefused",
    "AlreadyFinished",
    "AuthState",
    "AuthorizationRefused",
    "Busy",
    "CallbackOptions",
    "CallbackRejected",
    "Change",
    "ChangeKind",
    "ClientRegistrationNeeded",
    "CodeRejected",
    "Config",
    "ConfigError",
    "ConnectionState",
    "ConnectionStatus",
    "CredentialsNeeded",
    "DiscoveryFailed",
    "GatewayOptions",
    "Grant",
    "IssuerMismatch",
    "KeyForm",
    "KeyInvalid",
    "KeyMissing",
    "KeyRefused",
    "KeyTrial",
    "KeyVariable",
    "LogoutResult",
    "McpAuth",
    "McpAuthError",
    "MemoryStore",
    "MixedEndpoints",
    "NetworkOptions",
    "NoMetadata",
    "NotAllowed",
    "NotConfirmedYet",
    "NotProven",
    "OAuthOptions",
    "Origin",
    "OtherBrowser",
    "PkceNotSupported",
    "PortBusy",
    "ReauthorizationNeeded",
    "RecordDamaged",
    "RefreshUnavailable",
    "RegistrationRefused",
    "ResourceMismatch",
    "Server",
    "ServerRefused",
    "ServerStatus",
    "Settings",
    "SignIn",
    "SignInError",
    "SignInExpired",
    "SignInNeeded",
    "StartedKeyForm",
    "StartedSignIn",
    "Store",
    "StoreError",
    "TokenRequestFailed",
    "TooManyOpenFiles",
    "ToolFilter",
    "UnknownServer",
    "UnknownSignIn",
    "Unreachable",
    "Verdict",
    "WritableByOthers",
    "WrongCode",
    "WrongIssuer",
    "WrongPerson",
    "load",
]

_HOMES = {
    "Change": "mcp_auth.changes",
    "ChangeKind": "mcp_auth.records",
    "CallbackOptions": "mcp_auth.config.models",
    "Config": "mcp_auth.config.models",
    "GatewayOptions": "mcp_auth.config.models",
    "NetworkOptions": "mcp_auth.config.models",
    "OAuthOptions": "mcp_auth.config.models",
    "Server": "mcp_auth.config.models",
    "Settings": "mcp_auth.config.models",
    "ToolFilter": "mcp_auth.config.models",
    "load": "mcp_auth.config.load",
    "LogoutResult": "mcp_auth.oauth.revocation",
    "McpAuth": "mcp_auth.core",
    "StartedKeyForm": "mcp_auth.web.key_forms",
    "KeyTrial": "mcp_auth.keys",
    "KeyVariable": "mcp_auth.keys",
    "Verdict": "mcp_auth.keys",
    "SHARED": "mcp_auth.records",
    "Grant": "mcp_auth.records",
    "KeyForm": "mcp_auth.records",
    "Origin": "mcp_auth.records",
    "SignIn": "mcp_auth.records",
    "StartedSignIn": "mcp_auth.oauth.sign_in",
    "AuthState": "mcp_auth.status",
    "ConnectionState": "mcp_auth.status",
    "ConnectionStatus": "mcp_auth.status",
    "ServerStatus": "mcp_auth.status",
    "Store": "mcp_auth.stores.base",
    "MemoryStore": "mcp_auth.stores.memory",
}


def __getattr__(name: str) -> object:
    return attribute(__name__, name, __all__, _HOMES, "mcp_auth.errors")
