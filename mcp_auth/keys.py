"""API keys: which variables a server needs, whether a value works, and where it is kept.

A key is tried before it is stored: at the configured origin only, without redirects, and against the
same request without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import accounts_of, reused_name
from mcp_auth.config.variables import Variables, references
from mcp_auth.errors import KeyInvalid, KeyMissing, Unreachable
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED, Grant
from mcp_auth.stores.updates import update

if TYPE_CHECKING:
    from mcp_auth.net.http import Http
    from mcp_auth.net.rules import NetworkRules
    from mcp_auth.stores.base import Store


@dataclass(frozen=True, slots=True)
class KeyVariable:
    """One variable of a server's entry. `where`: the header or environment variable that it fills."""

    name: str
    where: str
    is_set: bool
    has_default: bool = False


class Verdict(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    NO_DIFFERENCE = "no_difference"
    NOT_TRIED = "not_tried"


@dataclass(frozen=True, slots=True)
class KeyTrial:
    """What the server said to a key. `detail` is a sentence."""

    verdict: Verdict
    detail: str


def key_variables(server: Server, variables: Variables, keys: Mapping[str, str] | None) -> tuple[KeyVariable, ...]:
    """The variables of a server's headers and environment, each once, in the order of the entry."""
    places = [*server.headers.items(), *server.env.items()]
    if server.oauth.client_secret is not None:
        places.append(("oauth.client_secret", server.oauth.client_secret))
    found: dict[str, KeyVariable] = {}
    for where, template in places:
        unset = variables.missing([template], keys=keys)
        for reference in references(template):
            has_default = reference.default is not None
            is_set = reference.name not in unset
            found.setdefault(reference.name, KeyVariable(reference.name, where, is_set, has_default))
    return tuple(found.values())


def resolved_headers(server: Server, variables: Variables, keys: Mapping[str, str] | None) -> dict[str, str]:
    """The configured headers with their values.

    Raises:
        KeyMissing: a placeholder has no value; nothing with a placeholder is ever sent.
        KeyInvalid: a value holds what no header can carry.
    """
    if not server.headers:
        return {}
    missing = variables.missing(server.headers.values(), keys=keys)
    if missing:
        raise KeyMissing(
            f"{server.name} needs a value for {', '.join(missing)}.",
            variables=missing,
            next_step=Next("key", server.name),
        )
    headers = {name: variables.resolve(template, keys=keys) for name, template in server.headers.items()}
    for name, value in headers.items():
        if not value.isascii():
            raise KeyInvalid(
                f"The header {name} of {server.name} would hold a letter or sign that no header can carry."
            )
    return headers


def _with_candidates(
    names: set[str], candidates: Mapping[str, str], below: Variables, keys: Mapping[str, str] | None
) -> dict[str, str]:
    """The stored values of these variables with the candidates on top, for one trial."""
    stored = {name: keys.get(name) if keys is not None else below.lookup(name) for name in names}
    return {name: value for name, value in stored.items() if value is not None} | dict(candidates)


async def try_keys(
    http: Http,
    rules: NetworkRules,
    server: Server,
    variables: Variables,
    values: Mapping[str, str],
    keys: Mapping[str, str] | None,
) -> KeyTrial:
    """Send one request with the candidate values and one without any, and compare.

    Raises:
        KeyMissing: another variable of the same headers has no value yet. KeyInvalid: as `resolved_headers`.
    """
    from mcp_auth.oauth.discovery import probe_without_credentials

    if server.url is None:
        return KeyTrial(Verdict.NOT_TRIED, "A command is only started on your word, so the key was not tried.")
    names = {r.name for template in server.headers.values() for r in references(template)}
    candidate = resolved_headers(server, variables, _with_candidates(names, values, variables, keys))
    if not names & set(values):
        return KeyTrial(Verdict.NOT_TRIED, "No header of this server uses the variable, so it was not tried.")
    plain = {name: template for name, template in server.headers.items() if not references(template)}
    try:
        with_key = await probe_without_credentials(http, rules, server, candidate)
        without = await probe_without_credentials(http, rules, server, plain)
    except Unreachable as error:
        return KeyTrial(Verdict.UNREACHABLE, error.message)
    if with_key.status in (401, 403):
        return KeyTrial(Verdict.REFUSED, f"{server.name} refused the key (HTTP {with_key.status}).")
    if with_key.status >= 500 or with_key.status == 429:
        said = with_key.seen.sentence() if with_key.seen is not None else f"HTTP {with_key.status}"
        return KeyTrial(Verdict.UNREACHABLE, f"{server.name}: {said}.")
    if with_key.seen is not None and with_key.seen.location is not None:
        return KeyTrial(Verdict.UNREACHABLE, f"{server.name}: {with_key.seen.sentence()}.")
    if without.status in (401, 403):
        return KeyTrial(Verdict.ACCEPTED, f"{server.name} accepted the key.")
    return KeyTrial(Verdict.NO_DIFFERENCE, f"{server.name} answers the same without the key.")


async def set_keys(config: Config, store: Store, server: Server, values: Mapping[str, str], owner: str) -> None:
    """Keep the values: in `.env` for `shared`, in the owner's grant otherwise.

    Raises:
        KeyInvalid: a name or value that may not be stored. StoreError, Busy: it could not be written.
    """
    from mcp_auth.config.env_file import check_storable, clean_value, write

    templates = _templates_by_variable(server)
    cleaned = {}
    for name, value in values.items():
        check_storable(name, config=config, server=server)
        cleaned[name] = clean_value(value, templates.get(name, ""))
    if owner == SHARED:
        import asyncio

        await asyncio.to_thread(write, config.env_file, cleaned)
        return
    await _set_owner_keys(config, store, server, cleaned, owner)


async def _set_owner_keys(config: Config, store: Store, server: Server, values: Mapping[str, str], owner: str) -> None:
    url = server.url or ""

    async def add(grant: Grant | None) -> Grant:
        if grant is None or reused_name(owner, grant.accounts, config.gateway):
            # Nothing of somebody else's goes along.
            version = grant.version if grant is not None else 0
            grant = Grant(server=server.name, owner=owner, server_url=url, version=version)
        grant.keys = {**grant.keys, **values}
        grant.accounts = accounts_of(owner, config.gateway)
        return grant

    await update(server.name, lambda: store.grants.get(owner, server.name, url), add, store.grants.put_if)


def _templates_by_variable(server: Server) -> dict[str, str]:
    found: dict[str, str] = {}
    for template in [*server.headers.values(), *server.env.values()]:
        for reference in references(template):
            found.setdefault(reference.name, template)
    return found
