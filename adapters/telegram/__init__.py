"""Telegram, on python-telegram-bot."""

from __future__ import annotations

from adapters.telegram.adapter import TelegramAdapter
from adapters.telegram.options import TelegramOptions

__all__ = ["TelegramAdapter", "TelegramOptions"]
