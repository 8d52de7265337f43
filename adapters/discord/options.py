"""The section `gateway.discord` of the configuration."""

from __future__ import annotations

from typing import ClassVar

from mcp_auth.config.models import Settings


class DiscordOptions(Settings, frozen=True):
    """The section `gateway.discord`. `base_url` and `gateway_url`: other addresses than Discord's own, for a proxy."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"token"})

    token: str
    secrets_in_chat: bool = False
    base_url: str | None = None
    gateway_url: str | None = None
