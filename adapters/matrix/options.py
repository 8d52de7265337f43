"""The section `gateway.matrix` of the configuration."""

from __future__ import annotations

from typing import ClassVar

from mcp_auth.config.models import Settings


class MatrixOptions(Settings, frozen=True):
    """The section `gateway.matrix`. `homeserver`: its client API, for example https://matrix.example.org."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"token", "proxy"})

    homeserver: str
    token: str
    secrets_in_chat: bool = False
    proxy: str | None = None
