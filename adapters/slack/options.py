"""The section `gateway.slack` of the configuration."""

from __future__ import annotations

from typing import ClassVar

from adapters.slack.render import COMMAND
from mcp_auth.config.models import Settings


class SlackOptions(Settings, frozen=True):
    """`gateway.slack`. `install` needs none of it.

    `run` needs a bot token (one workspace), or a client id and secret (any number, each added at `/slack/install`); and
    an app token (Socket Mode), or a signing secret (requests at `path`).
    """

    __secret__: ClassVar[frozenset[str]] = frozenset({"bot_token", "app_token", "signing_secret", "client_secret"})

    bot_token: str | None = None
    app_token: str | None = None
    signing_secret: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    command: str = COMMAND
    path: str = "/slack/events"
    base_url: str = "https://slack.com/api/"
    secrets_in_chat: bool = False
