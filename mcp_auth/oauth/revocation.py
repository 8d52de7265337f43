"""Signing out: revocation at the authorization server (RFC 7009), and what is deleted here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Server
from mcp_auth.config.servers import Servers
from mcp_auth.errors import McpAuthError
from mcp_auth.net.http import Http
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.sign_in import LEASE_TTL, LEASE_WAIT, SignIns
from mcp_auth.oauth.tokens import revoke_token
from mcp_auth.outcome import Next, Outcome, Step
from mcp_auth.records import Grant
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import AlwaysChanging, update

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LogoutResult:
    """`revoked`: the authorization server said so; False: it did not; None: it offers no revocation."""

    deleted: bool
    revoked: bool | None
    detail: str
    next_step: Step | None = None

    @property
    def outcome(self) -> Outcome:
        return Outcome("signed_out" if self.deleted else "not_signed_out", self.detail, next_step=self.next_step)


@dataclass(eq=False, repr=False)
class SignOut:
    """Ends grants."""

    servers: Servers
    store: Store
    http: Http
    profiles: Profiles
    sign_ins: SignIns
    changes: Changes

    async def sign_out(self, entry: Server, owner: str, *, by: str | None = None) -> LogoutResult:
        """Revoke, then delete; says which of the two happened.

        `by`: the principal who asks, for the audit log.
        """
        server = entry.name
        await self.sign_ins.cancel(server, owner)
        # A client that nobody knows any more is not met again.
        await self.profiles.forget_dynamic_registrations(entry.url or "")
        async with self.store.grants.lease(owner, server, ttl=LEASE_TTL, wait=LEASE_WAIT):
            was_damaged = await self.store.grants.set_damaged_aside(owner, server)
            grant = await self.store.grants.get(owner, server, entry.url or "")
            if was_damaged and grant is None:
                return LogoutResult(
                    True,
                    None,
                    f"{server} is signed out here. What was stored of it was damaged, so nothing could be revoked: end "
                    "it at the authorization server too.",
                )
            if grant is None or grant.tokens is None:
                return LogoutResult(False, None, f"{server} was not signed in.")
            revoked = await self._revoke(entry, grant)
            is_gone = await self._delete(grant)
        if not is_gone:
            done = "is revoked at the authorization server, and yet it" if revoked else "is not signed out: its grant"
            sentence = f"{server} {done} is still stored here, because another program changes it all the time."
            return LogoutResult(False, revoked, sentence, Next("logout", server))
        self.changes.tell(Change("signed_out", server, owner, by=by))
        if revoked:
            return LogoutResult(True, True, f"{server} is signed out: revoked at the authorization server and deleted.")
        why = "offers no revocation" if revoked is None else "did not confirm the revocation"
        return LogoutResult(
            True, revoked, f"{server} is signed out here: deleted. The authorization server {why}, so end it there too."
        )

    async def _revoke(self, entry: Server, grant: Grant) -> bool | None:
        registration, tokens = grant.registration, grant.tokens
        url = grant.metadata.revocation_endpoint if grant.metadata is not None else None
        if url is None or registration is None or tokens is None:
            return None
        pairs = [(tokens.refresh_token, "refresh_token"), (tokens.access_token, "access_token")]
        done = True
        for token, hint in pairs:
            if token is None:
                continue
            try:
                done &= await revoke_token(self.http, self.servers.rules(entry), url, registration, token, hint)
            except McpAuthError as error:
                logger.warning("%s could not be revoked: %s", grant.server, error.message)
                return False
        return done

    async def _delete(self, grant: Grant) -> bool:
        """Delete the grant but for its keys. False: its tokens are still stored."""

        async def stored() -> Grant | None:
            return await self.store.grants.get(grant.owner, grant.server, grant.server_url)

        async def bare(current: Grant | None) -> Grant | None:
            if current is None or current.tokens is None:
                return None
            # The API keys of the same owner are not part of the sign-in.
            return Grant(
                server=current.server,
                owner=current.owner,
                server_url=current.server_url,
                version=current.version,
                keys=current.keys,
            )

        async def write(bare: Grant) -> Grant | None:
            if bare.keys:
                await self.store.grants.put_if(bare)
            else:
                await self.store.grants.delete_if(bare)
            # What is stored counts, and not what the store said.
            current = await stored()
            return bare if current is None or current.tokens is None else None

        try:
            await update(grant.server, stored, bare, write)
        except AlwaysChanging:
            return False
        return True
