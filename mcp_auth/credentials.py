"""What is sent to servers: an owner's headers and access token, and what becomes of them when a server says no."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcp_auth.changes import Changes
from mcp_auth.config.models import Server
from mcp_auth.config.variables import Variables
from mcp_auth.errors import CredentialsNeeded, McpAuthError
from mcp_auth.keys import Keys, resolved_headers
from mcp_auth.oauth.challenge import BearerChallenge
from mcp_auth.oauth.refresh import Refresher
from mcp_auth.oauth.rejections import Rejections
from mcp_auth.status import uses_oauth
from mcp_auth.stores.base import Store

if TYPE_CHECKING:
    import httpx2

# Another process' change of a grant or a key is seen that many seconds later at most.
_LOOK_EVERY = 0.25


@dataclass(eq=False, repr=False)
class StoredCredentials:
    """The credentials of every owner at every server."""

    store: Store
    variables: Variables
    keys: Keys
    refresher: Refresher
    rejections: Rejections
    changes: Changes
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    async def headers(
        self, entry: Server, owner: str, refused: str | None = None, *, insist: bool = False
    ) -> dict[str, str]:
        """Everything to send: the configured headers with their values, and the access token.

        Args:
            refused: the `Authorization` value that was answered 401.
            insist: as in `Refresher.access_token`.

        Raises:
            KeyMissing, KeyInvalid, SignInNeeded, ReauthorizationNeeded, RefreshUnavailable.
        """
        headers = resolved_headers(entry, self.variables, await self.keys.of(entry, owner))
        profile = None
        if entry.auth is None and not entry.headers and entry.url is not None:
            profile = await self.store.profiles.get(entry.url)
        if uses_oauth(entry, profile):
            token = refused.removeprefix("Bearer ") if refused is not None else None
            access = await self.refresher.access_token(entry, owner, refused=token, insist=insist)
            headers["Authorization"] = f"Bearer {access}"
        return headers


@dataclass(frozen=True, slots=True)
class _Look:
    """What was to be sent at some moment, and what tells whether it still is."""

    headers: dict[str, str] = field(repr=False)
    written: object
    upcoming: object
    at: float
    monotonic: float


class OwnerCredentials:
    """What `ServerAuth` sends for one owner.

    One look at the store and at `.env` serves all requests of the next quarter of a second, so that most cost no
    system call. A change made in this process ends that at once, and so does a 401.
    """

    def __init__(self, stored: StoredCredentials, entry: Server, owner: str, insist: bool) -> None:
        self._stored = stored
        self._entry = entry
        self._owner = owner
        self._insist = insist
        self._last: _Look | None = None

    @property
    def is_doubted(self) -> bool:
        return (self._owner, self._entry.name) in self._stored.refresher.doubted

    async def headers(self, request: httpx2.Request, refused: str | None = None) -> dict[str, str]:
        stored, last = self._stored, self._last
        if refused is None and last is not None and self._still_counts(last):
            return last.headers
        if refused is not None:
            # Whoever else holds it looks again too.
            stored.changes.wake()
        # Noted before the look: what changes during it is looked at again.
        self._last = None
        written, upcoming = stored.store.grants.written, stored.changes.upcoming
        at, monotonic = stored.clock(), stored.monotonic()
        try:
            headers = await stored.headers(self._entry, self._owner, refused, insist=self._insist)
        except CredentialsNeeded:
            # Whoever insists is heard once; a session makes several requests.
            self._insist = False
            raise
        self._last = _Look(headers, written, upcoming, at, monotonic)
        return headers

    def _still_counts(self, last: _Look) -> bool:
        stored = self._stored
        if last.written is not stored.store.grants.written or last.upcoming is not stored.changes.upcoming:
            return False
        # The monotonic clock stands still while the machine sleeps, the other one can be set back.
        return stored.monotonic() - last.monotonic < _LOOK_EVERY and 0 <= stored.clock() - last.at < _LOOK_EVERY

    async def take_refusal(self, status: int, challenge: BearerChallenge | None, sent: str | None) -> McpAuthError:
        return await self._stored.rejections.take_refusal(self._entry, self._owner, status, challenge, sent)

    async def note_success(self, sent: str) -> None:
        await self._stored.rejections.note_success(self._entry, self._owner, sent.removeprefix("Bearer "))
