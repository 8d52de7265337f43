"""The servers of a configuration by name, and the network rules of each."""

from __future__ import annotations

from mcp_auth.config.models import Config, Server
from mcp_auth.errors import ConfigError, NotAllowed, UnknownServer
from mcp_auth.net.rules import NetworkRules
from mcp_auth.outcome import Next


class Servers:
    """What every part asks of the configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rules: dict[str, NetworkRules] = {}

    def named(self, name: str) -> Server:
        """The entry of this name.

        Raises:
            UnknownServer.
        """
        entry = self._config.servers.get(name)
        if entry is None:
            raise UnknownServer("There is no such server in the configuration.", next_step=Next("list"))
        return entry

    def usable(self, name: str) -> Server:
        """The entry of this name, when it can be used.

        Raises:
            UnknownServer; ConfigError: its entry is wrong; NotAllowed: it is disabled.
        """
        entry = self.named(name)
        if entry.problem is not None:
            raise ConfigError(entry.problem, next_step="correct the configuration")
        if not entry.enabled:
            raise NotAllowed(f"{name} is disabled.", next_step="set enabled: true in the configuration")
        return entry

    def rules(self, entry: Server) -> NetworkRules:
        """The network rules for requests on behalf of this server."""
        rules = self._rules.get(entry.name)
        if rules is None:
            rules = self._rules[entry.name] = NetworkRules.for_url(
                entry.url or "", allow=self._config.gateway.network.allow, allow_http=entry.allow_http
            )
        return rules
