"""API keys: which variables a server needs, whether a value works, and where it is kept.

A key is tried before it is stored: at the configured origin only, without redirects, and against the
same request without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from mcp_auth.audit import Event
from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import accounts_of, held, reused_name
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables, references
from mcp_auth.errors import KeyInvalid, KeyMissing, Unreachable
from mcp_auth.limits import Limits, too_often, wait_to_try_key
from mcp_auth.links.policy import Policy
from mcp_auth.listing import owner_keys
from mcp_auth.oauth.discovery import probe_without_credentials
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED, Grant, check_owner
from mcp_auth.stores.updates import update

if TYPE_CHECKING:
    from mcp_auth.net.http import Http
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
    TOO_OFTEN = "too_often"


@dataclass(frozen=True, slots=True)
class KeyTrial:
    """What the server said to a key. `detail` is a sentence."""

    verdict: Verdict
    detail: str


class Keys:
    """The keys of each owner: in `.env` for `shared`, in the owner's grant otherwise."""

    def __init__(
        self,
        config: Config,
        servers: Servers,
        store: Store,
        variables: Variables,
        http: Http,
        changes: Changes,
        limits: Limits,
        policy: Policy,
    ) -> None:
        self._config = config
        self._servers = servers
        self._store = store
        self._variables = variables
        self._http = http
        self._changes = changes
        self._limits = limits
        self._policy = policy

    async def of(self, entry: Server, owner: str) -> Mapping[str, str] | None:
        """Where this owner's variables come from: their own keys, or None for `.env` and the environment."""
        if owner == SHARED or not (entry.headers or entry.env or entry.args):
            return None
        grant = await self._store.grants.get(owner, entry.name, entry.url or "")
        return owner_keys(owner, held(grant, owner, self._config.gateway))

    async def variables(self, entry: Server, owner: str) -> tuple[KeyVariable, ...]:
        """The variables of a server's headers and environment, each once, in the order of the entry."""
        keys = await self.of(entry, owner)
        found: dict[str, KeyVariable] = {}
        for where, template in _places(entry):
            unset = self._variables.missing([template], keys=keys)
            for reference in references(template):
                has_default = reference.default is not None
                is_set = reference.name not in unset
                found.setdefault(reference.name, KeyVariable(reference.name, where, is_set, has_default))
        return tuple(found.values())

    async def attempt(self, server: str, values: Mapping[str, str], owner: str, *, by: str | None) -> KeyTrial:
        """Send one request with the candidate values and one without any, and compare. Stores nothing.

        Args:
            by: the principal who asks: counted, as no server is there to guess at, and named in the audit log.

        Raises:
            KeyMissing: another variable of the same headers has no value yet. KeyInvalid: as `resolved_headers`.
        """
        entry = self._servers.usable(server)
        is_counted = by is not None and not self._policy.is_operator(by)
        wait = wait_to_try_key(self._limits, by or "", server, self._config.gateway) if is_counted else 0.0
        if wait:
            return KeyTrial(Verdict.TOO_OFTEN, too_often(wait))
        keys = await self.of(entry, check_owner(owner))
        names = {r.name for template in entry.headers.values() for r in references(template)}
        below = {name: keys.get(name) if keys is not None else self._variables.lookup(name) for name in names}
        # The stored values with the candidates on top.
        known = {name: value for name, value in below.items() if value is not None} | dict(values)
        trial = await self._attempt(entry, resolved_headers(entry, self._variables, known), bool(names & set(values)))
        if trial.verdict is Verdict.REFUSED:
            self._changes.audit.write(Event.KEY_REFUSED, who=by, server=server, owner=owner)
        return trial

    async def _attempt(self, entry: Server, candidate: dict[str, str], is_used: bool) -> KeyTrial:
        if entry.url is None:
            return KeyTrial(Verdict.NOT_TRIED, "A command is only started on your word, so the key was not tried.")
        if not is_used:
            return KeyTrial(Verdict.NOT_TRIED, "No header of this server uses the variable, so it was not tried.")
        plain = {name: template for name, template in entry.headers.items() if not references(template)}
        rules = self._servers.rules(entry)
        try:
            with_key = await probe_without_credentials(self._http, rules, entry, candidate)
            without = await probe_without_credentials(self._http, rules, entry, plain)
        except Unreachable as error:
            return KeyTrial(Verdict.UNREACHABLE, error.message)
        if with_key.status in (401, 403):
            return KeyTrial(Verdict.REFUSED, f"{entry.name} refused the key (HTTP {with_key.status}).")
        if with_key.status >= 500 or with_key.status == 429:
            said = with_key.seen.sentence() if with_key.seen is not None else f"HTTP {with_key.status}"
            return KeyTrial(Verdict.UNREACHABLE, f"{entry.name}: {said}.")
        if with_key.seen is not None and with_key.seen.location is not None:
            return KeyTrial(Verdict.UNREACHABLE, f"{entry.name}: {with_key.seen.sentence()}.")
        if without.status in (401, 403):
            return KeyTrial(Verdict.ACCEPTED, f"{entry.name} accepted the key.")
        return KeyTrial(Verdict.NO_DIFFERENCE, f"{entry.name} answers the same without the key.")

    async def set(self, server: str, values: Mapping[str, str], owner: str, *, by: str | None) -> None:
        """Keep the values.

        Raises:
            KeyInvalid: a name or value that may not be stored. StoreError, Busy: it could not be written.
        """
        from mcp_auth.config.env_file import check_storable, clean_value, write

        entry = self._servers.named(server)
        if check_owner(owner) != SHARED:
            await self._store.grants.set_damaged_aside(owner, server)
        templates = _templates_by_variable(entry)
        cleaned = {}
        for name, value in values.items():
            check_storable(name, config=self._config, server=entry)
            cleaned[name] = clean_value(value, templates.get(name, ""))
        if owner == SHARED:
            await asyncio.to_thread(write, self._config.env_file, cleaned)
        else:
            await self._set_in_grant(entry, cleaned, owner)
        self._changes.tell(Change("key_set", server, owner, by=by))

    async def _set_in_grant(self, entry: Server, values: Mapping[str, str], owner: str) -> None:
        url, gateway, grants = entry.url or "", self._config.gateway, self._store.grants

        async def add(grant: Grant | None) -> Grant:
            if grant is None or reused_name(owner, grant.accounts, gateway):
                # Nothing of somebody else's goes along.
                version = grant.version if grant is not None else 0
                grant = Grant(server=entry.name, owner=owner, server_url=url, version=version)
            grant.keys = {**grant.keys, **values}
            grant.accounts = accounts_of(owner, gateway)
            return grant

        await update(entry.name, lambda: grants.get(owner, entry.name, url), add, grants.put_if)


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


def _places(entry: Server) -> list[tuple[str, str]]:
    """Every template with a variable that a person can give, and where it stands."""
    places = [*entry.headers.items(), *entry.env.items()]
    if entry.oauth.client_secret is not None:
        places.append(("oauth.client_secret", entry.oauth.client_secret))
    return places


def _templates_by_variable(server: Server) -> dict[str, str]:
    found: dict[str, str] = {}
    for template in [*server.headers.values(), *server.env.values()]:
        for reference in references(template):
            found.setdefault(reference.name, template)
    return found
