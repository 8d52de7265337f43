"""The first half of signing in: `begin` makes a record and its link. `exchange.py` has the second half.

No task waits in between, so a sign-in can be finished on any replica and after any restart, once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from mcp_auth.changes import Changes
from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import held
from mcp_auth.errors import SignInError, StoreError
from mcp_auth.net.resources import resource_of, without_query_of
from mcp_auth.net.sites import browser_host, issued_elsewhere
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.registration import Clients
from mcp_auth.oauth.vendors import authorize_params, scope_params
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import BrowserBinding, Grant, Requester, ServerMetadata, ServerProfile, SignIn, Status
from mcp_auth.states import IN_FLIGHT, OPEN, WAITING, as_of, due_at, stepped
from mcp_auth.status import is_pinned, shown_scope
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

LIFETIME = 600.0
# A person looks at the last page meanwhile.
TRY_OUT_TIMEOUT = 10.0
LEASE_TTL = 45.0
LEASE_WAIT = 40.0
_POLL = 0.3

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, repr=False)
class StartedSignIn:
    """A sign-in and its link. `reused`: it was open already. `listening`: a redirect to this machine is received.

    `public`: the link is our own page, and nothing is ever pasted. `needs_proof`: that page asks for the
    same-person proof, as far as can be said now.
    """

    sign_in: SignIn
    link: str
    reused: bool = False
    listening: bool = True
    public: bool = False
    needs_proof: bool = False

    @property
    def expires_at(self) -> float:
        return self.sign_in.expires_at

    @property
    def host(self) -> str:
        """Where the person signs in: the host that the browser is sent to."""
        return browser_host(self.sign_in.metadata)

    @property
    def issued_elsewhere(self) -> tuple[str, ...]:
        """Hosts on other sites from which the access comes."""
        return issued_elsewhere(self.sign_in.metadata)

    def __repr__(self) -> str:
        return f"StartedSignIn(server={self.sign_in.server!r}, reused={self.reused}, listening={self.listening})"


@dataclass(eq=False, repr=False)
class SignIns:
    """Begins and cancels sign-ins, and sweeps up what time ended; `Exchanges` finishes them."""

    config: Config
    store: Store
    profiles: Profiles
    clients: Clients
    changes: Changes
    clock: Callable[[], float] = time.time

    async def current(self, server: str, owner: str) -> SignIn | None:
        """The latest sign-in of (owner, server) as it is by now."""
        sign_in = await self.store.sign_ins.latest(owner, server)
        return None if sign_in is None else await self.as_of_now(sign_in)

    async def reusable(self, server: Server, owner: str, origin: Requester) -> SignIn | None:
        """The open sign-in that may be handed out again, now with this origin.

        Raises:
            SignInError: it is open for somebody else, or its answer is being exchanged right now.
        """
        sign_in = await self.store.sign_ins.latest(owner, server.name)
        if sign_in is not None and sign_in.status in OPEN:
            # What it leaves behind counts for the next one.
            sign_in = await self._write_down(sign_in)
        if sign_in is None or sign_in.status not in OPEN or sign_in.server_url != server.url:
            return None
        if sign_in.origin.principal != origin.principal:
            minutes = max(1, round((sign_in.expires_at - self.clock()) / 60))
            left = "1 more minute" if minutes == 1 else f"{minutes} more minutes"
            # Perhaps the same person's, on another platform
            raise SignInError(
                f"Another account is signing {server.name} in right now; its link lives for {left}.",
                next_step=Next("cancel", server.name),
            )
        if sign_in.status in IN_FLIGHT:
            raise _exchanging(server.name)
        if sign_in.origin == origin:
            return sign_in
        # The answer goes to where the link was asked for last.
        return await self.store.sign_ins.put_if(msgspec.structs.replace(sign_in, origin=origin)) or sign_in

    async def begin(
        self,
        server: Server,
        owner: str,
        origin: Requester,
        profile: ServerProfile,
        redirect_uri: str,
        *,
        fresh: bool = False,
        with_page: bool = False,
    ) -> SignIn:
        """Make the record and its authorization URL. Registers a client when none fits.

        A step-up asks for the union of the scope of the grant that is held and the new one.
        `with_page`: the link is to be our own page, and the authorization URL is made when a browser may go on.

        Raises:
            SignInError and its children, Unreachable.
        """
        metadata = profile.metadata
        if metadata is None:
            raise ValueError("the profile must have been looked up")
        await self.store.grants.set_damaged_aside(owner, server.name)
        grant = held(await self.store.grants.get(owner, server.name, server.url or ""), owner, self.config.gateway)
        step_up = _step_up(server, profile, grant)
        scope = choose_scope(server, profile, metadata, grant if step_up else None)
        registration, is_reused = await self.clients.choose(server, profile, redirect_uri, scope, fresh=fresh)
        now = self.clock()
        slot = await self.store.sign_ins.slot(owner, server.name)
        before = await self.store.sign_ins.get(slot)
        if before is not None and before.status in OPEN and not fresh:
            # Begun by another task or process while this one looked things up: one link for all.
            open_one = await self.reusable(server, owner, origin)
            if open_one is not None:
                return open_one
            before = await self.store.sign_ins.get(slot)
        sign_in = SignIn(
            id=slot,
            server=server.name,
            owner=owner,
            server_url=server.url or "",
            status="started",
            origin=origin,
            created_at=now,
            expires_at=now + (server.oauth.timeout or LIFETIME),
            issuer=metadata.issuer,
            metadata=metadata,
            registration=registration,
            version=before.version if before else 0,
            redirect_uri=redirect_uri,
            resource=_resource(server, profile),
            scope=scope,
            step_up_scope=step_up,
            scope_before=grant.tokens.scope if grant is not None and grant.tokens is not None else None,
            registration_reused=is_reused,
        )
        if with_page:
            sign_in.binding = BrowserBinding()
        else:
            _authorize(sign_in, server)
        stored = await self.store.sign_ins.put_if(sign_in)
        if stored is not None:
            return stored
        # Somebody began the same sign-in in the same moment: theirs counts.
        again = await self.reusable(server, owner, origin)
        if again is None:
            raise SignInError(f"{server.name} is being signed in elsewhere.", next_step=Next("auth", server.name))
        return again

    def authorize(self, sign_in: SignIn) -> SignIn:
        """The record with `state`, PKCE verifier and authorization URL, not yet stored: its browser may go on.

        Raises:
            SignInError: the server is no longer configured with this URL.
        """
        server = self.config.servers.get(sign_in.server)
        if server is None or server.url != sign_in.server_url:
            raise SignInError(f"{sign_in.server} is no longer configured with that url.")
        authorized = msgspec.structs.replace(sign_in)
        _authorize(authorized, server)
        return authorized

    async def cancel(self, server: str, owner: str, *, by_us: bool = False) -> bool:
        """End the open sign-in of (owner, server). False when there is none.

        `by_us`: to put another one in its place, which says nothing of where its browser is.

        Raises:
            SignInError: its answer is being exchanged right now, which nothing calls back.
        """
        open_one: SignIn | None = None

        async def end(sign_in: SignIn | None) -> SignIn | None:
            nonlocal open_one
            open_one = sign_in if sign_in is not None and sign_in.status in OPEN else None
            if open_one is None:
                return None
            if open_one.status in IN_FLIGHT:
                raise _exchanging(server)
            return self._ended(open_one, "cancelled", Outcome("cancelled", f"The sign-in to {server} was cancelled."))

        ended = await update(server, lambda: self.current(server, owner), end, self.store.sign_ins.put_if)
        if open_one is None or ended is None:
            return False
        self.changes.end(ended)
        if not by_us and open_one.authorization_url is not None:
            await self.profiles.expire_metadata(open_one.server_url)
            await self.profiles.doubt_registration(open_one)
        return True

    async def wait(self, sign_in: SignIn, timeout: float) -> SignIn:
        """The sign-in when it has ended, in whichever process, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            change = self.changes.upcoming
            current = await self.current(sign_in.server, sign_in.owner)
            if current is None or current.created_at != sign_in.created_at:
                if sign_in.status not in WAITING:
                    return sign_in
                end = Outcome("cancelled", f"A newer sign-in to {sign_in.server} took its place.")
                return stepped(sign_in, "cancelled", self.clock(), end=end)
            left = deadline - time.monotonic()
            if current.status not in OPEN:
                await self.sweep()
                return current
            if left <= 0:
                return current
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_POLL, left)):
                    await change.wait()

    async def open(self, owner: str | None = None) -> list[SignIn]:
        """Every sign-in that is open by now."""
        stored = [await self.as_of_now(one) for one in await self.store.sign_ins.open(owner=owner)]
        return [one for one in stored if one.status in OPEN]

    async def sweep(self) -> None:
        """Write down every end that time has brought, and remove what ended a day ago; costs a look while none has."""
        for sign_in in await self.store.sign_ins.due(self.clock()):
            if sign_in.status in OPEN:
                await self._write_down(sign_in)
            else:
                await self._note_origin(sign_in)
                await self.store.sign_ins.delete_if(sign_in)

    async def as_of_now(self, sign_in: SignIn) -> SignIn:
        """The sign-in with what time has done to it: an expired link, or the claim of a process that died."""
        now, is_done = self.clock(), False
        if sign_in.status in IN_FLIGHT and sign_in.claimed_at is not None and now >= due_at(sign_in):
            grant = await self.store.grants.get(sign_in.owner, sign_in.server, sign_in.server_url)
            signed_in_at = grant.signed_in_at if grant is not None else None
            is_done = signed_in_at is not None and signed_in_at >= sign_in.claimed_at
        return as_of(sign_in, now, is_done=is_done)

    async def _write_down(self, sign_in: SignIn) -> SignIn:
        """The same, and the end is stored."""
        ended = await self.as_of_now(sign_in)
        if ended.status in OPEN:
            return sign_in
        if ended.status == "expired":
            # A server that never comes back with an answer may have forgotten us: look everything up again.
            await self.profiles.expire_metadata(sign_in.server_url)
            await self.profiles.doubt_registration(sign_in)
        stored = await self.store.sign_ins.put_if(ended)
        if stored is None:
            return await self.store.sign_ins.get(sign_in.id) or ended
        self.changes.end(stored)
        return stored

    async def _note_origin(self, sign_in: SignIn) -> None:
        """A grant of version 0.1.0 does not know who signed in."""
        grants, server = self.store.grants, sign_in.server
        try:
            grant = await grants.get(sign_in.owner, server, sign_in.server_url)
        except StoreError as error:
            logger.warning("who signed in to %s is not noted: %s", server, error.code)
            return
        if grant is not None and grant.origin is None and grant.version:
            await grants.put_if(msgspec.structs.replace(grant, origin=sign_in.origin))

    async def end(self, sign_in: SignIn, status: Status, end: Outcome | None = None) -> SignIn | None:
        """Move the record to its end, and tell of it; None when somebody else moved it first."""
        ended = await self.store.sign_ins.put_if(self._ended(sign_in, status, end))
        if ended is not None:
            self.changes.end(ended)
        return ended

    def _ended(self, sign_in: SignIn, status: Status, end: Outcome | None) -> SignIn:
        """The record at its end, not yet stored: nothing can be exchanged with it any more."""
        return stepped(sign_in, status, self.clock(), end=end, code_verifier=None, authorization_url=None)


def choose_scope(
    server: Server, profile: ServerProfile, metadata: ServerMetadata, step_up: Grant | None = None
) -> str | None:
    """The scope to ask for: configuration, else the challenge, else `scopes_supported`, else none (MCP authorization).

    `step_up` is the grant that the server found too small: the union of what it has and what was asked for on
    top (SEP-2350); never beyond a pinned `oauth.scope`. `offline_access` is added only where the authorization server
    lists it.
    """
    if step_up is not None and step_up.tokens is not None:
        chosen = f"{step_up.tokens.scope or ''} {step_up.step_up_scope or ''}".split()
    elif server.oauth.scope is not None:
        chosen = server.oauth.scope.split()
    elif profile.challenge_scope:
        chosen = profile.challenge_scope.split()
    elif profile.resource_scopes is not None:
        chosen = list(profile.resource_scopes)
    else:
        chosen = []
    if not chosen:
        return None
    if server.oauth.scope is None and "offline_access" in (metadata.scopes_supported or ()):
        chosen.append("offline_access")
    return " ".join(dict.fromkeys(chosen))


def _step_up(server: Server, profile: ServerProfile, grant: Grant | None) -> str | None:
    """The scopes to ask for on top of the grant's, or None when this is no step-up.

    Raises:
        SignInError: the authorization server did not grant them before, and would not now.
    """
    if grant is None or grant.step_up_scope is None or grant.tokens is None or grant.server_url != server.url:
        return None
    if is_pinned(server):
        # What `oauth.scope` holds is asked for anyway, and nothing else ever is.
        return None
    refused = [scope for scope in grant.step_up_scope.split() if scope in profile.refused_scopes]
    if refused:
        raise SignInError(
            f"{server.name} asks for access that the authorization server did not grant before: "
            f"{shown_scope(' '.join(refused))}.",
            next_step=Next(
                "auth", server.name, ("--fresh",), on_host=True, around="ask for that access there, then `{}`"
            ),
        )
    return grant.step_up_scope


def _authorize(sign_in: SignIn, server: Server) -> None:
    """Give the record its `state`, its PKCE verifier and the authorization URL (RFC 6749 section 4.1.1)."""
    # As many characters as RFC 7636 section 4.1 allows, in one draw; the SDK's 128 draws take a fifth of a millisecond.
    verifier = secrets.token_urlsafe(96)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    sign_in.state = f"{sign_in.id}.{secrets.token_urlsafe(32)}"
    sign_in.code_verifier = verifier
    chosen = {
        **authorize_params(sign_in.issuer),
        **scope_params(sign_in.metadata.authorization_endpoint, sign_in.scope),
        **server.oauth.authorize_params,
    }
    parameters = {
        **{name: value for name, value in chosen.items() if value is not None},
        "response_type": "code",
        "client_id": sign_in.registration.client_id,
        "redirect_uri": sign_in.redirect_uri,
        "state": sign_in.state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if sign_in.resource is not None:
        parameters["resource"] = sign_in.resource
    endpoint = urlsplit(sign_in.metadata.authorization_endpoint)
    # The endpoint may have a query of its own, which is kept (RFC 6749 section 3.1).
    own = [(k, v) for k, v in parse_qsl(endpoint.query) if k not in parameters and k not in chosen]
    query = [*own, *parameters.items()]
    sign_in.authorization_url = urlunsplit(endpoint._replace(query=urlencode(query), fragment=""))


def _resource(server: Server, profile: ServerProfile) -> str | None:
    """The resource indicator (RFC 8707): configured, else the metadata's, else the server's URL; None when off."""
    if server.oauth.resource is False:
        return None
    if isinstance(server.oauth.resource, str):
        return server.oauth.resource
    if profile.resource is not None:
        return without_query_of(server.url or "", profile.resource)
    if server.oauth.legacy:
        # 2025-03-26 knew no resource indicators.
        return None
    return resource_of(server.url or "")


def _exchanging(server: str) -> SignInError:
    return SignInError(
        f"{server} is being signed in right now.", next_step=Next("list", server, around="wait a moment, then {}")
    )
