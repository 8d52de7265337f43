"""The manifest to paste is one that Slack takes, and asks for what the code needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from adapters.slack import service
from adapters.slack.options import SlackOptions

PAGE = Path(__file__).parents[3] / "docs" / "slack.md"


def manifest() -> dict[str, Any]:
    found = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    read: dict[str, Any] = yaml.safe_load(found[1])
    return read


def test_scopes_events_and_the_command_are_those_of_the_code() -> None:
    app = manifest()

    assert tuple(app["oauth_config"]["scopes"]["bot"]) == service.SCOPES
    assert tuple(app["settings"]["event_subscriptions"]["bot_events"]) == service.EVENTS
    assert [one["command"] for one in app["features"]["slash_commands"]] == [SlackOptions().command]
    assert app["settings"]["interactivity"]["is_enabled"] is True
    assert app["settings"]["socket_mode_enabled"] is True
    # Without it people cannot write to the bot.
    assert app["features"]["app_home"]["messages_tab_enabled"] is True
    assert app["features"]["app_home"]["messages_tab_read_only_enabled"] is False


def test_it_keeps_to_the_manifests_form() -> None:
    """https://docs.slack.dev/reference/app-manifest: sections, lengths."""
    app = manifest()

    assert set(app) <= {"_metadata", "display_information", "features", "oauth_config", "settings"}
    assert len(app["display_information"]["name"]) <= 35
    assert len(app["display_information"]["description"]) <= 140
    assert len(app["features"]["bot_user"]["display_name"]) <= 80
    (command,) = app["features"]["slash_commands"]
    assert re.fullmatch(r"/[a-z0-9_-]{1,31}", command["command"])
    assert len(command["description"]) <= 2000
    assert len(command["usage_hint"]) <= 1000


def test_every_option_is_on_the_page() -> None:
    page = PAGE.read_text()

    assert [name for name in SlackOptions.__struct_fields__ if f"`{name}`" not in page] == []
