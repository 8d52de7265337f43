"""What is known of particular authorization servers: parameters they need, and where a client is registered by hand."""

from __future__ import annotations

from urllib.parse import urlsplit

# Google gives a refresh token only when asked in these words (its OAuth 2.0 for web server applications page).
_AUTHORIZE_PARAMS: dict[str, dict[str, str]] = {
    "accounts.google.com": {"access_type": "offline", "prompt": "consent"},
}

_WHERE_TO_REGISTER: dict[str, str] = {
    "github.com": "GitHub: Settings, Developer settings, OAuth Apps, New OAuth App",
    "slack.com": "Slack: api.slack.com/apps, Create New App, OAuth & Permissions, Redirect URLs",
    "accounts.google.com": "Google Cloud console: APIs & Services, Credentials, Create OAuth client ID, Web app",
    "app.hubspot.com": "HubSpot: developer account, Apps, Create app, Auth",
    "app.asana.com": "Asana: app.asana.com/0/my-apps, Create new app, OAuth",
    "login.microsoftonline.com": "Microsoft Entra admin center: App registrations, New registration, Redirect URI",
}


def authorize_params(issuer: str) -> dict[str, str]:
    """Extra parameters of the authorization request that this issuer is known to need."""
    return dict(_AUTHORIZE_PARAMS.get(_host(issuer), {}))


def where_to_register(issuer: str) -> str | None:
    """Where a person registers an OAuth client at this issuer, or None when not known."""
    host = _host(issuer)
    for known, place in _WHERE_TO_REGISTER.items():
        if host == known or host.endswith(f".{known}"):
            return place
    return None


def _host(issuer: str) -> str:
    return (urlsplit(issuer).hostname or "").lower()
