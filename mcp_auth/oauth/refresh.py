"""The refresh transaction: one refresh for all tasks and processes, and no grant lost.

    take the lease, read again, adopt a newer grant, write the mark, send, write the result, release

A refresh token is sent a second time only after an answer that refused it for now, or once more after
an answer that never came. A grant ends by a word that is known to be final (`token_words.py`). A no for another reason
wants a person after it was heard twice in ten minutes; the tokens are kept then, and still tried.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import reused_name
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.errors import (
    Busy,
    CredentialsNeeded,
    McpAuthError,
    ReauthorizationNeeded,
    RefreshUnavailable,
    SignInError,
    SignInNeeded,
    TokenRequestFailed,
    Unreachable,
)
from mcp_auth.net.http import Http, LostAnswer
from mcp_auth.net.issuers import fits, is_template
from mcp_auth.net.resources import without_query_of
from mcp_auth.net.sites import host_of, site_of
from mcp_auth.oauth.clients import client_correction
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.sign_in import LEASE_TTL, LEASE_WAIT
from mcp_auth.oauth.tokens import TokenError, TokenResponse, request_tokens, unusable
from mcp_auth.outcome import Next
from mcp_auth.records import NO_TROUBLE, Grant, RefreshMark, Registration, ServerMetadata, Tokens, sha256
from mcp_auth.stores.base import Store

logger = logging.getLogger(__name__)

# The last fifth of a token's life, at most five minutes: early enough for a request that takes long,
# and for the retry after a failed refresh, while the old token still works.
_AHEAD_SHARE = 0.2
_AHEAD_MAX = 300.0
_AHEAD_UNKNOWN = 60.0

_BACKOFF_FIRST = 5.0
_BACKOFF_MAX = 300.0
# An OAuth error that is heard again after this long, with the access token ended, is no mishap.
_SURE_AFTER = 600.0
# Seconds for each request that follows the first in one refresh; a lease outlives them all.
_SECOND_TIMEOUT = 10.0
# How often the refresh token of a grant is tried that wants a person.
TRIED_EVERY = 3600.0


class Refresher:
    """Gives valid access tokens."""

    def __init__(
        self,
        config: Config,
        servers: Servers,
        store: Store,
        http: Http,
        variables: Variables,
        profiles: Profiles,
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._servers = servers
        self._store = store
        self._http = http
        self._variables = variables
        self._profiles = profiles
        self._changes = changes
        self._clock = clock
        self._flights: dict[tuple[str, str, bool], asyncio.Task[_Access]] = {}
        # The (owner, server) whose server refused what was sent last.
        self.doubted: set[tuple[str, str]] = set()

    async def access_token(
        self, server: Server, owner: str, *, refused: str | None = None, insist: bool = False
    ) -> str:
        """A token that is valid now. `refused`: one that the server answered 401 to; it is not given again.

        `insist`: a person asks, so a wait that we chose ourselves is over.

        Raises:
            SignInNeeded, ReauthorizationNeeded: only a person can help. RefreshUnavailable: not now.
        """
        grant = await self._store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        now = self._clock()
        if grant is not None and (grant.access_refused_at is not None or grant.reauthorization_now):
            self.doubted.add((owner, server.name))
        else:
            self.doubted.discard((owner, server.name))
        if grant is not None and not _is_to_be_renewed(tokens, refused, now):
            return tokens.access_token
        return await self._together(server, owner, refused, insist)

    def _usable(self, server: Server, grant: Grant | None) -> Tokens:
        """The grant's tokens, when they are for this server as it is configured now."""
        if grant is None or grant.tokens is None:
            raise SignInNeeded(f"{server.name} is not signed in.", next_step=Next("auth", server.name))
        somebody_elses = reused_name(grant.owner, grant.accounts, self._config.gateway)
        if somebody_elses is not None:
            raise ReauthorizationNeeded(somebody_elses, server=server.name, next_step=Next("auth", server.name))
        if grant.server_url != server.url:
            raise SignInNeeded(
                f"The url of {server.name} has changed since it was signed in; tokens are not sent elsewhere.",
                next_step=Next("auth", server.name),
            )
        return grant.tokens

    async def _together(self, server: Server, owner: str, refused: str | None, insist: bool) -> str:
        """One flight for all tasks; a cancelled caller does not end it."""
        key = (owner, server.name, insist)
        for _ in range(2):
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = asyncio.create_task(self._transaction(server, owner, refused, insist))
                flight.add_done_callback(lambda done: self._landed(key, done))
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

    def _landed(self, key: tuple[str, str, bool], flight: asyncio.Task[_Access]) -> None:
        self._flights.pop(key, None)
        if not flight.cancelled() and flight.exception() is not None:
            # Marked as seen: every waiter got it, and without waiters nobody needs it.
            logger.debug("refresh of %s ended with %s", key[1], type(flight.exception()).__name__)

    async def _transaction(self, server: Server, owner: str, refused: str | None, insist: bool) -> _Access:
        try:
            async with self._store.lease(owner, server.name, ttl=LEASE_TTL, wait=LEASE_WAIT):
                for _ in range(3):
                    try:
                        return _Access(await self._under_lease(server, owner, refused, insist), refused)
                    except _Superseded:
                        continue
        except Busy:
            # On a crowded machine the turn may never come, and what others were refreshing is there all the same.
            grant = await self._store.grants.get(owner, server.name, server.url or "")
            tokens = self._usable(server, grant)
            if not _is_to_be_renewed(tokens, refused, self._clock()):
                return _Access(tokens.access_token, refused)
            raise RefreshUnavailable(
                f"Another process has been refreshing {server.name} for too long.",
                retry_after=_BACKOFF_FIRST,
                next_step="try again",
            ) from None
        raise RefreshUnavailable(
            f"The grant of {server.name} changes all the time.", retry_after=_BACKOFF_FIRST, next_step="try again"
        )

    async def _under_lease(self, server: Server, owner: str, refused: str | None, insist: bool) -> str:
        grant = await self._store.grants.get(owner, server.name, server.url or "")
        tokens = self._usable(server, grant)
        if grant is None:
            raise AssertionError("usable tokens come from a grant")
        now = self._clock()
        if not _is_to_be_renewed(tokens, refused, now):
            return tokens.access_token
        if grant.registration_dead and (correction := client_correction(self._variables, server, grant)):
            grant = await self._write(grant, **correction)
        is_good = tokens.access_token != refused and not _ended(tokens, now) and tokens.token_type == "Bearer"
        fallback = tokens.access_token if is_good else None
        if tokens.access_token == refused and grant.access_refused_at is None:
            grant = await self._write(grant, access_refused_at=now)
        try:
            self._check_may_send(server, grant, tokens, now, still_valid=is_good, insist=insist)
        except CredentialsNeeded:
            if fallback is None:
                raise
            return fallback
        return await self._send(server, grant, tokens, fallback)

    def _check_may_send(
        self, server: Server, grant: Grant, tokens: Tokens, now: float, *, still_valid: bool, insist: bool
    ) -> None:
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
        is_early = grant.refresh_not_before is not None and now < grant.refresh_not_before
        if is_early and not (insist and grant.refresh_may_be_tried):
            raise self._unavailable(server, grant, now)
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

    def _unavailable(self, server: Server, grant: Grant, now: float) -> CredentialsNeeded:
        """Why there is no access token before the next attempt."""
        if grant.reauthorization is not None:
            return ReauthorizationNeeded(
                f"{grant.reauthorization}.", server=server.name, next_step=Next("auth", server.name)
            )
        wait = max(0.0, (grant.refresh_not_before or now) - now)
        why = (grant.last_error or "no answer").rstrip(".")
        return RefreshUnavailable(
            f"{server.name} could not be refreshed ({why}); the next attempt is in {max(1, round(wait))} seconds.",
            retry_after=wait,
            next_step=_next_step(server, grant, Next("test", server.name, around="wait, then {}")),
        )

    async def _send(self, server: Server, grant: Grant, tokens: Tokens, fallback: str | None) -> str:
        refresh_token, metadata, registration = tokens.refresh_token, grant.metadata, grant.registration
        if refresh_token is None or metadata is None or registration is None:
            raise AssertionError("checked by _check_may_send")
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if grant.resource is not None:
            form["resource"] = without_query_of(grant.server_url, grant.resource)
        mark = grant.refresh_mark
        sent_before = mark.count if mark is not None and mark.token_sha256 == sha256(refresh_token) else 0
        marked = await self._write(
            grant,
            refresh_mark=RefreshMark(token_sha256=sha256(refresh_token), count=sent_before + 1),
        )
        try:
            answer = await request_tokens(
                self._http, self._servers.rules(server), metadata, registration, form, now=self._clock()
            )
            if isinstance(answer, TokenError) and answer.is_gone and answer.meaning == "refused":
                moved = await self._moved(server, grant, metadata)
                if moved is not None and site_of(moved.token_endpoint) != site_of(metadata.token_endpoint):
                    return await self._moved_away(server, marked, sent_before, moved, fallback)
                if moved is not None:
                    marked, metadata = await self._write(marked, metadata=moved), moved
                    answer = await self._asked_again(server, metadata, registration, form)
            if isinstance(answer, TokenError) and (answer.meaning == "registration" or answer.status == 401):
                # Not tried before: a process that has read an older configuration leaves alone what works.
                correction = client_correction(self._variables, server, marked)
                if correction:
                    marked, registration = await self._write(marked, **correction), correction["registration"]
                    answer = await self._asked_again(server, metadata, registration, form)
        except LostAnswer as error:
            return await self._lost(server, marked, error, fallback)
        except Unreachable as error:
            # Never sent: the token is as good as before.
            failed, wait = await self._failed(marked, error.message, sent_before)
            return self._kept(server, failed, wait, fallback)
        except TokenRequestFailed as error:
            # Never sent either, nor will it be with this registration.
            failed, wait = await self._failed(marked, error.message, sent_before, refresh_refused=True)
            return self._kept(server, failed, wait, fallback)
        if isinstance(answer, TokenResponse):
            return await self._renewed(server, marked, tokens, answer)
        return await self._answered(server, marked, tokens, answer, sent_before, fallback)

    async def _asked_again(
        self, server: Server, metadata: ServerMetadata, registration: Registration, form: dict[str, str]
    ) -> TokenResponse | TokenError:
        return await request_tokens(
            self._http,
            self._servers.rules(server),
            metadata,
            registration,
            form,
            now=self._clock(),
            timeout=_SECOND_TIMEOUT,
        )

    async def _moved(self, server: Server, grant: Grant, known: ServerMetadata) -> ServerMetadata | None:
        """What the same issuer says now of where its token endpoint is; None: nothing, or nothing new."""
        from mcp_auth.oauth.discovery import look_up_again

        # No address can be made of a template; the tenant that gave the tokens has one.
        issuer = grant.issuer if is_template(known.issuer) and grant.issuer is not None else known.issuer

        try:
            async with asyncio.timeout(_SECOND_TIMEOUT):
                found = await look_up_again(self._http, self._servers.rules(server), server, issuer)
        except (SignInError, Unreachable, TimeoutError) as error:
            name = type(error).__name__
            logger.warning("the token endpoint of %s is gone, and nothing names another: %s", server.name, name)
            return None
        try:
            await self._profiles.expire_metadata(server.url or "")
        except McpAuthError as error:
            # Of use for the next sign-in alone; what the refresh token is worth does not depend on it.
            logger.warning("what is known of %s could not be written: %s", server.name, error.code)
        if not fits(found.issuer, issuer):
            # `oauth.issuer` has changed since, and a refresh token belongs to the issuer that gave it.
            return None
        return found if found.token_endpoint != known.token_endpoint else None

    async def _moved_away(
        self, server: Server, grant: Grant, sent_before: int, moved: ServerMetadata, fallback: str | None
    ) -> str:
        """Nobody but a person decides that another site gets what this one gave."""
        reason = f"the authorization server now gives tokens at {host_of(moved.token_endpoint)}"
        failed, _ = await self._failed(grant, reason, sent_before, refresh_refused=True)
        if fallback is not None:
            return fallback
        raise await self._needs_person(server, failed, reason)

    async def _renewed(self, server: Server, grant: Grant, old: Tokens, answer: TokenResponse) -> str:
        new = answer.tokens
        new = msgspec.structs.replace(
            new, refresh_token=new.refresh_token or old.refresh_token, scope=new.scope or old.scope
        )
        account = answer.account or grant.account
        if new.token_type != "Bearer":
            # Stored all the same: the refresh token of before is spent.
            stored = await self._write(grant, tokens=new, account=account, refresh_mark=None)
            raise await self._needs_person(server, stored, unusable(new.token_type))
        # A server that refused the token of before may refuse this one too, of which its owner has been told.
        told = grant.reauthorization_told and grant.access_refused_at is not None
        await self._write(
            grant, tokens=new, account=account, refresh_mark=None, reauthorization_told=told, **NO_TROUBLE
        )
        self._changes.tell(Change("refreshed", grant.server, grant.owner))
        return new.access_token

    async def _answered(
        self,
        server: Server,
        grant: Grant,
        tokens: Tokens,
        error: TokenError,
        sent_before: int,
        fallback: str | None,
    ) -> str:
        if error.refresh_token is not None:
            # No access token that could be used, and yet the refresh token was changed.
            tokens = msgspec.structs.replace(tokens, refresh_token=error.refresh_token)
            grant, sent_before = await self._write(grant, tokens=tokens, refresh_mark=None), 0
        elif error.meaning == "ended":
            # About the token that was sent, and not about a newer one in the store: `_write` looks.
            reason = "the authorization server ended the grant"
            await self._write(
                grant,
                reauthorization=reason,
                reauthorization_now=False,
                reauthorization_told=True,
                refresh_mark=None,
                last_error=error.sentence(),
            )
            self._tell(grant)
            if fallback is not None:
                return fallback
            raise ReauthorizationNeeded(f"{reason}.", server=server.name, next_step=Next("auth", server.name))
        elif error.meaning == "registration":
            await self._write(
                grant,
                registration_dead=True,
                reauthorization_told=True,
                refresh_mark=None,
                last_error=error.sentence(),
            )
            self._tell(grant)
            if grant.registration is not None:
                await self._profiles.forget_registration(grant.server_url, grant.registration)
            if fallback is not None:
                return fallback
            raise ReauthorizationNeeded(
                f"The authorization server no longer knows our client for {server.name}.",
                next_step=Next("auth", server.name),
            )
        now, is_no = self._clock(), error.meaning == "refused"
        # With the access at its end, in the form of an OAuth error: once may be a mishap.
        counts = is_no and error.is_oauth and fallback is None
        since = grant.refresh_refused_at or (now if counts else None)
        failed, wait = await self._failed(
            grant,
            error.sentence(),
            sent_before,
            retry_after=error.retry_after,
            refresh_refused=grant.refresh_refused or is_no,
            refresh_refused_at=since,
        )
        if counts and since is not None and now >= since + _SURE_AFTER:
            raise await self._needs_person(
                server, failed, f"the authorization server refuses to renew the access ({error.sentence()})"
            )
        return self._kept(server, failed, wait, fallback)

    async def _needs_person(self, server: Server, grant: Grant, reason: str) -> ReauthorizationNeeded:
        """Only a person can help, as it seems: the tokens are kept and tried once in a while, and it is told once."""
        await self._write(
            grant,
            reauthorization=reason,
            reauthorization_now=True,
            reauthorization_told=True,
            refresh_not_before=self._clock() + TRIED_EVERY,
            refresh_may_be_tried=True,
        )
        self._tell(grant)
        return ReauthorizationNeeded(f"{reason}.", server=server.name, next_step=Next("auth", server.name))

    def _tell(self, grant: Grant) -> None:
        """`grant` as it was before: its owner hears of its end once."""
        if not grant.reauthorization_told:
            self._changes.tell(Change("reauthorization_needed", grant.server, grant.owner))

    async def _failed(
        self, grant: Grant, reason: str, sent_before: int, *, retry_after: float | None = None, **changes: object
    ) -> tuple[Grant, float]:
        """Not refreshed, and the refresh token not used: take the mark back and wait for so many seconds."""
        mark = grant.refresh_mark
        before = None if mark is None or sent_before == 0 else msgspec.structs.replace(mark, count=sent_before)
        changes |= {"refresh_mark": before, "refresh_may_be_tried": retry_after is None}
        return await self._noted(grant, reason, retry_after, changes)

    async def _lost(self, server: Server, grant: Grant, error: LostAnswer, fallback: str | None) -> str:
        """The outcome is unknown: the mark stays."""
        lost, wait = await self._noted(grant, error.message, None, {"refresh_may_be_tried": False})
        return self._kept(server, lost, wait, fallback)

    async def _noted(
        self, grant: Grant, reason: str, retry_after: float | None, changes: dict[str, object]
    ) -> tuple[Grant, float]:
        wait = _backoff(grant.refresh_failures, retry_after)
        if grant.reauthorization is not None:
            wait = max(wait, TRIED_EVERY)
        now = self._clock()
        noted = await self._write(
            grant,
            refresh_failures=grant.refresh_failures + 1,
            refresh_failing_since=grant.refresh_failing_since or now,
            refresh_not_before=now + wait,
            last_error=reason,
            **changes,
        )
        logger.warning("%s could not be refreshed; next attempt in %.0f s", grant.server, wait)
        return noted, wait

    def _kept(self, server: Server, grant: Grant, wait: float, fallback: str | None) -> str:
        """The access token that still serves.

        Raises:
            RefreshUnavailable, ReauthorizationNeeded: there is none.
        """
        if fallback is not None:
            return fallback
        if grant.reauthorization is not None:
            raise self._unavailable(server, grant, self._clock())
        why = (grant.last_error or "no answer").rstrip(".")
        raise RefreshUnavailable(
            f"{server.name} could not be refreshed: {why}.",
            retry_after=wait,
            next_step=_next_step(
                server, grant, Next("test", server.name, around=f"wait {max(1, round(wait))} seconds, then {{}}")
            ),
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
    """The result of a flight: the `repr` of a task, which asyncio logs in its debug mode, shows its result.

    `refused`: the token that the flight was to replace.
    """

    token: str
    refused: str | None


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


def _is_to_be_renewed(tokens: Tokens, refused: str | None, now: float) -> bool:
    return tokens.access_token == refused or is_due(tokens, now) or tokens.token_type != "Bearer"


def _next_step(server: Server, grant: Grant, otherwise: Next) -> Next:
    """After a definite no a new sign-in is the way out that is known."""
    return Next("auth", server.name) if grant.refresh_refused else otherwise


def _ended(tokens: Tokens, now: float) -> bool:
    return tokens.expires_at is not None and now >= tokens.expires_at


def _backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after the n-th failure: 5, 10, 20, ... 300; a `Retry-After` counts up to an hour."""
    if retry_after is not None:
        return min(max(retry_after, 1.0), 3600.0)
    return float(min(_BACKOFF_MAX, _BACKOFF_FIRST * 2 ** min(failures, 10)))
