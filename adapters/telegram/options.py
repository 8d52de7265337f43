"""The section `gateway.telegram` of the configuration."""

from __future__ import annotations

from typing import ClassVar

from mcp_auth.config.models import Settings


class TelegramOptions(Settings, frozen=True):
    """The section `gateway.telegram`.

    `base_url`: another Bot API server; the token follows directly. `webhook`: None: when `gateway.public_url` is set.
    `login`: offer Telegram's login on the page of a sign-in; the bot's domain must be set at BotFather.
    `proxy`: `http://`, `https://` or `socks5://`; the environment's proxies are not used.
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"token", "proxy"})

    token: str
    secrets_in_chat: bool = False
    base_url: str = "https://api.telegram.org/bot"
    webhook: bool | None = None
    login: bool = False
    proxy: str | None = None
