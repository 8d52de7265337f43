"""`McpAuth`: the public face. Sign-ins, tokens, keys and sessions for the servers of one configuration."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from mcp_auth.audit import Audit
from mcp_auth.changes import Change, Changes
from mcp_auth.config.load import load
from mcp_auth.config.models import Config, Server, Settings, check_store
from mcp_auth.config.people import reused_name
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.errors import ConfigError
from mcp_auth.limits import Limits
from mcp_auth.links.logins import Logins
from mcp_auth.links.policy import ConfigPolicy
from mcp_auth.listing import places, statuses_of
from mcp_auth.records import SHARED, Grant, KeyForm, Linked, Requester, SignIn, check_owner
from mcp_auth.status import ConnectionStatus, ServerStatus, needs_a_look

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from starlette.types import ASGIApp

    from mcp_auth.keys import KeyTrial, KeyVariable
    from mcp_auth.links.policy import Policy
    from mcp_auth.oauth.authorization import AuthorizationResponse, Binding
    from mcp_auth.oauth.revocation import LogoutResult
    from mcp_auth.oauth.sign_in import StartedSignIn
    from mcp_auth.parts import Parts
    from mcp_auth.stores.base import Store
    from mcp_auth.web.key_forms import StartedKeyForm

Options = TypeVar("Options", bound=Settings)

PROBE_TIMEOUT = 10.0
TEST_TIMEOUT = 30.0


class McpAuth:
    """Credentials for the MCP servers of one configuration.

    Opening reads the configuration and touches neither network nor store. Use one instance in one event loop.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        *,
        policy: Policy | None = None,
        logins: Logins | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.store = store
        self._clock = clock = clock or store.backend.now
        self.audit = Audit(config.home, clock)
        self.limits = Limits()
        self.policy = policy or ConfigPolicy(config.gateway)
        self.logins = logins or Logins(config.gateway)
        self._monotonic = monotonic
        self._servers = Servers(config)
        self._variables = Variables(config.env_file, config.gateway_variables)
        self._changes = Changes(self.audit)

    @classmethod
    def open(
        cls,
        config: Config | str | Path | None = None,
        *,
        home: str | Path | None = None,
        store: Store | None = None,
        policy: Policy | None = None,
        logins: Logins | None = None,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> McpAuth:
        """Open a configuration: a loaded one, a path, or the default of `home`.

        Args:
            policy: who may do what, and who must prove it; left out, whoever began may finish.
            logins: how people can prove who sits at a browser, beside the code.

        Raises:
            ConfigError: it cannot be used.
        """
        loaded = config if isinstance(config, Config) else load(config, home)
        return cls(
            loaded, store or default_store(loaded), policy=policy, logins=logins, clock=clock, monotonic=monotonic
        )

    @cached_property
    def parts(self) -> Parts:
        """What works behind this face. Built when first needed: a list of servers needs none of it."""
        from mcp_auth.parts import Parts

        return Parts(
            self.config,
            self._servers,
            self.store,
            self.policy,
            self.logins,
            self._variables,
            self._changes,
            self.limits,
            self._clock,
            self._monotonic,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End listeners and connections. Exchanges under way are finished first, each within its deadline."""
        if "parts" in self.__dict__:
            await self.parts.close()
        await self.store.close()

    # -- status ------------------------------------------------------------------------------

    async def status(self, server: str, owner: str = SHARED) -> ServerStatus:
        """One server's status from local state; no network. A file that cannot be read is a state, not an error.

        Raises:
            UnknownServer.
        """
        return (await self._statuses([(self._servers.named(server), check_owner(owner))]))[0]

    async def statuses(self, owner: str | Callable[[str], str] = SHARED) -> list[ServerStatus]:
        """Every server's status, in the order of the configuration. `owner` may depend on the server's name."""
        owner_of = owner if callable(owner) else lambda _: owner
        return await self._statuses([(one, check_owner(owner_of(name))) for name, one in self.config.servers.items()])

    async def _statuses(self, asked: list[tuple[Server, str]]) -> list[ServerStatus]:
        found = await self.store.get_many(places(asked))
        return statuses_of(asked, found, self.config.gateway, self._variables, self._clock())

    async def reused_names(self) -> list[Grant]:
        """What is stored for persons of `people:` whose names stand for somebody else by now."""
        stored = await self.store.grants.list()
        return [grant for grant in stored if reused_name(grant.owner, grant.accounts, self.config.gateway)]

    async def probe(
        self,
        server: str,
        owner: str = SHARED,
        *,
        timeout: float | None = None,
        start_stdio: bool = False,
        insist: bool = False,
    ) -> ConnectionStatus:
        """Connect and list the tools. The server's faults are a state, not an error; commands start on request only.

        Args:
            timeout: seconds; left out, `PROBE_TIMEOUT`, and `TEST_TIMEOUT` with `insist`.
            insist: a person asks about this very server. Its command is started, and what failed is tried again.
        """
        return await self.parts.prober.probe(
            server,
            check_owner(owner),
            timeout=timeout or (TEST_TIMEOUT if insist else PROBE_TIMEOUT),
            start_stdio=start_stdio or insist,
            insist=insist,
        )

    async def unknown(self) -> list[str]:
        """The servers of which nothing says yet whether they want a sign-in."""
        urls = {name: one.url for name, one in self.config.servers.items() if one.url is not None}
        known = {name: await self.store.profiles.get(url) for name, url in urls.items()}
        return [name for name in urls if needs_a_look(self.config.servers[name], known[name])]

    # -- sign-in -----------------------------------------------------------------------------

    async def sign_in(
        self, server: str, owner: str, origin: Requester, *, fresh: bool = False, listen: bool = True
    ) -> StartedSignIn:
        """Start a sign-in, or hand out the open one again. Works on a signed-in server too: the old grant stays.

        With `gateway.public_url` the link is our own page, except for the terminal, which has no second person.

        `fresh`: look everything up anew and register anew. `listen`: take the redirect on this machine;
        without it `StartedSignIn.listening` tells whether another process of this home does.

        Raises:
            UnknownServer; NotAllowed: the server takes no sign-in; PortBusy; Unreachable; SignInError and its children.
        """
        return await self.parts.ways.sign_in(server, owner, origin, fresh=fresh, listen=listen)

    async def resume(self) -> None:
        """After a restart: listen again for the redirects of every open sign-in. A port that is gone is logged."""
        await self.parts.ways.resume()

    async def listen(self, port: int | None = None) -> int:
        """Open the callback endpoint on the configured port, or this one. Returns the port.

        Raises:
            PortBusy: another program has it.
        """
        return await self.parts.reception.listen(self.config.gateway.callback.port if port is None else port)

    async def finish(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        """The second half of a sign-in; see `Exchanges.finish`."""
        return await self.parts.exchanges.finish(answer, binding)

    async def paste(self, text: str, principal: str) -> SignIn:
        """Finish with what a person copied: the whole URL, its query, `code#state`, or the bare code.

        Raises:
            CallbackRejected and its children, AuthorizationRefused, TokenRequestFailed.
        """
        return await self.parts.exchanges.paste(text, principal)

    async def claims(self, text: str) -> bool:
        """Whether a bare text is the redirect URL of a sign-in of ours; anything else is not our business."""
        return await self.parts.exchanges.claims(text)

    async def cancel(self, server: str, owner: str = SHARED) -> bool:
        """End the open sign-in. False when there is none."""
        return await self.parts.sign_ins.cancel(self._servers.named(server).name, check_owner(owner))

    async def open_sign_ins(self, owner: str | None = None) -> list[SignIn]:
        """Every sign-in that is open by now, or one owner's."""
        return await self.parts.sign_ins.open(owner)

    async def sweep(self) -> None:
        """Write down the ends that time has brought to sign-ins and key forms: nothing that reads does.

        A `Gateway` does so once a second. Costs a look at two logs while nothing has ended.
        """
        await self.parts.sign_ins.sweep()
        await self.parts.key_forms.sweep()

    async def wait(self, sign_in: SignIn, timeout: float) -> SignIn:
        """The sign-in when it has ended, in whichever process, or as it is after `timeout` seconds."""
        return await self.parts.sign_ins.wait(sign_in, timeout)

    async def confirm_works(
        self, server: str, owner: str = SHARED, *, timeout: float = TEST_TIMEOUT
    ) -> ConnectionStatus:
        """An authenticated call with new credentials: keeps them when it works, brings the old ones back on a no.

        Where the endpoint has made that call already, its result.
        """
        return await self.parts.prober.confirm_works(server, check_owner(owner), timeout)

    # -- our own pages -----------------------------------------------------------------------

    async def confirm(self, code: str, principal: str, *, private: bool) -> Linked:
        """Take a code that `principal` sent in a chat; see `Codes.confirm`."""
        return await self.parts.codes.confirm(code, principal, private=private)

    async def review(self, code: str, principal: str, *, private: bool) -> Linked:
        """What a code would confirm; see `Codes.review`."""
        return await self.parts.codes.review(code, principal, private=private)

    async def burn(self, code: str, principal: str) -> None:
        """End what shows a code that somebody sent who may confirm nothing; see `Codes.burn`."""
        await self.parts.codes.burn(code, principal)

    async def key_form(
        self, server: str, owner: str, origin: Requester, variables: tuple[KeyVariable, ...], *, listen: bool = True
    ) -> StartedKeyForm:
        """A link to a one-time page on which these keys are typed. The open one is handed out again.

        Raises:
            NotAllowed, PortBusy; ConfigError: no `gateway.public_url`; SignInError: somebody else has one open.
        """
        return await self.parts.ways.key_form(server, owner, origin, variables, listen=listen)

    async def open_key_forms(self) -> list[KeyForm]:
        """Every open key form."""
        return await self.parts.key_forms.open()

    async def cancel_key_form(self, server: str, owner: str = SHARED) -> bool:
        """End the open key form. False when there is none."""
        return await self.parts.key_forms.cancel(self._servers.named(server).name, check_owner(owner))

    def asgi_app(self, prefix: str = "") -> ASGIApp:
        """The endpoint as an ASGI application, to be mounted in somebody else's. See `mcp_auth.web.endpoint`.

        Args:
            prefix: the path under which it is reached when the server around it does not take it off.

        Raises:
            ConfigError: `gateway.public_url` is not set.
        """
        from mcp_auth.web.endpoint import application

        if self.config.gateway.public_url is None:
            raise ConfigError(
                "The endpoint cannot be mounted without gateway.public_url: links are made of it.",
                key="gateway.public_url",
                next_step="set gateway.public_url to the address under which the application is reached",
            )
        self.parts.reception.is_mounted = True
        return application(self.parts.services, prefix=prefix)

    def mount(self, path: str, app: ASGIApp) -> None:
        """Serve `app` below `path` (`/hooks/whatsapp`) of the endpoint. `app` sees the whole path."""
        self.parts.services.mounts[path.rstrip("/")] = app

    # -- credentials -------------------------------------------------------------------------

    async def access_token(self, server: str, owner: str = SHARED) -> str:
        """A valid access token; refreshed ahead of its end, once for all tasks and processes.

        Raises:
            SignInNeeded, ReauthorizationNeeded, RefreshUnavailable.
        """
        return await self.parts.refresher.access_token(self._servers.usable(server), check_owner(owner))

    async def headers(self, server: str, owner: str = SHARED) -> dict[str, str]:
        """Everything to send to the server: its configured headers with their values, and the access token.

        Raises:
            KeyMissing, SignInNeeded, ReauthorizationNeeded, RefreshUnavailable.
        """
        return await self.parts.credentials.headers(self._servers.usable(server), check_owner(owner))

    def http_auth(self, server: str, owner: str = SHARED) -> httpx2.Auth:
        """Authentication for an `httpx2.AsyncClient`, bound to the server's origin and path."""
        return self.parts.sessions.http_auth(self._servers.usable(server), check_owner(owner))

    def session(self, server: str, owner: str = SHARED) -> AbstractAsyncContextManager[Client]:
        """A connected `mcp.Client`, signed in, over whichever transport the server has.

        Raises:
            CredentialsNeeded and its children, ServerRefused, Unreachable.
        """
        return self.parts.sessions.open(self._servers.usable(server), check_owner(owner))

    async def logout(self, server: str, owner: str = SHARED, *, by: str | None = None) -> LogoutResult:
        """Revoke at the authorization server (RFC 7009), then delete; says which of the two happened.

        `by`: the principal who asks, for the audit log.
        """
        return await self.parts.sign_out.sign_out(self._servers.named(server), check_owner(owner), by=by)

    async def key_variables(self, server: str, owner: str = SHARED) -> tuple[KeyVariable, ...]:
        """The variables that a server's headers and environment need, and which of them have values."""
        return await self.parts.keys.variables(self._servers.named(server), check_owner(owner))

    async def try_keys(
        self, server: str, values: Mapping[str, str], owner: str = SHARED, *, by: str | None = None
    ) -> KeyTrial:
        """Ask the server about candidate values without storing them. `by`: as in `logout`.

        Raises:
            KeyMissing: another variable of the same headers has no value yet. KeyInvalid: not fit for a header.
        """
        return await self.parts.keys.attempt(server, values, owner, by=by)

    async def set_keys(
        self, server: str, values: Mapping[str, str], owner: str = SHARED, *, by: str | None = None
    ) -> None:
        """Keep values: in `.env` for `shared`, with the owner's grant otherwise. `by`: as in `logout`.

        Raises:
            KeyInvalid, StoreError, Busy.
        """
        await self.parts.keys.set(server, values, owner, by=by)

    def on_change(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call `callback` after every change made through this instance. Returns the undo."""
        return self._changes.on_change(callback)

    def platform_options(self, platform: str, model: type[Options]) -> Options:
        """The section `gateway.<platform>` as `model`, its placeholders replaced by what they stand for now.

        Raises:
            ConfigError: a key is missing or of another kind, or a variable has no value.
        """
        from mcp_auth.config.sections import platform_section

        return platform_section(self.config, platform, model, self._variables.resolve_gateway)


def default_store(config: Config) -> Store:
    """Where everything is kept, as the configuration has it.

    Raises:
        ConfigError: it names a store that there is not.
    """
    from mcp_auth.stores.files import FileStore

    check_store(config)
    return FileStore(config.home)
