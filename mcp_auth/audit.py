"""The audit log: one JSON object a line for everything that touches somebody's access, in `<home>/audit.jsonl`.

A line holds names and words from closed lists, never a text from elsewhere: no secret, no link, no reason that
a server gave. Appended with one write, so that processes never mix their lines.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from mcp_auth.errors import McpAuthError, cannot_be_read
from mcp_auth.records import Value
from mcp_auth.small_files import NotRegularFile, read_small_file
from mcp_auth.stores.durable import locked, make_folder

logger = logging.getLogger(__name__)

# Five files of this size: months of a team, and an end.
MAX_BYTES = 4 * 1024 * 1024
OLD_FILES = 4
# What an older version or a hand may have made of one.
MAX_READ = 64_000_000
_TEXT_LENGTH = 200
# Lines a day for one account and event, where nothing changed; beyond them one line stands for so many.
_ATTEMPTS_A_DAY = 200
_ATTEMPTS_A_LINE = 100
# Beyond this many accounts and events a day, new ones count together.
_ACCOUNTS_COUNTED = 500


class Event(StrEnum):
    SIGN_IN_BEGUN = "sign_in_begun"
    SIGN_IN_ENDED = "sign_in_ended"
    # A browser was bound to the link of a sign-in or a key form: from which address, and which kind.
    LINK_CONTINUED = "link_continued"
    # Somebody else typed the code of a sign-in, which ended it.
    SIGN_IN_BURNED = "sign_in_burned"
    REFRESHED = "refreshed"
    REAUTHORIZATION_NEEDED = "reauthorization_needed"
    SIGNED_OUT = "signed_out"
    KEY_SET = "key_set"
    KEY_REFUSED = "key_refused"
    PAIRING_ASKED = "pairing_asked"
    ALLOWED = "allowed"
    DENIED = "denied"
    WRONG_CODE = "wrong_code"
    # A command of somebody who may not use it there; `outcome` is its verb.
    COMMAND_REFUSED = "command_refused"


_ATTEMPTS = frozenset({Event.KEY_REFUSED, Event.PAIRING_ASKED, Event.WRONG_CODE, Event.COMMAND_REFUSED})


class AuditLine(Value, frozen=True):
    """One event.

    `time` is written as RFC 3339 in UTC. `who`: the principal who did it. `whom`: the principal to whom it was done.
    `outcome`: a word. `hosts`: where the browser goes and where the access comes from, when these are different sites.
    `ticket`: the SHA-256 of a link's ticket, which tells which link it was without being one. `address` and `browser`:
    of whoever continued it. `more`: how many like it came since the last line and have none of their own.
    """

    time: datetime
    what: Event
    who: str | None = None
    whom: str | None = None
    server: str | None = None
    owner: str | None = None
    outcome: str | None = None
    ticket: str | None = None
    hosts: tuple[str, ...] = ()
    address: str | None = None
    browser: str | None = None
    more: int = 0

    @property
    def at(self) -> float:
        """Seconds since the epoch."""
        return self.time.timestamp()


class Audit:
    """Appends to the log of one home, and reads it. Opening writes nothing."""

    def __init__(self, home: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = home / "audit.jsonl"
        self._lock = home / ".audit.lock"
        self._clock = clock
        self._trouble: str | None = None
        self._day = 0
        # Attempts of this day: of each account by event, and of everybody.
        self._attempts: Counter[tuple[Event, str]] = Counter()

    def write(
        self,
        what: Event,
        *,
        who: object = None,
        whom: object = None,
        server: str | None = None,
        owner: str | None = None,
        outcome: str | None = None,
        ticket: str | None = None,
        hosts: Iterable[str] = (),
        address: str | None = None,
        browser: str | None = None,
    ) -> None:
        """Append one event. A log that cannot be written is an error of ours and not of the person who acts."""
        more = self._room_for(what, _name(who) or _name(whom) or "") if what in _ATTEMPTS else 0
        if more is None:
            return
        line = AuditLine(
            time=datetime.fromtimestamp(round(self._clock(), 3), UTC),
            what=what,
            who=_name(who),
            whom=_name(whom),
            server=_name(server),
            owner=_name(owner),
            outcome=_word(outcome),
            ticket=ticket if ticket is not None and _DIGEST.fullmatch(ticket) else None,
            hosts=tuple(_name(host) or "?" for host in hosts),
            address=_name(address),
            browser=_name(browser),
            more=more,
        )
        try:
            self._append(msgspec.json.encode(line) + b"\n")
        except (OSError, McpAuthError) as error:
            reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
            if reason != self._trouble:
                logger.error("%s cannot be written (%s); events are not recorded", self._path, reason)
            self._trouble = reason
        else:
            self._trouble = None

    def _room_for(self, what: Event, who: str) -> int | None:
        """How many attempts stand behind this one's line; None: it gets none of its own today.

        What changed nothing can be done as often as one likes, and would push what changed something out of the log.
        """
        day = int(self._clock() // 86_400)
        if day != self._day:
            self._day = day
            self._attempts.clear()
        if len(self._attempts) >= _ACCOUNTS_COUNTED and (what, who) not in self._attempts:
            who = ""
        self._attempts[what, who] += 1
        count = self._attempts[what, who]
        if count <= _ATTEMPTS_A_DAY:
            return 0
        return _ATTEMPTS_A_LINE - 1 if count % _ATTEMPTS_A_LINE == 0 else None

    def lines(self) -> Iterator[AuditLine]:
        """Everything that is kept, oldest first. A line that a full disk tore is left out and logged.

        Raises:
            StoreError: after all that can be read, of a file that cannot.
        """
        trouble: McpAuthError | None = None
        for path in [*(self._old(number) for number in range(OLD_FILES, 0, -1)), self._path]:
            try:
                data, _ = read_small_file(path, MAX_READ)
            except FileNotFoundError:
                continue
            except OSError as error:
                trouble = trouble or cannot_be_read(path, error)
                continue
            yield from self._parsed(path, data.splitlines())
        if trouble is not None:
            raise trouble

    def _parsed(self, path: Path, raw: Iterable[bytes]) -> Iterator[AuditLine]:
        for number, line in enumerate(raw, 1):
            try:
                yield _decoder.decode(line)
            except msgspec.DecodeError:
                logger.warning("%s:%d is damaged and left out", path, number)

    def _append(self, line: bytes) -> None:
        make_folder(self._path.parent)
        with suppress(FileNotFoundError):
            if self._path.stat().st_size + len(line) > MAX_BYTES:
                self._rotate(len(line))
        # Without O_NONBLOCK, opening a FIFO waits for a reader for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotRegularFile(errno.EINVAL, "it is not a regular file")
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def _rotate(self, room: int) -> None:
        """Number the files on; the oldest goes. Whoever has a file open still writes its line into it."""
        with locked(self._lock, self._path.name):
            with suppress(FileNotFoundError):
                if self._path.stat().st_size + room <= MAX_BYTES:
                    # Another process was faster.
                    return
            for number in range(OLD_FILES, 0, -1):
                younger = self._old(number - 1) if number > 1 else self._path
                with suppress(FileNotFoundError):
                    os.replace(younger, self._old(number))

    def _old(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


_decoder = msgspec.json.Decoder(AuditLine)
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[a-z][a-z_]{0,39}")


def _name(value: object) -> str | None:
    """A name on one printable line, bounded, without a URL's query. JSON would escape the rest; readers may not."""
    if value is None:
        return None
    text = str(value)[:_TEXT_LENGTH]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else "?" for c in text)
    return text.partition("?")[0] if "://" in text else text


def _word(outcome: str | None) -> str | None:
    return outcome if outcome is None or _WORD.fullmatch(outcome) else "other"
