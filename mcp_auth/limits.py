"""How often is too often: for each person, each server and each network address. In memory, by the `limits` library."""

from __future__ import annotations

import ipaddress
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_auth.network import is_loopback_host

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.storage import MemoryStorage
    from starlette.types import ASGIApp, Receive, Scope, Send

# Beyond this many people or addresses of one rate at a time, new ones share one count: memory is bounded too.
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
# Pairing codes and pasted addresses, and what strangers take for a confirmation code.
CODES = Rate("codes", 10, 600)
# Confirmation codes: as many as sign-ins, because each needs one; each page has its own five tries.
CONFIRMS = Rate("confirms", 40, 600)
# A server, all people together: its authorization server has limits of its own.
SERVER_SIGN_INS = Rate("server_sign_ins", 60, 600)
SERVER_KEY_TRIES = Rate("server_key_tries", 30, 600)
# All strangers of one platform: what the platform lets the bot send belongs to the people it serves.
STRANGERS = Rate("strangers", 20, 60)
# A network address at the public endpoint: pages and callbacks (a waiting page asks every two seconds whether it
# may go on), and what is posted.
PAGES = Rate("pages", 600, 60)
POSTS = Rate("posts", 30, 60)


class Limits:
    """Counts in fixed windows. One object serves a process, in one event loop."""

    def __init__(self) -> None:
        # Each rate its own: a flood of addresses at the endpoint must not make the people in the chats share a count.
        self._storages: dict[str, MemoryStorage] = {}

    def take(self, rate: Rate, key: str) -> float:
        """Count one. Returns 0, or how many seconds to wait, and then it does not count."""
        from limits.strategies import FixedWindowRateLimiter

        storage, item = self._opened(rate), _item(rate)
        key = self._kept(storage, item, key)
        if FixedWindowRateLimiter(storage).hit(item, key):
            return 0.0
        return self.wait(rate, key)

    def wait(self, rate: Rate, key: str) -> float:
        """How many seconds until the next one is allowed; 0: now. Counts nothing."""
        from limits.strategies import FixedWindowRateLimiter

        storage, item = self._opened(rate), _item(rate)
        reset, left = FixedWindowRateLimiter(storage).get_window_stats(item, self._kept(storage, item, key))
        return 0.0 if left > 0 else max(1.0, math.ceil(reset - time.time()))

    def _opened(self, rate: Rate) -> MemoryStorage:
        storage = self._storages.get(rate.name)
        if storage is None:
            from limits.storage import MemoryStorage

            storage = self._storages[rate.name] = MemoryStorage()
        return storage

    def _kept(self, storage: MemoryStorage, item: RateLimitItem, key: str) -> str:
        full = len(storage.storage) >= KEYS_KEPT and item.key_for(key) not in storage.storage
        return "everybody else" if full else key


class AddressLimits:
    """ASGI middleware: 429 with `Retry-After` for an address that asks too often (RFC 6585 section 4).

    The address is the scope's `client`: behind a proxy, what a trusted proxy says. Addresses of one IPv6 network
    (/64) count together. This computer is not counted: a proxy here that is not trusted would be everybody.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait = self._wait(scope) if scope["type"] == "http" else 0.0
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

    def _wait(self, scope: Scope) -> float:
        address, _ = scope.get("client") or ("", 0)
        if is_loopback_host(address):
            return 0.0
        return self._limits.take(POSTS if scope["method"] == "POST" else PAGES, address_key(address))


def wait_to_try_key(limits: Limits, principal: str, server: str) -> float:
    """Seconds until this principal may try another key at this server: it is not there to guess at.

    The operator at the terminal may always.
    """
    if principal.startswith("cli:"):
        return 0.0
    return limits.take(KEY_TRIES, principal) or limits.take(SERVER_KEY_TRIES, server)


def too_often(seconds: float) -> str:
    """The sentence for whoever has to wait."""
    count, unit = (math.ceil(seconds), "seconds") if seconds < 90 else (math.ceil(seconds / 60), "minutes")
    return f"That was too often in a short time. Try again in {count} {unit}."


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
