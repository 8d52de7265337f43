"""What happened to credentials: told to whoever listens, and written into the audit log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from mcp_auth.audit import Audit, Event
from mcp_auth.kinds import kind_of
from mcp_auth.net.sites import browser_host, issued_elsewhere
from mcp_auth.records import ChangeKind, Linked, SignIn

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Change:
    """Something happened to the credentials of (owner, server).

    `sign_in` is the record that began or ended, if one did. `by`: the principal who did it, when known.
    """

    kind: ChangeKind
    server: str
    owner: str
    sign_in: SignIn | None = None
    by: str | None = None


class Changes:
    """The listeners to the changes made through one `McpAuth`.

    `upcoming` is set by the next change, and is another object after it: whoever has kept it knows whether what was
    looked at then may be out of date.
    """

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self._callbacks: list[Callable[[Change], None]] = []
        self.upcoming = asyncio.Event()

    def on_change(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call `callback` after every change. Returns the undo."""
        self._callbacks.append(callback)

        def undo() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return undo

    def wake(self) -> None:
        """Whoever has looked at credentials before is to look again."""
        happened, self.upcoming = self.upcoming, asyncio.Event()
        happened.set()

    def tell(self, change: Change) -> None:
        """Record it and call everybody; a callback that fails is logged and holds nobody up."""
        self.wake()
        _record(self.audit, change)
        for callback in list(self._callbacks):
            try:
                callback(change)
            except Exception as error:  # noqa: BLE001 - somebody else's code must not undo a finished sign-in
                logger.error("a listener to %s failed: %s", change.kind, type(error).__name__)

    def end(self, record: Linked) -> None:
        """What was reached by a link has ended."""
        kind = kind_of(record)
        told = kind.done if record.status == "done" else kind.ended
        self.tell(Change(told, record.server, record.owner, record if isinstance(record, SignIn) else None))

    def write_continued(self, record: Linked) -> None:
        """A browser was bound to a link."""
        visit = record.binding.visit if record.binding is not None else None
        self.audit.write(
            Event.LINK_CONTINUED,
            whom=record.origin.principal,
            server=record.server,
            owner=record.owner,
            ticket=ticket_of(record),
            address=visit.address if visit is not None else None,
            browser=visit.browser if visit is not None else None,
        )

    def write_burned(self, record: Linked, by: str) -> None:
        """A link was in the hands of `by`, who had not asked for it."""
        self.audit.write(
            Event.SIGN_IN_BURNED,
            who=by,
            whom=record.origin.principal,
            server=record.server,
            owner=record.owner,
            ticket=ticket_of(record),
        )

    def write_wrong_code(self, principal: str, *, doing: str) -> None:
        """`principal` sent a code that was none. `doing`: confirm or review."""
        self.audit.write(Event.WRONG_CODE, who=principal, outcome=doing)


# The end of a key form says nothing that its keys have not said.
_EVENTS: dict[ChangeKind, Event] = {
    "sign_in_begun": Event.SIGN_IN_BEGUN,
    "signed_in": Event.SIGN_IN_ENDED,
    "sign_in_ended": Event.SIGN_IN_ENDED,
    "signed_out": Event.SIGNED_OUT,
    "refreshed": Event.REFRESHED,
    "reauthorization_needed": Event.REAUTHORIZATION_NEEDED,
    "key_set": Event.KEY_SET,
}


def _record(audit: Audit, change: Change) -> None:
    if change.kind not in _EVENTS:
        return
    who, whom, outcome, ticket = change.by, None, None, None
    hosts: tuple[str, ...] = ()
    if change.sign_in is not None:
        ticket = ticket_of(change.sign_in)
    if change.sign_in is not None and change.kind == "sign_in_begun":
        elsewhere = issued_elsewhere(change.sign_in.metadata)
        hosts = (browser_host(change.sign_in.metadata), *elsewhere) if elsewhere else ()
    elif change.sign_in is not None:
        outcome = change.sign_in.status
        if outcome == "cancelled":
            # Somebody did it, and not necessarily the one who began.
            whom = change.sign_in.origin.principal
        else:
            who = who or change.sign_in.origin.principal
    audit.write(
        _EVENTS[change.kind],
        who=who,
        whom=whom,
        server=change.server,
        owner=change.owner,
        outcome=outcome,
        ticket=ticket,
        hosts=hosts,
    )


def ticket_of(record: Linked) -> str | None:
    """The hash of the ticket that was opened, or of the newest."""
    binding = record.binding
    return None if binding is None else binding.opened or next(reversed(binding.tickets), None)
