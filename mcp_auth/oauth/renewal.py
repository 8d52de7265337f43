"""One renewal of a grant, under its lease: write the mark, send, and write what became of it.

A refresh token is sent a second time only after an answer that refused it for now, or once more after
an answer that never came. A grant ends by a word that is known to be final (`token_words.py`). A no for another reason
wants a person after it was heard twice in ten minutes; the tokens are kept then, and still tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Server
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.errors import (
    CredentialsNeeded,
    McpAuthError,
    ReauthorizationNeeded,
    RefreshUnavailable,
    SignInError,
    TokenRequestFailed,
    Unreachable,
)
from mcp_auth.net.http import Http, LostAnswer
from mcp_auth.net.issuers import fits, is_template
from mcp_auth.net.resources import without_query_of
from mcp_auth.net.sites import host_of, site_of
from mcp_auth.oauth.clients import client_correction
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.tokens import TokenError, TokenResponse, request_tokens, unusable
from mcp_auth.outcome import Next, Step
from mcp_auth.records import NO_TROUBLE, Grant, RefreshMark, Registration, ServerMetadata, Tokens, sha256
from mcp_auth.stores.base import Store

logger = logging.getLogger(__name__)

BACKOFF_FIRST = 5.0
_BACKOFF_MAX = 300.0
# An OAuth error that is heard again after this long, with the access token ended, is no mishap.
_SURE_AFTER = 600.0
# Seconds for each request that follows the first in one refresh; a lease outlives them all.
_SECOND_TIMEOUT = 10.0
# How often the refresh token of a grant is tried that wants a person.
TRIED_EVERY = 3600.0


class Superseded(Exception):
    """The grant under our hands was replaced; what is stored now counts."""


@dataclass(eq=False, repr=False)
class Renewal:
    """Of one grant of `server`. `fallback`: an access token that still serves, where there is one."""

    server: Server
    servers: Servers
    store: Store
    http: Http
    variables: Variables
    profiles: Profiles
    changes: Changes
    clock: Callable[[], float]
    fallback: str | None = None

    def __post_init__(self) -> None:
        self._again = Next("auth", self.server.name)

    def correction(self, grant: Grant) -> dict[str, Any]:
        """What changes in the grant when the configuration describes its client otherwise by now."""
        return client_correction(self.variables, self.server, grant)

    def unavailable(self, grant: Grant) -> CredentialsNeeded:
        """Why there is no access token before the next attempt."""
        if grant.reauthorization is not None:
            return ReauthorizationNeeded(f"{grant.reauthorization}.", server=self.server.name, next_step=self._again)
        now = self.clock()
        wait = max(0.0, (grant.refresh_not_before or now) - now)
        why = (grant.last_error or "no answer").rstrip(".")
        return RefreshUnavailable(
            f"{self.server.name} could not be refreshed ({why}); the next attempt is in {max(1, round(wait))} seconds.",
            retry_after=wait,
            next_step=self._next_step(grant, Next("test", self.server.name, around="wait, then {}")),
        )

    async def send(self, grant: Grant, tokens: Tokens) -> str:
        refresh_token, metadata, registration = tokens.refresh_token, grant.metadata, grant.registration
        if refresh_token is None or metadata is None or registration is None:
            raise AssertionError("checked by _check_may_send")
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        if grant.resource is not None:
            form["resource"] = without_query_of(grant.server_url, grant.resource)
        mark = grant.refresh_mark
        sent_before = mark.count if mark is not None and mark.token_sha256 == sha256(refresh_token) else 0
        marked = await self.write(
            grant,
            refresh_mark=RefreshMark(token_sha256=sha256(refresh_token), count=sent_before + 1),
        )
        try:
            answer = await request_tokens(
                self.http, self.servers.rules(self.server), metadata, registration, form, now=self.clock()
            )
            if isinstance(answer, TokenError) and answer.is_gone and answer.meaning == "refused":
                moved = await self._look_up_anew(grant, metadata)
                if moved is not None and site_of(moved.token_endpoint) != site_of(metadata.token_endpoint):
                    return await self._keep_at_home(marked, sent_before, moved)
                if moved is not None:
                    marked, metadata = await self.write(marked, metadata=moved), moved
                    answer = await self._ask_again(metadata, registration, form)
            if isinstance(answer, TokenError) and (answer.meaning == "registration" or answer.status == 401):
                # Not tried before: a process that has read an older configuration leaves alone what works.
                correction = self.correction(marked)
                if correction:
                    marked, registration = await self.write(marked, **correction), correction["registration"]
                    answer = await self._ask_again(metadata, registration, form)
        except LostAnswer as error:
            return await self._note_loss(marked, error)
        except Unreachable as error:
            # Never sent: the token is as good as before.
            failed, wait = await self._take_back(marked, error.message, sent_before)
            return self._fall_back(failed, wait)
        except TokenRequestFailed as error:
            # Never sent either, nor will it be with this registration.
            failed, wait = await self._take_back(marked, error.message, sent_before, refresh_refused=True)
            return self._fall_back(failed, wait)
        if isinstance(answer, TokenResponse):
            return await self._store_new(marked, tokens, answer)
        return await self._take_error(marked, tokens, answer, sent_before)

    async def _ask_again(
        self, metadata: ServerMetadata, registration: Registration, form: dict[str, str]
    ) -> TokenResponse | TokenError:
        return await request_tokens(
            self.http,
            self.servers.rules(self.server),
            metadata,
            registration,
            form,
            now=self.clock(),
            timeout=_SECOND_TIMEOUT,
        )

    async def _look_up_anew(self, grant: Grant, known: ServerMetadata) -> ServerMetadata | None:
        """What the same issuer says now of where its token endpoint is; None: nothing, or nothing new."""
        from mcp_auth.oauth.discovery import look_up_again

        # No address can be made of a template; the tenant that gave the tokens has one.
        issuer = grant.issuer if is_template(known.issuer) and grant.issuer is not None else known.issuer

        try:
            async with asyncio.timeout(_SECOND_TIMEOUT):
                found = await look_up_again(self.http, self.servers.rules(self.server), self.server, issuer)
        except (SignInError, Unreachable, TimeoutError) as error:
            name = type(error).__name__
            logger.warning("the token endpoint of %s is gone, and nothing names another: %s", self.server.name, name)
            return None
        try:
            await self.profiles.expire_metadata(self.server.url or "")
        except McpAuthError as error:
            # Of use for the next sign-in alone; what the refresh token is worth does not depend on it.
            logger.warning("what is known of %s could not be written: %s", self.server.name, error.code)
        if not fits(found.issuer, issuer):
            # `oauth.issuer` has changed since, and a refresh token belongs to the issuer that gave it.
            return None
        return found if found.token_endpoint != known.token_endpoint else None

    async def _keep_at_home(self, grant: Grant, sent_before: int, moved: ServerMetadata) -> str:
        """Nobody but a person decides that another site gets what this one gave."""
        reason = f"the authorization server now gives tokens at {host_of(moved.token_endpoint)}"
        failed, _ = await self._take_back(grant, reason, sent_before, refresh_refused=True)
        if self.fallback is not None:
            return self.fallback
        raise await self._ask_person(failed, reason)

    async def _store_new(self, grant: Grant, old: Tokens, answer: TokenResponse) -> str:
        new = answer.tokens
        new = msgspec.structs.replace(
            new, refresh_token=new.refresh_token or old.refresh_token, scope=new.scope or old.scope
        )
        account = answer.account or grant.account
        if new.token_type != "Bearer":
            # Stored all the same: the refresh token of before is spent.
            stored = await self.write(grant, tokens=new, account=account, refresh_mark=None)
            raise await self._ask_person(stored, unusable(new.token_type))
        # A server that refused the token of before may refuse this one too, of which its owner has been told.
        told = grant.reauthorization_told and grant.access_refused_at is not None
        await self.write(grant, tokens=new, account=account, refresh_mark=None, reauthorization_told=told, **NO_TROUBLE)
        self.changes.tell(Change("refreshed", grant.server, grant.owner))
        return new.access_token

    async def _take_error(
        self,
        grant: Grant,
        tokens: Tokens,
        error: TokenError,
        sent_before: int,
    ) -> str:
        if error.refresh_token is not None:
            # No access token that could be used, and yet the refresh token was changed.
            tokens = msgspec.structs.replace(tokens, refresh_token=error.refresh_token)
            grant, sent_before = await self.write(grant, tokens=tokens, refresh_mark=None), 0
        elif error.meaning == "ended":
            # About the token that was sent, and not about a newer one in the store: `_write` looks.
            reason = "the authorization server ended the grant"
            await self.write(
                grant,
                reauthorization=reason,
                reauthorization_now=False,
                reauthorization_told=True,
                refresh_mark=None,
                last_error=error.sentence(),
            )
            self._tell(grant)
            if self.fallback is not None:
                return self.fallback
            raise ReauthorizationNeeded(f"{reason}.", server=self.server.name, next_step=self._again)
        elif error.meaning == "registration":
            await self.write(
                grant,
                registration_dead=True,
                reauthorization_told=True,
                refresh_mark=None,
                last_error=error.sentence(),
            )
            self._tell(grant)
            if grant.registration is not None:
                await self.profiles.forget_registration(grant.server_url, grant.registration)
            if self.fallback is not None:
                return self.fallback
            raise ReauthorizationNeeded(
                f"The authorization server no longer knows our client for {self.server.name}.",
                next_step=self._again,
            )
        now, is_no = self.clock(), error.meaning == "refused"
        # With the access at its end, in the form of an OAuth error: once may be a mishap.
        counts = is_no and error.is_oauth and self.fallback is None
        since = grant.refresh_refused_at or (now if counts else None)
        failed, wait = await self._take_back(
            grant,
            error.sentence(),
            sent_before,
            retry_after=error.retry_after,
            refresh_refused=grant.refresh_refused or is_no,
            refresh_refused_at=since,
        )
        if counts and since is not None and now >= since + _SURE_AFTER:
            raise await self._ask_person(
                failed, f"the authorization server refuses to renew the access ({error.sentence()})"
            )
        return self._fall_back(failed, wait)

    async def _ask_person(self, grant: Grant, reason: str) -> ReauthorizationNeeded:
        """Only a person can help, as it seems: the tokens are kept and tried once in a while, and it is told once."""
        await self.write(
            grant,
            reauthorization=reason,
            reauthorization_now=True,
            reauthorization_told=True,
            refresh_not_before=self.clock() + TRIED_EVERY,
            refresh_may_be_tried=True,
        )
        self._tell(grant)
        return ReauthorizationNeeded(f"{reason}.", server=self.server.name, next_step=self._again)

    def _tell(self, grant: Grant) -> None:
        """`grant` as it was before: its owner hears of its end once."""
        if not grant.reauthorization_told:
            self.changes.tell(Change("reauthorization_needed", grant.server, grant.owner))

    async def _take_back(
        self, grant: Grant, reason: str, sent_before: int, *, retry_after: float | None = None, **changes: object
    ) -> tuple[Grant, float]:
        """Not refreshed, and the refresh token not used: take the mark back and wait for so many seconds."""
        mark = grant.refresh_mark
        before = None if mark is None or sent_before == 0 else msgspec.structs.replace(mark, count=sent_before)
        changes |= {"refresh_mark": before, "refresh_may_be_tried": retry_after is None}
        return await self._note_failure(grant, reason, retry_after, changes)

    async def _note_loss(self, grant: Grant, error: LostAnswer) -> str:
        """The outcome is unknown: the mark stays."""
        lost, wait = await self._note_failure(grant, error.message, None, {"refresh_may_be_tried": False})
        return self._fall_back(lost, wait)

    async def _note_failure(
        self, grant: Grant, reason: str, retry_after: float | None, changes: dict[str, object]
    ) -> tuple[Grant, float]:
        wait = _backoff(grant.refresh_failures, retry_after)
        if grant.reauthorization is not None:
            wait = max(wait, TRIED_EVERY)
        now = self.clock()
        noted = await self.write(
            grant,
            refresh_failures=grant.refresh_failures + 1,
            refresh_failing_since=grant.refresh_failing_since or now,
            refresh_not_before=now + wait,
            last_error=reason,
            **changes,
        )
        logger.warning("%s could not be refreshed; next attempt in %.0f s", grant.server, wait)
        return noted, wait

    def _fall_back(self, grant: Grant, wait: float) -> str:
        """The access token that still serves.

        Raises:
            RefreshUnavailable, ReauthorizationNeeded: there is none.
        """
        if self.fallback is not None:
            return self.fallback
        if grant.reauthorization is not None:
            raise self.unavailable(grant)
        why = (grant.last_error or "no answer").rstrip(".")
        raise RefreshUnavailable(
            f"{self.server.name} could not be refreshed: {why}.",
            retry_after=wait,
            next_step=self._next_step(
                grant, Next("test", self.server.name, around=f"wait {max(1, round(wait))} seconds, then {{}}")
            ),
        )

    def _next_step(self, grant: Grant, otherwise: Step) -> Step:
        """After a definite no a new sign-in is the way out that is known."""
        return self._again if grant.refresh_refused else otherwise

    async def write(self, grant: Grant, **changes: object) -> Grant:
        """Store `grant` with `changes`, as long as the tokens in the store are the ones the changes are about.

        Raises:
            Superseded: another program wrote other tokens meanwhile, or the grant is gone.
        """
        for _ in range(20):
            is_news = bool(changes.get("reauthorization_told")) and not grant.reauthorization_told
            untold = await self.store.grants.news_of(grant, self.clock()) if is_news else None
            stored = await self.store.grants.put_if(msgspec.structs.replace(grant, **changes), untold)
            if stored is not None:
                return stored
            current = await self.store.grants.get(grant.owner, grant.server, grant.server_url)
            if current is None or current.tokens != grant.tokens:
                raise Superseded
            grant = current
        raise Superseded


def _backoff(failures: int, retry_after: float | None) -> float:
    """Seconds to wait after the n-th failure: 5, 10, 20, ... 300; a `Retry-After` counts up to an hour."""
    if retry_after is not None:
        return min(max(retry_after, 1.0), 3600.0)
    return float(min(_BACKOFF_MAX, BACKOFF_FIRST * 2 ** min(failures, 10)))
