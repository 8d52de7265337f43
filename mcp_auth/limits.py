"""How often is too often: for each person, each server and each network address. In memory.

By a monotonic clock: a computer whose clock is set forgets nobody's count and locks nobody out.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_auth.net.rules import is_loopback_host

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mcp_auth.config.models import GatewayOptions


# Beyond this many people or addresses of one rate at a time, new ones share counts: memory is bounded too.
KEYS_KEPT = 5_000
# Where addresses share a count, it is of so many.
_SHARED = 10
# What is looked for is what is over; looking through a full table each time would be work for whoever fills it.
_SWEEP_SECONDS = 1.0


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
# One person at one server: nobody uses up what is for all.
SERVER_SIGN_INS_EACH = Rate("server_sign_ins_each", 20, 600)
# All strangers of one platform: what the platform lets the bot send belongs to the people it serves.
STRANGERS = Rate("strangers", 20, 60)
# A network address at the public endpoint: pages, and what their script posts by itself (a waiting page asks every
# 1.5 seconds whether it may go on, and brings the answer of an authorization server to whichever redirect URI it came
# to); and what a person posts, which only the pages of links take.
PAGES = Rate("pages", 600, 60)
POSTS = Rate("posts", 30, 60)
# The same link or answer from addresses that share their count with others.
LINKS = Rate("links", 120, 60)
# Platforms call from few addresses and often; after so many calls without their signature, one is read at a time.
HOOKS = Rate("hooks", 3_000, 60)
REFUSED_HOOKS = Rate("refused_hooks", 20, 60)


class Limits:
    """Counts in fixed windows. One object serves a process, in one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Each rate its own: a flood of addresses at the endpoint must not make the people in the chats share a count.
        self._tables: dict[str, _Table] = {}

    def take(self, rate: Rate, key: str) -> float:
        """Count one. Returns 0, or how many seconds to wait, and then it does not count."""
        return self._take(rate, self._known_or_shared(rate, key), rate.amount)

    def wait(self, rate: Rate, key: str) -> float:
        """How many seconds until the next one is allowed; 0: now. Counts nothing."""
        return self._wait(rate.name, self._known_or_shared(rate, key), rate.amount)

    def take_address(self, rate: Rate, address: str) -> tuple[float, bool]:
        """Count one of a network address. Returns the seconds to wait, and whether that count is its own.

        Where there are too many addresses to keep, the newest count by their network, and the widest of those together.
        """
        table, key, amount = self._place(rate, address)
        return self._take(Rate(table, amount, rate.seconds), key, amount), amount == rate.amount

    def wait_address(self, rate: Rate, address: str) -> float:
        """As `wait`, for a network address."""
        return self._wait(*self._place(rate, address))

    def _place(self, rate: Rate, address: str) -> tuple[str, str, int]:
        """The table, the key in it, and how many are allowed there."""
        amount = rate.amount
        for width, key in enumerate(address_keys(address)):
            table = f"{rate.name} {width}"
            if self._table(table).holds(key, self._clock()):
                return table, key, amount
            amount = rate.amount * _SHARED
        return f"{rate.name} {width}", _EVERYBODY_ELSE, amount

    def _known_or_shared(self, rate: Rate, key: str) -> str:
        return key if self._table(rate.name).holds(key, self._clock()) else _EVERYBODY_ELSE

    def _take(self, rate: Rate, key: str, amount: int) -> float:
        wait = self._wait(rate.name, key, amount)
        if not wait:
            self._table(rate.name).count(key, self._clock(), rate.seconds)
        return wait

    def _wait(self, table: str, key: str, amount: int) -> float:
        now = self._clock()
        ends, count = self._table(table).window(key, now)
        return max(1.0, math.ceil(ends - now)) if count >= amount else 0.0

    def _table(self, name: str) -> _Table:
        table = self._tables.get(name)
        if table is None:
            table = self._tables[name] = _Table()
        return table


class _Table:
    """For each key, when its window ends and how many were counted in it."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}
        self._swept_at = -_SWEEP_SECONDS

    def __len__(self) -> int:
        return len(self._windows)

    def holds(self, key: str, now: float) -> bool:
        """Whether `key` has a place, or gets one."""
        if key in self._windows or len(self._windows) < KEYS_KEPT:
            return True
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            self._windows = {key: window for key, window in self._windows.items() if window[0] > now}
        return len(self._windows) < KEYS_KEPT

    def window(self, key: str, now: float) -> tuple[float, int]:
        ends, count = self._windows.get(key, (0.0, 0))
        return (ends, count) if ends > now else (0.0, 0)

    def count(self, key: str, now: float, seconds: int) -> None:
        ends, count = self.window(key, now)
        self._windows[key] = (ends if count else now + seconds, count + 1)


_EVERYBODY_ELSE = "everybody else"


class AddressLimits:
    """ASGI middleware: 429 with `Retry-After` for an address that asks too often (RFC 6585 section 4).

    The address is the scope's `client`: behind a proxy, what a trusted proxy says. Addresses of one IPv6 network
    (/64) count together. This computer is not counted: a proxy here that is not trusted would be everybody.

    `knows`: names the link or the answer that a request carries, when it is one of ours; such a one is not refused for
    what others ask.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, knows: Callable[[Scope], Awaitable[str | None]] | None = None
    ) -> None:
        self._app = app
        self._limits = limits
        self._knows = knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait = await self._wait(scope) if scope["type"] == "http" else 0.0
        if not wait:
            await self._app(scope, receive, send)
            return
        await refuse(send, 429, f"Too many requests. Try again in {wait:.0f} seconds.", retry_after=wait)

    async def _wait(self, scope: Scope) -> float:
        address, _ = scope.get("client") or ("", 0)
        if is_loopback_host(address):
            return 0.0
        wait, is_own = self._limits.take_address(_rate(scope), address)
        if not wait or is_own or self._knows is None:
            return wait
        known = await self._knows(scope)
        return wait if known is None else self._limits.take(LINKS, known)


def _rate(scope: Scope) -> Rate:
    is_by_hand = scope["path"].startswith(("/a/", "/k/")) and not scope["path"].endswith("/state")
    return POSTS if scope["method"] == "POST" and is_by_hand else PAGES


async def refuse(send: Send, status: int, text: str, *, retry_after: float | None = None, close: bool = False) -> None:
    """A whole answer that no page of ours is: one line of text."""
    body = f"{text}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if retry_after is not None:
        headers.append((b"retry-after", f"{retry_after:.0f}".encode()))
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def counted_as(principal: str, gateway: GatewayOptions) -> str:
    """Whose count it is: that of the person whose account this is, else the account's own."""
    name = gateway.names.get(principal)
    return principal if name is None else f"person:{name}"


# For one question or form for a key; then a person begins anew.
TRIES = 5


def wait_to_try_key(limits: Limits, principal: str, server: str, gateway: GatewayOptions) -> float:
    """Seconds until this principal may try another key at this server: it is not there to guess at."""
    return limits.take(KEY_TRIES, counted_as(principal, gateway)) or limits.take(SERVER_KEY_TRIES, server)


def too_often(seconds: float) -> str:
    """The sentence for whoever has to wait."""
    count, unit = (math.ceil(seconds), "seconds") if seconds < 90 else (math.ceil(seconds / 60), "minutes")
    return f"That was too often in a short time. Try again in {count} {unit}."


def address_key(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that one IPv6 subscriber has for themselves."""
    return next(address_keys(address))


def address_keys(address: str) -> Iterator[str]:
    """What an address counts as, from itself to the widest network around it: IPv4 /24; IPv6 /64, /56, /48."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        yield "unknown"
        return
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if isinstance(found, ipaddress.IPv4Address):
        yield str(found)
    for prefix in (24,) if found.version == 4 else (64, 56, 48):
        yield str(ipaddress.ip_network((found, prefix), strict=False))
