"""Updates for an Application of our own: polled, or posted to our endpoint."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from telegram import Update
from telegram.error import TelegramError, TimedOut
from telegram.ext import Application

from adapters.base import Sleep
from adapters.bodies import plain, read_body
from adapters.refusals import Later
from adapters.telegram.sending import refusal_of

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


async def poll(application: AnyApplication, sleep: Sleep) -> None:
    """Ask for updates until cancelled. A lost network is waited out.

    Raises:
        Refused: the token is refused, or somebody else polls with it.
    """
    bot = application.bot
    # A webhook that is still set would keep every update from us.
    await bot.delete_webhook()
    offset = 0
    pause = _FIRST_PAUSE
    try:
        while True:
            try:
                updates = await bot.get_updates(offset=offset, timeout=_POLL_SECONDS, allowed_updates=list(KINDS))
            except TelegramError as error:
                later = _later(error)
                if later.wait is None and pause == _FIRST_PAUSE and not isinstance(error, TimedOut):
                    _log.warning("Telegram cannot be reached (%s); trying on", type(error).__name__)
                await sleep(pause if later.wait is None else later.wait)
                pause = pause if later.wait is not None else min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            for update in updates:
                offset = update.update_id + 1
                await application.process_update(update)
    except asyncio.CancelledError:
        await _say_what_is_done(application, offset)
        raise


def _later(error: TelegramError) -> Later:
    """Raises Refused: waiting does not help."""
    refusal = refusal_of(error)
    if isinstance(refusal, Later):
        return refusal
    raise refusal from None


async def _say_what_is_done(application: AnyApplication, offset: int) -> None:
    """Tell Telegram which updates were taken, so that the next start does not get them again."""
    if not offset:
        return
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS):
            await application.bot.get_updates(offset=offset, timeout=0, allowed_updates=list(KINDS))
    except (TelegramError, TimeoutError) as error:
        _log.info("the last updates may come again (%s)", type(error).__name__)


async def take_hooks(application: AnyApplication, url: str, secret: str, sleep: Sleep) -> None:
    """Have updates posted to `url` until cancelled, and look now and then whether that still holds.

    The webhook stays set: another replica may live on, and what comes meanwhile waits at Telegram.

    Raises:
        Refused: the token is refused, or Telegram does not take the URL.
    """
    while True:
        wait: float | None = None
        try:
            if (await application.bot.get_webhook_info()).url != url:
                await application.bot.set_webhook(url, secret_token=secret, allowed_updates=list(KINDS))
        except TelegramError as error:
            wait = _later(error).wait
            if wait is None:
                _log.warning("Telegram cannot be reached (%s); the webhook is looked at later", type(error).__name__)
        await sleep(_LOOK_SECONDS if wait is None else wait)


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
        return plain("not found", 404)
    body = await read_body(request, _BODY_MAX)
    if isinstance(body, Response):
        return body
    try:
        update = Update.de_json(json.loads(body), application.bot)
    except (ValueError, TypeError, KeyError, AttributeError):
        return plain("not an update", 400)
    await application.process_update(update)
    return plain("", 200)
