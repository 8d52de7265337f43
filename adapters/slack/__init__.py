"""Slack, on slack-bolt."""

from __future__ import annotations

from adapters.slack.adapter import SlackAdapter, SlackOptions

__all__ = ["SlackAdapter", "SlackOptions"]
