"""What could not be told and waits for a person's next word: answers in memory, news in the home, over restarts."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from gateway.bounded_dict import BoundedDict
from gateway.replies import Audience, Reply, Text
from mcp_auth.errors import StoreError, cannot_be_read
from mcp_auth.records import Record, decode, encode
from mcp_auth.small_files import read_small_file
from mcp_auth.stores.durable import remove_file, replace_file

_log = logging.getLogger(__name__)

_PER_PERSON = 5
_PEOPLE = 1000
_DAYS = 30
_TEXT_MAX = 2000


class News(Record):
    """One thing that a person has not heard yet. `at`: seconds since the epoch."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"texts"})

    texts: list[tuple[str, Literal["plain", "good", "warning", "bad"]]]
    at: float


class Kept(Record):
    """What waits for one person, oldest first."""

    news: list[News]


class Waiting:
    """At most five things for each of a thousand people; the oldest go first.

    News (that a sign-in ended, that a grant died) is in a file per person that only this user reads, for thirty days.
    What answers a command is not: it may hold a code or more, and the person asks again.

    Args:
        folder: of one platform, in the home; made when it is needed.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock
        self._answers: BoundedDict[str, deque[Reply]] = BoundedDict(_PEOPLE)

    def add(self, to: str, reply: Reply, *, is_news: bool) -> None:
        """Keep `reply` for whoever is at the address `to`. The same thing is kept once."""
        if is_news and _may_be_stored(reply):
            try:
                self._store(to, reply)
                return
            except StoreError as error:
                _log.error("news for a person is kept in memory only: %s", error)
        answers = self._answers.setdefault(to, deque(maxlen=_PER_PERSON))
        if reply not in answers:
            answers.append(reply)

    def take(self, *addresses: str) -> tuple[list[Reply], list[Reply]]:
        """The news and the answers for a person who may be known under several addresses; they wait no longer."""
        news = [reply for one in addresses for reply in self._take_stored(one)]
        return news, [reply for one in addresses for reply in self._answers.pop(one, ())]

    def _store(self, to: str, reply: Reply) -> None:
        path = self._path(to)
        known = self._read(path)
        texts = [(block.text, block.tone) for block in reply.blocks if isinstance(block, Text)]
        if any(one.texts == texts for one in known):
            return
        if not known:
            self._make_room()
        news = [*known, News(texts=texts, at=self._clock())]
        replace_file(path, encode(Kept(news=news[-_PER_PERSON:])))

    def _take_stored(self, address: str) -> list[Reply]:
        path = self._path(address)
        try:
            news = self._read(path)
            if news:
                remove_file(path)
        except StoreError as error:
            _log.error("news for a person cannot be read: %s", error)
            return []
        made = [tuple(Text(text, tone) for text, tone in one.texts) for one in news]
        return [Reply(blocks, audience=Audience.CALLER) for blocks in made]

    def _read(self, path: Path) -> list[News]:
        """Raises StoreError: it is damaged or may not be read."""
        try:
            kept = decode(Kept, read_small_file(path)[0])
        except FileNotFoundError:
            return []
        except OSError as error:
            raise cannot_be_read(path, error) from None
        except ValueError:
            raise StoreError(f"{path} is damaged.", next_step=f"remove {path}") from None
        since = self._clock() - _DAYS * 86400
        return [one for one in kept.news if one.at > since]

    def _make_room(self) -> None:
        """Before there is a file more: the ones that were written longest ago go."""
        try:
            files = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        except FileNotFoundError:
            # Another process took one at this moment, and made room.
            return
        for path in files[: max(0, len(files) - _PEOPLE + 1)]:
            remove_file(path)

    def _path(self, address: str) -> Path:
        return self._folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.json"


def _may_be_stored(reply: Reply) -> bool:
    """Plain sentences without an address: no link, no button and no prompt ever gets into a file."""
    texts = [block.text for block in reply.blocks if isinstance(block, Text)]
    return (
        len(texts) == len(reply.blocks)
        and not reply.buttons
        and not any("://" in text for text in texts)
        and sum(map(len, texts)) <= _TEXT_MAX
    )
