"""Slack, on slack-bolt."""

from __future__ import annotations

from adapters.slack.adapter import SlackAdapter
from adapters.slack.options import SlackOptions

__all__ = ["SlackAdapter", "SlackOptions"]
