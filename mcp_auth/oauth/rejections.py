"""What a server's answers to our credentials do to the grant and to what is known of the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Server
from mcp_auth.errors import McpAuthError, ReauthorizationNeeded, ServerRefused, SignInNeeded, Unreachable
from mcp_auth.oauth.challenge import BearerChallenge
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.renewal import TRIED_EVERY
from mcp_auth.outcome import Next
from mcp_auth.records import NO_TROUBLE, Grant, ServerProfile
from mcp_auth.status import GIVE_CREDENTIAL, beyond_ceiling, shown_scope, uses_oauth
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update


@dataclass(eq=False, repr=False)
class Rejections:
    """Takes what servers answered, and tells when only a person can help."""

    store: Store
    profiles: Profiles
    changes: Changes
    clock: Callable[[], float] = time.time

    async def take_refusal(
        self, entry: Server, owner: str, status: int, challenge: BearerChallenge | None, sent: str | None
    ) -> McpAuthError:
        """The server said no to what we sent: remember what it wants, and say what a person can do."""
        profile = await self.store.profiles.get(entry.url or "")
        oauth = uses_oauth(entry, profile)
        if not oauth and (entry.headers or entry.auth is not None):
            return ServerRefused(f"{entry.name} refused the key (HTTP {status}).", next_step=Next("key", entry.name))
        if not oauth:
            return await self._probe_anew(entry, status, challenge)
        if _asks_for_more(status, challenge):
            return await self._step_up(entry, owner, challenge, sent)
        await self.profiles.remember(entry.url or "", lambda known: _keep_challenge(known, challenge))
        if sent is None:
            return SignInNeeded(f"{entry.name} asks for a sign-in.", next_step=Next("auth", entry.name))
        return await self._end_token(entry, owner, sent.removeprefix("Bearer "))

    async def _probe_anew(self, entry: Server, status: int, challenge: BearerChallenge | None) -> McpAuthError:
        """A server that was taken for open said no, so it is looked at anew."""
        known = await self.store.profiles.get(entry.url or "")
        if known is None or known.trouble is None:
            await self.profiles.remember(entry.url or "", lambda known: _keep_challenge(known, challenge))
            try:
                known = await self.profiles.probe(entry, is_refused=not _asks_for_more(status, challenge))
            except Unreachable as error:
                return error
        if known.needs_sign_in:
            return SignInNeeded(f"{entry.name} asks for a sign-in.", next_step=Next("auth", entry.name))
        if known.trouble is not None:
            return ServerRefused(f"{entry.name} refuses requests without a credential.", next_step=GIVE_CREDENTIAL)
        return ServerRefused(f"{entry.name} refused the request (HTTP {status}).", next_step=Next("list", entry.name))

    async def _end_token(self, entry: Server, owner: str, token: str) -> McpAuthError:
        """The last word on this access token: a fresh one was refused as well, or there is no way to one."""
        reason = "the server refuses its access token"
        told = False

        def refuse(grant: Grant) -> Grant | None:
            nonlocal told
            if grant.tokens is None or grant.tokens.access_token != token:
                return None
            if grant.previous is not None:
                return _restored(grant)
            now = self.clock()
            told = grant.reauthorization_told
            refused = msgspec.structs.replace(
                grant, reauthorization_told=True, access_refused_at=grant.access_refused_at or now
            )
            if grant.reauthorization is None:
                refused.reauthorization, refused.reauthorization_now = reason, True
                refused.refresh_not_before, refused.refresh_may_be_tried = now + TRIED_EVERY, True
            return None if refused == grant else refused

        changed = await self._change_grant(entry, owner, refuse)
        if changed is not None and changed.reauthorization is None:
            return ServerRefused(
                f"{entry.name} refused the new access, so the sign-in of before is kept.",
                next_step=Next("auth", entry.name),
            )
        if changed is not None and not told:
            self.changes.tell(Change("reauthorization_needed", entry.name, owner))
        return ReauthorizationNeeded(f"{reason}.", server=entry.name, next_step=Next("auth", entry.name))

    async def _step_up(
        self, entry: Server, owner: str, challenge: BearerChallenge | None, sent: str | None
    ) -> McpAuthError:
        """403 `insufficient_scope` (RFC 6750 section 3.1): a step-up, unless the token has those scopes already."""
        wanted = challenge.scope if challenge is not None else None
        grant = await self.store.grants.get(owner, entry.name, entry.url or "")
        granted = (grant.tokens.scope or "").split() if grant is not None and grant.tokens is not None else []
        if wanted is None or not set(wanted.split()) - set(granted):
            return ServerRefused(
                f"{entry.name} refused the request although it was granted what it asks for.",
                next_step=Next("list", entry.name),
            )

        beyond = beyond_ceiling(entry, wanted)
        if beyond:
            # The ceiling is the operator's: the token goes on serving what it may.
            return ServerRefused(
                f"{entry.name} asks for more access than oauth.scope allows: {shown_scope(' '.join(beyond))}.",
                next_step="add it to oauth.scope, or set oauth.step_up: true",
            )

        def ask(grant: Grant) -> Grant | None:
            if grant.tokens is None or sent != f"Bearer {grant.tokens.access_token}" or grant.step_up_scope == wanted:
                return None
            return msgspec.structs.replace(grant, step_up_scope=wanted)

        if await self._change_grant(entry, owner, ask) is not None:
            self.changes.tell(Change("reauthorization_needed", entry.name, owner))
        return ReauthorizationNeeded(
            f"{entry.name} asks for more access: {shown_scope(wanted)}.", next_step=Next("auth", entry.name)
        )

    async def note_success(self, entry: Server, owner: str, token: str | None = None) -> None:
        """An authenticated call was answered: the grant before is not needed any more, and doubts are over.

        `token`: the one that was sent; None: the one that is stored.
        """

        def settle(grant: Grant) -> Grant | None:
            if token is not None and (grant.tokens is None or grant.tokens.access_token != token):
                return None
            settled = msgspec.structs.replace(grant, previous=None, access_refused_at=None)
            if grant.reauthorization_now:
                settled.reauthorization, settled.reauthorization_now = None, False
                settled.refresh_not_before = None
            if settled.reauthorization is None and not settled.registration_dead:
                settled.reauthorization_told = False
            return None if settled == grant else settled

        if entry.url is not None:
            await self._change_grant(entry, owner, settle)

    async def _change_grant(self, entry: Server, owner: str, change: Callable[[Grant], Grant | None]) -> Grant | None:
        """Write what `change` makes of the grant, again after every lost race. None: nothing to change."""
        is_changed = is_news = False

        async def edit(grant: Grant | None) -> Grant | None:
            nonlocal is_changed, is_news
            changed = change(grant) if grant is not None else None
            is_changed = changed is not None
            is_news = (
                changed is not None and grant is not None and changed.reauthorization_told > grant.reauthorization_told
            )
            return changed

        grants = self.store.grants

        async def write(changed: Grant) -> Grant | None:
            untold = await grants.news_of(changed, self.clock()) if is_news else None
            return await grants.put_if(changed, untold)

        stored = await update(entry.name, lambda: grants.get(owner, entry.name, entry.url or ""), edit, write)
        return stored if is_changed else None


def _asks_for_more(status: int, challenge: BearerChallenge | None) -> bool:
    """A no to what the credentials allow, and not to the credentials (RFC 6750 section 3.1)."""
    return status == 403 and challenge is not None and (challenge.error or "").lower() == "insufficient_scope"


def _restored(grant: Grant) -> Grant:
    """The grant as it was before a re-authorization that did not work."""
    before = grant.previous
    if before is None:
        return grant
    return msgspec.structs.replace(grant, previous=None, refresh_mark=None, **(NO_TROUBLE | before.brought))


def _keep_challenge(profile: ServerProfile, challenge: BearerChallenge | None) -> None:
    """A 401 to a valid token: the authorization server may have changed, so it is looked up at the next sign-in."""
    profile.needs_sign_in = True
    profile.fetched_at = None
    if challenge is not None:
        # One that says less than the one before takes nothing back.
        profile.challenge_scope = challenge.scope or profile.challenge_scope
        profile.challenge_metadata_url = challenge.resource_metadata or profile.challenge_metadata_url
