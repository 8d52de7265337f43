"""What a handler gets: the invocation, what can be done with its answer, and what all of them work with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import policy
from gateway.invocations import LOCAL, Capabilities, Invocation, Principal
from mcp_auth.audit import Event
from mcp_auth.config.models import Config
from mcp_auth.limits import counted_as
from mcp_auth.status import ServerStatus

if TYPE_CHECKING:
    from gateway.key_prompts import KeyPrompts
    from gateway.pairing import Pairing
    from gateway.people import People
    from gateway.sign_ins import SignInWatcher
    from mcp_auth.core import McpAuth


@dataclass(frozen=True, slots=True)
class Services:
    """What handlers work with, the same for every request.

    Args:
        watcher: follows the sign-ins that are begun here.
        people: who is served at this moment.
    """

    auth: McpAuth
    watcher: SignInWatcher
    people: People
    pairing: Pairing
    prompts: KeyPrompts
    clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Request:
    """One invocation of somebody who is served."""

    services: Services
    invocation: Invocation
    capabilities: Capabilities
    auth: McpAuth
    principal: Principal
    # With the people of the moment in which it came.
    config: Config

    @classmethod
    def of(cls, services: Services, invocation: Invocation, capabilities: Capabilities) -> Request:
        config = services.people.config
        return cls(services, invocation, capabilities, services.auth, invocation.principal, config)

    @property
    def counted_as(self) -> str:
        """All accounts of one person count together."""
        return counted_as(str(self.principal), self.config.gateway)

    @property
    def is_admin(self) -> bool:
        return policy.is_admin(self.principal, self.config.gateway)

    @property
    def has_key_forms(self) -> bool:
        """Whether keys are typed on a page of ours. The terminal hides what is typed and needs none."""
        return self.config.gateway.public_url is not None and self.principal != LOCAL

    @property
    def may_prompt(self) -> bool:
        """Whether a key may be typed into the platform's own input."""
        return self.capabilities.secret_input and policy.secrets_in_chat(self.principal, self.config.gateway)

    def owner(self, server: str) -> str:
        """Whose credentials count at this server.

        Raises:
            NotAllowed: see `policy.owner_for`.
        """
        acting_for, people = self.invocation.acting_for, self.services.people
        config = self.config if acting_for is None else people.ever_known
        return policy.owner_for(self.principal, config.servers[server], config, acting_for)

    def bound(self, seconds: float) -> float:
        """How long servers may take: `seconds`, or what is left for the invocation."""
        deadline = self.invocation.deadline
        return seconds if deadline is None else min(seconds, max(0.0, deadline - time.monotonic()))

    def may_change(self, server: str) -> bool:
        return policy.may_change(self.principal, self.config.servers[server], self.config)

    def may_paste(self, *, private: bool) -> bool:
        return policy.may_paste(self.principal, private, self.config.gateway)

    def note_refusal(self, verb: str, server: str | None = None) -> None:
        """For the audit log: this command was not allowed."""
        self.auth.audit.write(Event.COMMAND_REFUSED, who=self.principal, server=server, outcome=verb)

    async def status(self, server: str) -> ServerStatus:
        return await self.auth.status(server, self.owner(server))

    async def statuses(self) -> list[ServerStatus]:
        """Of every server, in the order of the configuration."""
        return await self.auth.statuses(self.owner)
