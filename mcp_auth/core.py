"""`McpAuth`: the public face. Sign-ins, tokens, keys and sessions for the servers of one configuration."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import urlsplit

from mcp_auth.audit import Audit, Event
from mcp_auth.changes import Change, ChangeKind, Changes, ticket_of
from mcp_auth.config.load import load
from mcp_auth.config.models import Config, Server, Settings, check_store
from mcp_auth.config.people import reused_name
from mcp_auth.config.variables import Variables
from mcp_auth.errors import (
    CodeRejected,
    ConfigError,
    CredentialsNeeded,
    KeyInvalid,
    KeyMissing,
    McpAuthError,
    NoMetadata,
    NotAllowed,
    PortBusy,
    RefreshUnavailable,
    ServerRefused,
    SignInError,
    StoreError,
    TooManyOpenFiles,
    UnknownServer,
    Unreachable,
    lacks_descriptors,
)
from mcp_auth.keys import (
    KeyTrial,
    KeyVariable,
    Verdict,
    key_variables,
    resolved_headers,
    set_keys,
    try_keys,
)
from mcp_auth.limits import Limits
from mcp_auth.links.logins import Logins
from mcp_auth.links.policy import ConfigPolicy
from mcp_auth.links.tickets import connection_ids, slot_of
from mcp_auth.listing import owner_keys, places, statuses_of
from mcp_auth.net.rules import NetworkRules, with_ipv6_forms
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding, parse_paste, pasted_slot
from mcp_auth.oauth.clients import client_correction
from mcp_auth.outcome import Next, Outcome
from mcp_auth.probes import NoTurn, Probes
from mcp_auth.records import SHARED, Connection, Grant, KeyForm, Linked, Origin, SignIn, check_owner
from mcp_auth.states import OPEN, WAITING, stepped
from mcp_auth.status import (
    GIVE_CREDENTIAL,
    NO_SIGN_IN,
    ConnectionState,
    ConnectionStatus,
    ServerStatus,
    needs_a_look,
    uses_oauth,
)

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from starlette.types import ASGIApp

    from mcp_auth.agent import ServerAuth
    from mcp_auth.links.gate import Gatekeeper
    from mcp_auth.links.policy import Policy
    from mcp_auth.net.http import Http
    from mcp_auth.oauth.challenge import BearerChallenge
    from mcp_auth.oauth.refresh import Refresher
    from mcp_auth.oauth.rejections import Rejections
    from mcp_auth.oauth.revocation import LogoutResult
    from mcp_auth.oauth.sign_in import SignIns, StartedSignIn
    from mcp_auth.stores.base import Store
    from mcp_auth.web.key_forms import Entry, KeyForms, StartedKeyForm
    from mcp_auth.web.loopback import LoopbackListeners
    from mcp_auth.web.ways import Reception, Way

logger = logging.getLogger(__name__)
Options = TypeVar("Options", bound=Settings)

PROBE_TIMEOUT = 10.0
TEST_TIMEOUT = 30.0
_POLL = 0.3


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
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.store = store
        self.audit = Audit(config.home, clock)
        self.limits = Limits()
        self._clock = clock
        self._monotonic = monotonic
        self._told = object()
        self._variables = Variables(config.env_file, config.gateway_variables)
        self._rules_by_server: dict[str, NetworkRules] = {}
        self._changes = Changes(self.audit)
        self._probes: Probes[tuple[list[str], int]] = Probes()
        self.policy = policy or ConfigPolicy(config.gateway)
        self.logins = logins or Logins(config.gateway)
        self._woken = asyncio.Event()
        self._http_client: Http | None = None
        self._sign_in_half: SignIns | None = None
        self._refresh_half: Refresher | None = None
        self._rejected: Rejections | None = None
        self._gatekeeper: Gatekeeper | None = None
        self._key_forms: KeyForms | None = None
        self._listeners: LoopbackListeners | None = None
        self._received_by: Reception | None = None
        self._mounts: dict[str, ASGIApp] = {}

    @classmethod
    def open(
        cls,
        config: Config | str | Path | None = None,
        *,
        home: str | Path | None = None,
        store: Store | None = None,
        policy: Policy | None = None,
        logins: Logins | None = None,
        clock: Callable[[], float] = time.time,
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
        return cls(loaded, store or _store_for(loaded), policy=policy, logins=logins, clock=clock, monotonic=monotonic)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End listeners and connections. Exchanges under way are finished first, each within its deadline."""
        if self._listeners is not None:
            await self._listeners.close()
        if self._sign_in_half is not None:
            await self._sign_in_half.drain()
        if self._http_client is not None:
            await self._http_client.close()
        await self.store.close()

    # -- status ------------------------------------------------------------------------------

    async def status(self, server: str, owner: str = SHARED) -> ServerStatus:
        """One server's status from local state; no network. A file that cannot be read is a state, not an error.

        Raises:
            UnknownServer.
        """
        return (await self._statuses([(self._entry(server), check_owner(owner))]))[0]

    async def statuses(self, owner: str | Callable[[str], str] = SHARED) -> list[ServerStatus]:
        """Every server's status, in the order of the configuration. `owner` may depend on the server's name."""
        owner_of = owner if callable(owner) else lambda _: owner
        return await self._statuses([(one, check_owner(owner_of(name))) for name, one in self.config.servers.items()])

    async def _statuses(self, asked: list[tuple[Server, str]]) -> list[ServerStatus]:
        found = await self.store.get_many(places(asked))
        return statuses_of(asked, found, self.config.gateway, self._variables, self._clock())

    async def probe(
        self, server: str, owner: str = SHARED, *, timeout: float = PROBE_TIMEOUT, start_stdio: bool = False
    ) -> ConnectionStatus:
        """Connect and list the tools. The server's faults are a state, not an error; commands start on request only."""
        return await self._probe(server, owner, timeout=timeout, start_stdio=start_stdio)

    async def _probe(
        self, server: str, owner: str, *, timeout: float, start_stdio: bool, insist: bool = False
    ) -> ConnectionStatus:
        entry = self._entry(server)
        if not entry.enabled or entry.problem is not None or (entry.url is None and not start_stdio):
            return ConnectionStatus()
        try:
            tools, ms = await self._probes.run(
                server, owner, lambda: self._tools(entry, owner, insist=insist), insist=insist, timeout=timeout
            )
        except NoTurn:
            return ConnectionStatus(
                detail=f"not asked: too many other servers gave no answer within {timeout:.0f} seconds"
            )
        except (KeyMissing, KeyInvalid, StoreError, TooManyOpenFiles, _NotAsked) as error:
            return ConnectionStatus(detail=error.message)
        except RefreshUnavailable as error:
            # Nobody refused anything for good.
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=error.message)
        except (CredentialsNeeded, ServerRefused) as error:
            return ConnectionStatus(ConnectionState.REFUSED, detail=error.message)
        except TimeoutError:
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=f"no answer within {timeout:.0f} seconds")
        except McpAuthError as error:
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=_what_and_now(error))
        except Exception as error:  # noqa: BLE001 - a foreign server can make the SDK raise anything
            if lacks_descriptors(error):
                return ConnectionStatus(detail=TooManyOpenFiles().message)
            logger.debug("%s answered something that is no MCP: %s", server, type(error).__name__)
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=_no_mcp(error))
        return ConnectionStatus(ConnectionState.READY, tuple(filter(entry.tools.selects, tools)), ms)

    async def test(self, server: str, owner: str = SHARED, *, timeout: float = TEST_TIMEOUT) -> ConnectionStatus:
        """As `probe`, with more time; commands are started, and what failed is tried again at once."""
        return await self._probe(server, owner, timeout=timeout, start_stdio=True, insist=True)

    async def _check_credentials(self, entry: Server, owner: str, *, insist: bool) -> None:
        """Raises _NotAsked: what the server needs is not there, so it was not asked and refused nothing."""
        try:
            await self._headers(entry, owner, None, insist=insist)
        except RefreshUnavailable:
            raise
        except CredentialsNeeded as error:
            raise _NotAsked(error.message) from None

    async def _tools(self, entry: Server, owner: str, *, insist: bool) -> tuple[list[str], int]:
        """The names of all tools, and how many milliseconds it took to get them."""
        started = time.perf_counter()
        is_looked_at = entry.url is not None and needs_a_look(entry, await self.store.connections.get(entry.url))
        if is_looked_at:
            await self._look(entry)
        elif entry.url is not None:
            await self._check_credentials(entry, owner, insist=insist)
        names: list[str] = []
        async with self._session(entry.name, owner, insist=insist, bytes_max=self._message_max) as client:
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                names += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if cursor is None or len(names) > 10_000:
                    break
        await self._rejections().worked(entry, owner)
        return names, round((time.perf_counter() - started) * 1000)

    async def look(self, server: str) -> bool:
        """Ask a server whether it wants a sign-in, and keep the finding.

        Raises:
            Unreachable: it does not answer.
        """
        connection = await self._look(self._usable_entry(server))
        return connection.needs_sign_in is True

    async def reachable(self, server: str) -> int:
        """The status of one request without credentials; any answer of a server will do.

        Raises:
            Unreachable: there is none, or one that says that no server is there.
        """
        from mcp_auth.oauth.discovery import probe_without_credentials

        entry = self._usable_entry(server)
        answer = await probe_without_credentials(self._http(), self._rules(entry), entry, {})
        if answer.seen is not None and answer.seen.is_elsewhere:
            said, todo = answer.seen.words()
            raise Unreachable(f"{said[0].upper()}{said[1:]}.", next_step=todo)
        return answer.status

    async def _look(self, entry: Server, *, is_refused: bool = False) -> Connection:
        """Find out whether a server without `auth` and `headers` wants a sign-in, and keep the finding.

        `is_refused`: it has just refused a request without a credential.
        """
        sign_ins = self._sign_ins()
        asked = await sign_ins.ask(entry)
        needs_sign_in, trouble = False, None
        if is_refused or asked.wants_credential:
            try:
                return await sign_ins.connection(entry, fresh=False, asked=asked)
            except Unreachable:
                raise
            except NoMetadata:
                trouble = NO_SIGN_IN
            except SignInError as error:
                needs_sign_in, trouble = True, error.message

        def keep(connection: Connection) -> None:
            connection.needs_sign_in, connection.trouble = needs_sign_in, trouble

        return await sign_ins.remember(entry.url or "", keep)

    # -- sign-in -----------------------------------------------------------------------------

    async def sign_in(
        self, server: str, owner: str, origin: Origin, *, fresh: bool = False, listen: bool = True
    ) -> StartedSignIn:
        """Start a sign-in, or hand out the open one again. Works on a signed-in server too: the old grant stays.

        With `gateway.public_url` the link is our own page, except for the terminal, which has no second person.

        `fresh`: look everything up anew and register anew. `listen`: take the redirect on this machine;
        without it `StartedSignIn.listening` tells whether another process of this home does.

        Raises:
            UnknownServer; NotAllowed: the server takes no sign-in; PortBusy; Unreachable; SignInError and its children.
        """
        entry = self._usable_entry(server)
        check_owner(owner)
        await self._check_wants_sign_in(entry)
        sign_ins, way = self._sign_ins(), self._way(entry, origin)
        await way.check(entry, owner, origin)
        open_one = await sign_ins.reusable(entry, owner, origin)
        if open_one is not None and not fresh and way.has_link(open_one):
            return await way.link(open_one, listen, reused=True)
        if open_one is not None:
            await sign_ins.cancel(server, owner, by_us=True)
        connection = await sign_ins.connection(entry, fresh=fresh)
        await self.store.grants.set_damaged_aside(owner, server)
        grant = await self._grant(entry, owner)
        redirect_uri = await way.redirect_uri(entry, connection, listen)
        begun = await sign_ins.begin(
            entry, owner, origin, connection, redirect_uri, grant=grant, fresh=fresh, gated=way.is_gated
        )
        started = await way.link(begun, listen)
        self._tell(Change("sign_in_begun", server, owner, started.sign_in, by=origin.principal))
        return started

    def _way(self, entry: Server, origin: Origin) -> Way:
        from mcp_auth.web.ways import DirectWay, PublicWay, is_public

        if is_public(self.config, entry, origin):
            return PublicWay(self.config, self.policy, self.logins, self.gatekeeper, self._reception())
        return DirectWay(self.config, self.policy, self._reception())

    async def _check_wants_sign_in(self, entry: Server) -> None:
        connection = await self.store.connections.get(entry.url) if entry.url is not None else None
        if needs_a_look(entry, connection):
            connection = await self._look(entry)
        if uses_oauth(entry, connection):
            return
        if connection is not None and connection.trouble is not None:
            raise NotAllowed(f"{entry.name} cannot be signed in to: {connection.trouble}.", next_step=GIVE_CREDENTIAL)
        if key_variables(entry, self._variables, None):
            raise NotAllowed(f"{entry.name} uses an API key, not a sign-in.", next_step=Next("key", entry.name))
        raise NotAllowed(f"{entry.name} needs no sign-in.", next_step=Next("test", entry.name))

    async def resume(self) -> None:
        """After a restart: listen again for the redirects of every open sign-in. A port that is gone is logged."""
        for sign_in in await self._sign_ins().open():
            try:
                if sign_in.gate is not None:
                    await self._reception().serves_pages(True)
                else:
                    await self._reception().hears(sign_in.redirect_uri, True)
            except PortBusy as error:
                logger.warning("the redirect of %s must be pasted: %s", sign_in.server, error.message)

    async def listen(self, port: int | None = None) -> int:
        """Open the callback endpoint on the configured port, or this one. Returns the port.

        Raises:
            PortBusy: another program has it.
        """
        return await self._reception().listen(self.config.gateway.callback.port if port is None else port)

    async def sign_in_of_state(self, state: str) -> SignIn | None:
        """The sign-in behind a link of ours that may have sent the browser on with this `state`, else None."""
        slot = AuthorizationResponse(state=state).slot
        sign_in = await self.store.sign_ins.get(slot) if slot is not None else None
        return sign_in if sign_in is not None and sign_in.gate is not None else None

    async def finish(self, answer: AuthorizationResponse, binding: Binding) -> SignIn:
        """The second half of a sign-in; see `SignIns.finish`."""
        return await self._sign_ins().finish(answer, binding)

    async def ask_last(self, answer: AuthorizationResponse, binding: Binding) -> tuple[SignIn, str | None]:
        """The last page of a browser without script; see `SignIns.ask_last`."""
        return await self._sign_ins().ask_last(answer, binding)

    async def last_page(self, answer: AuthorizationResponse, binding: Binding, secret: str) -> SignIn | None:
        """The sign-in whose last page with this secret still counts; see `SignIns.last_page`."""
        return await self._sign_ins().last_page(answer, binding, secret)

    async def paste(self, text: str, principal: str) -> SignIn:
        """Finish with what a person copied: the whole URL, its query, `code#state`, or the bare code.

        Raises:
            CallbackRejected and its children, AuthorizationRefused, TokenRequestFailed.
        """
        return await self.finish(parse_paste(text), Binding(principal=principal))

    async def claims(self, text: str) -> bool:
        """Whether a bare text is the redirect URL of a sign-in of ours; anything else is not our business."""
        slot = pasted_slot(text)
        return slot is not None and await self.store.sign_ins.get(slot) is not None

    async def cancel(self, server: str, owner: str = SHARED) -> bool:
        """End the open sign-in. False when there is none."""
        return await self._sign_ins().cancel(self._entry(server).name, check_owner(owner))

    async def open_sign_ins(self, owner: str | None = None) -> list[SignIn]:
        return await self._sign_ins().open(owner)

    async def wait(self, sign_in: SignIn, timeout: float) -> SignIn:
        """The sign-in when it has ended, in whichever process, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            current = await self._sign_ins().current(sign_in.server, sign_in.owner)
            if current is None or current.created_at != sign_in.created_at:
                if sign_in.status not in WAITING:
                    return sign_in
                end = Outcome("cancelled", f"A newer sign-in to {sign_in.server} took its place.")
                return stepped(sign_in, "cancelled", self._clock(), end=end)
            left = deadline - time.monotonic()
            if current.status not in OPEN or left <= 0:
                return current
            self._woken.clear()
            try:
                async with asyncio.timeout(min(_POLL, left)):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def confirm_works(
        self, server: str, owner: str = SHARED, *, timeout: float = TEST_TIMEOUT
    ) -> ConnectionStatus:
        """An authenticated call with new credentials: keeps them when it works, brings the old ones back on a no.

        Where the endpoint has made that call already, its result.
        """
        sign_in = await self.store.sign_ins.latest(owner, server)
        if sign_in is not None and sign_in.status == "done" and sign_in.check is not None:
            check = sign_in.check
            return ConnectionStatus(ConnectionState(check.state), check.tools, check.ms, check.detail)
        return await self._confirm_works(server, owner, timeout)

    async def _confirm_works(self, server: str, owner: str, timeout: float) -> ConnectionStatus:
        entry = self._entry(server)
        new = await self.store.grants.get(owner, server, entry.url or "")
        self._probes.changed(server, owner)
        result = await self.probe(server, owner, timeout=timeout)
        if new is None or new.previous is None or new.previous.tokens is None:
            return result
        kept = await self.store.grants.get(owner, server, entry.url or "")
        if kept is not None and kept.tokens is not None and kept.signed_in_at == new.previous.signed_in_at:
            detail = f"{server} refused the new access, so the sign-in of before is kept."
            return ConnectionStatus(ConnectionState.REFUSED, detail=detail)
        return result

    # -- our own pages -----------------------------------------------------------------------

    @property
    def gatekeeper(self) -> Gatekeeper:
        """Opens the links of sign-ins and key forms, and takes the codes."""
        if self._gatekeeper is None:
            from mcp_auth.links.gate import Gatekeeper

            self._gatekeeper = Gatekeeper(
                self.store,
                self.policy,
                self._release,
                self._link_ended,
                self._link_burned,
                self._clock,
                self._link_continued,
                lambda: self.config.gateway.verify != "browser",
            )
        return self._gatekeeper

    async def confirm(self, code: str, principal: str, *, private: bool) -> SignIn | KeyForm:
        """Take a code that `principal` sent in a chat; see `Gatekeeper.confirm`."""
        try:
            return await self.gatekeeper.confirm(code, principal, private=private)
        except CodeRejected:
            self.audit.write(Event.WRONG_CODE, who=principal, outcome="confirm")
            raise

    async def review(self, code: str, principal: str, *, private: bool) -> SignIn | KeyForm:
        """What a code would confirm; see `Gatekeeper.review`."""
        try:
            return await self.gatekeeper.review(code, principal, private=private)
        except CodeRejected:
            self.audit.write(Event.WRONG_CODE, who=principal, outcome="review")
            raise

    async def key_form(
        self, server: str, owner: str, origin: Origin, variables: tuple[KeyVariable, ...], *, listen: bool = True
    ) -> StartedKeyForm:
        """A link to a one-time page on which these keys are typed. The open one is handed out again.

        Raises:
            NotAllowed, PortBusy; ConfigError: no `gateway.public_url`; SignInError: somebody else has one open.
        """
        from mcp_auth.web.key_forms import StartedKeyForm
        from mcp_auth.web.ways import check_method

        public_url = self.config.gateway.public_url
        if public_url is None:
            raise ConfigError("A key form needs gateway.public_url.", key="gateway.public_url")
        decision = await self.policy.decide(origin.principal, server, check_owner(owner))
        if not decision.allowed:
            raise NotAllowed(f"You may not set a key for {server}.")
        check_method(decision, self.config, self.logins, origin.principal)
        await self._reception().serves_pages(listen)
        form, ticket = await self._forms().begin(self._usable_entry(server), owner, origin, variables)
        return StartedKeyForm(form, f"{public_url}/k/{ticket}", decision.needs_proof)

    async def open_key_forms(self) -> list[KeyForm]:
        """Every open key form; the dead are written down on the way."""
        stored = [await self._forms().current(form.id) for form in await self.store.key_forms.list()]
        return [form for form in stored if form is not None and form.status in OPEN]

    async def cancel_key_form(self, server: str, owner: str = SHARED) -> bool:
        """End the open key form. False when there is none."""
        return await self._forms().cancel(self._entry(server).name, check_owner(owner))

    async def sign_in_of_ticket(self, ticket: str) -> SignIn | None:
        """The sign-in that this ticket opens, or None."""
        slot = slot_of(ticket)
        stored = await self.store.sign_ins.get(slot) if slot is not None else None
        if stored is None or not self.gatekeeper.knows(stored, ticket):
            return None
        return await self._sign_ins().current(stored.server, stored.owner)

    async def key_form_of_ticket(self, ticket: str) -> KeyForm | None:
        """The key form that this ticket opens, or None."""
        slot = slot_of(ticket)
        form = await self._forms().current(slot) if slot is not None else None
        return form if form is not None and self.gatekeeper.knows(form, ticket) else None

    async def fill_key_form(
        self, form: KeyForm, browser: str, values: Mapping[str, str], *, untried: bool = False
    ) -> Entry:
        """Try and store what was typed; see `KeyForms.fill`."""
        return await self._forms().fill(form, browser, values, untried=untried)

    async def client_document(self, connection: str) -> dict[str, Any] | None:
        """The client ID metadata document of a connection where it is who we are, else None."""
        from mcp_auth.oauth.registration import client_document, uses_own_document

        public_url = self.config.gateway.public_url
        if public_url is None or not public_url.startswith("https://"):
            return None
        for entry in self.config.servers.values():
            known = await self.store.connections.get(entry.url) if entry.url is not None else None
            if known is None or entry.url is None or not uses_own_document(entry):
                continue
            at = {one.issuer for one in known.registrations if one.source == "metadata_document"}
            if known.metadata is not None and known.metadata.client_id_metadata_document_supported is True:
                at.add(known.metadata.issuer)
            if any(connection in connection_ids(entry.url, issuer) for issuer in at):
                return client_document(entry, public_url, connection)
        return None

    def now(self) -> float:
        return self._clock()

    async def _release(self, record: Linked) -> Linked:
        return self._sign_ins().authorize(record) if isinstance(record, SignIn) else record

    def _link_ended(self, record: Linked) -> None:
        if isinstance(record, SignIn):
            self._sign_in_ended(record)
        elif isinstance(record, KeyForm):
            self._key_form_ended(record)

    def _link_burned(self, record: Linked, by: str) -> None:
        self.audit.write(
            Event.SIGN_IN_BURNED,
            who=by,
            whom=record.origin.principal,
            server=record.server,
            owner=record.owner,
            ticket=ticket_of(record),
        )

    def _link_continued(self, record: Linked) -> None:
        visit = record.gate.visit if record.gate is not None else None
        self.audit.write(
            Event.LINK_CONTINUED,
            whom=record.origin.principal,
            server=record.server,
            owner=record.owner,
            ticket=ticket_of(record),
            address=visit.address if visit is not None else None,
            browser=visit.browser if visit is not None else None,
        )

    def _key_form_ended(self, form: KeyForm) -> None:
        self._tell(Change("key_form_ended", form.server, form.owner))

    def _forms(self) -> KeyForms:
        if self._key_forms is None:
            from mcp_auth.web.key_forms import KeyForms

            self._key_forms = KeyForms(self.store, self.gatekeeper, self, self._key_form_ended, self._clock)
        return self._key_forms

    # -- credentials -------------------------------------------------------------------------

    async def access_token(self, server: str, owner: str = SHARED) -> str:
        """A valid access token; refreshed ahead of its end, once for all tasks and processes.

        Raises:
            SignInNeeded, ReauthorizationNeeded, RefreshUnavailable.
        """
        return await self._refresher().access_token(self._usable_entry(server), check_owner(owner))

    async def headers(self, server: str, owner: str = SHARED) -> dict[str, str]:
        """Everything to send to the server: its configured headers with their values, and the access token.

        Raises:
            KeyMissing, SignInNeeded, ReauthorizationNeeded, RefreshUnavailable.
        """
        return await self._headers(self._usable_entry(server), check_owner(owner), None)

    def http_auth(self, server: str, owner: str = SHARED) -> httpx2.Auth:
        """Authentication for an `httpx2.AsyncClient`, bound to the server's origin and path."""
        return self._server_auth(self._usable_entry(server), check_owner(owner))

    def _server_auth(self, entry: Server, owner: str, *, insist: bool = False) -> ServerAuth:
        from mcp_auth.agent import ServerAuth

        return ServerAuth(entry, _OwnerCredentials(self, entry, owner, insist))

    def session(self, server: str, owner: str = SHARED) -> AbstractAsyncContextManager[Client]:
        """A connected `mcp.Client`, signed in, over whichever transport the server has.

        Raises:
            CredentialsNeeded and its children, ServerRefused, Unreachable.
        """
        return self._session(server, owner)

    @asynccontextmanager
    async def _session(
        self, server: str, owner: str, *, insist: bool = False, bytes_max: int | None = None
    ) -> AsyncIterator[Client]:
        """`insist`: as in `Refresher.access_token`. `bytes_max`: of all that the server may send."""
        from mcp_auth.agent import open_session
        from mcp_auth.net.bodies import BoundedAnswers

        entry = self._usable_entry(server)
        check_owner(owner)
        auth = transport = None
        environment: dict[str, str] = {}
        arguments: tuple[str, ...] = ()
        if entry.url is not None:
            # Missing credentials are said before a connection is made.
            headers = await self._headers(entry, owner, None, insist=insist)
            if self.config.gateway.network.proxy is not None:
                is_signed_in = "Authorization" in headers and "Authorization" not in entry.headers
                self._check_proxied(entry, is_signed_in=is_signed_in)
            auth = self._server_auth(entry, owner, insist=insist)
            transport = BoundedAnswers(
                self._http().transport(self._rules(entry)),
                entry.name,
                message_max=self._message_max,
                total_max=bytes_max,
            )
        else:
            keys = await self._keys(entry, owner)
            environment = {name: self._variables.resolve(value, keys=keys) for name, value in entry.env.items()}
            arguments = tuple(self._variables.resolve(value, keys=keys) for value in entry.args)
        async with open_session(
            entry, auth=auth, transport=transport, environment=environment, arguments=arguments
        ) as client:
            yield client

    async def logout(self, server: str, owner: str = SHARED, *, by: str | None = None) -> LogoutResult:
        """Revoke at the authorization server (RFC 7009), then delete; says which of the two happened.

        `by`: the principal who asks, for the audit log.
        """
        from mcp_auth.oauth.revocation import SignOut

        entry = self._entry(server)
        sign_out = SignOut(self.store, self._http(), self._rules, self._sign_ins(), self._tell)
        return await sign_out.sign_out(entry, check_owner(owner), by=by)

    # -- API keys ----------------------------------------------------------------------------

    async def key_variables(self, server: str, owner: str = SHARED) -> tuple[KeyVariable, ...]:
        """The variables that a server's headers and environment need, and which of them have values."""
        entry = self._entry(server)
        return key_variables(entry, self._variables, await self._keys(entry, owner))

    async def try_keys(
        self, server: str, values: Mapping[str, str], owner: str = SHARED, *, by: str | None = None
    ) -> KeyTrial:
        """Ask the server about candidate values without storing them. `by`: as in `logout`.

        Raises:
            KeyMissing: another variable of the same headers has no value yet. KeyInvalid: not fit for a header.
        """
        entry = self._usable_entry(server)
        keys = await self._keys(entry, check_owner(owner))
        trial = await try_keys(self._http(), self._rules(entry), entry, self._variables, values, keys)
        if trial.verdict is Verdict.REFUSED:
            self.audit.write(Event.KEY_REFUSED, who=by, server=server, owner=owner)
        return trial

    async def set_keys(
        self, server: str, values: Mapping[str, str], owner: str = SHARED, *, by: str | None = None
    ) -> None:
        """Keep values: in `.env` for `shared`, with the owner's grant otherwise. `by`: as in `logout`.

        Raises:
            KeyInvalid, StoreError, Busy.
        """
        entry = self._entry(server)
        if check_owner(owner) != SHARED:
            await self.store.grants.set_damaged_aside(owner, server)
        await set_keys(self.config, self.store, entry, values, owner)
        self._tell(Change("key_set", server, owner, by=by))

    # -- changes -----------------------------------------------------------------------------

    def on_change(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call `callback` after every change made through this instance. Returns the undo."""
        return self._changes.on_change(callback)

    def _tell(self, change: Change) -> None:
        self._woken.set()
        self._told = object()
        if change.kind in ("signed_in", "signed_out", "key_set"):
            self._probes.changed(change.server, change.owner)
        self._changes.tell(change)

    # -- inside ------------------------------------------------------------------------------

    async def _headers(self, entry: Server, owner: str, refused: str | None, *, insist: bool = False) -> dict[str, str]:
        headers = resolved_headers(entry, self._variables, await self._keys(entry, owner))
        connection = None
        if entry.auth is None and not entry.headers and entry.url is not None:
            connection = await self.store.connections.get(entry.url)
        if uses_oauth(entry, connection):
            token = refused.removeprefix("Bearer ") if refused is not None else None
            access = await self._refresher().access_token(entry, owner, refused=token, insist=insist)
            headers["Authorization"] = f"Bearer {access}"
        return headers

    async def _keys(self, entry: Server, owner: str) -> Mapping[str, str] | None:
        """Where this owner's variables come from: their own keys, or None for `.env` and the environment."""
        if owner == SHARED or not (entry.headers or entry.env or entry.args):
            return None
        return owner_keys(owner, await self._grant(entry, owner))

    async def _grant(self, entry: Server, owner: str) -> Grant | None:
        """What the owner holds; nothing where the owner's name is somebody else's by now."""
        grant = await self.store.grants.get(owner, entry.name, entry.url or "")
        return None if grant is not None and reused_name(owner, grant.accounts, self.config.gateway) else grant

    async def reused_names(self) -> list[Grant]:
        """What is stored for persons of `people:` whose names stand for somebody else by now."""
        stored = await self.store.grants.list()
        return [grant for grant in stored if reused_name(grant.owner, grant.accounts, self.config.gateway)]

    def _entry(self, name: str) -> Server:
        entry = self.config.servers.get(name)
        if entry is None:
            raise UnknownServer("There is no such server in the configuration.", next_step=Next("list"))
        return entry

    def _usable_entry(self, name: str) -> Server:
        entry = self._entry(name)
        if entry.problem is not None:
            raise ConfigError(entry.problem, next_step="correct the configuration")
        if not entry.enabled:
            raise NotAllowed(f"{name} is disabled.", next_step="set enabled: true in the configuration")
        return entry

    def _rules(self, entry: Server) -> NetworkRules:
        rules = self._rules_by_server.get(entry.name)
        if rules is None:
            rules = self._rules_by_server[entry.name] = NetworkRules.for_url(
                entry.url or "", allow=self.config.gateway.network.allow, allow_http=entry.allow_http
            )
        return rules

    @property
    def _message_max(self) -> int:
        return self.config.gateway.network.max_body_mb * 1024 * 1024

    def _check_proxied(self, entry: Server, *, is_signed_in: bool) -> None:
        url = urlsplit(entry.url or "")
        self._rules(entry).check_proxied(url.scheme, url.hostname or "", url.port, credentials=is_signed_in)

    def _http(self) -> Http:
        if self._http_client is None:
            from mcp_auth.net.http import Http

            self._http_client = Http(proxy=self.config.gateway.network.proxy)
        return self._http_client

    def _sign_ins(self) -> SignIns:
        if self._sign_in_half is None:
            from mcp_auth.oauth.sign_in import SignIns

            self._sign_in_half = SignIns(
                self.config,
                self.store,
                self._http(),
                self._variables,
                self._rules,
                self._sign_in_ended,
                self.gatekeeper,
                self._try_out,
                self._clock,
            )
        return self._sign_in_half

    async def _try_out(self, server: str, owner: str) -> ConnectionStatus:
        from mcp_auth.oauth.sign_in import TRY_OUT_TIMEOUT

        return await self._confirm_works(server, owner, TRY_OUT_TIMEOUT)

    def _sign_in_ended(self, sign_in: SignIn) -> None:
        kind: ChangeKind = "signed_in" if sign_in.status == "done" else "sign_in_ended"
        self._tell(Change(kind, sign_in.server, sign_in.owner, sign_in))

    def _refresher(self) -> Refresher:
        if self._refresh_half is None:
            from mcp_auth.oauth.refresh import Refresher

            self._refresh_half = Refresher(
                self.config,
                self.store,
                self._http(),
                self._sign_ins(),
                self._rules,
                self._refreshed,
                self._clock,
                correction=partial(client_correction, self._variables),
            )
        return self._refresh_half

    def _rejections(self) -> Rejections:
        if self._rejected is None:
            from mcp_auth.oauth.rejections import Rejections

            self._rejected = Rejections(self.store, self._sign_ins(), self._look, self._tell, self._clock)
        return self._rejected

    def _refreshed(self, kind: ChangeKind, owner: str, server: str) -> None:
        self._tell(Change(kind, server, owner))

    def _callback_endpoint(self) -> LoopbackListeners:
        if self._listeners is None:
            from mcp_auth.web.endpoint import Endpoint
            from mcp_auth.web.loopback import LoopbackListeners

            self._listeners = LoopbackListeners(
                self.config.home,
                lambda paths: self._proxied(Endpoint(self, loopback_paths=paths, mounts=self._mounts)),
                self.config.gateway.trusted_proxies,
            )
        return self._listeners

    def _reception(self) -> Reception:
        if self._received_by is None:
            from mcp_auth.web.ways import Reception

            self._received_by = Reception(self.config, self._callback_endpoint)
        return self._received_by

    def asgi_app(self, prefix: str = "") -> ASGIApp:
        """The endpoint as an ASGI application, to be mounted in somebody else's. See `mcp_auth.web.endpoint`.

        Args:
            prefix: the path under which it is reached when the server around it does not take it off.

        Raises:
            ConfigError: `gateway.public_url` is not set.
        """
        from mcp_auth.web.endpoint import Endpoint

        if self.config.gateway.public_url is None:
            raise ConfigError(
                "The endpoint cannot be mounted without gateway.public_url: links are made of it.",
                key="gateway.public_url",
                next_step="set gateway.public_url to the address under which the application is reached",
            )
        self._reception().is_mounted = True
        return self._proxied(Endpoint(self, prefix=prefix, mounts=self._mounts))

    def _proxied(self, app: ASGIApp) -> ASGIApp:
        """`app`, which sees the client's own address where a trusted proxy tells it."""
        trusted = self.config.gateway.trusted_proxies
        if not trusted:
            return app
        from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

        return cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), with_ipv6_forms(trusted)))

    def mount(self, path: str, app: ASGIApp) -> None:
        """Serve `app` below `path` (`/hooks/whatsapp`) of the endpoint. `app` sees the whole path."""
        self._mounts[path.rstrip("/")] = app

    def platform_options(self, platform: str, model: type[Options]) -> Options:
        """The section `gateway.<platform>` as `model`, its placeholders replaced by what they stand for now.

        Raises:
            ConfigError: a key is missing or of another kind, or a variable has no value.
        """
        from mcp_auth.config.sections import platform_section

        return platform_section(self.config, platform, model, self._variables.resolve_gateway)


# Another process' change of a grant or a key is seen that many seconds later at most.
_LOOK_EVERY = 0.25


@dataclass(frozen=True, slots=True)
class _Look:
    """What was to be sent at some moment, and what tells whether it still is."""

    headers: dict[str, str] = field(repr=False)
    written: object
    told: object
    at: float
    monotonic: float


class _NotAsked(McpAuthError):
    """A server was not asked, for want of a credential."""


class _OwnerCredentials:
    """What `ServerAuth` sends for one owner.

    One look at the store and at `.env` serves all requests of the next quarter of a second, so that most cost no
    system call. A change made in this process ends that at once, and so does a 401.
    """

    def __init__(self, core: McpAuth, entry: Server, owner: str, insist: bool) -> None:
        self._core = core
        self._entry = entry
        self._owner = owner
        self._insist = insist
        self._last: _Look | None = None

    @property
    def is_doubted(self) -> bool:
        return (self._owner, self._entry.name) in self._core._refresher().doubted

    async def headers(self, refused: str | None = None) -> dict[str, str]:
        core, last = self._core, self._last
        if refused is None and last is not None and self._still_counts(last):
            return last.headers
        if refused is not None:
            # Whoever else holds it looks again too.
            core._told = object()
        # Noted before the look: what changes during it is looked at again.
        self._last = None
        written, told, at, monotonic = core.store.grants.written, core._told, core._clock(), core._monotonic()
        try:
            headers = await core._headers(self._entry, self._owner, refused, insist=self._insist)
        except CredentialsNeeded:
            # Whoever insists is heard once; a session makes several requests.
            self._insist = False
            raise
        self._last = _Look(headers, written, told, at, monotonic)
        return headers

    def _still_counts(self, last: _Look) -> bool:
        core = self._core
        if last.written is not core.store.grants.written or last.told is not core._told:
            return False
        # The monotonic clock stands still while the machine sleeps, the other one can be set back.
        return core._monotonic() - last.monotonic < _LOOK_EVERY and 0 <= core._clock() - last.at < _LOOK_EVERY

    async def refused(self, status: int, challenge: BearerChallenge | None, sent: str | None) -> McpAuthError:
        return await self._core._rejections().refused(self._entry, self._owner, status, challenge, sent)

    async def worked(self, sent: str) -> None:
        await self._core._rejections().worked(self._entry, self._owner, sent.removeprefix("Bearer "))


def _store_for(config: Config) -> Store:
    from mcp_auth.stores.files import FileStore

    check_store(config)
    return FileStore(config.home)


def _what_and_now(error: McpAuthError) -> str:
    """What was seen, and what to do where that is no command: the line around it names one already."""
    if not isinstance(error.next_step, str):
        return error.message
    return f"{error.message.rstrip('.')}; {error.next_step}"


def _no_mcp(error: Exception) -> str:
    """What a server answered instead of MCP, or its own error."""
    from mcp import MCPError

    from mcp_auth.oauth.tokens import plain

    said = plain(error.error.message, 160) if isinstance(error, MCPError) else None
    if said is None or said.startswith(_WORDS_OF_THE_SDK):
        return "it does not answer as an MCP server does; check the url"
    return f"it answers with an error: {said}"


# What the SDK says in the server's place when an answer is no MCP.
_WORDS_OF_THE_SDK = (
    "Failed to parse",
    "Unexpected content type",
    "server answered a request with 202",
    "Server returned an error response",
    "Connection closed",
)
