"""Credentials for MCP servers: OAuth sign-ins in two halves, refreshes, API keys, sessions.

The names of `__all__` are the public ones, errors included; every other module is private and may change. They are
imported when first used, so that `import mcp_auth` costs nothing.
"""

from mcp_auth.lazy import public_names

# `__init__.pyi` says the same to type checkers.
__all__, __getattr__ = public_names(
    __name__,
    {
        "changes": "Change",
        "config.load": "load",
        "config.models": "CallbackOptions Config GatewayOptions NetworkOptions OAuthOptions Server Settings ToolFilter",
        "core": "McpAuth",
        "errors": (
            "AddressRefused AlreadyFinished AuthorizationRefused Busy CallbackRejected ClientRegistrationNeeded "
            "CodeRejected ConfigError CredentialsNeeded DiscoveryFailed IssuerMismatch KeyInvalid KeyMissing "
            "KeyRefused McpAuthError MixedEndpoints NoMetadata NotAllowed NotConfirmedYet NotProven OtherBrowser "
            "PkceNotSupported PortBusy ReauthorizationNeeded RecordDamaged RefreshUnavailable RegistrationRefused "
            "ResourceMismatch ServerRefused SignInError SignInExpired SignInNeeded StoreError TokenRequestFailed "
            "TooManyOpenFiles UnknownServer UnknownSignIn Unreachable WritableByOthers WrongCode WrongIssuer "
            "WrongPerson"
        ),
        "keys": "KeyTrial KeyVariable Verdict",
        "oauth.revocation": "LogoutResult",
        "oauth.sign_in": "StartedSignIn",
        "outcome": "Next Outcome",
        "records": "ChangeKind Grant KeyForm Requester SHARED SignIn",
        "status": "AuthState ConnectionState ConnectionStatus ServerStatus",
        "stores.base": "Store",
        "stores.memory": "MemoryStore",
        "web.key_forms": "StartedKeyForm",
    },
)
