"""Who is served, who may do what, with whose credentials, and who must prove it.

Pure functions over the configuration, and what of them `mcp_auth` asks for (`mcp_auth.links.policy.Policy`).
"""

from __future__ import annotations

from gateway.invocations import LOCAL, Principal
from gateway.people import People
from mcp_auth.config.models import Config, GatewayOptions, Server
from mcp_auth.config.people import is_per_user
from mcp_auth.errors import NotAllowed
from mcp_auth.links.policy import PolicyDecision, needs_page, needs_proof
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED


def is_allowed(principal: Principal, gateway: GatewayOptions) -> bool:
    """Deny by default: only `allow`, and the operator at the terminal (`cli:local`)."""
    return principal == LOCAL or (principal.platform != LOCAL.platform and str(principal) in gateway.allow)


def is_admin(principal: Principal, gateway: GatewayOptions) -> bool:
    """May this principal let people in, and change what a team shares? With any of an admin's accounts."""
    if principal == LOCAL:
        return True
    admins = {gateway.person_of(text) for text in gateway.admins}
    return is_allowed(principal, gateway) and gateway.person_of(str(principal)) in admins


def may_change(principal: Principal, server: Server, config: Config) -> bool:
    """May they sign in, set a key, cancel and sign out here? Of several people only admins may at a shared server."""
    gateway = config.gateway
    if not is_allowed(principal, gateway):
        return False
    if principal == LOCAL or is_per_user(server, gateway):
        return True
    return len(gateway.persons) <= 1 or is_admin(principal, gateway)


def may_sign_in(principal: Principal, gateway: GatewayOptions) -> bool:
    """May OAuth sign-ins begin here? From a chat while one person is allowed, or with the same-person proof.

    Whoever opens a forwarded link would bind an own account to the sender's: without the proof of the public
    endpoint nothing tells the two apart (design, section 7). `allow_paste`: the operator takes that risk.
    """
    if principal == LOCAL or len(gateway.persons) <= 1:
        return True
    return gateway.public_url is not None or gateway.allow_paste


def may_paste(principal: Principal, private: bool, gateway: GatewayOptions) -> bool:
    """Paste-back: in private only; with several people only when `allow_paste` says so."""
    if principal == LOCAL:
        return True
    return private and (gateway.allow_paste or len(gateway.persons) <= 1)


def secrets_in_chat(principal: Principal, gateway: GatewayOptions) -> bool:
    """May this platform's own input carry a secret? The terminal hides input and always may."""
    return principal == LOCAL or gateway.platforms.get(principal.platform, {}).get("secrets_in_chat") is True


def owner_for(principal: Principal, server: Server, config: Config, acting_for: str | None = None) -> str:
    """Whose credentials this principal uses at this server.

    Args:
        acting_for: a name in `people` or a principal in `allow` (`--as` of the command line); for `cli:local` only.

    Raises:
        NotAllowed: `acting_for` by somebody else, or naming nobody who is known.
    """
    acting = _acting(principal, config.gateway, acting_for)
    if not is_per_user(server, config.gateway):
        return SHARED
    return acting


def _acting(principal: Principal, gateway: GatewayOptions, acting_for: str | None) -> str:
    if acting_for is None:
        return gateway.person_of(str(principal))
    if principal != LOCAL:
        raise NotAllowed("Only the operator at the terminal can act for somebody else.", next_step=Next("list"))
    if acting_for in gateway.people:
        return f"person:{acting_for}"
    if acting_for in gateway.allow:
        return gateway.person_of(str(Principal.parse(acting_for)))
    raise NotAllowed(
        "There is nobody of this name in gateway.people or gateway.allow.",
        next_step="name a person of gateway.people, or an allowed principal such as telegram:123456789",
    )


class GatewayPolicy:
    """Judges by the rules of this module, as they are at this moment."""

    def __init__(self, people: People) -> None:
        self._people = people

    @property
    def _config(self) -> Config:
        return self._people.config

    async def decide(self, principal: str, server: str, owner: str) -> PolicyDecision:
        self._people.refresh()
        gateway = self._config.gateway
        people = len(gateway.persons)
        return PolicyDecision(
            allowed=self._may(Principal.parse(principal), server, owner),
            needs_proof=needs_proof(gateway, people),
            needs_page=not self.is_operator(principal) and needs_page(gateway, people),
        )

    def is_operator(self, principal: str) -> bool:
        return principal == str(LOCAL)

    def is_same_person(self, principal: str, other: str) -> bool:
        gateway = self._config.gateway
        return gateway.person_of(principal) == gateway.person_of(other)

    def _may(self, principal: Principal, server: str, owner: str) -> bool:
        entry = self._config.servers.get(server)
        if entry is None or not may_change(principal, entry, self._config):
            return False
        if principal == LOCAL:
            # The operator acts for anybody (`--as`).
            return True
        try:
            # Whose credentials these are may have changed with `people` and `identity`.
            return owner_for(principal, entry, self._config) == owner
        except NotAllowed:
            return False
