"""The Web API of every workspace that a slack-bolt app is installed in, each with its own token."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError
from slack_bolt.authorization.async_authorize import AsyncInstallationStoreAuthorize
from slack_bolt.context.async_context import AsyncBoltContext
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_async_handlers import (
    AsyncConnectionErrorRetryHandler,
    AsyncRateLimitErrorRetryHandler,
    AsyncServerErrorRetryHandler,
)
from slack_sdk.oauth.installation_store.async_installation_store import AsyncInstallationStore
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

from adapters import log_filters
from adapters.refusals import EditWindowClosed, Elsewhere, Later, Misconfigured, Refused, TooLong
from adapters.slack.incoming import Installation

if TYPE_CHECKING:
    from slack_bolt.async_app import AsyncApp

# At DEBUG slack_sdk writes whole payloads, links and response URLs included: its own level, whatever the root has.
client_log = logging.getLogger("adapters.slack.client")
client_log.setLevel(logging.WARNING)
log_filters.hide_payloads(client_log.name)

FAILURES = (SlackApiError, ClientError, OSError, TimeoutError)
_TOKEN_SECONDS = 30 * 60.0
_RETRIES = 2


class TriggerOver(Refused):
    """The three seconds in which an interaction may open a modal are over, or it has opened one."""


class ViewClosed(Elsewhere):
    """The person closed the modal."""


# https://docs.slack.dev/reference/methods, the errors of the methods that are used here.
_CODES: dict[str, type[Refused]] = {
    # Slack is in trouble or wants us to wait.
    **dict.fromkeys(("ratelimited", "internal_error", "fatal_error", "service_unavailable", "request_timeout"), Later),
    **dict.fromkeys(("message_not_found", "cant_update_message", "edit_window_closed"), EditWindowClosed),
    **dict.fromkeys(("channel_not_found", "not_in_channel", "is_archived", "user_not_found"), Elsewhere),
    **dict.fromkeys(("cannot_dm_bot", "messages_tab_disabled", "user_disabled", "user_not_in_channel"), Elsewhere),
    **dict.fromkeys(("msg_too_long", "msg_blocks_too_long"), TooLong),
    **dict.fromkeys(("invalid_auth", "not_authed", "token_revoked", "token_expired"), Misconfigured),
    **dict.fromkeys(("account_inactive", "missing_scope", "no_permission"), Misconfigured),
    **dict.fromkeys(("expired_trigger_id", "exchanged_trigger_id"), TriggerOver),
    **dict.fromkeys(("invalid_trigger_id", "trigger_expired"), TriggerOver),
    "not_found": ViewClosed,
}


def refusal_of(error: Exception) -> Refused:
    if not isinstance(error, SlackApiError):
        why = f"Slack cannot be reached ({type(error).__name__})."
        return Later(why, next_step="look at the network of this host")
    code = code_of(error)
    # A status such as 503 instead of a code: something before Slack answered.
    is_status = "_" not in code and not code.isalpha()
    # Read-only channels, locked threads and their like; there are new ones now and then.
    kind = Elsewhere if code.startswith("restricted_action") else _CODES.get(code, Refused)
    if is_status or kind is Later:
        return Later(f"Slack does not answer now ({code}).", next_step="try again later")
    return kind(f"Slack answers {code}.")


class Workspaces:
    """Tokens from the requests that arrive, from bolt's installation store, or the app's only one."""

    def __init__(self, app: AsyncApp, clock: Callable[[], float]) -> None:
        self._app = app
        self._clock = clock
        self._tokens: dict[Installation, tuple[str, float]] = {}

    def remember(self, installation: Installation, token: object) -> None:
        """bolt has just authorized a request of this workspace with `token`."""
        if isinstance(token, str) and token:
            self._tokens[installation] = (token, self._clock())

    async def client(self, installation: Installation) -> AsyncWebClient:
        """The Web API with the token of a workspace, at the host's address and through its proxy.

        Raises:
            Misconfigured: the app is not installed there.
        """
        base = self._app.client
        return AsyncWebClient(
            token=await self._token(installation),
            base_url=base.base_url,
            timeout=base.timeout,
            ssl=base.ssl,
            proxy=base.proxy,
            trust_env_in_session=base.trust_env_in_session,
            logger=client_log,
            retry_handlers=retry_handlers(),
        )

    async def _token(self, installation: Installation) -> str:
        token, at = self._tokens.get(installation, ("", 0.0))
        if token and self._clock() - at < _TOKEN_SECONDS:
            return token
        if self._app.installation_store is not None:
            token = await self._stored(self._app.installation_store, installation) or token
            self.remember(installation, token)
        token = token or self._app.client.token or ""
        if not token:
            raise Misconfigured("The app is not installed in a workspace that is to be answered.")
        return token

    async def _stored(self, store: AsyncInstallationStore, installation: Installation) -> str | None:
        """From bolt's installation store, renewed when it is about to expire."""
        flow = self._app.oauth_flow
        authorize = AsyncInstallationStoreAuthorize(
            logger=client_log,
            installation_store=store,
            client_id=flow.settings.client_id if flow is not None else None,
            client_secret=flow.settings.client_secret if flow is not None else None,
            client=self._app.client,
        )
        context = AsyncBoltContext({"is_enterprise_install": installation.org_wide})
        context["client"] = AsyncWebClient(base_url=self._app.client.base_url, logger=client_log)
        team = None if installation.org_wide else installation.team
        found = await authorize(context=context, enterprise_id=installation.enterprise, team_id=team, user_id=None)
        return found.bot_token if found is not None else None


def webhook(url: str) -> AsyncWebhookClient:
    """For a response URL."""
    return AsyncWebhookClient(url, logger=client_log, retry_handlers=retry_handlers())


def retry_handlers() -> list[Any]:
    """Connection failures, 429 (after `Retry-After`) and server errors: twice more, each."""
    return [
        AsyncConnectionErrorRetryHandler(max_retry_count=_RETRIES),
        AsyncRateLimitErrorRetryHandler(max_retry_count=_RETRIES),
        AsyncServerErrorRetryHandler(max_retry_count=_RETRIES),
    ]


def code_of(error: SlackApiError) -> str:
    """Slack's own error code, such as `channel_not_found`."""
    response = error.response
    given = response.get("error") if hasattr(response, "get") else None
    return str(given or getattr(response, "status_code", None) or "500")
