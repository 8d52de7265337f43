"""What stands before every page and webhook of the endpoint: one reading of each request, bounded in time and size."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from mcp_auth.limits import HOOKS, REFUSED_HOOKS, Limits, address_key, refuse
from mcp_auth.net.rules import is_loopback_host

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds for the whole body of a request, from when its headers are there.
BODY_SECONDS = 10.0
# Bytes. Meta's largest delivery has three million; a body is read before its signature can be checked.
HOOK_BODY = 4 * 1024 * 1024
# Bodies that are being read at a time at one webhook: all, and those from one address. Each has its own count: what is
# slow at one platform's, or attacked there, keeps no other platform waiting.
HOOKS_READ = 32
HOOKS_READ_OF_ONE = 8
# Those from an address with many refused calls. It is not shut out: anybody can have a platform's own servers call
# here, with a bot of theirs, and what is signed comes from the same ones.
HOOKS_READ_OF_REFUSED = 1
# A year, as https://hstspreload.org asks at least.
_STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
# What a platform never hears when it calls as it should.
_REFUSALS = frozenset({400, 401, 403, 404, 405, 413})


class Guarded:
    """`app`, and the webhooks beside it, behind what holds for every request.

    Args:
        mounts: applications by path. They see bodies of at most `HOOK_BODY` bytes.
        is_https: `gateway.public_url` is https, so browsers are told never to come without it (RFC 6797).
    """

    def __init__(self, app: ASGIApp, mounts: Mapping[str, ASGIApp], limits: Limits, *, is_https: bool) -> None:
        self._app = app
        # The very mapping, not its content: a platform may hang in its webhook later.
        self._mounts = mounts
        self._limits = limits
        self._is_https = is_https
        # By the webhook's path.
        self._reading: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._is_https:
            send = _with_header(send, _STRICT_TRANSPORT)
        if _is_ambiguous(scope):
            # Two readers take two lengths for it (RFC 9112 section 6.3): what follows may be somebody else's request.
            await refuse(send, 400, "A request has one length.", close=True)
            return
        hook = self._mounted(scope["path"])
        if hook is None:
            await self._app(scope, receive, send)
        else:
            await self._answer_hook(hook, scope, receive, send)

    def _mounted(self, path: str) -> str | None:
        """The path of the webhook that is asked for."""
        return next((hook for hook in self._mounts if path == hook or path.startswith(f"{hook}/")), None)

    async def _answer_hook(self, hook: str, scope: Scope, receive: Receive, send: Send) -> None:
        address, _ = scope.get("client") or ("", 0)
        # As for pages: a proxy here that is not trusted would be everybody.
        is_counted = not is_loopback_host(address)
        if is_counted:
            wait = self._limits.take_address(HOOKS, address)[0]
            if wait:
                await refuse(send, 429, "Too many requests.", retry_after=wait, close=True)
                return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > HOOK_BODY:
            await refuse(send, 413, "That is too large.", close=True)
            return
        key = address_key(address) if is_counted else "here"
        is_suspect = is_counted and self._limits.wait_address(REFUSED_HOOKS, address) > 0
        most = HOOKS_READ_OF_REFUSED if is_suspect else HOOKS_READ_OF_ONE
        reading = self._reading[hook]
        if reading.total() >= HOOKS_READ or (is_counted and reading[key] >= most):
            await refuse(send, 503, "Try again in a moment.", retry_after=1)
            return

        async def noted(message: Message) -> None:
            if is_counted and message["type"] == "http.response.start" and message["status"] in _REFUSALS:
                self._limits.take_address(REFUSED_HOOKS, address)
            await send(message)

        reading[key] += 1
        is_reading = True

        def read() -> None:
            nonlocal is_reading
            if is_reading:
                is_reading = False
                reading[key] -= 1
                if not reading[key]:
                    del reading[key]

        try:
            await self._mounts[hook](scope, _bounded(in_time(receive), HOOK_BODY, read), noted)
        finally:
            read()


def in_time(receive: Receive) -> Receive:
    """`receive` whose body is given up after `BODY_SECONDS`: webhooks read all of it before they know the sender."""
    until = asyncio.get_running_loop().time() + BODY_SECONDS
    is_over = False

    async def received() -> Message:
        nonlocal is_over
        if is_over:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            is_over = True
            return {"type": "http.disconnect"}
        is_over = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return received


def _bounded(receive: Receive, most: int, read: Callable[[], None]) -> Receive:
    """`receive` whose body ends as if the sender had gone once it is longer than `most` bytes.

    `read` is called when all of it was read.
    """
    size = 0

    async def received() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            message = {"type": "http.disconnect"}
        if not message.get("more_body", False):
            read()
        return message

    return received


def _is_ambiguous(scope: Scope) -> bool:
    names = [name for name, _ in scope["headers"]]
    return b"transfer-encoding" in names and b"content-length" in names


def _with_header(send: Send, header: tuple[bytes, bytes]) -> Callable[[Message], Awaitable[None]]:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), header]}
        await send(message)

    return sent
