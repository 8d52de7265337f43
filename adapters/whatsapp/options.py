"""The section `gateway.whatsapp` of the configuration."""

from __future__ import annotations

from typing import ClassVar

from mcp_auth.config.models import Settings


class WhatsAppOptions(Settings, frozen=True):
    """The section `gateway.whatsapp`."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"token", "app_secret", "verify_token"})

    token: str
    phone_id: str | int
    app_secret: str
    verify_token: str
    base_url: str = "https://graph.facebook.com"
    api_version: str = "24.0"
