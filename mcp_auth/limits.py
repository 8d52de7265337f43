"""How often is too often: for each person, each server and each network address. In memory, by the `limits` library."""

from __future__ import annotations

import ipaddress
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    from limits import RateLimitItem
    from limits.storage import MemoryStorage

    Scope = MutableMapping[str, Any]
    App = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

# Beyond this many people or addresses at a time, new ones share one count: memory is bounded too.
KEYS_KEPT = 5_000


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `amount` in each window of `seconds`, which begins with the first."""

    name: str
    amount: int
    seconds: int


# A person: generous for hands, tight for programs.
COMMANDS = Rate("commands", 40, 60)
SIGN_INS = Rate("sign_ins", 40, 600)
KEY_TRIES = Rate("key_tries", 10, 600)
# Pairing codes and confirmation codes that a person types.
CODES = Rate("codes", 10, 600)
# A server, all people together: its authorization server has limits of its own.
SERVER_SIGN_INS = Rate("server_sign_ins", 60, 600)
SERVER_KEY_TRIES = Rate("server_key_tries", 30, 600)
# All strangers of one platform: what the platform lets the bot send belongs to the people it serves.
STRANGERS = Rate("strangers", 20, 60)
# A network address at the public endpoint: pages and callbacks, and what is posted.
PAGES = Rate("pages", 120, 60)
POSTS = Rate("posts", 30, 60)


class Limits:
    """Counts in fixed windows. One object serves a process, in one event loop."""

    def __init__(self) -> None:
        self._storage: MemoryStorage | None = None

    def take(self, rate: Rate, key: str) -> float:
        """Count one. Returns 0, or how many seconds to wait, and then it does not count."""
        from limits.strategies import FixedWindowRateLimiter

        storage, item = self._opened(), _item(rate)
        key = self._kept(storage, item, key)
        if FixedWindowRateLimiter(storage).hit(item, key):
            return 0.0
        return self.wait(rate, key)

    def wait(self, rate: Rate, key: str) -> float:
        """How many seconds until the next one is allowed; 0: now. Counts nothing."""
        from limits.strategies import FixedWindowRateLimiter

        storage, item = self._opened(), _item(rate)
        reset, left = FixedWindowRateLimiter(storage).get_window_stats(item, self._kept(storage, item, key))
        return 0.0 if left > 0 else max(1.0, math.ceil(reset - time.time()))

    def _opened(self) -> MemoryStorage:
        if self._storage is None:
            from limits.storage import MemoryStorage

            self._storage = MemoryStorage()
        return self._storage

    def _kept(self, storage: MemoryStorage, item: RateLimitItem, key: str) -> str:
        full = len(storage.storage) >= KEYS_KEPT and item.key_for(key) not in storage.storage
        return "everybody else" if full else key


class AddressLimits:
    """ASGI middleware: 429 with `Retry-After` for an address that asks too often (RFC 6585 section 4).

    Args:
        address_of: the client's address for a request; behind a proxy, from a header that only a trusted proxy
            may set (the server's business). Addresses of one IPv6 network (/64) count together.
    """

    def __init__(self, app: App, limits: Limits, address_of: Callable[[Scope], str]) -> None:
        self._app = app
        self._limits = limits
        self._address_of = address_of

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rate = POSTS if scope["method"] == "POST" else PAGES
        wait = self._limits.take(rate, address_key(self._address_of(scope)))
        if not wait:
            await self._app(scope, receive, send)
            return
        body = f"Too many requests. Try again in {wait:.0f} seconds.\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"retry-after", f"{wait:.0f}".encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def address_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has for themselves."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _item(rate: Rate) -> RateLimitItem:
    from limits import RateLimitItemPerSecond

    return RateLimitItemPerSecond(rate.amount, rate.seconds, namespace=rate.name)
