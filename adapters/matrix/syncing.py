"""Listening to the homeserver: where the last process stopped, through outages, until the token is refused."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nio

from adapters.base import Sleep
from adapters.matrix.calls import FAILURES, refusal_of
from adapters.refusals import Misconfigured
from mcp_auth.errors import StoreError
from mcp_auth.records import Record
from mcp_auth.small_files import read_small_file
from mcp_auth.stores.base import Backend, Kind, Records
from mcp_auth.stores.updates import update

_log = logging.getLogger(__name__)

_POLL_MS = 30_000
_SYNC_SECONDS = 120.0
_LONGEST_PAUSE = 60.0
_FILTER: dict[str, Any] = {
    "presence": {"types": []},
    "room": {
        "timeline": {"limit": 50},
        "ephemeral": {"types": []},
        # With it the homeserver counts the members of each room, and sends only those who speak.
        "state": {"lazy_load_members": True},
    },
}


class Since(Record):
    """How far an account was read. `id`: the hash of homeserver and account."""

    id: str
    token: str


_SINCE = Kind("matrix", Since, lambda since: since.id, is_durable=False)


class SyncToken:
    """How far this account has been read, over restarts."""

    def __init__(self, backend: Backend, home: Path, homeserver: str, user: str) -> None:
        self._kept = Records(backend, _SINCE)
        self._id = hashlib.sha256(f"{homeserver} {user}".encode()).hexdigest()[:32]
        self._before = home / "matrix" / f"{self._id}.since"

    async def read(self) -> str | None:
        """The token; what cannot be read counts as none, and is logged."""
        try:
            since = await self._kept.get(self._id)
        except StoreError as error:
            _log.warning("%s What was missed stays so.", error.message)
            return None
        return self._of_before() if since is None else since.token

    async def write(self, token: str) -> None:
        """Raises StoreError: it cannot be kept; a restart would answer old commands again."""

        async def replace(since: Since | None) -> Since:
            return Since(id=self._id, token=token, version=since.version if since else 0)

        await update("how far Matrix has been read", lambda: self._kept.get(self._id), replace, self._kept.put_if)

    async def forget(self) -> None:
        self._before.unlink(missing_ok=True)
        since = await self._kept.get(self._id)
        if since is not None:
            await self._kept.delete_if(since)

    def _of_before(self) -> str | None:
        """As version 0.1.0 kept it."""
        try:
            return read_small_file(self._before)[0].decode().strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            _log.warning("%s cannot be read (%s); what was missed stays so", self._before, why)
            return None


async def sync_forever(client: nio.AsyncClient, token: SyncToken, begin: Callable[[], None], sleep: Sleep) -> None:
    """Sync until cancelled.

    Args:
        begin: called once, when what arrives from then on is new: with a stored token before the first sync, else
            after it, because that one brings the history.

    Raises:
        Misconfigured: the homeserver refuses the access token.
    """
    since = await token.read()
    begun = since is not None
    if begun:
        begin()
    first = True
    failures = 0
    while True:
        try:
            async with asyncio.timeout(_SYNC_SECONDS):
                # Without the full state nio would know the rooms' changes only.
                answer = await client.sync(
                    0 if first else _POLL_MS, _FILTER, since=since if first else None, full_state=first
                )
        except FAILURES as error:
            failures = await _pause(failures, type(error).__name__, sleep)
            continue
        if not isinstance(answer, nio.SyncResponse):
            refusal = refusal_of(answer)
            if isinstance(refusal, Misconfigured):
                raise refusal
            if first and since is not None and answer.status_code in ("M_UNKNOWN", "M_INVALID_PARAM"):
                _log.warning("the homeserver no longer knows where the last process stopped; what was missed stays so")
                await token.forget()
                since = None
                continue
            failures = await _pause(failures, answer.status_code or "no reason", sleep)
            continue
        if failures:
            _log.warning("the homeserver answers again")
            failures = 0
        if not begun:
            begun = True
            begin()
        first = False
        await token.write(answer.next_batch)


async def _pause(failures: int, why: str, sleep: Sleep) -> int:
    """One line for an outage, however long."""
    if failures == 0:
        _log.warning("the homeserver does not answer (%s); trying again until it does", why)
    await sleep(min(2.0**failures, _LONGEST_PAUSE))
    return min(failures + 1, 10)
