"""Slack in a process of our own: the app, its connection, and what `slash-mcp doctor` looks at."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from slack_bolt.adapter.asgi.async_handler import AsyncSlackRequestHandler
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_bolt.oauth.async_oauth_settings import AsyncOAuthSettings
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from adapters import log_filters
from adapters.base import Finding
from adapters.bodies import bounded
from adapters.refusals import Later, Misconfigured, Refused
from adapters.slack.incoming import PLATFORM
from adapters.slack.installations import Installations, States
from adapters.slack.workspaces import FAILURES, client_log, code_of, refusal_of, retry_handlers
from adapters.symbols import BAD, GOOD
from mcp_auth.errors import ConfigError

if TYPE_CHECKING:
    from adapters.slack.options import SlackOptions
    from gateway.gateway import Gateway

SCOPES = ("app_mentions:read", "chat:write", "commands", "im:history", "im:write")
"""What the bot needs: being mentioned, writing, the slash command, reading and opening direct messages."""
EVENTS = ("app_mention", "message.im")

_log = logging.getLogger("adapters.slack")
# The library logs a traceback for every failed attempt, with the one-use address in it; `_watch` says it in one line.
_socket_log = logging.getLogger("adapters.slack.socket")
_socket_log.setLevel(logging.CRITICAL)
log_filters.hide_payloads(_socket_log.name)

_INSTALL, _REDIRECT = "/slack/install", "/slack/oauth_redirect"
_PING_SECONDS = 10.0
_CONNECT_SECONDS = 30.0
_LOST_SECONDS = 60.0
_LOOK_SECONDS = 1.0
_BODY_MAX = 1_000_000
_APPS = "https://api.slack.com/apps"


def make_app(options: SlackOptions, gateway: Gateway) -> AsyncApp:
    """A bolt app for one workspace, or with a client id for every workspace that adds it.

    Raises:
        ConfigError: a token is missing, or an address that people could add the app at.
    """
    _require(options)
    settings = None
    if options.client_id is not None:
        settings = _oauth_settings(options, gateway)
    client = AsyncWebClient(
        token=options.bot_token if settings is None else None,
        base_url=options.base_url,
        logger=client_log,
        retry_handlers=retry_handlers(),
    )
    app = AsyncApp(
        client=client,
        signing_secret=options.signing_secret or "",
        oauth_settings=settings,
        logger=client_log,
        name="slash-mcp",
    )
    if settings is None and app.oauth_flow is not None:
        # bolt reads these by itself, and drops the bot token then.
        raise ConfigError(
            "SLACK_CLIENT_ID and SLACK_CLIENT_SECRET are set for this process, so slack-bolt expects installations.",
            key=f"gateway.{PLATFORM}.client_id",
            next_step="unset them, or set gateway.slack.client_id and gateway.slack.client_secret",
        )
    return app


def _oauth_settings(options: SlackOptions, gateway: Gateway) -> AsyncOAuthSettings:
    """bolt's installation pages, with the workspaces' tokens in our store."""
    public = gateway.config.gateway.public_url
    if public is None:
        raise ConfigError(
            f"{_INSTALL} is where workspaces add the app, and gateway.public_url is not set.",
            key="gateway.public_url",
            next_step="set gateway.public_url, or gateway.slack.bot_token instead of client_id for one workspace",
        )
    backend = gateway.backend
    return AsyncOAuthSettings(
        client_id=options.client_id,
        client_secret=options.client_secret,
        scopes=SCOPES,
        redirect_uri=f"{public}{_REDIRECT}",
        install_path=_INSTALL,
        redirect_uri_path=_REDIRECT,
        installation_store=Installations(backend, gateway.config.home / "slack" / "installations", client_log),
        state_store=States(backend, client_log),
        logger=client_log,
    )


async def receive(gateway: Gateway, app: AsyncApp, options: SlackOptions) -> None:
    """Until cancelled.

    Raises:
        Misconfigured: a token is not accepted.
        Later: Slack cannot be reached, or has not been for a minute.
        ConfigError: requests cannot arrive here.
    """
    if app.oauth_flow is not None:
        handler = bounded(AsyncSlackRequestHandler(app, options.path), _BODY_MAX)
        gateway.mount(_REDIRECT, handler)
        _log.info("Slack: workspaces add the app at %s", gateway.mount(_INSTALL, handler))
    if options.app_token is not None:
        await _socket_mode(app, options.app_token)
        return
    url = gateway.mount(options.path, bounded(AsyncSlackRequestHandler(app, options.path), _BODY_MAX))
    _log.info("Slack: requests are expected at %s", url)
    await asyncio.Event().wait()


async def examine(gateway: Gateway, options: SlackOptions) -> list[Finding]:
    """Tokens, scopes, and how requests arrive."""
    app = make_app(options, gateway)
    public = gateway.config.gateway.public_url
    if app.oauth_flow is not None:
        findings = [Finding(GOOD, f"workspaces add the app at {public}{_INSTALL}")]
    else:
        who = await who_is_it(app.client)
        people = f"people are slack:{who.get('enterprise_id') or who['team_id']}/MEMBER_ID in gateway.allow"
        findings = [Finding(GOOD, f"the bot is @{who['user']} in {who['team']}; {people}"), _scopes(who)]
    if options.app_token is not None:
        try:
            await _open_connection(app.client, options.app_token)
        except Refused as error:
            return [*findings, Finding.of(error)]
        return [*findings, Finding(GOOD, "Socket Mode is on and takes the app token")]
    if public is None:
        why = "without an app token Slack sends to an address of this host, and there is none"
        how = "set gateway.public_url, or turn Socket Mode on and set gateway.slack.app_token"
        return [*findings, Finding(BAD, why, how)]
    return [*findings, Finding(GOOD, f"Slack's request URL has to be {public}{options.path}")]


def _require(options: SlackOptions) -> None:
    if options.client_id is not None and options.client_secret is None:
        raise _missing("client_secret", f"copy it from {_APPS}, Basic Information")
    if options.client_id is None and options.bot_token is None:
        raise _missing("bot_token", f"install the app at {_APPS}, and copy its Bot User OAuth Token (xoxb-...)")
    if options.app_token is None and not options.signing_secret:
        raise _missing(
            "app_token",
            f"turn Socket Mode on at {_APPS} and copy an app-level token (xapp-...) with connections:write; "
            "or set gateway.slack.signing_secret and gateway.public_url",
        )


def _missing(key: str, next_step: str) -> ConfigError:
    return ConfigError(f"gateway.{PLATFORM} has no {key}.", key=f"gateway.{PLATFORM}.{key}", next_step=next_step)


def _scopes(who: AsyncSlackResponse) -> Finding:
    given = {scope.strip() for scope in str(who.headers.get("x-oauth-scopes", "")).split(",")}
    missing = [scope for scope in SCOPES if scope not in given]
    if missing:
        return Finding(
            BAD,
            f"the bot token lacks {', '.join(missing)}.",
            f"add it at {_APPS} under OAuth & Permissions, then reinstall the app",
        )
    return Finding(GOOD, "the bot token has every scope that is needed")


async def who_is_it(client: AsyncWebClient) -> AsyncSlackResponse:
    """The bot and its workspace.

    Raises:
        Misconfigured: the bot token is not accepted.
        Later: Slack cannot be reached.
    """
    help_with_it = f"copy the Bot User OAuth Token (xoxb-...) again from {_APPS}, OAuth & Permissions"
    return await _ask(client.auth_test(), "bot_token", help_with_it)


async def _open_connection(client: AsyncWebClient, app_token: str) -> str:
    """The address of a Socket Mode connection, to be used once."""
    help_with_it = f"turn Socket Mode on and copy an app-level token (xapp-...) with connections:write from {_APPS}"
    opened = await _ask(client.apps_connections_open(app_token=app_token), "app_token", help_with_it)
    return str(opened["url"])


async def _ask(call: Awaitable[AsyncSlackResponse], token: str, next_step: str) -> AsyncSlackResponse:
    """Slack's answer to a call that shows whether `gateway.slack.<token>` is good.

    Args:
        next_step: what helps when it is not.
    """
    try:
        return await call
    except FAILURES as error:
        refusal = refusal_of(error)
        if isinstance(error, SlackApiError) and not isinstance(refusal, Later):
            why = f"Slack refuses gateway.slack.{token} ({code_of(error)})."
            refusal = Misconfigured(why, key=f"gateway.slack.{token}", next_step=next_step)
    raise refusal


async def _socket_mode(app: AsyncApp, app_token: str) -> None:
    url = await _open_connection(app.client, app_token)
    handler = AsyncSocketModeHandler(app, app_token, logger=_socket_log, ping_interval=_PING_SECONDS)
    handler.client.wss_uri = url
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await handler.client.connect()  # type: ignore[no-untyped-call]
        _log.info("Slack: connected in Socket Mode")
        await _watch(handler)
    except TimeoutError as error:
        raise refusal_of(error) from None
    finally:
        await handler.client.close()  # type: ignore[no-untyped-call]


async def _watch(handler: AsyncSocketModeHandler) -> None:
    """The library reconnects by itself, but may try one dead address for ever: then a new start helps."""
    seen = time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        if await handler.client.is_connected():
            seen = time.monotonic()
        elif time.monotonic() - seen > _LOST_SECONDS:
            raise Later(
                f"The connection to Slack has been lost for {_LOST_SECONDS:.0f} s.",
                next_step="look at the network of this host",
            )
