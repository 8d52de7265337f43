"""The status of every server from the files of this home, without an event loop: what `slash-mcp list` starts with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from mcp_auth.config.models import Config, GatewayOptions, Server, check_store
from mcp_auth.config.people import reused_name
from mcp_auth.config.variables import Variables
from mcp_auth.errors import RecordDamaged, StoreError
from mcp_auth.oauth.clients import client_correction
from mcp_auth.records import SHARED, Grant, Stored, check_owner
from mcp_auth.status import ServerStatus, local_status, unreadable_status
from mcp_auth.stores.files import FileStore

_NOTHING = Stored()


def local_statuses(
    config: Config, owner_for: Callable[[Server], str], now: float, warn: Callable[[str], None] | None = None
) -> list[ServerStatus]:
    """One status per configured server, in the configuration's order. A file that cannot be read is the trouble of
    those servers only that need it.

    Args:
        warn: hears of every line of `.env` that cannot be used; left out, the log does.
    """
    check_store(config)
    asked = [(server, check_owner(owner_for(server))) for server in config.servers.values()]
    found = FileStore(config.home).read_many(places(asked))
    return statuses_of(asked, found, config.gateway, Variables(config.env_file, config.gateway_variables, warn), now)


def places(asked: list[tuple[Server, str]]) -> list[tuple[str, str, str]]:
    """Where something may be stored, of servers and whose credentials count there: a command has nothing."""
    return [(owner, server.name, server.url) for server, owner in asked if server.url is not None]


def statuses_of(
    asked: list[tuple[Server, str]], found: list[Stored], gateway: GatewayOptions, variables: Variables, now: float
) -> list[ServerStatus]:
    """The statuses of servers; `found` is what a store has of their `places`."""
    stored, values = iter(found), variables.at_once()
    return [
        _status(server, owner, next(stored) if server.url is not None else _NOTHING, gateway, values, now)
        for server, owner in asked
    ]


def _status(
    server: Server, owner: str, stored: Stored, gateway: GatewayOptions, variables: Variables, now: float
) -> ServerStatus:
    grant, damaged = stored.grant, None
    if isinstance(stored.trouble, RecordDamaged):
        damaged = stored.trouble.message
    elif stored.trouble is not None:
        return unreadable_status(server, stored.trouble)
    if grant is not None and (reused := reused_name(owner, grant.accounts, gateway)):
        grant, damaged = None, reused
    if grant is not None and grant.registration_dead:
        grant = msgspec.structs.replace(grant, **client_correction(variables, server, grant))
    try:
        missing = variables.missing(server.needed_templates(), keys=owner_keys(owner, grant))
    except StoreError as error:
        return unreadable_status(server, error)
    return local_status(
        server,
        grant=grant,
        sign_in=stored.sign_in,
        connection=stored.connection,
        missing=missing,
        now=now,
        damaged=damaged,
    )


def owner_keys(owner: str, grant: Grant | None) -> Mapping[str, str] | None:
    """The keys that alone count for this owner; None: those of `.env` and the environment do."""
    if owner == SHARED:
        return None
    return grant.keys if grant is not None else {}
