"""The refresh transaction: one refresh for all tasks and processes, and no grant lost.

    take the lease, read again, adopt a newer grant, write the mark, send, write the result, release

A refresh token is sent a second time only after an answer that refused it for now, or once more after
an answer that never came.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from mcp_auth.config import Config, Server
from mcp_auth.errors import (
    Busy,
    CredentialsNeeded,
    ReauthorizationNeeded,
    RefreshUnavailable,
    SignInNeeded,
    Unreachable,
)
from mcp_auth.http import Http, LostAnswer
from mcp_auth.network import NetworkRules
from mcp_auth.records import Grant, RefreshMark, Tokens, sha256
from mcp_auth.sign_in import LEASE_TTL, LEASE_WAIT, SignIns
from mcp_auth.stores.base import Store
from mcp_auth.tokens import TokenAnswer, TokenError, request_tokens

logger = logging.getLogger(__name__)

# The last fifth of a token's life, at most five minutes: early enough for a request that takes long,
# and for the retry after a failed refresh, while the old token still works.
_AHEAD_SHARE = 0.2
_AHEAD_MAX = 300.0
_AHEAD_UNKNOWN = 60.0
RefreshEnd = Literal["refreshed", "reauthorization_needed"]

_BACKOFF_FIRST = 5.0
_BACKOFF_MAX = 300.0


class Refresher:
    """Gives valid access tokens. `changed(kind, owner, server)` is told `refreshed` and `reauthorization_needed`."""

    def __init__(
        self,
        config: Config,
        store: Store,
        http: Http,
        sign_ins: SignIns,
        rules: Callable[[Server], NetworkRules],
        changed: Callable[[RefreshEnd, str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._http = http
        self._sign_ins = sign_ins
        self._rules = rules
        self._changed = changed
        self._clock = clock
        self._flights: dict[tuple[str, str], asyncio.Task[_Access]] = {}

    async def access_token(self, server: Server, owner: str, *, refused: str | None = None) -> str:
        """A token that is valid now. `refused`: one that the server answered 401 to; it is not given again.

        Raises:
            SignInNeeded, ReauthorizationNeeded: only a person can help. RefreshUnavailable: not now.
        """
        grant = await self._store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        now = self._clock()
        if grant is not None and tokens.access_token != refused and not is_due(tokens, now):
            return tokens.access_token
        return await self._together(server, owner, refused)

    def _usable(self, server: Server, grant: Grant | None) -> Tokens:
        """The grant's tokens, when they are for this server as it is configured now."""
        if grant is None or grant.tokens is None:
            raise SignInNeeded(f"{server.name} is not signed in.", next_step=f"/mcp auth {server.name}")
        if grant.server_url != server.url:
            raise SignInNeeded(
                f"The url of {server.name} has changed since it was signed in; tokens are not sent elsewhere.",
                next_step=f"/mcp auth {server.name}",
            )
        return grant.tokens

    async def _together(self, server: Server, owner: str, refused: str | None) -> str:
        """One flight for all tasks; a cancelled caller does not end it."""
        key = (owner, server.name)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._transaction(server, owner, refused))
            flight.add_done_callback(lambda done: self._landed(key, done))
        token = (await asyncio.shield(flight)).token
        if token != refused:
            return token
        # The flight had begun for another reason and brought the very token that was refused.
        return await self._together(server, owner, refused)

    def _landed(self, key: tuple[str, str], flight: asyncio.Task[_Access]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled() and flight.exception() is not None:
            # Marked as seen: every waiter got it, and without waiters nobody needs it.
            logger.debug("refresh of %s ended with %s", key[1], type(flight.exception()).__name__)

    async def _transaction(self, server: Server, owner: str, refused: str | None) -> _Access:
        try:
            async with self._store.lease(owner, server.name, ttl=LEASE_TTL, wait=LEASE_WAIT):
                for _ in range(3):
                    try:
                        return _Access(await self._under_lease(server, owner, refused))
                    except _Superseded:
                        continue
        except Busy:
            raise RefreshUnavailable(
                f"Another process has been refreshing {server.name} for too long.",
                retry_after=_BACKOFF_FIRST,
                next_step="try again",
            ) from None
        raise RefreshUnavailable(
            f"The grant of {server.name} changes all the time.", retry_after=_BACKOFF_FIRST, next_step="try again"
        )

    async def _under_lease(self, server: Server, owner: str, refused: str | None) -> str:
        grant = await self._store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        if grant is None:
            raise AssertionError("usable tokens come from a grant")
        now = self._clock()
        if tokens.access_token != refused and not is_due(tokens, now):
            return tokens.access_token
        fallback = tokens.access_token if tokens.access_token != refused and not _ended(tokens, now) else None
        try:
            self._check_may_send(server, grant, tokens, now, fallback is not None)
        except CredentialsNeeded:
            if fallback is None:
                raise
            return fallback
        return await self._send(server, grant, tokens, fallback)

    def _check_may_send(self, server: Server, grant: Grant, tokens: Tokens, now: float, still_valid: bool) -> None:
        """Whether the refresh token may be sent at this moment."""
        again = f"/mcp auth {server.name}"
        if grant.reauthorization is not None:
            raise ReauthorizationNeeded(f"{server.name}: {grant.reauthorization}", next_step=again)
        if grant.registration_dead:
            raise ReauthorizationNeeded(
                f"The authorization server no longer knows our client for {server.name}.", next_step=again
            )
        if tokens.refresh_token is None or grant.metadata is None or grant.registration is None:
            raise ReauthorizationNeeded(
                f"The access to {server.name} has ended, and the grant has no refresh token.", next_step=again
            )
        if grant.refresh_not_before is not None and now < grant.refresh_not_before:
            wait = grant.refresh_not_before - now
            raise RefreshUnavailable(
                f"{server.name} could not be refreshed ({grant.last_error or 'no answer'}); "
                f"the next attempt is in {max(1, round(wait))} seconds.",
                retry_after=wait,
                next_step=f"wait, then /mcp test {server.name}",
            )
        mark = grant.refresh_mark
        if mark is None or mark.token_sha256 != sha256(tokens.refresh_token):
            return
        if mark.count >= 2:
            raise ReauthorizationNeeded(
                f"Two refresh requests for {server.name} got no answer, and a third could end the grant.",
                next_step=again,
            )
        if still_valid:
            # The answer was lost: the token may be spent already. It is sent once more, at the very end.
            raise RefreshUnavailable(
                f"The last refresh of {server.name} got no answer.", retry_after=_BACKOFF_FIRST, next_step="try again"
            )

    async def _send(self, server: Server, grant: Grant, tokens: Tokens, fallback: str | None) -> str:
        refresh_token, metadata, registration = tokens.refresh_token, grant.metadata, grant.registration
        if refresh_token is None or metadata is None or registration is None:
            raise AssertionError("checked by _check_may_send")
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if grant.resource is not None:
            form["resource"] = grant.resource
        mark = grant.refresh_mark
        sent_before = mark.count if mark is not None and mark.token_sha256 == sha256(refresh_token) else 0
        marked = await self._write(
            grant,
            refresh_mark=RefreshMark(token_sha256=sha256(refresh_token), sent_at=self._clock(), count=sent_before + 1),
        )
        try:
            answer = await request_tokens(
                self._http, self._rules(server), metadata, registration, form, now=self._clock()
            )
        except LostAnswer as error:
            return await self._lost(server, marked, error, fallback)
        except Unreachable as error:
            # Never sent: the token is as good as before.
            return await self._failed(server, marked, error.message, None, sent_before, fallback)
        if isinstance(answer, TokenAnswer):
            return await self._renewed(server, marked, tokens, answer)
        return await self._answered(server, marked, answer, sent_before, fallback)

    async def _renewed(self, server: Server, grant: Grant, old: Tokens, answer: TokenAnswer) -> str:
        new = answer.tokens
        new = msgspec.structs.replace(
            new, refresh_token=new.refresh_token or old.refresh_token, scope=new.scope or old.scope
        )
        await self._write(
            grant,
            tokens=new,
            account=answer.account or grant.account,
            refresh_mark=None,
            refresh_not_before=None,
            refresh_failures=0,
            last_error=None,
        )
        self._changed("refreshed", grant.owner, grant.server)
        return new.access_token

    async def _answered(
        self, server: Server, grant: Grant, error: TokenError, sent_before: int, fallback: str | None
    ) -> str:
        if error.error == "invalid_grant":
            # About the token that was sent, and not about a newer one in the store: `_write` looks.
            reason = "the authorization server ended the grant"
            await self._write(grant, reauthorization=reason, refresh_mark=None, last_error=error.sentence())
            self._changed("reauthorization_needed", grant.owner, grant.server)
            if fallback is not None:
                return fallback
            raise ReauthorizationNeeded(f"{server.name}: {reason}.", next_step=f"/mcp auth {server.name}")
        if error.error in ("invalid_client", "unauthorized_client"):
            await self._write(grant, registration_dead=True, refresh_mark=None, last_error=error.sentence())
            if grant.registration is not None:
                await self._sign_ins.forget_registration(grant.server_url, grant.registration)
            self._changed("reauthorization_needed", grant.owner, grant.server)
            if fallback is not None:
                return fallback
            raise ReauthorizationNeeded(
                f"The authorization server no longer knows our client for {server.name}.",
                next_step=f"/mcp auth {server.name}",
            )
        return await self._failed(server, grant, error.sentence(), error.retry_after, sent_before, fallback)

    async def _failed(
        self,
        server: Server,
        grant: Grant,
        reason: str,
        retry_after: float | None,
        sent_before: int,
        fallback: str | None,
    ) -> str:
        """Not refreshed, and the refresh token not used: take the mark back and wait."""
        mark = grant.refresh_mark
        before = None if mark is None or sent_before == 0 else msgspec.structs.replace(mark, count=sent_before)
        wait = _backoff(grant.refresh_failures, retry_after)
        await self._write(
            grant,
            refresh_mark=before,
            refresh_failures=grant.refresh_failures + 1,
            refresh_not_before=self._clock() + wait,
            last_error=reason,
        )
        logger.warning("%s could not be refreshed; next attempt in %.0f s", server.name, wait)
        if fallback is not None:
            return fallback
        raise RefreshUnavailable(
            f"{server.name} could not be refreshed: {reason}",
            retry_after=wait,
            next_step=f"wait {round(wait)} seconds, then /mcp test {server.name}",
        )

    async def _lost(self, server: Server, grant: Grant, error: LostAnswer, fallback: str | None) -> str:
        """The outcome is unknown: the mark stays."""
        wait = _backoff(grant.refresh_failures, None)
        await self._write(
            grant,
            refresh_failures=grant.refresh_failures + 1,
            refresh_not_before=self._clock() + wait,
            last_error=error.message,
        )
        if fallback is not None:
            return fallback
        raise RefreshUnavailable(
            f"The refresh of {server.name} got no answer: {error.message}",
            retry_after=wait,
            next_step=f"wait {round(wait)} seconds, then /mcp test {server.name}",
        )

    async def _write(self, grant: Grant, **changes: object) -> Grant:
        """Store `grant` with `changes`, as long as the tokens in the store are the ones the changes are about.

        Raises:
            _Superseded: another program wrote other tokens meanwhile, or the grant is gone.
        """
        for _ in range(20):
            stored = await self._store.grants.put_if(msgspec.structs.replace(grant, **changes))
            if stored is not None:
                return stored
            current = await self._store.grants.get(grant.owner, grant.server, grant.server_url)
            if current is None or current.tokens != grant.tokens:
                raise _Superseded
            grant = current
        raise _Superseded


@dataclass(frozen=True, slots=True, repr=False)
class _Access:
    """The result of a flight: the `repr` of a task, which asyncio logs in its debug mode, shows its result."""

    token: str


class _Superseded(Exception):
    """The grant under our hands was replaced; what is stored now counts."""


def is_due(tokens: Tokens, now: float) -> bool:
    """Whether it is time to refresh: before the end, never at it."""
    if tokens.expires_at is None:
        return False
    ahead = _AHEAD_UNKNOWN
    if tokens.obtained_at is not None:
        ahead = min(_AHEAD_MAX, _AHEAD_SHARE * max(0.0, tokens.expires_at - tokens.obtained_at))
    return now >= tokens.expires_at - ahead


def _ended(tokens: Tokens, now: float) -> bool:
    return tokens.expires_at is not None and now >= tokens.expires_at


def _backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after the n-th failure: 5, 10, 20, ... 300; a `Retry-After` counts up to an hour."""
    if retry_after is not None:
        return min(max(retry_after, 1.0), 3600.0)
    return float(min(_BACKOFF_MAX, _BACKOFF_FIRST * 2 ** min(failures, 10)))
