"""Which records are open or due, without looking at each of them: an index in the memory of each process.

Of files, it is kept up to date by a log beside them: whoever writes a record appends its key, after the record has its
name, and whoever asks reads what was appended since. A writer that dies in between leaves one key out, of a record
that nobody was told of; the index holds candidates only, and each is read before it counts.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Generic, TypeVar

from mcp_auth.errors import cannot_be_read
from mcp_auth.records import Record
from mcp_auth.stores.base import Columns, Query
from mcp_auth.stores.durable import Folder, make_folder

R = TypeVar("R", bound=Record)

# A longer log begins anew, and everybody looks at everything once.
_LOG_MAX = 1_000_000
_OPEN = ("", "")
# Which log it is, and how far it was read.
Place = tuple[bytes, int]
_NOWHERE: Place = (b"", 0)


class Index:
    """Keys by the plain columns of their records."""

    def __init__(self) -> None:
        self._columns: dict[str, Columns] = {}
        self._keys: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._due: list[tuple[float, str]] = []

    def put(self, key: str, columns: Columns | None) -> None:
        """`columns` None: there is no such record any more."""
        before = self._columns.pop(key, None)
        for term in _terms(before):
            self._keys[term].discard(key)
            if not self._keys[term]:
                del self._keys[term]
        if columns is None:
            return
        self._columns[key] = columns
        for term in _terms(columns):
            self._keys[term].add(key)
        if columns.due_at is not None and (before is None or before.due_at != columns.due_at):
            heapq.heappush(self._due, (columns.due_at, key))

    def find(self, query: Query) -> Iterable[str]:
        """The keys of all records that `query` may fit."""
        if query.before is not None:
            return self._due_by(query.before)
        if not query.is_open:
            return list(self._columns)
        if query.code is not None:
            term = "code", query.code
        elif query.principal is not None:
            term = "principal", query.principal
        else:
            term = _OPEN if query.owner is None else ("owner", query.owner)
        return sorted(self._keys.get(term, ()))

    def _due_by(self, before: float) -> list[str]:
        found: list[tuple[float, str]] = []
        while self._due and self._due[0][0] <= before:
            due_at, key = heapq.heappop(self._due)
            columns = self._columns.get(key)
            # What was put off meanwhile stands further down.
            if columns is not None and columns.due_at == due_at:
                found.append((due_at, key))
        for one in found:
            heapq.heappush(self._due, one)
        return list(dict.fromkeys(key for _, key in found))


def _terms(columns: Columns | None) -> list[tuple[str, str]]:
    if columns is None or not columns.is_open:
        return []
    terms = [_OPEN, *(("code", code) for code in columns.codes)]
    if columns.owner is not None:
        terms.append(("owner", columns.owner))
    if columns.principal is not None:
        terms.append(("principal", columns.principal))
    return terms


class ChangeLog(Generic[R]):
    """The index over the files of one folder, and the log that keeps it up to date."""

    def __init__(self, folder: Folder[R]) -> None:
        self._folder = folder
        self._path = folder.place / ".changes"
        self._index = Index()
        self._seen: Place | None = None
        self._guard = threading.Lock()

    def note(self, key: str) -> None:
        """This record has changed; under the lock of the folder."""
        make_folder(self._folder.place)
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                # The first line tells one log from another.
                os.write(descriptor, (f"{key}\n" if size else f"{os.urandom(8).hex()}\n{key}\n").encode())
            finally:
                os.close(descriptor)
            if size > _LOG_MAX:
                self._path.unlink()
        except OSError as error:
            raise cannot_be_read(self._path, error) from None

    @property
    def is_cold(self) -> bool:
        """Everything has to be looked at before the first answer."""
        return self._seen is None

    def find(self, query: Query) -> list[R]:
        """The records that `query` fits, as they are now."""
        with self._guard:
            self._catch_up()
            keys = self._index.find(query)
        read, columns = self._folder.read_if_possible, self._folder.kind.columns
        return [one for one in map(read, keys) if one is not None and query.matches(columns(one))]

    def since(self, place: object) -> tuple[Place, list[str] | None]:
        """As `Backend.changes`."""
        try:
            if isinstance(place, tuple) and os.stat(self._path).st_size == place[1]:
                return place, []
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            # Nothing was written since there is a log, or the log begins anew.
            return _NOWHERE, [] if place == _NOWHERE else None
        except OSError as error:
            raise cannot_be_read(self._path, error) from None
        try:
            name = os.read(descriptor, 17)
            if not isinstance(place, tuple) or place[0] != name:
                return (name, os.fstat(descriptor).st_size), None
            lines = os.pread(descriptor, 2 * _LOG_MAX, place[1])
        finally:
            os.close(descriptor)
        whole = lines[: lines.rfind(b"\n") + 1]
        return (name, place[1] + len(whole)), whole.decode().split()

    def _catch_up(self) -> None:
        seen, keys = self.since(self._seen)
        if keys is None:
            self._index = Index()
            keys = self._folder.keys()
        for key in dict.fromkeys(keys):
            record = self._folder.read_if_possible(key)
            self._index.put(key, self._folder.kind.columns(record) if record is not None else None)
        self._seen = seen
