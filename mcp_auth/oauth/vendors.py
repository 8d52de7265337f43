"""What is known of particular servers: parameters they need, where a client is registered and where a key is made."""

from __future__ import annotations

from urllib.parse import urlsplit

# Google gives a refresh token only when asked in these words (its OAuth 2.0 for web server applications page).
_AUTHORIZE_PARAMS: dict[str, dict[str, str]] = {
    "accounts.google.com": {"access_type": "offline", "prompt": "consent"},
}

# Slack takes `scope` for what a bot may do, and a person's scopes apart, with commas (its "Installing with OAuth"). Its
# address for people alone is said to want either.
_SLACK = frozenset({"slack.com", "slack-gov.com"})
_USER_SCOPE: dict[str, bool] = {"/oauth/v2/authorize": False, "/oauth/v2_user/authorize": True}

# By the domain that the issuer is, or lies below.
_WHERE_TO_REGISTER: dict[str, str] = {
    "github.com": "GitHub: Settings, Developer settings, OAuth Apps, New OAuth App",
    "slack.com": "Slack: api.slack.com/apps, Create New App, OAuth & Permissions, Redirect URLs",
    "accounts.google.com": "Google Cloud console: APIs & Services, Credentials, Create OAuth client ID, Web app",
    "hubspot.com": "HubSpot: developer account, Apps, Create app, Auth",
    "asana.com": "Asana: app.asana.com/0/my-apps, Create new app, OAuth",
    "login.microsoftonline.com": "Microsoft Entra admin center: App registrations, New registration, Redirect URI",
}

_WHERE_TO_GET_KEYS: dict[str, str] = {
    "api.githubcopilot.com": "https://github.com/settings/personal-access-tokens",
    "mcp.supabase.com": "https://supabase.com/dashboard/account/tokens",
    "mcp.context7.com": "https://context7.com/dashboard",
    "mcp.tavily.com": "https://app.tavily.com/",
    "mcp.exa.ai": "https://dashboard.exa.ai/api-keys",
    "mcp.stripe.com": "https://dashboard.stripe.com/apikeys",
    "mcp.linear.app": "https://linear.app/settings/account/security",
    "huggingface.co": "https://huggingface.co/settings/tokens",
}


def authorize_params(issuer: str) -> dict[str, str]:
    """Extra parameters of the authorization request that this issuer is known to need."""
    return dict(_AUTHORIZE_PARAMS.get(_host(issuer), {}))


def scope_params(authorization_endpoint: str, scope: str | None) -> dict[str, str | None]:
    """The parameters by which this authorization endpoint is asked for a scope; None: not to be sent."""
    path = urlsplit(authorization_endpoint).path.rstrip("/")
    if scope is None or _host(authorization_endpoint) not in _SLACK or path not in _USER_SCOPE:
        return {"scope": scope}
    return {"scope": scope if _USER_SCOPE[path] else None, "user_scope": scope.replace(" ", ",")}


def where_to_register(issuer: str) -> str | None:
    """Where a person registers an OAuth client at this issuer, or None when not known."""
    host = _host(issuer)
    for known, place in _WHERE_TO_REGISTER.items():
        if host == known or host.endswith(f".{known}"):
            return place
    return None


def where_to_get_key(server_url: str) -> str | None:
    """The page on which this server's users make an API key, or None when not known."""
    return _WHERE_TO_GET_KEYS.get(_host(server_url))


def _host(issuer: str) -> str:
    return (urlsplit(issuer).hostname or "").lower()
