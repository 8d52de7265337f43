"""Which workspaces have added the app, and the one-use states of adding it: slack_sdk's protocols over our store."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from slack_sdk.oauth.installation_store.async_installation_store import AsyncInstallationStore
from slack_sdk.oauth.installation_store.models.bot import Bot
from slack_sdk.oauth.installation_store.models.installation import Installation
from slack_sdk.oauth.state_store.async_state_store import AsyncOAuthStateStore

from mcp_auth.records import Record, sha256
from mcp_auth.small_files import read_small_file
from mcp_auth.stores.base import Backend, Columns, Kind, Records
from mcp_auth.stores.updates import update

_STATE_SECONDS = 600.0


class Installed(Record):
    """What a workspace or an organisation gave. Both None: it has taken the app away."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"bot", "installation"})

    id: str
    bot: dict[str, Any] | None = None
    installation: dict[str, Any] | None = None


class State(Record):
    """Somebody is adding the app. `id`: the hash of the state."""

    id: str
    expires_at: float


_INSTALLED = Kind("slack", Installed, lambda one: one.id)
_STATES = Kind(
    "slack-states",
    State,
    lambda one: one.id,
    lambda one: Columns(is_open=True, due_at=one.expires_at),
    is_durable=False,
)


class Installations(AsyncInstallationStore):
    """Tokens by workspace. The app asks for a bot only, so who added it last stands for everybody there.

    Args:
        before: where version 0.1.0 kept them.
    """

    def __init__(self, backend: Backend, before: Path, logger: logging.Logger) -> None:
        self._kept = Records(backend, _INSTALLED)
        self._before = before
        self._logger = logger

    @property
    def logger(self) -> logging.Logger:
        return self._logger

    async def async_save(self, installation: Installation) -> None:
        place = installation.enterprise_id, installation.team_id
        await self._save(*place, installation=_plain(installation), bot=_plain(installation.to_bot()))

    async def async_save_bot(self, bot: Bot) -> None:
        await self._save(bot.enterprise_id, bot.team_id, bot=_plain(bot))

    async def async_find_bot(
        self, *, enterprise_id: str | None, team_id: str | None, is_enterprise_install: bool | None = False
    ) -> Bot | None:
        found = await self._found(enterprise_id, None if is_enterprise_install else team_id)
        return Bot(**found.bot) if found.bot is not None else None

    async def async_find_installation(
        self,
        *,
        enterprise_id: str | None,
        team_id: str | None,
        user_id: str | None = None,
        is_enterprise_install: bool | None = False,
    ) -> Installation | None:
        found = (await self._found(enterprise_id, None if is_enterprise_install else team_id)).installation
        if found is None or (user_id is not None and found.get("user_id") != user_id):
            return None
        return Installation(**found)

    async def async_delete_bot(self, *, enterprise_id: str | None, team_id: str | None) -> None:
        await self._save(enterprise_id, team_id, bot=None)

    async def async_delete_installation(
        self, *, enterprise_id: str | None, team_id: str | None, user_id: str | None = None
    ) -> None:
        found = (await self._found(enterprise_id, team_id)).installation
        if found is not None and user_id in (None, found.get("user_id")):
            await self._save(enterprise_id, team_id, installation=None)

    async def _save(self, enterprise: str | None, team: str | None, **changes: dict[str, Any] | None) -> None:
        async def change(found: Installed) -> Installed:
            for name, value in changes.items():
                setattr(found, name, value)
            return found

        await update("a Slack workspace", lambda: self._found(enterprise, team), change, self._kept.put_if)

    async def _found(self, enterprise: str | None, team: str | None) -> Installed:
        place = f"{enterprise or 'none'}-{team or 'none'}"
        found = await self._kept.get(sha256(place)[:32])
        if found is not None:
            return found
        folder = self._before / place
        bot, installation = _of_before(folder / "bot-latest"), _of_before(folder / "installer-latest")
        return Installed(id=sha256(place)[:32], bot=bot, installation=installation)


class States(AsyncOAuthStateStore):
    """Each counts once, for ten minutes."""

    def __init__(self, backend: Backend, logger: logging.Logger, clock: Callable[[], float] = time.time) -> None:
        self._kept = Records(backend, _STATES)
        self._logger = logger
        self._clock = clock

    @property
    def logger(self) -> logging.Logger:
        return self._logger

    async def async_issue(self, *args: Any, **kwargs: Any) -> str:
        for old in await self._kept.due(self._clock()):
            await self._kept.delete_if(old)
        state = secrets.token_urlsafe(32)
        await self._kept.put_if(State(id=sha256(state), expires_at=self._clock() + _STATE_SECONDS))
        return state

    async def async_consume(self, state: str) -> bool:
        found = await self._kept.get(sha256(state))
        return found is not None and await self._kept.delete_if(found) and self._clock() < found.expires_at


def _plain(given: Bot | Installation) -> dict[str, Any]:
    """As JSON: what it is made of again."""
    plain: dict[str, Any] = json.loads(json.dumps(given.__dict__))
    return plain


def _of_before(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(read_small_file(path)[0])
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
