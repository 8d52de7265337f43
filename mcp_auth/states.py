"""The states of a sign-in and of a key form, as tables: from each state, where it may go.

The table is the machine. `stepped` is the only writer of a status, and refuses every step that no table holds. That
nothing unproven is exchanged is a matter of the tables: to `exchanging` there is no way but through `confirmed`, which
a record reaches by the proof (`mcp_auth.links.codes`), and in a browser without script through `answered`, its last
page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec

from mcp_auth.kinds import again_for, kind_of
from mcp_auth.outcome import Outcome
from mcp_auth.records import Linked, Status

Steps = Mapping[Status, frozenset[Status]]

ENDED = frozenset[Status]({"done", "refused", "failed", "expired", "cancelled"})
OPEN = frozenset[Status]({"started", "opened", "confirmed", "answered", "exchanging"})
IN_FLIGHT = frozenset[Status]({"exchanging"})
"""A code is being exchanged, or a key stored: nothing calls that back."""
WAITING = OPEN - IN_FLIGHT
"""For a person. What ends by itself when its time is over."""
UNPROVEN = frozenset[Status]({"started", "opened"})
"""No browser may go on yet. A direct link has no page where that could be asked."""
RELEASED = WAITING - UNPROVEN
"""Its browser may go to the authorization server, or type the key."""
CONTINUED = WAITING - {"started"}
"""A browser was bound to it, and its page may have shown a code."""
SHOWS_CODE = frozenset[Status]({"opened", "answered"})
"""A page may show a code: before the authorization server, or on the last page."""

_STOPS: frozenset[Status] = ENDED - {"done"}
_NOTHING: Steps = dict.fromkeys(ENDED, frozenset())

DIRECT: Steps = {
    **_NOTHING,
    "started": _STOPS | {"exchanging"},
    "exchanging": frozenset({"done", "failed"}),
}
"""The link is the authorization server's own (loopback)."""

VERIFIED: Steps = {
    **_NOTHING,
    "started": _STOPS | {"opened"},
    # Again: the person asked for a new link and continued with that one, maybe in another browser.
    "opened": _STOPS | {"opened", "confirmed"},
    "confirmed": _STOPS | {"opened", "exchanging"},
    "exchanging": frozenset({"done", "failed"}),
}
"""The link is a page of ours, in a browser with script."""

WITHOUT_SCRIPT: Steps = {
    **VERIFIED,
    "confirmed": _STOPS | {"opened", "answered"},
    # Again: the page was loaded once more, and the newest one counts.
    "answered": _STOPS | {"opened", "answered", "exchanging"},
}
"""The same in a browser without script: the proof is asked for on the last page, after the answer."""

SHOWN_AGAIN: Steps = {
    **VERIFIED,
    # What was typed cannot be stored, and the form is shown again.
    "exchanging": frozenset({"done", "failed", "confirmed"}),
}
"""A page that asks once more, as one on which a key is typed."""

STALE_CLAIM = 60.0
"""Seconds after which a claim belongs to a process that died: whatever is exchanged or stored is bounded by less."""
KEPT_ENDED = 86_400.0
"""Seconds for which an ended record can still be asked for."""

L = TypeVar("L", bound=Linked)


class ForbiddenStep(RuntimeError):
    """A step that the table does not hold: a fault of ours, and nothing was changed."""


def steps_of(record: Linked) -> Steps:
    """The table of this record's link."""
    if record.binding is None:
        return DIRECT
    if kind_of(record).asks:
        return SHOWN_AGAIN
    return WITHOUT_SCRIPT if record.binding.kept_in == "cookie" else VERIFIED


def stepped(record: L, status: Status, now: float, **changes: Any) -> L:
    """The record one step further, not yet stored. `now` becomes its end, if this is one.

    Raises:
        ForbiddenStep: its table has no such step.
    """
    changed = msgspec.structs.replace(record, status=status, **changes)
    if status not in steps_of(changed).get(record.status, ()):
        raise ForbiddenStep(f"{record.status} -> {status}")
    if status in ENDED:
        changed.ended_at = now
    return changed


def due_at(record: Linked) -> float:
    """When time ends this record: its link or its claim; of an ended one, when nobody needs it any more."""
    if record.status in WAITING:
        return record.expires_at
    if record.status in IN_FLIGHT:
        return (record.claimed_at or record.expires_at) + STALE_CLAIM
    return (record.ended_at or record.expires_at) + KEPT_ENDED


def as_of(record: L, now: float, *, is_done: bool = False) -> L:
    """What time has made of the record by `now`: itself, or the end that the sweeper writes down.

    Args:
        is_done: what a claim was for has happened, although its holder died before it could say so.
    """
    if record.status in ENDED or now < due_at(record):
        return record
    # Nothing can be exchanged with it any more.
    kind = kind_of(record)
    spent: dict[str, Any] = dict.fromkeys(kind.spent)
    if is_done:
        return stepped(record, "done", now, **spent)
    status, (code, sentence) = ("expired", kind.expired) if record.status in WAITING else ("failed", kind.interrupted)
    end = Outcome(code, sentence.format(record.server), next_step=again_for(record))
    return stepped(record, cast("Status", status), now, end=end, **spent)
