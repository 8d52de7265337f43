"""What is known of each server, without anybody's credentials: looked up, remembered and doubted."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from mcp_auth.config.models import Server
from mcp_auth.config.servers import Servers
from mcp_auth.errors import NoMetadata, SignInError, Unreachable
from mcp_auth.net import issuers
from mcp_auth.net.http import Http
from mcp_auth.oauth.challenge import BearerChallenge
from mcp_auth.oauth.discovery import ProbeResult, discover, is_warm, probe
from mcp_auth.oauth.token_words import as_word
from mcp_auth.oauth.tokens import TokenResponse, plain
from mcp_auth.records import Registration, ServerProfile, SignIn, encode
from mcp_auth.status import NO_SIGN_IN
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

logger = logging.getLogger(__name__)

_REGISTRATIONS_KEPT = 8


@dataclass(eq=False, repr=False)
class Profiles:
    """Looks servers up and keeps what was found."""

    servers: Servers
    store: Store
    http: Http
    clock: Callable[[], float]
    _turns: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock), init=False)

    async def look_up(self, server: Server, *, fresh: bool, asked: ProbeResult | None = None) -> ServerProfile:
        """What is known of the server, looked up when it is cold, or when it was `asked` just now.

        Raises:
            SignInError, Unreachable: as `discover`.
        """
        url = server.url or ""
        known = await self.store.profiles.get(url)
        if not fresh and asked is None and known is not None and is_warm(known, server, self.clock()):
            return known
        prefer = _issuer_in_use(known)
        asked = asked or await self._ask(server, known)
        found = await discover(self.http, self.servers.rules(server), server, asked, prefer=prefer)

        def remember(profile: ServerProfile) -> None:
            profile.metadata = found.metadata
            profile.chosen_issuer = server.oauth.issuer
            profile.resource = found.resource
            profile.resource_scopes = found.resource_scopes
            profile.resource_name = plain(found.resource_name, 80) if found.resource_name else None
            profile.needs_sign_in = True
            profile.trouble = None
            profile.fetched_at = self.clock()
            if found.challenge is not None:
                profile.challenge_scope = found.challenge.scope
                profile.challenge_metadata_url = found.challenge.resource_metadata
            if fresh:
                profile.refused_scopes = []
                # Where a configured client belongs changes when a sign-in is finished elsewhere, not when it is begun.
                # A dynamic one is made anew; until that works, the one of before is doubted.
                profile.registrations = [
                    msgspec.structs.replace(r, doubtful=r.source == "dynamic")
                    for r in profile.registrations
                    if issuers.is_same(r.issuer, found.metadata.issuer) or r.source == "configured"
                ]

        return await self.remember(url, remember)

    async def _ask(self, server: Server, known: ServerProfile | None) -> ProbeResult:
        """What the server says of itself; the challenge of an earlier refusal counts while it sends none.

        Raises:
            Unreachable: no answer.
        """
        challenge = None
        if known is not None and (known.challenge_scope or known.challenge_metadata_url):
            challenge = BearerChallenge(known.challenge_scope, known.challenge_metadata_url)
        return await probe(self.http, self.servers.rules(server), server, known=challenge)

    async def remember(self, server_url: str, change: Callable[[ServerProfile], None]) -> ServerProfile:
        """Apply `change` to what is stored of a server, again after every lost race.

        Raises:
            StoreError: it cannot be written, or other processes change it all the time. Busy.
        """

        async def stored() -> ServerProfile:
            return await self.store.profiles.get(server_url) or ServerProfile(server_url=server_url)

        async def changed(profile: ServerProfile) -> ServerProfile | None:
            before = encode(profile)
            change(profile)
            return None if encode(profile) == before and profile.version else profile

        # Tasks of this process take turns; only other processes can win a race against them.
        async with self._turns[server_url]:
            return await update("the server", stored, changed, self.store.profiles.put_if)

    async def probe(self, server: Server, *, is_refused: bool = False) -> ServerProfile:
        """Find out whether a server without `auth` and `headers` wants a sign-in, and keep the finding.

        `is_refused`: it has just refused a request without a credential.

        Raises:
            Unreachable: it does not answer.
        """
        known = await self.store.profiles.get(server.url or "")
        asked = await self._ask(server, known)
        needs_sign_in, trouble = False, None
        if is_refused or asked.wants_credential:
            try:
                return await self.look_up(server, fresh=False, asked=asked)
            except Unreachable:
                raise
            except NoMetadata:
                trouble = NO_SIGN_IN
            except SignInError as error:
                needs_sign_in, trouble = True, error.message

        def keep(profile: ServerProfile) -> None:
            profile.needs_sign_in, profile.trouble = needs_sign_in, trouble

        return await self.remember(server.url or "", keep)

    async def expire_metadata(self, server_url: str) -> None:
        """The next sign-in looks everything up anew."""
        await self.remember(server_url, _expire_metadata)

    async def doubt_registration(self, sign_in: SignIn) -> None:
        """A browser was sent on and never came back: maybe the page there said that it does not know our client."""
        used = sign_in.registration
        if used.source != "dynamic" or sign_in.authorization_url is None or sign_in.status == "answered":
            return

        def doubt(profile: ServerProfile) -> None:
            profile.registrations = [
                msgspec.structs.replace(r, doubtful=True)
                if (issuers.bare(r.issuer), r.client_id) == (issuers.bare(used.issuer), used.client_id)
                and (r.worked_at is None or r.worked_at < sign_in.created_at)
                else r
                for r in profile.registrations
            ]

        await self.remember(sign_in.server_url, doubt)

    async def forget_if_dead(self, sign_in: SignIn, is_dead: bool, error: str | None) -> None:
        """What an error says of our client: not known any more, or known for less than is asked for now."""
        is_too_small = sign_in.registration_reused and as_word(error or "") == "invalid_scope"
        if is_dead or is_too_small:
            await self.forget_registration(sign_in.server_url, sign_in.registration)

    async def forget_dynamic_registrations(self, server_url: str) -> None:
        """After a sign-out: the next sign-in registers anew. Each grant has its own copy."""
        if await self.store.profiles.get(server_url) is None:
            return

        def forget(profile: ServerProfile) -> None:
            profile.registrations = [r for r in profile.registrations if r.source != "dynamic"]

        await self.remember(server_url, forget)

    async def forget_registration(self, server_url: str, dead: Registration) -> None:
        """A registration that the issuer no longer knows: discovery and registration anew at the next sign-in."""

        def forget(profile: ServerProfile) -> None:
            profile.registrations = [
                r
                for r in profile.registrations
                if r.client_id != dead.client_id or not issuers.is_same(r.issuer, dead.issuer)
            ]
            profile.fetched_at = None

        await self.remember(server_url, forget)

    async def keep_for_next(self, sign_in: SignIn, answer: TokenResponse) -> None:
        """After a success: what the next sign-in may use again."""
        now = self.clock()
        try:
            await self.remember(sign_in.server_url, lambda profile: _keep(profile, sign_in, answer, now))
        except Exception as error:  # noqa: BLE001 - the grant is stored and good; the next sign-in registers anew
            name = type(error).__name__
            logger.warning("the registration at %s is not kept for the next sign-in: %s", sign_in.server, name)


def _keep(profile: ServerProfile, sign_in: SignIn, answer: TokenResponse, now: float) -> None:
    """After a success: the registration is worth keeping, and scopes that were not granted are not asked for again."""
    last = profile.registrations[-1:]
    worked_at = last[0].worked_at if last and last[0].client_id == sign_in.registration.client_id else None
    if worked_at is None or worked_at < sign_in.created_at:
        # Else it is known to work since this sign-in began: of many that end together, the first one notes it.
        worked_at = now
    used = msgspec.structs.replace(sign_in.registration, worked_at=worked_at, doubtful=False)
    # The configured secret stays in the configuration; only the binding to the issuer is remembered.
    kept = msgspec.structs.replace(used, client_secret=None) if used.source == "configured" else used
    keep_registration(profile, kept)
    if sign_in.step_up_scope is not None and answer.tokens.scope is not None:
        granted = answer.tokens.scope.split()
        missing = [scope for scope in sign_in.step_up_scope.split() if scope not in granted]
        profile.refused_scopes = list(dict.fromkeys([*profile.refused_scopes, *missing]))[-50:]


def keep_registration(profile: ServerProfile, used: Registration) -> None:
    """The client that the next sign-in may be."""
    others = [
        r
        for r in profile.registrations
        if (issuers.bare(r.issuer), r.redirect_uri, r.source)
        != (issuers.bare(used.issuer), used.redirect_uri, used.source)
        and not (used.source == r.source == "configured" and r.client_id == used.client_id)
    ]
    profile.registrations = [*others, used][-_REGISTRATIONS_KEPT:]


def _issuer_in_use(known: ServerProfile | None) -> str | None:
    """The issuer that was signed in at before; one that was only tried binds nobody."""
    issuer = known.metadata.issuer if known is not None and known.metadata is not None else None
    if known is None or not any(issuers.is_same(one.issuer, issuer) for one in known.registrations):
        return None
    return issuer


def _expire_metadata(profile: ServerProfile) -> None:
    profile.fetched_at = None
