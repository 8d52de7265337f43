"""Who may do what at a server, and who must prove that chat and browser are the same person: asked of the host."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from mcp_auth.config.models import GatewayOptions


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """`allowed`: this principal may still do this.

    `needs_proof`: behind a link of the public endpoint, only with the same-person proof. `needs_page`: only there; an
    authorization server's own link (loopback mode) has no page that could ask for it.
    """

    allowed: bool = True
    needs_proof: bool = False
    needs_page: bool = False


class Policy(Protocol):
    """Who may do what. The host of this package supplies it; asked when a link is made, opened, and at the end."""

    async def decide(self, principal: str, server: str, owner: str) -> PolicyDecision: ...

    def is_same_person(self, principal: str, other: str) -> bool:
        """Whether an identity proven in the browser is the person who asked in the chat."""
        ...

    def is_operator(self, principal: str) -> bool:
        """Whether this principal sits at this machine: a link needs no page of ours then, and no try is counted."""
        ...


class ConfigPolicy:
    """The policy where nobody supplies one: whoever began may finish, with the proof that `gateway.verify` asks for."""

    def __init__(self, gateway: GatewayOptions, operators: Collection[str] = ()) -> None:
        self._gateway = gateway
        self._operators = operators

    async def decide(self, principal: str, server: str, owner: str) -> PolicyDecision:
        people = len(self._gateway.persons)
        page = not self.is_operator(principal) and needs_page(self._gateway, people)
        return PolicyDecision(needs_proof=needs_proof(self._gateway, people), needs_page=page)

    def is_same_person(self, principal: str, other: str) -> bool:
        return principal == other

    def is_operator(self, principal: str) -> bool:
        return principal in self._operators


def needs_proof(gateway: GatewayOptions, people: int) -> bool:
    """Whether it has to be proven who sits at the browser behind a link of ours, while so many people are allowed.

    However few may ask, anybody can be sent a link. `none` is for one person who says so: it refuses to start with
    more, and when somebody is added later it counts as `auto`.
    """
    return gateway.verify != "none" or people > 1


def needs_page(gateway: GatewayOptions, people: int) -> bool:
    """Whether an authorization server's own link is no way for anybody but the operator, who sits in front of it.

    Nothing there could ask for the proof.
    """
    return gateway.verify in ("code", "browser") or people > 1
