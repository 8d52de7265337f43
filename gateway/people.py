"""Who is served: what the configuration says, and whom the operator or an admin let in or shut out since.

One record of the store, `<home>/people.json` on files. Whoever asks gets the configuration with the people of this
moment in `allow`, from memory; `refresh` sees what another process wrote.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

import msgspec

from gateway.invocations import LOCAL, Principal
from mcp_auth.audit import Audit, Event
from mcp_auth.config.models import Config
from mcp_auth.config.people import people_problem
from mcp_auth.errors import ConfigError, NotAllowed, RecordDamaged, StoreError, WrongCode
from mcp_auth.links import tickets
from mcp_auth.outcome import Next
from mcp_auth.records import Record, Requester, Untold, Value, encode, sha256
from mcp_auth.stores.base import Backend, Kind
from mcp_auth.stores.files import FileBackend

_log = logging.getLogger("gateway")
CODE_SECONDS = 3600.0
# So that strangers cannot fill the file, and the operator can look through what is there.
PENDING_PER_PLATFORM = 3
_NAME_LENGTH = 64
_PRINCIPAL_LENGTH = 200

T = TypeVar("T")


class Paired(Value, frozen=True):
    """Somebody who was let in. `by`: the principal who did it."""

    principal: str
    display_name: str
    at: float
    by: str


class Pending(Value, frozen=True):
    """Somebody who asked. The code itself is with that person only."""

    # Eight characters: a hash that anybody reads is a code that anybody finds.
    __secret__: ClassVar[frozenset[str]] = frozenset({"code_sha256"})

    principal: str
    display_name: str
    code_sha256: str
    expires_at: float
    # Where word is waited for.
    chat: dict[str, Any] | None = None


class Denied(Value, frozen=True):
    """Somebody who was shut out; stronger than `gateway.allow`."""

    principal: str
    at: float
    by: str


class PeopleRecord(Record):
    """All of them."""

    paired: list[Paired] = msgspec.field(default_factory=list)
    pending: list[Pending] = msgspec.field(default_factory=list)
    denied: list[Denied] = msgspec.field(default_factory=list)


PEOPLE = Kind("people", PeopleRecord, lambda _: "people", is_precious=True, folder="")


class Standing(StrEnum):
    CONFIGURED = "configured"
    PAIRED = "paired"
    PENDING = "pending"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `slash-mcp people`. `until`: when a pending request ends."""

    principal: str
    standing: Standing
    person: str | None
    display_name: str
    admin: bool
    by: str | None = None
    since: float | None = None
    until: float | None = None


class People:
    """The configuration with the people of this moment.

    Opening looks who there is, and writes nothing.

    Args:
        backend: where they are kept; left out, in the home.

    Raises:
        StoreError: their record is damaged or cannot be read; nobody is served on a guess.
    """

    def __init__(
        self, config: Config, clock: Callable[[], float] = time.time, *, backend: Backend | None = None
    ) -> None:
        self._configured = config
        self._backend = backend or FileBackend(config.home)
        self._audit = Audit(config.home, clock)
        self._clock = clock
        # Why the record cannot be read, as it was logged.
        self._trouble: str | None = None
        self._record = PeopleRecord()
        self._config = config
        self._adopt(self._peek())

    @property
    def config(self) -> Config:
        """The configuration; `gateway.allow` holds the paired too, and nobody who was denied. From memory."""
        return self._config

    @property
    def ever_known(self) -> Config:
        """As `config`, with the denied in `allow`: for the operator, who has to clean up after them."""
        denied = tuple(one.principal for one in self._record.denied)
        gateway = self._config.gateway
        return msgspec.structs.replace(
            self._config, gateway=msgspec.structs.replace(gateway, allow=(*gateway.allow, *denied))
        )

    def check(self) -> None:
        """Refuse to serve more people than the configuration is made for.

        Raises:
            ConfigError: names the key that is missing.
        """
        problem = people_problem(self._config.gateway, self._config.servers)
        if problem is not None:
            key = f"gateway.{problem.key}"
            raise ConfigError(f"{key} {problem.clause}", key=key, next_step=problem.next_step)

    def refresh(self) -> bool:
        """Take over what another process wrote; costs a stat. Returns whether anything changed.

        A record that has become unreadable changes nothing: who was known stays known.
        """
        try:
            record = self._peek()
        except StoreError as error:
            if error.message != self._trouble:
                _log.error("%s Who was known before is served.", error.message)
            self._trouble = error.message
            return False
        self._trouble = None
        if record == self._record:
            return False
        self._adopt(record)
        return True

    def is_denied(self, principal: Principal) -> bool:
        return any(one.principal == str(principal) for one in self._record.denied)

    def is_waiting(self, principal: Principal) -> bool:
        """Has this principal a code that still works?"""
        return any(one.principal == str(principal) for one in self._waiting(self._record))

    # -- changes -----------------------------------------------------------------------------

    async def ask(self, principal: Principal, display_name: str, chat: dict[str, Any] | None = None) -> str | None:
        """A code for somebody unknown, in place of an earlier one. None: enough people of the platform are waiting.

        `chat`: where this person is told when let in, as in `mcp_auth.records.Origin`.
        """

        def edit(record: PeopleRecord) -> str | None:
            name = str(principal)
            others = [one for one in record.pending if one.principal != name]
            if sum(_platform(one.principal) == principal.platform for one in others) >= PENDING_PER_PLATFORM:
                return None
            code = tickets.new_code()
            until = self._clock() + CODE_SECONDS
            record.pending = [
                *others,
                Pending(
                    principal=name,
                    display_name=_shown(display_name),
                    code_sha256=sha256(code),
                    expires_at=until,
                    chat=chat,
                ),
            ]
            return code

        code = await self._change(edit)
        if code is not None:
            # Those who are sent away are not recorded: a crowd of them must not push the rest out of the log.
            self._audit.write(Event.PAIRING_ASKED, who=principal)
        return code

    async def allow(self, who: str, by: Principal) -> Paired:
        """Let somebody in.

        Args:
            who: the code that this person was given, or a principal; that one for `cli:local` only.

        Raises:
            WrongCode: no such request. NotAllowed: the configuration is not made for one more person.
            StoreError, Busy: nothing was changed.
        """
        try:
            paired = await self._change(lambda record: self._let_in(record, who, by))
        except WrongCode:
            self._audit.write(Event.WRONG_CODE, who=by, outcome="allow")
            raise
        self._audit.write(Event.ALLOWED, who=by, whom=paired.principal)
        return paired

    async def deny(self, who: str, by: Principal) -> str:
        """Shut somebody out, at once and until `allow`. Returns the principal.

        Args:
            who: a principal that is known, or the code of a request.

        Raises:
            WrongCode: nobody is known by it. NotAllowed: it stands in `gateway.allow` and `by` is not the operator.
            StoreError, Busy: nothing was changed.
        """
        try:
            principal = await self._change(lambda record: self._shut_out(record, who, by))
        except WrongCode:
            self._audit.write(Event.WRONG_CODE, who=by, outcome="deny")
            raise
        self._audit.write(Event.DENIED, who=by, whom=principal)
        return principal

    def listed(self) -> list[Listed]:
        """Everybody: configured, paired, waiting, denied."""
        record, gateway = self._record, self._configured.gateway
        denied = {one.principal for one in record.denied}
        found = [
            *(self._entry(one, Standing.CONFIGURED) for one in gateway.allow if one not in denied),
            *(
                self._entry(one.principal, Standing.PAIRED, display_name=one.display_name, by=one.by, since=one.at)
                for one in record.paired
                if one.principal not in gateway.allow
            ),
            *(
                self._entry(one.principal, Standing.PENDING, display_name=one.display_name, until=one.expires_at)
                for one in self._waiting(record)
            ),
            *(self._entry(one.principal, Standing.DENIED, by=one.by, since=one.at) for one in record.denied),
        ]
        return found

    def _entry(
        self,
        principal: str,
        standing: Standing,
        *,
        display_name: str = "",
        by: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Listed:
        gateway = self._configured.gateway
        owner = gateway.person_of(principal)
        person = owner.removeprefix("person:") if owner.startswith("person:") else None
        in_charge = standing in (Standing.CONFIGURED, Standing.PAIRED)
        admin = in_charge and owner in {gateway.person_of(one) for one in gateway.admins}
        return Listed(principal, standing, person, display_name, admin, by, since, until)

    def _let_in(self, record: PeopleRecord, who: str, by: Principal) -> Paired:
        asked = self._find(record, who)
        if asked is None and ":" in who and by == LOCAL:
            asked = Pending(principal=_checked(who), display_name="", code_sha256="", expires_at=0.0)
        if asked is None:
            raise WrongCode(
                "No request has this code; a code works once and for an hour.",
                next_step="ask the person to write to the bot again",
            )
        name = asked.principal
        paired = Paired(principal=name, display_name=asked.display_name, at=self._clock(), by=str(by))
        record.pending = [one for one in record.pending if one.principal != name]
        record.denied = [one for one in record.denied if one.principal != name]
        record.paired = [one for one in record.paired if one.principal != name]
        if name not in self._configured.gateway.allow:
            record.paired.append(paired)
        config = self._with(record)
        problem = people_problem(config.gateway, config.servers)
        if problem is not None:
            raise NotAllowed(
                f"{name} was not let in: gateway.{problem.key} {problem.clause}.",
                next_step=f"{problem.next_step}, start the gateway again, and repeat this",
            )
        return paired

    def _shut_out(self, record: PeopleRecord, who: str, by: Principal) -> str:
        asked = self._find(record, who)
        name = asked.principal if asked is not None else who.strip()
        configured = self._configured.gateway.allow
        known = {*configured, *(one.principal for one in record.paired), *(one.principal for one in record.pending)}
        if name not in known:
            raise WrongCode("Nobody is known by this name or code.", next_step=Next("people", on_host=True))
        if by != LOCAL and name in configured:
            raise NotAllowed(
                "This account stands in gateway.allow, so only the operator shuts it out.",
                next_step=Next("deny", arguments=(name,), on_host=True),
            )
        record.paired = [one for one in record.paired if one.principal != name]
        record.pending = [one for one in record.pending if one.principal != name]
        record.denied = [one for one in record.denied if one.principal != name]
        record.denied.append(Denied(principal=name, at=self._clock(), by=str(by)))
        return name

    def _find(self, record: PeopleRecord, typed: str) -> Pending | None:
        code = tickets.typed_code(typed)
        if code is None:
            return None
        # All of them, so that the time tells nothing.
        found = [one for one in self._waiting(record) if tickets.is_same(code, one.code_sha256)]
        return found[0] if found else None

    def _waiting(self, record: PeopleRecord) -> list[Pending]:
        return [one for one in record.pending if one.expires_at > self._clock()]

    # -- the record --------------------------------------------------------------------------

    async def _change(self, edit: Callable[[PeopleRecord], T]) -> T:
        """Edit what is stored now, whoever wrote it last. An error of `edit` changes nothing."""
        from mcp_auth.stores.updates import update

        results: list[T] = []
        news: list[Untold] = []

        async def change(stored: PeopleRecord | None) -> PeopleRecord | None:
            record = stored or PeopleRecord()
            record.pending = self._waiting(record)
            before, waited = encode(record), record.pending
            results.append(edit(record))
            news[:] = self._news(waited, record)
            return record if encode(record) != before else None

        async def write(record: PeopleRecord) -> PeopleRecord | None:
            return await self._backend.put_if(PEOPLE, record, next(iter(news), None))

        with _as_store_error():
            stored = await update("the people", lambda: self._backend.get(PEOPLE, "people"), change, write)
        self._adopt(stored or PeopleRecord())
        return results[-1]

    def _news(self, waited: list[Pending], record: PeopleRecord) -> list[Untold]:
        """Who waited for word and is let in."""
        still = {one.principal for one in record.pending} | {one.principal for one in record.denied}
        return [
            Untold(
                id=f"person-{sha256(one.principal)[:32]}",
                about="person",
                origin=Requester(principal=one.principal, chat=one.chat),
                at=self._clock(),
            )
            for one in waited
            if one.principal not in still and one.chat is not None
        ]

    def _peek(self) -> PeopleRecord:
        with _as_store_error():
            return self._backend.peek(PEOPLE, "people") or PeopleRecord()

    def _adopt(self, record: PeopleRecord) -> None:
        self._record = record
        self._config = self._with(record)

    def _with(self, record: PeopleRecord) -> Config:
        """The configuration with these people."""
        gateway = self._configured.gateway
        denied = {one.principal for one in record.denied}
        everybody = dict.fromkeys((*gateway.allow, *(one.principal for one in record.paired)))
        allow = tuple(one for one in everybody if one not in denied)
        return msgspec.structs.replace(self._configured, gateway=msgspec.structs.replace(gateway, allow=allow))


@contextmanager
def _as_store_error() -> Iterator[None]:
    try:
        yield
    except RecordDamaged as error:
        step = Next("allow", on_host=True, around="move it away, then let people in again with {}")
        raise StoreError(error.message, next_step=step) from None


def is_name(principal: Principal) -> bool:
    """Whether a platform's principal is one that can be stored and typed."""
    try:
        return _checked(str(principal)) == str(principal)
    except NotAllowed:
        return False


def _checked(text: str) -> str:
    try:
        principal = Principal.parse(text.strip())
    except ValueError as error:
        raise NotAllowed(f"That is no principal: {error}.", next_step=Next("people", on_host=True)) from None
    if principal.platform == LOCAL.platform or len(str(principal)) > _PRINCIPAL_LENGTH:
        raise NotAllowed("That is no account of a chat platform.", next_step=Next("people", on_host=True))
    return str(principal)


def _platform(principal: str) -> str:
    return principal.partition(":")[0]


def _shown(display_name: str) -> str:
    """A name that somebody gave themselves, without what controls a terminal."""
    return "".join(c for c in display_name if c.isprintable())[:_NAME_LENGTH]
