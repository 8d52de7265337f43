"""The status of every server from the files of this home, without an event loop: what `slash-mcp list` starts with."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mcp_auth.config import Config, GatewayOptions, Server, check_store, reused_name
from mcp_auth.errors import RecordDamaged, StoreError
from mcp_auth.records import check_owner
from mcp_auth.status import ServerStatus, local_status, unreadable_status
from mcp_auth.stores.files import FileStore
from mcp_auth.variables import Variables, needed_templates


def local_statuses(
    config: Config, owner_for: Callable[[Server], str], now: float, warn: Callable[[str], None] | None = None
) -> list[ServerStatus]:
    """One status per configured server, in the configuration's order. A file that cannot be read is the trouble of
    those servers only that need it.

    Args:
        warn: hears of every line of `.env` that cannot be used; left out, the log does.
    """
    check_store(config)
    store = FileStore(config.home)
    variables = Variables(config, warn)
    return [
        _status(server, check_owner(owner_for(server)), config.gateway, store, variables, now)
        for server in config.servers.values()
    ]


def _status(
    server: Server, owner: str, gateway: GatewayOptions, store: FileStore, variables: Variables, now: float
) -> ServerStatus:
    try:
        return _read_status(server, owner, gateway, store, variables, now)
    except StoreError as error:
        return unreadable_status(server, error)


def _read_status(
    server: Server, owner: str, gateway: GatewayOptions, store: FileStore, variables: Variables, now: float
) -> ServerStatus:
    url = server.url or ""
    grant, damaged = None, None
    try:
        grant = store.read_grant(owner, server.name, url) if url else None
    except RecordDamaged as error:
        damaged = error.message
    if grant is not None and (reused := reused_name(owner, grant.accounts, gateway)):
        grant, damaged = None, reused
    if grant is not None and grant.registration_dead:
        grant = msgspec.structs.replace(grant, **variables.client_correction(server, grant))
    keys = None if owner == "shared" else (grant.keys if grant is not None else {})
    return local_status(
        server,
        grant=grant,
        sign_in=store.read_sign_in(owner, server.name) if url else None,
        connection=store.read_connection(url) if url else None,
        missing=variables.missing(needed_templates(server), keys=keys),
        now=now,
        damaged=damaged,
    )
