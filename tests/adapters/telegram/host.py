"""Somebody's bot with `/mcp` installed in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

from adapters.telegram.adapter import TelegramAdapter
from gateway.gateway import Gateway


@dataclass
class Host:
    """Somebody's bot: an agent that reads every text. `heard` is what reached it."""

    gateway: Gateway
    adapter: TelegramAdapter
    application: Any
    heard: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)


StartHost = Callable[..., AbstractAsyncContextManager[Host]]
