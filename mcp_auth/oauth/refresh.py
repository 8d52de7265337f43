"""The refresh transaction: one refresh for all tasks and processes, and no grant lost.

take the lease, read again, adopt a newer grant, write the mark, send, write the result, release
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mcp_auth.changes import Changes
from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import reused_name
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.errors import (
    Busy,
    CredentialsNeeded,
    ReauthorizationNeeded,
    RefreshUnavailable,
    SignInNeeded,
)
from mcp_auth.net.http import Http
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.renewal import BACKOFF_FIRST, Renewal, Superseded
from mcp_auth.oauth.sign_in import LEASE_TTL, LEASE_WAIT
from mcp_auth.outcome import Next
from mcp_auth.records import Grant, Tokens, sha256
from mcp_auth.stores.base import Store

logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class Refresher:
    """Gives valid access tokens."""

    config: Config
    servers: Servers
    store: Store
    http: Http
    variables: Variables
    profiles: Profiles
    changes: Changes
    clock: Callable[[], float] = time.time
    _flights: dict[tuple[str, str, bool], asyncio.Task[_Access]] = field(default_factory=dict, init=False)
    # The (owner, server) whose server refused what was sent last.
    doubted: set[tuple[str, str]] = field(default_factory=set, init=False)

    async def access_token(
        self, server: Server, owner: str, *, refused: str | None = None, insist: bool = False
    ) -> str:
        """A token that is valid now. `refused`: one that the server answered 401 to; it is not given again.

        `insist`: a person asks, so a wait that we chose ourselves is over.

        Raises:
            SignInNeeded, ReauthorizationNeeded: only a person can help. RefreshUnavailable: not now.
        """
        grant = await self.store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        now = self.clock()
        if grant is not None and (grant.access_refused_at is not None or grant.reauthorization_now):
            self.doubted.add((owner, server.name))
        else:
            self.doubted.discard((owner, server.name))
        if grant is not None and not _is_to_be_renewed(tokens, refused, now):
            return tokens.access_token
        return await self._join_flight(server, owner, refused, insist)

    def _usable(self, server: Server, grant: Grant | None) -> Tokens:
        """The grant's tokens, when they are for this server as it is configured now."""
        if grant is None or grant.tokens is None:
            raise SignInNeeded(f"{server.name} is not signed in.", next_step=Next("auth", server.name))
        somebody_elses = reused_name(grant.owner, grant.accounts, self.config.gateway)
        if somebody_elses is not None:
            raise ReauthorizationNeeded(somebody_elses, server=server.name, next_step=Next("auth", server.name))
        if grant.server_url != server.url:
            raise SignInNeeded(
                f"The url of {server.name} has changed since it was signed in; tokens are not sent elsewhere.",
                next_step=Next("auth", server.name),
            )
        return grant.tokens

    async def _join_flight(self, server: Server, owner: str, refused: str | None, insist: bool) -> str:
        """One flight for all tasks; a cancelled caller does not end it."""
        key = (owner, server.name, insist)
        for _ in range(2):
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = asyncio.create_task(self._take_lease(server, owner, refused, insist))
                flight.add_done_callback(lambda done: self._land(key, done))
            access = await asyncio.shield(flight)
            if access.token != refused:
                return access.token
            if access.refused == refused:
                break
            # The flight had begun for another reason and brought the very token that was refused: once more.
        raise ReauthorizationNeeded(
            "the authorization server gives only the access token that the server refuses.",
            server=server.name,
            next_step=Next("auth", server.name),
        )

    def _land(self, key: tuple[str, str, bool], flight: asyncio.Task[_Access]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled() and flight.exception() is not None:
            # Marked as seen: every waiter got it, and without waiters nobody needs it.
            logger.debug("refresh of %s ended with %s", key[1], type(flight.exception()).__name__)

    async def _take_lease(self, server: Server, owner: str, refused: str | None, insist: bool) -> _Access:
        try:
            async with self.store.grants.lease(owner, server.name, ttl=LEASE_TTL, wait=LEASE_WAIT):
                for _ in range(3):
                    try:
                        return _Access(await self._renew(server, owner, refused, insist), refused)
                    except Superseded:
                        continue
        except Busy:
            # On a crowded machine the turn may never come, and what others were refreshing is there all the same.
            grant = await self.store.grants.get(owner, server.name, server.url or "")
            tokens = self._usable(server, grant)
            if not _is_to_be_renewed(tokens, refused, self.clock()):
                return _Access(tokens.access_token, refused)
            raise RefreshUnavailable(
                f"Another process has been refreshing {server.name} for too long.",
                retry_after=BACKOFF_FIRST,
                next_step="try again",
            ) from None
        raise RefreshUnavailable(
            f"The grant of {server.name} changes all the time.", retry_after=BACKOFF_FIRST, next_step="try again"
        )

    async def _renew(self, server: Server, owner: str, refused: str | None, insist: bool) -> str:
        renewal = Renewal(
            server,
            self.servers,
            self.store,
            self.http,
            self.variables,
            self.profiles,
            self.changes,
            self.clock,
        )
        grant = await self.store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        if grant is None:
            raise AssertionError("usable tokens come from a grant")
        now = self.clock()
        if not _is_to_be_renewed(tokens, refused, now):
            return tokens.access_token
        if grant.registration_dead and (correction := renewal.correction(grant)):
            grant = await renewal.write(grant, **correction)
        is_good = tokens.access_token != refused and not _ended(tokens, now) and tokens.token_type == "Bearer"
        renewal.fallback = tokens.access_token if is_good else None
        if tokens.access_token == refused and grant.access_refused_at is None:
            grant = await renewal.write(grant, access_refused_at=now)
        try:
            self._check_may_send(renewal, server, grant, tokens, insist=insist)
        except CredentialsNeeded:
            if renewal.fallback is None:
                raise
            return renewal.fallback
        return await renewal.send(grant, tokens)

    def _check_may_send(self, renewal: Renewal, server: Server, grant: Grant, tokens: Tokens, *, insist: bool) -> None:
        """Whether the refresh token may be sent at this moment."""
        again = Next("auth", server.name)
        if grant.reauthorization is not None and not grant.reauthorization_now:
            raise ReauthorizationNeeded(f"{grant.reauthorization}.", server=server.name, next_step=again)
        if grant.registration_dead:
            raise ReauthorizationNeeded(
                f"The authorization server no longer knows our client for {server.name}.", next_step=again
            )
        if tokens.refresh_token is None or grant.metadata is None or grant.registration is None:
            raise ReauthorizationNeeded(
                f"The access to {server.name} has ended, and the grant has no refresh token.", next_step=again
            )
        is_early = grant.refresh_not_before is not None and self.clock() < grant.refresh_not_before
        if is_early and not (insist and grant.refresh_may_be_tried):
            raise renewal.unavailable(grant)
        mark = grant.refresh_mark
        if mark is None or mark.token_sha256 != sha256(tokens.refresh_token):
            return
        if mark.count >= 2:
            raise ReauthorizationNeeded(
                f"Two refresh requests for {server.name} got no answer, and a third could end the grant.",
                next_step=again,
            )
        if renewal.fallback is not None:
            # The answer was lost: the token may be spent already. It is sent once more, at the very end.
            raise RefreshUnavailable(
                f"The last refresh of {server.name} got no answer.", retry_after=BACKOFF_FIRST, next_step="try again"
            )


@dataclass(frozen=True, slots=True, repr=False)
class _Access:
    """The result of a flight: the `repr` of a task, which asyncio logs in its debug mode, shows its result.

    `refused`: the token that the flight was to replace.
    """

    token: str
    refused: str | None


def is_due(tokens: Tokens, now: float) -> bool:
    """Whether it is time to refresh: before the end, never at it."""
    return tokens.renew_at is not None and now >= tokens.renew_at


def _is_to_be_renewed(tokens: Tokens, refused: str | None, now: float) -> bool:
    return tokens.access_token == refused or is_due(tokens, now) or tokens.token_type != "Bearer"


def _ended(tokens: Tokens, now: float) -> bool:
    return tokens.expires_at is not None and now >= tokens.expires_at
