"""What the core asks about people: who may finish a sign-in or a key form, and whether the proof is needed."""

from __future__ import annotations

from gateway import access
from gateway.invocations import LOCAL, Principal
from gateway.people import People
from mcp_auth.config.models import Config
from mcp_auth.errors import NotAllowed
from mcp_auth.links.gate import Judgement, needs_page, needs_proof


class GatewayJudge:
    """Judges by the rules of `gateway.access`, as they are at this moment."""

    def __init__(self, people: People) -> None:
        self._people = people

    @property
    def _config(self) -> Config:
        return self._people.config

    async def judge(self, principal: str, server: str, owner: str) -> Judgement:
        self._people.refresh()
        gateway = self._config.gateway
        people = len(gateway.persons)
        return Judgement(
            allowed=self._may(Principal.parse(principal), server, owner),
            needs_proof=needs_proof(gateway, people),
            needs_page=needs_page(principal, gateway, people),
        )

    def is_same_person(self, principal: str, other: str) -> bool:
        gateway = self._config.gateway
        return gateway.person_of(principal) == gateway.person_of(other)

    def _may(self, principal: Principal, server: str, owner: str) -> bool:
        entry = self._config.servers.get(server)
        if entry is None or not access.may_change(principal, entry, self._config):
            return False
        if principal == LOCAL:
            # The operator acts for anybody (`--as`).
            return True
        try:
            # Whose credentials these are may have changed with `people` and `identity`.
            return access.owner_for(principal, entry, self._config) == owner
        except NotAllowed:
            return False
