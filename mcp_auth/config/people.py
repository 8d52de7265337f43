"""Whose credentials are whose: the accounts behind an owner, and what several people need. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from mcp_auth.config.models import GatewayOptions, Server

if TYPE_CHECKING:
    from mcp_auth.records import Grant


def accounts_of(owner: str, gateway: GatewayOptions) -> tuple[str, ...]:
    """The accounts behind an owner of the form `person:ann`, as the configuration says now; of others none."""
    return gateway.people.get(owner.removeprefix("person:"), ()) if owner.startswith("person:") else ()


def reused_name(owner: str, accounts: tuple[str, ...], gateway: GatewayOptions) -> str | None:
    """Why what these accounts made is not this owner's any more, a sentence: the name is somebody else's by now."""
    if not accounts or not owner.startswith("person:") or set(accounts) & set(accounts_of(owner, gateway)):
        return None
    name = owner.removeprefix("person:")
    return f"None of the accounts that made it is {name}'s any more (gateway.people)."


def held(grant: Grant | None, owner: str, gateway: GatewayOptions) -> Grant | None:
    """What the owner holds; nothing where the owner's name is somebody else's by now."""
    return None if grant is not None and reused_name(owner, grant.accounts, gateway) else grant


def is_per_user(server: Server, gateway: GatewayOptions) -> bool:
    """Whether everybody has credentials of their own at this server."""
    return (server.identity or gateway.identity) == "per_user"


class PeopleProblem(msgspec.Struct, frozen=True):
    """Why this many people cannot be served: a key below `gateway:`, what is wrong with it, and what to do."""

    key: str
    clause: str
    next_step: str


def people_problem(gateway: GatewayOptions, servers: Mapping[str, Server]) -> PeopleProblem | None:
    """What must be configured before more than one person is served."""
    if len(gateway.persons) < 2:
        return None
    if gateway.verify == "none":
        return PeopleProblem(
            "verify",
            "is none while several people are allowed; then anybody could finish somebody else's sign-in",
            "remove gateway.verify, or set it to auto",
        )
    shares = any(not is_per_user(server, gateway) for server in servers.values() if server.enabled)
    if shares and not gateway.admins:
        return PeopleProblem(
            "admins",
            "is missing: several people share a server, and it must be said who may change its sign-in",
            "add gateway.admins, or set gateway.identity to per_user",
        )
    return None
