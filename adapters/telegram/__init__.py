"""Telegram, on python-telegram-bot."""

from __future__ import annotations

from adapters.telegram.adapter import TelegramAdapter, TelegramOptions

__all__ = ["TelegramAdapter", "TelegramOptions"]
