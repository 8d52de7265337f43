"""Bodies of webhooks: read whole, and never more than is allowed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def read_body(request: Request, most: int) -> bytes | Response:
    """The body, or the answer to one of more than `most` bytes or that ended in the middle."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                return plain("too large", 413)
    except ClientDisconnect:
        return plain("", 400)
    return body


def bounded(app: Callable[..., Awaitable[None]], most: int) -> ASGIApp:
    """`app` for requests of at most `most` bytes, where it reads a whole body before it looks at a signature."""

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await read_body(Request(scope, receive), most)
        if isinstance(body, Response):
            await body(scope, receive, send)
            return

        async def once() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await app(dict(scope), once, send)

    return limited


def plain(text: str, status: int, **headers: str) -> Response:
    """A few words for whoever calls. What is echoed must not be taken for a page by a browser."""
    safe = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", **headers}
    return PlainTextResponse(text, status, headers=safe)
