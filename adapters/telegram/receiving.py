"""Updates for an Application of our own: polled, or posted to our endpoint."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from telegram import Update
from telegram.error import BadRequest, NetworkError, RetryAfter, TelegramError, TimedOut
from telegram.ext import Application

from adapters.telegram.sending import Sleep, seconds

_log = logging.getLogger("adapters.telegram")

AnyApplication = Application[Any, Any, Any, Any, Any, Any]

KINDS = (Update.MESSAGE, Update.EDITED_MESSAGE, Update.CHANNEL_POST, Update.EDITED_CHANNEL_POST, Update.CALLBACK_QUERY)
HOOK_PATH = "/hooks/telegram"
_POLL_SECONDS = 50
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_GOODBYE_SECONDS = 3.0
_LOOK_SECONDS = 300.0
# An update with a text of 4096 characters and all its entities is far below this.
_BODY_MAX = 1 << 20


async def poll(application: AnyApplication, sleep: Sleep = asyncio.sleep) -> None:
    """Ask for updates until cancelled. A lost network is waited out.

    Raises:
        TelegramError: the token is refused, or somebody else polls with it.
    """
    bot = application.bot
    # A webhook that is still set would keep every update from us.
    await bot.delete_webhook()
    offset = 0
    wait = _FIRST_PAUSE
    try:
        while True:
            try:
                updates = await bot.get_updates(offset=offset, timeout=_POLL_SECONDS, allowed_updates=list(KINDS))
            except RetryAfter as flood:
                await sleep(seconds(flood))
                continue
            except BadRequest:
                raise
            except NetworkError as error:
                if wait == _FIRST_PAUSE and not isinstance(error, TimedOut):
                    _log.warning("Telegram cannot be reached (%s); trying on", type(error).__name__)
                await sleep(wait)
                wait = min(wait * 2, _LONGEST_PAUSE)
                continue
            wait = _FIRST_PAUSE
            for update in updates:
                offset = update.update_id + 1
                await application.process_update(update)
    except asyncio.CancelledError:
        await _say_what_is_done(application, offset)
        raise


async def _say_what_is_done(application: AnyApplication, offset: int) -> None:
    """Tell Telegram which updates were taken, so that the next start does not get them again."""
    if not offset:
        return
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await application.bot.get_updates(offset=offset, timeout=0, allowed_updates=list(KINDS))
    except (TelegramError, TimeoutError) as error:
        _log.info("the last updates may come again (%s)", type(error).__name__)


async def take_hooks(application: AnyApplication, url: str, secret: str, sleep: Sleep = asyncio.sleep) -> None:
    """Have updates posted to `url` until cancelled, and look now and then whether that still holds.

    The webhook stays set: another replica may live on, and what comes meanwhile waits at Telegram.

    Raises:
        TelegramError: the token is refused, or Telegram does not take the URL.
    """
    while True:
        try:
            if (await application.bot.get_webhook_info()).url != url:
                await application.bot.set_webhook(url, secret_token=secret, allowed_updates=list(KINDS))
        except RetryAfter as flood:
            await sleep(seconds(flood))
            continue
        except BadRequest:
            raise
        except NetworkError as error:
            _log.warning("Telegram cannot be reached (%s); the webhook is looked at later", type(error).__name__)
        await sleep(_LOOK_SECONDS)


def hook(application: AnyApplication, secret: str) -> ASGIApp:
    """The ASGI application behind the webhook: takes what carries our secret, and nothing else."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        answer = await _take(Request(scope, receive), application, secret)
        await answer(scope, receive, send)

    return app


def hook_secret(token: str) -> str:
    """Proves that an update comes from Telegram. The same on every replica, and nothing that reveals the token."""
    return hmac.new(token.encode(), b"slash-mcp webhook", hashlib.sha256).hexdigest()


async def _take(request: Request, application: AnyApplication, secret: str) -> Response:
    given = request.headers.get("X-Telegram-Bot-Api-Secret-Token", "")
    if request.method != "POST" or not hmac.compare_digest(given.encode(), secret.encode()):
        return PlainTextResponse("not found\n", 404)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _BODY_MAX:
            return PlainTextResponse("too large\n", 413)
    try:
        update = Update.de_json(json.loads(body), application.bot)
    except (ValueError, TypeError, KeyError, AttributeError):
        return PlainTextResponse("not an update\n", 400)
    await application.process_update(update)
    return PlainTextResponse("")
