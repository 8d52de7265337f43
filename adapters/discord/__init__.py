"""Discord, on discord.py."""

from __future__ import annotations

from adapters.discord.adapter import DiscordAdapter
from adapters.discord.options import DiscordOptions

__all__ = ["DiscordAdapter", "DiscordOptions"]
