"""What could not be told and waits for a person's next word: answers in memory, news in the store, over restarts."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Literal

from gateway.bounded_dict import BoundedDict
from gateway.replies import Audience, Reply, Text
from mcp_auth.errors import StoreError
from mcp_auth.records import Record, Value
from mcp_auth.stores.base import Backend, Kind, Records
from mcp_auth.stores.updates import update

_log = logging.getLogger(__name__)

_PER_PERSON = 5
_PEOPLE = 1000
_DAYS = 30
_TEXT_MAX = 2000


class News(Value, frozen=True):
    """One thing that a person has not heard yet. `at`: seconds since the epoch."""

    __secret__: ClassVar[frozenset[str]] = frozenset({"texts"})

    texts: list[tuple[str, Literal["plain", "good", "warning", "bad"]]]
    at: float


class Kept(Record):
    """What waits for one person, oldest first. `id`: the hash of the person's address."""

    news: list[News]
    id: str = ""


class Waiting:
    """At most five things for each of a thousand people; the oldest go first.

    News (that a sign-in ended, that a grant died) is in the store, for thirty days. What answers a command is not: it
    may hold a code or more, and the person asks again.
    """

    def __init__(self, backend: Backend, platform: str, clock: Callable[[], float] = time.time) -> None:
        # Written at once, so that a person who writes in the same moment hears of it; a power cut may take it back.
        kind = Kind(f"news-{platform}", Kept, lambda kept: kept.id, is_durable=False, is_precious=True, folder=platform)
        self._kept = Records(backend, kind)
        self._clock = clock
        self._answers: BoundedDict[str, deque[Reply]] = BoundedDict(_PEOPLE)

    async def add(self, to: str, reply: Reply, *, is_news: bool) -> None:
        """Keep `reply` for whoever is at the address `to`. The same thing is kept once."""
        if is_news and _may_be_stored(reply):
            try:
                await self._store(to, reply)
                return
            except StoreError as error:
                _log.error("news for a person is kept in memory only: %s", error)
        answers = self._answers.setdefault(to, deque(maxlen=_PER_PERSON))
        if reply not in answers:
            answers.append(reply)

    async def take(self, *addresses: str) -> tuple[list[Reply], list[Reply]]:
        """The news and the answers for a person who may be known under several addresses; they wait no longer."""
        news = [reply for one in addresses for reply in await self._take_stored(one)]
        return news, [reply for one in addresses for reply in self._answers.pop(one, ())]

    async def _store(self, to: str, reply: Reply) -> None:
        texts = [(block.text, block.tone) for block in reply.blocks if isinstance(block, Text)]

        async def add(kept: Kept | None) -> Kept | None:
            news = self._fresh(kept)
            if any(one.texts == texts for one in news):
                return None
            if not news:
                await self._make_room()
            news = [*news, News(texts=texts, at=self._clock())][-_PER_PERSON:]
            return Kept(id=_key(to), news=news, version=kept.version if kept else 0)

        await update("the news for a person", lambda: self._read(to), add, self._kept.put_if)

    async def _take_stored(self, address: str) -> list[Reply]:
        try:
            kept = await self._read(address)
            if kept is None or not await self._kept.delete_if(kept):
                # Or somebody else has just taken it.
                return []
        except StoreError as error:
            _log.error("news for a person cannot be read: %s", error)
            return []
        made = [tuple(Text(text, tone) for text, tone in one.texts) for one in self._fresh(kept)]
        return [Reply(blocks, audience=Audience.CALLER) for blocks in made]

    async def _read(self, address: str) -> Kept | None:
        kept = await self._kept.get(_key(address))
        if kept is not None:
            # Version 0.1.0 did not write it.
            kept.id = _key(address)
        return kept

    def _fresh(self, kept: Kept | None) -> list[News]:
        since = self._clock() - _DAYS * 86400
        return [one for one in kept.news if one.at > since] if kept is not None else []

    async def _make_room(self) -> None:
        """Before there is somebody more: those whose news is oldest go."""
        everybody = sorted(await self._kept.list(), key=lambda kept: max((one.at for one in kept.news), default=0.0))
        for kept in everybody[: max(0, len(everybody) - _PEOPLE + 1)]:
            await self._kept.delete_if(kept)


def _key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:32]


def _may_be_stored(reply: Reply) -> bool:
    """Plain sentences without an address: no link, no button and no prompt ever gets into a file."""
    texts = [block.text for block in reply.blocks if isinstance(block, Text)]
    return (
        len(texts) == len(reply.blocks)
        and not reply.buttons
        and not any("://" in text for text in texts)
        and sum(map(len, texts)) <= _TEXT_MAX
    )
