"""Slack: `SlackAdapter(gateway).install(app)` adds `/mcp` to a slack-bolt `AsyncApp`."""

from __future__ import annotations

from adapters.slack.adapter import SlackAdapter, SlackOptions

__all__ = ["SlackAdapter", "SlackOptions"]
