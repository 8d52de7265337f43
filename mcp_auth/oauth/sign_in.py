"""Signing in, in two halves over one stored record: `begin` makes the link, `finish` takes the answer.

No task waits in between, so `finish` works on any replica and after any restart, once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import accounts_of, reused_name
from mcp_auth.errors import (
    AlreadyFinished,
    AuthorizationRefused,
    CallbackRejected,
    ClientRegistrationNeeded,
    McpAuthError,
    OtherBrowser,
    ServerRefused,
    SignInError,
    SignInExpired,
    TokenRequestFailed,
    UnknownSignIn,
    Unreachable,
    WrongIssuer,
    WrongPerson,
)
from mcp_auth.links.gate import Gatekeeper
from mcp_auth.net import issuers
from mcp_auth.net.http import Http
from mcp_auth.net.resources import resource_of, without_query_of
from mcp_auth.net.rules import NetworkRules, shown_host
from mcp_auth.net.sites import browser_host, issued_elsewhere
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding
from mcp_auth.oauth.challenge import BearerChallenge
from mcp_auth.oauth.discovery import Asked, ask, discover, is_warm
from mcp_auth.oauth.registration import (
    check_configured_issuer,
    configured_registration,
    metadata_document_registration,
    register,
    usable_dynamic_registration,
)
from mcp_auth.oauth.token_words import ENDS_REGISTRATION, as_word
from mcp_auth.oauth.tokens import TOKEN_TIMEOUT, TokenResponse, plain, request_tokens
from mcp_auth.oauth.vendors import authorize_params, scope_params
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import (
    Check,
    Connection,
    Gate,
    Grant,
    Origin,
    PreviousGrant,
    Registration,
    ServerMetadata,
    SignIn,
    Status,
    encode,
)
from mcp_auth.states import IN_FLIGHT, OPEN, UNPROVEN, WAITING, stepped
from mcp_auth.status import ConnectionStatus, is_pinned, shown_scope
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

if TYPE_CHECKING:
    from mcp_auth.config.variables import Variables

LIFETIME = 600.0
# A person looks at the last page meanwhile.
TRY_OUT_TIMEOUT = 10.0
# A claim older than this belongs to a process that died: the token request ends long before.
STALE_CLAIM = TOKEN_TIMEOUT + 25.0 + TRY_OUT_TIMEOUT
LEASE_TTL = 45.0
LEASE_WAIT = 40.0
_REGISTRATIONS_KEPT = 8
_REREGISTERED_EVERY = 3600.0

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


class SignIns:
    """Begins, finishes and cancels sign-ins. `changed(record)` is told of every end.

    `try_out(server, owner)` makes an authenticated call with new credentials; its result stands on the last page.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        http: Http,
        variables: Variables,
        rules: Callable[[Server], NetworkRules],
        changed: Callable[[SignIn], None],
        gatekeeper: Gatekeeper,
        try_out: Callable[[str, str], Awaitable[ConnectionStatus]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._store = store
        self._http = http
        self._variables = variables
        self._rules = rules
        self._changed = changed
        self._gatekeeper = gatekeeper
        self._try_out = try_out
        self._clock = clock
        self._running: set[asyncio.Task[SignIn]] = set()
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # -- the first half ----------------------------------------------------------------------

    async def current(self, server: str, owner: str) -> SignIn | None:
        """The latest sign-in of (owner, server), with a death that nobody wrote down yet."""
        sign_in = await self._store.sign_ins.latest(owner, server)
        return None if sign_in is None else await self._settled(sign_in)

    async def reusable(self, server: Server, owner: str, origin: Origin) -> SignIn | None:
        """The open sign-in that may be handed out again, now with this origin.

        Raises:
            SignInError: it is open for somebody else, or its answer is being exchanged right now.
        """
        sign_in = await self.current(server.name, owner)
        if sign_in is None or sign_in.status not in OPEN or sign_in.server_url != server.url:
            return None
        if sign_in.origin.principal != origin.principal:
            minutes = max(1, round((sign_in.expires_at - self._clock()) / 60))
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
        return await self._store.sign_ins.put_if(msgspec.structs.replace(sign_in, origin=origin)) or sign_in

    async def connection(self, server: Server, *, fresh: bool, asked: Asked | None = None) -> Connection:
        """What is known of the server, looked up when it is cold, or when it was `asked` just now.

        Raises:
            SignInError, Unreachable: as `discover`.
        """
        url = server.url or ""
        known = await self._store.connections.get(url)
        if not fresh and asked is None and known is not None and is_warm(known, server, self._clock()):
            return known
        prefer = _issuer_in_use(known)
        asked = asked or await self.ask(server)
        found = await discover(self._http, self._rules(server), server, asked, prefer=prefer)

        def remember(connection: Connection) -> None:
            connection.metadata = found.metadata
            connection.chosen_issuer = server.oauth.issuer
            connection.resource = found.resource
            connection.resource_scopes = found.resource_scopes
            connection.resource_name = plain(found.resource_name, 80) if found.resource_name else None
            connection.needs_sign_in = True
            connection.trouble = None
            connection.fetched_at = self._clock()
            if found.challenge is not None:
                connection.challenge_scope = found.challenge.scope
                connection.challenge_metadata_url = found.challenge.resource_metadata
            if fresh:
                connection.refused_scopes = []
                # Where a configured client belongs changes when a sign-in is finished elsewhere, not when it is begun.
                # A dynamic one is made anew; until that works, the one of before is doubted.
                connection.registrations = [
                    msgspec.structs.replace(r, doubtful=r.source == "dynamic")
                    for r in connection.registrations
                    if issuers.is_same(r.issuer, found.metadata.issuer) or r.source == "configured"
                ]

        return await self.remember(url, remember)

    async def ask(self, server: Server) -> Asked:
        """What the server says of itself; the challenge of an earlier refusal counts while it sends none.

        Raises:
            Unreachable: no answer.
        """
        known = await self._store.connections.get(server.url or "")
        challenge = None
        if known is not None and (known.challenge_scope or known.challenge_metadata_url):
            challenge = BearerChallenge(known.challenge_scope, known.challenge_metadata_url)
        return await ask(self._http, self._rules(server), server, known=challenge)

    async def remember(self, server_url: str, change: Callable[[Connection], None]) -> Connection:
        """Apply `change` to what is stored of a server, again after every lost race.

        Raises:
            StoreError: it cannot be written, or other processes change it all the time. Busy.
        """

        async def stored() -> Connection:
            return await self._store.connections.get(server_url) or Connection(server_url=server_url)

        async def changed(connection: Connection) -> Connection | None:
            before = encode(connection)
            change(connection)
            return None if encode(connection) == before and connection.version else connection

        # Tasks of this process take turns; only other processes can win a race against them.
        async with self._turns[server_url]:
            return await update("the server", stored, changed, self._store.connections.put_if)

    async def begin(
        self,
        server: Server,
        owner: str,
        origin: Origin,
        connection: Connection,
        redirect_uri: str,
        *,
        grant: Grant | None = None,
        fresh: bool = False,
        gated: bool = False,
    ) -> SignIn:
        """Make the record and its authorization URL. Registers a client when none fits.

        `grant`: what the owner holds now; a step-up asks for the union of its scope and the new one.
        `gated`: the link is to be our own page, and the authorization URL is made when a browser may go on.

        Raises:
            SignInError and its children, Unreachable.
        """
        metadata = connection.metadata
        if metadata is None:
            raise ValueError("the connection must have been looked up")
        step_up = _step_up(server, connection, grant)
        scope = choose_scope(server, connection, metadata, grant if step_up else None)
        registration, is_reused = await self._noted_registration(
            server, connection, metadata, redirect_uri, scope, fresh
        )
        now = self._clock()
        slot = await self._store.sign_ins.slot(owner, server.name)
        before = await self._store.sign_ins.get(slot)
        if before is not None and before.status in OPEN and not fresh:
            # Begun by another task or process while this one looked things up: one link for all.
            open_one = await self.reusable(server, owner, origin)
            if open_one is not None:
                return open_one
            before = await self._store.sign_ins.get(slot)
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
            resource=_resource(server, connection),
            scope=scope,
            step_up_scope=step_up,
            scope_before=grant.tokens.scope if grant is not None and grant.tokens is not None else None,
            registration_reused=is_reused,
        )
        if gated:
            sign_in.gate = Gate()
        else:
            _authorize(sign_in, server)
        stored = await self._store.sign_ins.put_if(sign_in)
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
        server = self._config.servers.get(sign_in.server)
        if server is None or server.url != sign_in.server_url:
            raise SignInError(f"{sign_in.server} is no longer configured with that url.")
        authorized = msgspec.structs.replace(sign_in)
        _authorize(authorized, server)
        return authorized

    async def _noted_registration(
        self,
        server: Server,
        connection: Connection,
        metadata: ServerMetadata,
        redirect_uri: str,
        scope: str | None,
        fresh: bool,
    ) -> tuple[Registration, bool]:
        """As `_registration`; that none could be had is kept for the status."""

        def note(connection: Connection) -> None:
            connection.registration_needed = needed

        try:
            found = await self._registration(server, connection, metadata, redirect_uri, scope, fresh)
        except ClientRegistrationNeeded as error:
            needed: str | None = error.message
            await self.remember(connection.server_url, note)
            raise
        if connection.registration_needed is not None:
            needed = None
            await self.remember(connection.server_url, note)
        return found

    async def _registration(
        self,
        server: Server,
        connection: Connection,
        metadata: ServerMetadata,
        redirect_uri: str,
        scope: str | None,
        fresh: bool,
    ) -> tuple[Registration, bool]:
        """The client to be, and whether it was registered for an earlier sign-in."""
        secret = server.oauth.client_secret
        resolved = self._variables.resolve(secret) if secret is not None else None
        configured = configured_registration(server, resolved, metadata, redirect_uri)
        if configured is not None:
            if not fresh:
                check_configured_issuer(server, metadata, connection.registrations)
            return configured, False
        by_document = metadata_document_registration(server, metadata, redirect_uri, self._config.gateway.public_url)
        if by_document is not None:
            return by_document, False
        known = usable_dynamic_registration(connection.registrations, metadata, redirect_uri, scope, self._clock())
        if known is None or fresh:
            return await register(self._http, self._rules(server), server, metadata, redirect_uri, scope), False
        if not known.doubtful:
            return known, True
        again = await self._registered_again(server, connection, metadata, redirect_uri, scope)
        return (again, False) if again is not None else (known, True)

    async def _registered_again(
        self, server: Server, connection: Connection, metadata: ServerMetadata, redirect_uri: str, scope: str | None
    ) -> Registration | None:
        """A new client in place of a doubtful one, once an hour. None: not now, so the doubtful one has to do."""
        now = self._clock()
        is_time = False

        def take_turn(connection: Connection) -> None:
            nonlocal is_time
            last = connection.reregistered_at
            is_time = last is None or not 0 <= now - last < _REREGISTERED_EVERY
            if is_time:
                connection.reregistered_at = now

        await self.remember(connection.server_url, take_turn)
        if not is_time:
            return None
        try:
            registration = await register(self._http, self._rules(server), server, metadata, redirect_uri, scope)
        except (SignInError, Unreachable) as error:
            logger.warning("%s registered no new client in place of a doubtful one: %s", server.name, error.code)
            return None
        # Kept before it has worked: the next sign-in within the hour is not to register once more.
        await self.remember(connection.server_url, lambda connection: _keep_registration(connection, registration))
        return registration

    # -- the second half ---------------------------------------------------------------------

    async def finish(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        """Take the answer of the authorization server. Succeeds at most once for a sign-in.

        Behind a link of ours, its own browser gets an ended sign-in back as it is: a page may be loaded again.

        Raises:
            CallbackRejected and its children: nothing was changed, the right answer still counts.
            AuthorizationRefused, TokenRequestFailed: the sign-in ended without tokens; an old grant is kept.
        """
        is_ours = False

        async def claim(sign_in: SignIn) -> SignIn | None:
            nonlocal is_ours
            is_ours = sign_in.status in WAITING
            if not is_ours:
                return None
            await self._check_proven(sign_in, answer, binding)
            if answer.error is not None:
                await self._refuse(sign_in, answer)
            if answer.code is None:
                raise CallbackRejected(
                    "The address holds no code.", next_step="copy the whole address of the last page"
                )
            now = self._clock()
            return stepped(sign_in, "exchanging", now, claimed_at=now)

        claimed = await update(
            "the sign-in", lambda: self._answered(answer, binding), claim, self._store.sign_ins.put_if
        )
        if not is_ours:
            return claimed
        # A browser that closes its connection must not leave a code half exchanged.
        task = asyncio.create_task(self._exchange(claimed, answer.code or ""))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def ask_last(self, answer: AuthorizationResponse, binding: Binding) -> tuple[SignIn, str | None]:
        """The answer of the authorization server in a browser without script: the last page's one-time secret.

        None: it has ended, or is being exchanged.

        Raises:
            As `finish`.
        """
        sign_in = await self._answered(answer, binding)
        if sign_in.status not in WAITING:
            return sign_in, None
        if answer.code is None:
            raise CallbackRejected("The address holds no code.", next_step=Next("auth", around="begin again with {}"))
        return await self._gatekeeper.ask_last(sign_in, answer.code, identity=binding.identity)

    async def last_page(self, answer: AuthorizationResponse, binding: Binding, secret: str) -> SignIn | None:
        """The sign-in for its last page with this one-time secret, shown again. None: a newer one has to be made.

        Raises:
            As `finish`.
        """
        sign_in = await self._answered(answer, binding)
        return await self._gatekeeper.show_last_again(sign_in, answer.code or "", secret)

    async def _answered(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        """The sign-in that this answer belongs to, in these hands. Behind a link of ours it may have ended."""
        sign_in = await self._find(answer, binding)
        if sign_in.gate is not None:
            self._check_browser(sign_in, answer, binding)
            if sign_in.status not in WAITING:
                return sign_in
        if sign_in.status not in OPEN:
            raise _ended(sign_in)
        if sign_in.status in IN_FLIGHT:
            raise AlreadyFinished(f"{sign_in.server} is being signed in right now with this link.")
        self._check_binding(sign_in, answer, binding)
        _check_issuer(sign_in, answer)
        return sign_in

    async def _check_proven(self, sign_in: SignIn, answer: AuthorizationResponse, binding: Binding) -> None:
        if sign_in.gate is None:
            # No page of ours, so no proof was to be had: it was begun for one person, or the operator takes the risk.
            await self._gatekeeper.check_still(sign_in, may_be_unproven=self._config.gateway.allow_paste)
        elif sign_in.gate.kept_in == "cookie" and answer.code is not None and answer.error is None:
            await self._gatekeeper.check_last(sign_in, answer.code, binding.last, binding.identity)
        elif answer.error is None:
            await self._gatekeeper.check_end(sign_in, binding.browser)

    async def _find(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        if answer.state is None and answer.code is not None and binding.principal is not None:
            return await self._only_open(binding.principal)
        slot = answer.slot
        sign_in = await self._store.sign_ins.get(slot) if slot else None
        if sign_in is None or sign_in.state is None or answer.state is None:
            raise _unknown()
        if not hmac.compare_digest(sign_in.state.encode(), answer.state.encode()):
            raise _unknown()
        return await self._settled(sign_in)

    async def _only_open(self, principal: str) -> SignIn:
        """The sign-in that a bare code can only belong to."""
        now = self._clock()
        fitting = [
            sign_in
            for sign_in in await self._store.sign_ins.list()
            if sign_in.status in WAITING
            and sign_in.expires_at > now
            and sign_in.origin.principal == principal
            and sign_in.gate is None
            and not sign_in.metadata.authorization_response_iss_parameter_supported
        ]
        if len(fitting) != 1:
            raise CallbackRejected(
                "A bare code does not say which sign-in it belongs to.",
                next_step=Next("paste", arguments=("URL",), around="paste the whole address of the last page: {}"),
            )
        return fitting[0]

    def _check_browser(self, sign_in: SignIn, answer: AuthorizationResponse, binding: Binding) -> None:
        """A sign-in behind a link of ours: its own path, its own browser, and only once that one may go on."""
        if binding.principal is not None:
            raise CallbackRejected("This sign-in ends on its own page; there is nothing to paste.")
        if answer.redirect_uri != sign_in.redirect_uri:
            raise CallbackRejected("The answer arrived at another address than the one that was registered.")
        if not self._gatekeeper.is_bound(sign_in, binding.browser):
            raise OtherBrowser(
                "The sign-in was begun there, or this browser no longer has what it kept for it. Nothing was changed.",
                next_step="go back to that browser, or ask for a new link in the chat",
            )
        if sign_in.status in UNPROVEN:
            raise _unknown()

    def _check_binding(self, sign_in: SignIn, answer: AuthorizationResponse, binding: Binding) -> None:
        if binding.principal is not None and binding.principal != sign_in.origin.principal:
            raise WrongPerson(
                "This sign-in was begun by somebody else; only that person can finish it.",
                next_step=Next("auth", around="begin your own with {}"),
            )
        if binding.principal is not None and not _is_loopback_redirect(sign_in.redirect_uri):
            raise CallbackRejected("This sign-in ends on its own page; there is nothing to paste.")
        if answer.redirect_uri is not None and answer.redirect_uri.lower() != sign_in.redirect_uri.lower():
            raise CallbackRejected("The answer arrived at another address than the one that was registered.")

    async def _refuse(self, sign_in: SignIn, answer: AuthorizationResponse) -> NoReturn:
        error = plain(answer.error or "", 60) or "error"
        said = plain(answer.error_description, 160) if answer.error_description else None
        denied = error == "access_denied"
        what = "Access was denied" if denied else f"The authorization server answered {error}"
        sentence = f"{what}: {said}." if said else f"{what}."
        refused = AuthorizationRefused(sentence, server=sign_in.server, next_step=Next("auth", sign_in.server))
        ended = await self._step(sign_in, "refused" if denied else "failed", refused.outcome)
        if ended is None:
            raise AlreadyFinished(f"{sign_in.server} is being signed in with this link already.")
        self._changed(ended)
        await self._forget_if_dead(sign_in, as_word(error) in ENDS_REGISTRATION, error)
        raise refused

    async def _exchange(self, sign_in: SignIn, code: str) -> SignIn:
        server = self._config.servers.get(sign_in.server)
        try:
            if server is None or server.url != sign_in.server_url:
                raise TokenRequestFailed(f"{sign_in.server} is no longer configured with that url.")
            outcome = await self._request(server, sign_in, code)
            _check_tenant(sign_in, outcome)
            await self._store_grant(sign_in, outcome)
        except McpAuthError as error:
            await self._failed(sign_in, error)
            raise
        except Exception as error:
            # Whatever it is, the chat hears of the end, and nobody waits for a code that is spent.
            logger.error("the sign-in to %s ended in %s", sign_in.server, type(error).__name__)
            sentence = f"Something went wrong on our side while {sign_in.server} was being signed in."
            await self._failed(sign_in, SignInError(sentence, next_step=Next("auth", sign_in.server)))
            raise
        await self._keep_for_next(sign_in, outcome)
        if sign_in.gate is not None:
            sign_in = await self._tried_out(sign_in)
        ended = await self._end_of_exchange(msgspec.structs.replace(sign_in, account=outcome.account))
        self._changed(ended)
        return ended

    async def _failed(self, sign_in: SignIn, error: McpAuthError) -> None:
        names_it = isinstance(error, SignInError) or error.server is not None
        outcome = error.outcome if names_it else msgspec.structs.replace(error.outcome, server=sign_in.server)
        failed = await self._step(sign_in, "failed", outcome)
        if failed is not None:
            self._changed(failed)

    async def _tried_out(self, sign_in: SignIn) -> SignIn:
        """The record with what the server says to the new credentials, for the page that waits for it."""
        try:
            result = await self._try_out(sign_in.server, sign_in.owner)
        except Exception as error:  # noqa: BLE001 - the grant is stored; whoever waits for the end tries it again
            logger.error("the new access to %s could not be tried: %s", sign_in.server, type(error).__name__)
            return sign_in
        check = Check(state=result.state.value, tools=result.tools, ms=result.ms, detail=result.detail)
        return msgspec.structs.replace(sign_in, check=check)

    async def _end_of_exchange(self, sign_in: SignIn) -> SignIn:
        if sign_in.check is not None and sign_in.check.state == "refused":
            why = f" ({sign_in.check.detail.rstrip('.')})" if sign_in.check.detail else ""
            sentence = f"The sign-in was finished, but the server refuses it{why}."
            refused = ServerRefused(sentence, server=sign_in.server, next_step=Next("auth", sign_in.server))
            ended = await self._step(sign_in, "failed", refused.outcome)
        else:
            ended = await self._step(sign_in, "done")
        return ended or sign_in

    async def _request(self, server: Server, sign_in: SignIn, code: str) -> TokenResponse:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": sign_in.redirect_uri,
            "code_verifier": sign_in.code_verifier or "",
        }
        if sign_in.resource is not None:
            form["resource"] = sign_in.resource
        again = Next("auth", sign_in.server)
        host = shown_host(urlsplit(sign_in.metadata.token_endpoint).hostname or "")
        try:
            answer = await request_tokens(
                self._http, self._rules(server), sign_in.metadata, sign_in.registration, form, now=self._clock()
            )
        except Unreachable as error:
            # It may be elsewhere by now.
            await self.expire_metadata(sign_in.server_url)
            raise TokenRequestFailed(
                f"The code could not be exchanged: {error.message}", server=sign_in.server, next_step=again
            ) from None
        if isinstance(answer, TokenResponse):
            return answer
        await self._forget_if_dead(sign_in, answer.meaning == "registration", answer.error)
        if answer.meaning == "refused" and answer.status in (401, 403) and not answer.is_oauth:
            # RFC 6749 section 5.2 has 401 for clients that are not known, and not everybody says more than that.
            await self._doubt_registration(sign_in)
        if answer.is_gone:
            await self.expire_metadata(sign_in.server_url)
        raise TokenRequestFailed(
            f"{host} did not give a token ({answer.sentence()}).", server=sign_in.server, next_step=again
        )

    async def _store_grant(self, sign_in: SignIn, answer: TokenResponse) -> None:
        now = self._clock()
        async with self._store.lease(sign_in.owner, sign_in.server, ttl=LEASE_TTL, wait=LEASE_WAIT):
            # Damaged since the link was made: kept beside the new one.
            await self._store.grants.set_damaged_aside(sign_in.owner, sign_in.server)

            async def replace(old: Grant | None) -> Grant:
                version, gateway = old.version if old else 0, self._config.gateway
                if old is not None and reused_name(old.owner, old.accounts, gateway):
                    # Nothing of somebody else's goes along, and nothing of it comes back.
                    old = None
                tokens = answer.tokens
                if tokens.scope is None:
                    # RFC 6749 section 5.1: left out means granted as asked.
                    tokens = msgspec.structs.replace(tokens, scope=sign_in.scope)
                return Grant(
                    server=sign_in.server,
                    owner=sign_in.owner,
                    server_url=sign_in.server_url,
                    version=version,
                    issuer=answer.id_token_issuer if issuers.is_template(sign_in.issuer) else sign_in.issuer,
                    metadata=sign_in.metadata,
                    registration=sign_in.registration,
                    tokens=tokens,
                    resource=sign_in.resource,
                    scope_requested=sign_in.scope,
                    account=answer.account,
                    accounts=accounts_of(sign_in.owner, gateway),
                    keys=old.keys if old else {},
                    signed_in_at=now,
                    mirror_sha256=old.mirror_sha256 if old else None,
                    previous=previous_of(old, sign_in.server_url, now),
                )

            await update(
                sign_in.server,
                lambda: self._store.grants.get(sign_in.owner, sign_in.server, sign_in.server_url),
                replace,
                self._store.grants.put_if,
            )

    async def _keep_for_next(self, sign_in: SignIn, answer: TokenResponse) -> None:
        now = self._clock()
        try:
            await self.remember(sign_in.server_url, lambda connection: _keep(connection, sign_in, answer, now))
        except Exception as error:  # noqa: BLE001 - the grant is stored and good; the next sign-in registers anew
            name = type(error).__name__
            logger.warning("the registration at %s is not kept for the next sign-in: %s", sign_in.server, name)

    # -- ends --------------------------------------------------------------------------------

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
            return self._moved(open_one, "cancelled", Outcome("cancelled", f"The sign-in to {server} was cancelled."))

        ended = await update(server, lambda: self.current(server, owner), end, self._store.sign_ins.put_if)
        if open_one is None or ended is None:
            return False
        self._changed(ended)
        if not by_us and open_one.authorization_url is not None:
            await self.expire_metadata(open_one.server_url)
            await self._doubt_registration(open_one)
        return True

    async def open(self, owner: str | None = None) -> list[SignIn]:
        """Every open sign-in; the dead are written down on the way."""
        found = []
        for stored in await self._store.sign_ins.list():
            if stored.status in OPEN and (owner is None or stored.owner == owner):
                sign_in = await self._settled(stored)
                if sign_in.status in OPEN:
                    found.append(sign_in)
        return found

    async def expire_metadata(self, server_url: str) -> None:
        """The next sign-in looks everything up anew."""
        await self.remember(server_url, _expire_metadata)

    async def _doubt_registration(self, sign_in: SignIn) -> None:
        """A browser was sent on and never came back: maybe the page there said that it does not know our client."""
        used = sign_in.registration
        if used.source != "dynamic" or sign_in.authorization_url is None or sign_in.status == "answered":
            return

        def doubt(connection: Connection) -> None:
            connection.registrations = [
                msgspec.structs.replace(r, doubtful=True)
                if (issuers.bare(r.issuer), r.client_id) == (issuers.bare(used.issuer), used.client_id)
                and (r.worked_at is None or r.worked_at < sign_in.created_at)
                else r
                for r in connection.registrations
            ]

        await self.remember(sign_in.server_url, doubt)

    async def _forget_if_dead(self, sign_in: SignIn, is_dead: bool, error: str | None) -> None:
        """What an error says of our client: not known any more, or known for less than is asked for now."""
        is_too_small = sign_in.registration_reused and as_word(error or "") == "invalid_scope"
        if is_dead or is_too_small:
            await self.forget_registration(sign_in.server_url, sign_in.registration)

    async def forget_dynamic_registrations(self, server_url: str) -> None:
        """After a sign-out: the next sign-in registers anew. Each grant has its own copy."""
        if await self._store.connections.get(server_url) is None:
            return

        def forget(connection: Connection) -> None:
            connection.registrations = [r for r in connection.registrations if r.source != "dynamic"]

        await self.remember(server_url, forget)

    async def forget_registration(self, server_url: str, dead: Registration) -> None:
        """A registration that the issuer no longer knows: discovery and registration anew at the next sign-in."""

        def forget(connection: Connection) -> None:
            connection.registrations = [
                r
                for r in connection.registrations
                if r.client_id != dead.client_id or not issuers.is_same(r.issuer, dead.issuer)
            ]
            connection.fetched_at = None

        await self.remember(server_url, forget)

    async def drain(self) -> None:
        """Wait for exchanges under way; each is bounded by the deadline of a token request."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=TOKEN_TIMEOUT + LEASE_WAIT + TRY_OUT_TIMEOUT)

    async def _settled(self, sign_in: SignIn) -> SignIn:
        """The record with what time did to it: an expired link, or the claim of a process that died."""
        now = self._clock()
        again = Next("auth", sign_in.server)
        if sign_in.status in IN_FLIGHT and sign_in.claimed_at is not None and now > sign_in.claimed_at + STALE_CLAIM:
            grant = await self._store.grants.get(sign_in.owner, sign_in.server, sign_in.server_url)
            if grant is not None and grant.signed_in_at is not None and grant.signed_in_at >= sign_in.claimed_at:
                ended = await self._step(sign_in, "done")
            else:
                sentence = f"The sign-in to {sign_in.server} was interrupted before it was finished."
                ended = await self._step(sign_in, "failed", SignInError(sentence, next_step=again).outcome)
        elif sign_in.status in WAITING and now >= sign_in.expires_at:
            # A server that never comes back with an answer may have forgotten us: look everything up again.
            await self.remember(sign_in.server_url, _expire_metadata)
            await self._doubt_registration(sign_in)
            sentence = f"The link for {sign_in.server} has expired."
            ended = await self._step(sign_in, "expired", SignInExpired(sentence, next_step=again).outcome)
        else:
            return sign_in
        if ended is None:
            return await self._store.sign_ins.get(sign_in.id) or sign_in
        self._changed(ended)
        return ended

    async def _step(self, sign_in: SignIn, status: Status, end: Outcome | None = None) -> SignIn | None:
        """Move the record one step further; None when somebody else moved it first."""
        return await self._store.sign_ins.put_if(self._moved(sign_in, status, end))

    def _moved(self, sign_in: SignIn, status: Status, end: Outcome | None) -> SignIn:
        """The record at its end, not yet stored: nothing can be exchanged with it any more."""
        return stepped(sign_in, status, self._clock(), end=end, code_verifier=None, authorization_url=None)


def choose_scope(
    server: Server, connection: Connection, metadata: ServerMetadata, step_up: Grant | None = None
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
    elif connection.challenge_scope:
        chosen = connection.challenge_scope.split()
    elif connection.resource_scopes is not None:
        chosen = list(connection.resource_scopes)
    else:
        chosen = []
    if not chosen:
        return None
    if server.oauth.scope is None and "offline_access" in (metadata.scopes_supported or ()):
        chosen.append("offline_access")
    return " ".join(dict.fromkeys(chosen))


def _step_up(server: Server, connection: Connection, grant: Grant | None) -> str | None:
    """The scopes to ask for on top of the grant's, or None when this is no step-up.

    Raises:
        SignInError: the authorization server did not grant them before, and would not now.
    """
    if grant is None or grant.step_up_scope is None or grant.tokens is None or grant.server_url != server.url:
        return None
    if is_pinned(server):
        # What `oauth.scope` holds is asked for anyway, and nothing else ever is.
        return None
    refused = [scope for scope in grant.step_up_scope.split() if scope in connection.refused_scopes]
    if refused:
        raise SignInError(
            f"{server.name} asks for access that the authorization server did not grant before: "
            f"{shown_scope(' '.join(refused))}.",
            next_step=Next(
                "auth", server.name, ("--fresh",), on_host=True, around="ask for that access there, then `{}`"
            ),
        )
    return grant.step_up_scope


def previous_of(old: Grant | None, server_url: str, now: float) -> PreviousGrant | None:
    """What a re-authorization must be able to bring back: the old grant, when it is still worth something."""
    if old is None:
        return None
    if old.previous is not None:
        # The grant in between never worked; the one before it is the good one.
        return old.previous
    tokens = old.tokens
    if tokens is None or old.server_url != server_url or old.reauthorization is not None:
        return None
    if tokens.refresh_token is None and tokens.expires_at is not None and tokens.expires_at <= now:
        return None
    return PreviousGrant(
        issuer=old.issuer,
        metadata=old.metadata,
        registration=old.registration,
        tokens=tokens,
        resource=old.resource,
        scope_requested=old.scope_requested,
        account=old.account,
        signed_in_at=old.signed_in_at,
        reauthorization=old.reauthorization,
        registration_dead=old.registration_dead,
    )


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


def _resource(server: Server, connection: Connection) -> str | None:
    """The resource indicator (RFC 8707): configured, else the metadata's, else the server's URL; None when off."""
    if server.oauth.resource is False:
        return None
    if isinstance(server.oauth.resource, str):
        return server.oauth.resource
    if connection.resource is not None:
        return without_query_of(server.url or "", connection.resource)
    if server.oauth.legacy:
        # 2025-03-26 knew no resource indicators.
        return None
    return resource_of(server.url or "")


def _check_issuer(sign_in: SignIn, answer: AuthorizationResponse) -> None:
    """RFC 9207 section 2.4, before anything of the answer is acted on or shown; raw strings, no normalisation."""
    if answer.iss is None:
        if sign_in.metadata.authorization_response_iss_parameter_supported:
            raise WrongIssuer(
                "The answer does not say which authorization server it comes from, although this one always does.",
                next_step=Next("auth", sign_in.server, around="paste the whole address, or begin again with {}"),
            )
        return
    if answer.iss != sign_in.issuer and not (
        issuers.is_template(sign_in.issuer) and issuers.fits(sign_in.issuer, answer.iss)
    ):
        raise WrongIssuer(
            "The answer comes from another authorization server than the one that was asked; it was not used.",
            next_step=Next("auth", sign_in.server, around="begin again with {}, and report it when it happens twice"),
        )


def _check_tenant(sign_in: SignIn, answer: TokenResponse) -> None:
    """Where the issuer is a template (`oauth.issuer`), only the id token says who really issued the tokens.

    Raises:
        TokenRequestFailed: it says somebody else, or there is none.
    """
    wanted, said = sign_in.metadata.id_token_issuer, answer.id_token_issuer
    # The template itself is no tenant.
    if wanted is None or (said is not None and issuers.fits(wanted, said)):
        return
    if said is None:
        raise TokenRequestFailed(
            f"The tokens came without an id token, and only that could say which tenant of {wanted} issued them; "
            "they were not stored.",
            next_step="add openid to oauth.scope, or set oauth.issuer to the one of your tenant",
        )
    raise TokenRequestFailed(
        f"The tokens were issued by {plain(said, 160)}, which is not {wanted} as oauth.issuer wants it; "
        "they were not stored.",
        next_step="sign in with an account of that tenant, or correct oauth.issuer",
    )


def _keep(connection: Connection, sign_in: SignIn, answer: TokenResponse, now: float) -> None:
    """After a success: the registration is worth keeping, and scopes that were not granted are not asked for again."""
    last = connection.registrations[-1:]
    worked_at = last[0].worked_at if last and last[0].client_id == sign_in.registration.client_id else None
    if worked_at is None or worked_at < sign_in.created_at:
        # Else it is known to work since this sign-in began: of many that end together, the first one notes it.
        worked_at = now
    used = msgspec.structs.replace(sign_in.registration, worked_at=worked_at, doubtful=False)
    # The configured secret stays in the configuration; only the binding to the issuer is remembered.
    kept = msgspec.structs.replace(used, client_secret=None) if used.source == "configured" else used
    _keep_registration(connection, kept)
    if sign_in.step_up_scope is not None and answer.tokens.scope is not None:
        granted = answer.tokens.scope.split()
        missing = [scope for scope in sign_in.step_up_scope.split() if scope not in granted]
        connection.refused_scopes = list(dict.fromkeys([*connection.refused_scopes, *missing]))[-50:]


def _keep_registration(connection: Connection, used: Registration) -> None:
    others = [
        r
        for r in connection.registrations
        if (issuers.bare(r.issuer), r.redirect_uri, r.source)
        != (issuers.bare(used.issuer), used.redirect_uri, used.source)
        and not (used.source == r.source == "configured" and r.client_id == used.client_id)
    ]
    connection.registrations = [*others, used][-_REGISTRATIONS_KEPT:]


def _issuer_in_use(known: Connection | None) -> str | None:
    """The issuer that was signed in at before; one that was only tried binds nobody."""
    issuer = known.metadata.issuer if known is not None and known.metadata is not None else None
    if known is None or not any(issuers.is_same(one.issuer, issuer) for one in known.registrations):
        return None
    return issuer


def _expire_metadata(connection: Connection) -> None:
    connection.fetched_at = None


def _is_loopback_redirect(uri: str) -> bool:
    from mcp_auth.net.rules import is_loopback_url

    return is_loopback_url(uri)


def _exchanging(server: str) -> SignInError:
    return SignInError(
        f"{server} is being signed in right now.", next_step=Next("list", server, around="wait a moment, then {}")
    )


def _unknown() -> UnknownSignIn:
    return UnknownSignIn(
        "No open sign-in belongs to this address; it may be of an older link.",
        next_step=Next("auth", around="begin again with {}"),
    )


def _ended(sign_in: SignIn) -> CallbackRejected:
    again = Next("auth", sign_in.server)
    if sign_in.status == "expired":
        return SignInExpired(f"The link for {sign_in.server} has expired.", next_step=again)
    if sign_in.status == "done":
        return AlreadyFinished(
            f"This link has signed {sign_in.server} in already.", next_step=Next("list", sign_in.server)
        )
    words = {"refused": "was refused", "failed": "failed", "cancelled": "was cancelled"}
    return AlreadyFinished(f"The sign-in to {sign_in.server} {words[sign_in.status]} before.", next_step=again)
