"""The second half of signing in: `finish` takes the answer of the authorization server, and exchanges its code."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol
from urllib.parse import urlsplit

import msgspec

from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import accounts_of, reused_name
from mcp_auth.config.servers import Servers
from mcp_auth.errors import (
    AlreadyFinished,
    AuthorizationRefused,
    CallbackRejected,
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
from mcp_auth.links.verification import LinkVerifier
from mcp_auth.net import issuers
from mcp_auth.net.http import Http
from mcp_auth.net.rules import is_loopback_url, shown_host
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding, parse_paste, pasted_slot
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.sign_in import LEASE_TTL, LEASE_WAIT, TRY_OUT_TIMEOUT, SignIns
from mcp_auth.oauth.token_words import ENDS_REGISTRATION, as_word
from mcp_auth.oauth.tokens import TOKEN_TIMEOUT, TokenResponse, plain, request_tokens
from mcp_auth.outcome import Next
from mcp_auth.records import Authorization, Check, Grant, SignIn
from mcp_auth.states import IN_FLIGHT, OPEN, UNPROVEN, WAITING, stepped
from mcp_auth.status import ConnectionStatus
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

logger = logging.getLogger(__name__)


class Prober(Protocol):
    """Makes an authenticated call with new credentials."""

    async def try_out(self, server: str, owner: str, timeout: float) -> ConnectionStatus: ...


@dataclass(eq=False, repr=False)
class Exchanges:
    """Finishes sign-ins. `prober`: what it hears of new credentials stands on the last page."""

    config: Config
    servers: Servers
    store: Store
    http: Http
    profiles: Profiles
    sign_ins: SignIns
    verifier: LinkVerifier
    prober: Prober
    clock: Callable[[], float] = time.time
    _running: set[asyncio.Task[SignIn]] = field(default_factory=set, init=False)

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
            now = self.clock()
            return stepped(sign_in, "exchanging", now, claimed_at=now)

        claimed = await update(
            "the sign-in", lambda: self._find_answered(answer, binding), claim, self.store.sign_ins.put_if
        )
        if not is_ours:
            return claimed
        # A browser that closes its connection must not leave a code half exchanged.
        task = asyncio.create_task(self._exchange(claimed, answer.code or ""))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def paste(self, text: str, principal: str) -> SignIn:
        """As `finish`, with what a person copied: the whole URL, its query, `code#state`, or the bare code."""
        return await self.finish(parse_paste(text), Binding(principal=principal))

    async def claims(self, text: str) -> bool:
        """Whether a bare text is the redirect URL of a sign-in of ours."""
        slot = pasted_slot(text)
        return slot is not None and await self.store.sign_ins.get(slot) is not None

    async def ask_last(self, answer: AuthorizationResponse, binding: Binding) -> tuple[SignIn, str | None]:
        """The answer of the authorization server in a browser without script: the last page's one-time secret.

        None: it has ended, or is being exchanged.

        Raises:
            As `finish`.
        """
        sign_in = await self._find_answered(answer, binding)
        if sign_in.status not in WAITING:
            return sign_in, None
        if answer.code is None:
            raise CallbackRejected("The address holds no code.", next_step=Next("auth", around="begin again with {}"))
        return await self.verifier.ask_last(sign_in, answer.code, identity=binding.identity)

    async def last_page(self, answer: AuthorizationResponse, binding: Binding, secret: str) -> SignIn | None:
        """The sign-in for its last page with this one-time secret, shown again. None: a newer one has to be made.

        Raises:
            As `finish`.
        """
        sign_in = await self._find_answered(answer, binding)
        return await self.verifier.show_last_again(sign_in, answer.code or "", secret)

    async def _find_answered(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        """The sign-in that this answer belongs to, in these hands. Behind a link of ours it may have ended."""
        sign_in = await self._find(answer, binding)
        if sign_in.binding is not None:
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
        if sign_in.binding is None:
            # No page of ours, so no proof was to be had: it was begun for one person, or the operator takes the risk.
            await self.verifier.check_still(sign_in, may_be_unproven=self.config.gateway.allow_paste)
        elif sign_in.binding.kept_in == "cookie" and answer.code is not None and answer.error is None:
            await self.verifier.check_last(sign_in, answer.code, binding.last, binding.identity)
        elif answer.error is None:
            await self.verifier.check_end(sign_in, binding.browser)

    async def _find(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        if answer.state is None and answer.code is not None and binding.principal is not None:
            return await self._only_open(binding.principal)
        slot = answer.slot
        sign_in = await self.store.sign_ins.get(slot) if slot else None
        if sign_in is None or sign_in.state is None or answer.state is None:
            raise _unknown()
        if not hmac.compare_digest(sign_in.state.encode(), answer.state.encode()):
            raise _unknown()
        return await self.sign_ins.as_of_now(sign_in)

    async def _only_open(self, principal: str) -> SignIn:
        """The sign-in that a bare code can only belong to."""
        now = self.clock()
        fitting = [
            sign_in
            for sign_in in await self.store.sign_ins.open(principal=principal)
            if sign_in.status in WAITING
            and sign_in.expires_at > now
            and sign_in.binding is None
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
        if not self.verifier.is_bound(sign_in, binding.browser):
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
        if binding.principal is not None and not is_loopback_url(sign_in.redirect_uri):
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
        if await self.sign_ins.end(sign_in, "refused" if denied else "failed", refused.outcome) is None:
            raise AlreadyFinished(f"{sign_in.server} is being signed in with this link already.")
        await self.profiles.forget_if_dead(sign_in, as_word(error) in ENDS_REGISTRATION, error)
        raise refused

    async def _exchange(self, sign_in: SignIn, code: str) -> SignIn:
        server = self.config.servers.get(sign_in.server)
        try:
            if server is None or server.url != sign_in.server_url:
                raise TokenRequestFailed(f"{sign_in.server} is no longer configured with that url.")
            outcome = await self._request(server, sign_in, code)
            _check_tenant(sign_in, outcome)
            await self._store_grant(sign_in, outcome)
        except McpAuthError as error:
            names_it = isinstance(error, SignInError) or error.server is not None
            end = error.outcome if names_it else msgspec.structs.replace(error.outcome, server=sign_in.server)
            await self.sign_ins.end(sign_in, "failed", end)
            raise
        except Exception as unforeseen:
            # Whatever it is, the chat hears of the end, and nobody waits for a code that is spent.
            logger.error("the sign-in to %s ended in %s", sign_in.server, type(unforeseen).__name__)
            sentence = f"Something went wrong on our side while {sign_in.server} was being signed in."
            ours = SignInError(sentence, next_step=Next("auth", sign_in.server))
            await self.sign_ins.end(sign_in, "failed", ours.outcome)
            raise
        await self.profiles.keep_for_next(sign_in, outcome)
        if sign_in.binding is not None:
            sign_in = await self._try_out(sign_in)
        sign_in = msgspec.structs.replace(sign_in, account=outcome.account)
        if sign_in.check is None or sign_in.check.state != "refused":
            return await self.sign_ins.end(sign_in, "done") or sign_in
        why = f" ({sign_in.check.detail.rstrip('.')})" if sign_in.check.detail else ""
        sentence = f"The sign-in was finished, but the server refuses it{why}."
        refused = ServerRefused(sentence, server=sign_in.server, next_step=Next("auth", sign_in.server))
        return await self.sign_ins.end(sign_in, "failed", refused.outcome) or sign_in

    async def _try_out(self, sign_in: SignIn) -> SignIn:
        """The record with what the server says to the new credentials, for the page that waits for it."""
        try:
            result = await self.prober.try_out(sign_in.server, sign_in.owner, TRY_OUT_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - the grant is stored; whoever waits for the end tries it again
            logger.error("the new access to %s could not be tried: %s", sign_in.server, type(error).__name__)
            return sign_in
        check = Check(state=result.state.value, tools=result.tools, ms=result.ms, detail=result.detail)
        return msgspec.structs.replace(sign_in, check=check)

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
                self.http, self.servers.rules(server), sign_in.metadata, sign_in.registration, form, now=self.clock()
            )
        except Unreachable as error:
            # It may be elsewhere by now.
            await self.profiles.expire_metadata(sign_in.server_url)
            raise TokenRequestFailed(
                f"The code could not be exchanged: {error.message}", server=sign_in.server, next_step=again
            ) from None
        if isinstance(answer, TokenResponse):
            return answer
        await self.profiles.forget_if_dead(sign_in, answer.meaning == "registration", answer.error)
        if answer.meaning == "refused" and answer.status in (401, 403) and not answer.is_oauth:
            # RFC 6749 section 5.2 has 401 for clients that are not known, and not everybody says more than that.
            await self.profiles.doubt_registration(sign_in)
        if answer.is_gone:
            await self.profiles.expire_metadata(sign_in.server_url)
        raise TokenRequestFailed(
            f"{host} did not give a token ({answer.sentence()}).", server=sign_in.server, next_step=again
        )

    async def _store_grant(self, sign_in: SignIn, answer: TokenResponse) -> None:
        now = self.clock()
        async with self.store.grants.lease(sign_in.owner, sign_in.server, ttl=LEASE_TTL, wait=LEASE_WAIT):
            # Damaged since the link was made: kept beside the new one.
            await self.store.grants.set_damaged_aside(sign_in.owner, sign_in.server)

            async def replace(stored: Grant | None) -> Grant:
                old, gateway = stored, self.config.gateway
                if old is not None and reused_name(old.owner, old.accounts, gateway):
                    # Nothing of somebody else's goes along, and nothing of it comes back.
                    old = None
                tokens = answer.tokens
                if tokens.scope is None:
                    # RFC 6749 section 5.1: left out means granted as asked.
                    tokens = msgspec.structs.replace(tokens, scope=sign_in.scope)
                new = Grant(
                    server=sign_in.server,
                    owner=sign_in.owner,
                    server_url=sign_in.server_url,
                    version=stored.version if stored else 0,
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
                    origin=msgspec.structs.replace(sign_in.origin, message=None),
                    previous=previous_of(old, sign_in.server_url, now),
                )
                # What the store has noted beside the grant stays with it.
                return msgspec.structs.replace(stored, **msgspec.structs.asdict(new)) if stored else new

            await update(
                sign_in.server,
                lambda: self.store.grants.get(sign_in.owner, sign_in.server, sign_in.server_url),
                replace,
                self.store.grants.put_if,
            )

    async def drain(self) -> None:
        """Wait for exchanges under way; each is bounded by the deadline of a token request."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=TOKEN_TIMEOUT + LEASE_WAIT + TRY_OUT_TIMEOUT)


def previous_of(old: Grant | None, server_url: str, now: float) -> Authorization | None:
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
    return Authorization(**old.brought)


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
