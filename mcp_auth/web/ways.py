"""The two ways of a sign-in's link: the authorization server's own, which ends on this machine, or a page of ours."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Config, Server
from mcp_auth.config.servers import Servers
from mcp_auth.errors import ConfigError, NotAllowed, PortBusy, SignInError
from mcp_auth.keys import Keys, KeyVariable
from mcp_auth.kinds import KEY_FORM, SIGN_IN
from mcp_auth.links.logins import Logins
from mcp_auth.links.policy import Policy, PolicyDecision
from mcp_auth.links.tickets import connection_id, connection_ids
from mcp_auth.links.verification import LinkVerifier
from mcp_auth.net import issuers
from mcp_auth.net.rules import is_loopback_url
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.sign_in import SignIns, StartedSignIn
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED, Requester, ServerProfile, SignIn, check_owner
from mcp_auth.status import GIVE_CREDENTIAL, needs_a_look, uses_oauth
from mcp_auth.stores.base import Store
from mcp_auth.web.key_forms import KeyForms, StartedKeyForm
from mcp_auth.web.loopback import LoopbackListeners

logger = logging.getLogger(__name__)


class Reception:
    """Who receives redirects and shows our pages: this process, another one of this home, or a server around us."""

    def __init__(self, config: Config, listeners: LoopbackListeners) -> None:
        self._config = config
        self._listeners = listeners
        # Somebody else's server serves our pages, so that none of ours has to.
        self.is_mounted = False

    async def listen(self, port: int, path: str = "/callback") -> int:
        """Take redirects to `path` on this port (0: any that is free). Returns the port.

        Raises:
            PortBusy: another program has it.
        """
        return await self._listeners.listen(self._config.gateway.callback.host, port, path)

    async def serves_pages(self, listen: bool) -> bool:
        """Whether our pages are served: by the application around us, by a process of this home, or from now on."""
        if self.is_mounted:
            return True
        port = self._config.gateway.callback.port
        if not listen:
            return self._listeners.is_listened_to(port)
        await self.listen(port)
        return True

    async def hears(self, redirect_uri: str, listen: bool) -> bool:
        """Whether a redirect to this URI is received, by us or by another process of this home."""
        if not is_loopback_url(redirect_uri):
            return False
        parts = urlsplit(redirect_uri)
        port = parts.port or 80
        if not listen:
            return self._listeners.is_listened_to(port)
        await self.listen(port, parts.path or "/")
        return True


class Way(Protocol):
    has_page: bool

    async def check(self, entry: Server, owner: str, origin: Requester) -> None:
        """Refuse what this way could never finish. Raises NotAllowed, SignInError."""
        ...

    def has_link(self, sign_in: SignIn) -> bool:
        """Whether the open sign-in is one of this way."""
        ...

    async def redirect_uri(self, entry: Server, profile: ServerProfile, listen: bool) -> str:
        """Where the authorization server sends the browser. Raises PortBusy."""
        ...

    async def link(self, sign_in: SignIn, listen: bool, *, reused: bool = False) -> StartedSignIn:
        """The link of a stored sign-in."""
        ...


def check_method(policy: PolicyDecision, config: Config, logins: Logins, principal: str) -> None:
    """Refuse at once what could never be proven.

    Raises:
        SignInError: a proof is needed, only a login may be it, and there is none.
    """
    if not policy.needs_proof or config.gateway.verify != "browser":
        return
    if not logins.knows_browsers and logins.login_for(principal) is None:
        raise SignInError(
            "gateway.verify is browser, and nothing here can tell who sits at a browser.",
            next_step="set gateway.verify: auto, or give the gateway a verify_browser",
        )


def is_public(config: Config, entry: Server, *, is_operator: bool) -> bool:
    """Whether the link is to be our own page. A client registered by hand has one redirect URI: the public one."""
    public_url, redirect_uri = config.gateway.public_url, entry.oauth.redirect_uri
    if public_url is None:
        return False
    if redirect_uri is not None:
        return redirect_uri.startswith(f"{public_url}/")
    return not is_operator or entry.oauth.client_id is not None


class DirectWay:
    """The authorization server's own link. Its redirect ends on this machine, or is pasted."""

    has_page = False

    def __init__(self, config: Config, policy: Policy, reception: Reception) -> None:
        self._config = config
        self._policy = policy
        self._reception = reception

    async def check(self, entry: Server, owner: str, origin: Requester) -> None:
        """Where it has to be proven who opens the link, nothing there could ask for it."""
        decision = await self._policy.decide(origin.principal, entry.name, owner)
        if not decision.allowed:
            raise NotAllowed(f"You may not sign {entry.name} in.")
        gateway = self._config.gateway
        if not decision.needs_page or gateway.allow_paste:
            return
        if gateway.public_url is None:
            raise SignInError(
                "It has to be proven who opens the link, and without gateway.public_url there is no page to do so on.",
                next_step=Next("auth", entry.name, on_host=True, around="set gateway.public_url, or `{}` on the host"),
            )
        raise SignInError(
            f"It has to be proven who opens the link, and the redirect URI of {entry.name} does not lead to our pages.",
            next_step=Next("auth", around="remove oauth.redirect_uri, and register the address that {} says then"),
        )

    def has_link(self, sign_in: SignIn) -> bool:
        return sign_in.binding is None and sign_in.authorization_url is not None

    async def redirect_uri(self, entry: Server, profile: ServerProfile, listen: bool) -> str:
        """A configured URI, and one of an earlier registration, are used verbatim.

        A port that another program has is given up for a free one where the client can be registered anew.

        Raises:
            PortBusy: the client is registered for a port that cannot be had.
        """
        options = entry.oauth
        if options.redirect_uri is not None:
            await self._reception.hears(options.redirect_uri, listen)
            return options.redirect_uri
        wished = self._wished_redirect(entry, profile)
        movable = options.client_id is None and options.redirect_port is None
        try:
            await self._reception.hears(wished, listen)
            return wished
        except PortBusy:
            if not movable:
                raise PortBusy(
                    f"The port of {wished} belongs to another program, and the client of {entry.name} "
                    "is registered for it.",
                    next_step="stop that program, or register another port and set oauth.redirect_port",
                ) from None
        return f"http://{options.redirect_host or '127.0.0.1'}:{await self._reception.listen(0)}/callback"

    def _wished_redirect(self, entry: Server, profile: ServerProfile) -> str:
        options = entry.oauth
        issuer = profile.metadata.issuer if profile.metadata is not None else None
        if options.client_id is None and options.redirect_port is None and options.redirect_host is None:
            for registration in reversed(profile.registrations):
                known = registration.source == "dynamic" and issuers.is_same(registration.issuer, issuer)
                if known and is_loopback_url(registration.redirect_uri):
                    return registration.redirect_uri
        port = options.redirect_port or self._config.gateway.callback.port
        return f"http://{options.redirect_host or '127.0.0.1'}:{port}/callback"

    async def link(self, sign_in: SignIn, listen: bool, *, reused: bool = False) -> StartedSignIn:
        url = sign_in.authorization_url
        if url is None:
            raise SignInError(f"The sign-in to {sign_in.server} ended at once.", next_step=Next("auth", sign_in.server))
        listening = await self._reception.hears(sign_in.redirect_uri, listen)
        return StartedSignIn(sign_in, url, reused=reused, listening=listening)


class PublicWay:
    """A page of ours, behind which one browser is bound. Earlier links of a sign-in work until one is opened."""

    has_page = True

    def __init__(
        self, config: Config, policy: Policy, logins: Logins, verifier: LinkVerifier, reception: Reception
    ) -> None:
        self._config = config
        self._policy = policy
        self._logins = logins
        self._gatekeeper = verifier
        self._reception = reception

    async def check(self, entry: Server, owner: str, origin: Requester) -> None:
        """The page asks for the proof; who may have its link is looked at when it is made."""

    def has_link(self, sign_in: SignIn) -> bool:
        return sign_in.binding is not None

    async def redirect_uri(self, entry: Server, profile: ServerProfile, listen: bool) -> str:
        if entry.oauth.redirect_uri is not None:
            return entry.oauth.redirect_uri
        if profile.metadata is None:
            raise ValueError("the profile must have been looked up")
        url, issuer = entry.url or "", profile.metadata.issuer
        callback = f"{self._config.gateway.public_url}/callback"
        registered = {one.redirect_uri for one in profile.registrations if issuers.is_same(one.issuer, issuer)}
        for earlier in connection_ids(url, issuer):
            if f"{callback}/{earlier}" in registered:
                return f"{callback}/{earlier}"
        return f"{callback}/{connection_id(url, issuer)}"

    async def link(self, sign_in: SignIn, listen: bool, *, reused: bool = False) -> StartedSignIn:
        principal = sign_in.origin.principal
        decision = await self._policy.decide(principal, sign_in.server, sign_in.owner)
        if not decision.allowed:
            raise NotAllowed(f"You may not sign {sign_in.server} in.")
        check_method(decision, self._config, self._logins, principal)
        listening = await self._reception.serves_pages(listen)
        stored, ticket = await self._gatekeeper.issue_ticket(sign_in)
        return StartedSignIn(
            stored,
            f"{self._config.gateway.public_url}/{SIGN_IN.letter}/{ticket}",
            reused=reused,
            listening=listening,
            public=True,
            needs_proof=decision.needs_proof,
        )


@dataclass(eq=False, repr=False)
class Ways:
    """Begins what is reached by a link: each sign-in by the way that its link takes, and key forms."""

    config: Config
    servers: Servers
    store: Store
    policy: Policy
    logins: Logins
    keys: Keys
    profiles: Profiles
    sign_ins: SignIns
    key_forms: KeyForms
    verifier: LinkVerifier
    reception: Reception
    changes: Changes

    def __post_init__(self) -> None:
        self._direct = DirectWay(self.config, self.policy, self.reception)
        self._public = PublicWay(self.config, self.policy, self.logins, self.verifier, self.reception)

    async def sign_in(self, server: str, owner: str, origin: Requester, *, fresh: bool, listen: bool) -> StartedSignIn:
        """As `McpAuth.sign_in`."""
        entry = self.servers.usable(server)
        check_owner(owner)
        await self._check_wants_sign_in(entry)
        is_operator = self.policy.is_operator(origin.principal)
        way: Way = self._public if is_public(self.config, entry, is_operator=is_operator) else self._direct
        await way.check(entry, owner, origin)
        open_one = await self.sign_ins.reusable(entry, owner, origin)
        if open_one is not None and not fresh and way.has_link(open_one):
            return await way.link(open_one, listen, reused=True)
        if open_one is not None:
            await self.sign_ins.cancel(server, owner, by_us=True)
        profile = await self.profiles.look_up(entry, fresh=fresh)
        redirect_uri = await way.redirect_uri(entry, profile, listen)
        begun = await self.sign_ins.begin(
            entry, owner, origin, profile, redirect_uri, fresh=fresh, with_page=way.has_page
        )
        started = await way.link(begun, listen)
        self.changes.tell(Change("sign_in_begun", server, owner, started.sign_in, by=origin.principal))
        return started

    async def _check_wants_sign_in(self, entry: Server) -> None:
        profile = await self.store.profiles.get(entry.url) if entry.url is not None else None
        if needs_a_look(entry, profile):
            profile = await self.profiles.probe(entry)
        if uses_oauth(entry, profile):
            return
        if profile is not None and profile.trouble is not None:
            raise NotAllowed(f"{entry.name} cannot be signed in to: {profile.trouble}.", next_step=GIVE_CREDENTIAL)
        if await self.keys.variables(entry, SHARED):
            raise NotAllowed(f"{entry.name} uses an API key, not a sign-in.", next_step=Next("key", entry.name))
        raise NotAllowed(f"{entry.name} needs no sign-in.", next_step=Next("test", entry.name))

    async def key_form(
        self, server: str, owner: str, origin: Requester, variables: tuple[KeyVariable, ...], *, listen: bool
    ) -> StartedKeyForm:
        """As `McpAuth.key_form`."""
        public_url = self.config.gateway.public_url
        if public_url is None:
            raise ConfigError("A key form needs gateway.public_url.", key="gateway.public_url")
        decision = await self.policy.decide(origin.principal, server, check_owner(owner))
        if not decision.allowed:
            raise NotAllowed(f"You may not set a key for {server}.")
        check_method(decision, self.config, self.logins, origin.principal)
        await self.reception.serves_pages(listen)
        form, ticket = await self.key_forms.begin(self.servers.usable(server), owner, origin, variables)
        return StartedKeyForm(form, f"{public_url}/{KEY_FORM.letter}/{ticket}", decision.needs_proof)

    async def resume(self) -> None:
        """After a restart: listen again for the redirects of every open sign-in. A port that is gone is logged."""
        for sign_in in await self.sign_ins.open():
            try:
                if sign_in.binding is not None:
                    await self.reception.serves_pages(True)
                else:
                    await self.reception.hears(sign_in.redirect_uri, True)
            except PortBusy as error:
                logger.warning("the redirect of %s must be pasted: %s", sign_in.server, error.message)
