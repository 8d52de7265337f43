"""The parts behind `McpAuth`: each gets the parts that it works with, once, and none calls back into what made it."""

from __future__ import annotations

from collections.abc import Callable

from mcp_auth.agent import Sessions
from mcp_auth.changes import Changes
from mcp_auth.config.models import Config
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.credentials import StoredCredentials
from mcp_auth.keys import Keys
from mcp_auth.kinds import SIGN_IN
from mcp_auth.limits import Limits
from mcp_auth.links.codes import Codes
from mcp_auth.links.logins import Logins
from mcp_auth.links.policy import Policy
from mcp_auth.links.verification import LinkVerifier
from mcp_auth.net.http import Http
from mcp_auth.oauth.exchange import Exchanges
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.refresh import Refresher
from mcp_auth.oauth.registration import Clients
from mcp_auth.oauth.rejections import Rejections
from mcp_auth.oauth.revocation import SignOut
from mcp_auth.oauth.sign_in import SignIns
from mcp_auth.probes import Prober
from mcp_auth.stores.base import Store
from mcp_auth.web.key_forms import KeyForms
from mcp_auth.web.loopback import LoopbackListeners
from mcp_auth.web.services import Services
from mcp_auth.web.ways import Reception, Ways


class Parts:
    """Built in the order in which they need each other."""

    def __init__(
        self,
        config: Config,
        servers: Servers,
        store: Store,
        policy: Policy,
        logins: Logins,
        variables: Variables,
        changes: Changes,
        limits: Limits,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.http = Http(proxy=config.gateway.network.proxy)
        self.profiles = Profiles(servers, store, self.http, clock)
        self.keys = Keys(config, servers, store, variables, self.http, changes, limits, policy)
        # What an agent sends
        self.refresher = Refresher(config, servers, store, self.http, variables, self.profiles, changes, clock)
        self.rejections = Rejections(store, self.profiles, changes, clock)
        self.credentials = StoredCredentials(
            store, variables, self.keys, self.refresher, self.rejections, changes, clock, monotonic
        )
        self.sessions = Sessions(config, servers, self.http, variables, self.keys, self.credentials)
        self.prober = Prober(
            servers,
            store,
            self.http,
            self.profiles,
            self.credentials,
            self.sessions,
            self.rejections,
            changes,
            config.gateway.network.max_body,
        )
        # Sign-ins
        clients = Clients(config, servers, variables, self.http, self.profiles, clock)
        self.sign_ins = SignIns(config, store, self.profiles, clients, changes, clock)
        self.sign_out = SignOut(servers, store, self.http, self.profiles, self.sign_ins, changes)
        self.verifier = LinkVerifier(config.gateway, store, policy, {SIGN_IN: self.sign_ins}, changes, clock)
        self.codes = Codes(store, policy, self.verifier, changes, clock)
        self.exchanges = Exchanges(
            config, servers, store, self.http, self.profiles, self.sign_ins, self.verifier, self.prober, clock
        )
        self.key_forms = KeyForms(store, self.keys, self.verifier, changes, clock)
        # Pages, and who serves them
        self.services = Services(
            config, store, limits, logins, self.verifier, self.sign_ins, self.exchanges, self.key_forms, clock
        )
        self.listeners = LoopbackListeners(self.services)
        self.reception = Reception(config, self.listeners)
        self.ways = Ways(
            config,
            servers,
            store,
            policy,
            logins,
            self.keys,
            self.profiles,
            self.sign_ins,
            self.key_forms,
            self.verifier,
            self.reception,
            changes,
        )

    async def close(self) -> None:
        """End listeners and connections. Exchanges under way are finished first, each within its deadline."""
        await self.listeners.close()
        await self.exchanges.drain()
        await self.http.close()
