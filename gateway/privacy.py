"""What a chat is not told: the rest of a server's URL beside its host, a command's arguments, folders of this machine.

The last thing that happens to a reply before an adapter gets it, so that it holds for every sentence, also those that
other modules make of what servers say. Links and buttons are left as they are: they go where only one person reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as replace_fields

from gateway.replies import Block, Checklist, Notice, Reply, SecretPrompt, ServerDetail, ServerList, Table, Text
from gateway.surfaces import Words, parts
from mcp_auth.config.models import Config
from mcp_auth.outcome import Next, Step
from mcp_auth.shown import MASK, brief_address, secrets_in
from mcp_auth.status import ServerStatus

_URL = re.compile(
    r"https?://(?:[^\s/@]*@)?(?P<host>\[[^\]\s]*\]|[^\s/:?#\"'<>()]*)(?P<port>:\d+)?[^\s\"'<>()]*", re.IGNORECASE
)
_STOPS = ".,;:!?"
# Our own pages below `public_url`, to be read whole: where a client is registered, for one.
_PAGES = ("a", "k", "callback", "client")

Conceal = Callable[[str], str]


class Privacy:
    """What chats may read of the servers of one configuration. Made once: it goes through every entry."""

    def __init__(self, config: Config) -> None:
        servers = config.servers.values()
        self._hosts = {(host := brief_address(one)).lower(): host for one in servers if one.url is not None}
        public_url = config.gateway.public_url
        self._ours = () if public_url is None else tuple(f"{public_url}/{page}" for page in _PAGES)
        self._redirects = {one.oauth.redirect_uri for one in servers}
        self._secrets = _one_of(secret for one in servers for secret in secrets_in(one))
        folders = {str(one) for one in (config.home, config.path and config.path.parent, Path.home()) if one}
        self._folders = _one_of(folders - {"/", "."}, r"(?:/[^\s\"'<>():,;]*)?")

    def reply(self, reply: Reply) -> Reply:
        """`reply` as any chat may read it."""
        return replace(
            reply,
            blocks=tuple(_block(block, self._conceal) for block in reply.blocks),
            summary=reply.summary and self._conceal(reply.summary),
            title=reply.title and _words(reply.title, self._conceal),
            data=None,
        )

    def notice(self, notice: Notice) -> Notice:
        return replace(notice, reply=self.reply(notice.reply))

    def _conceal(self, text: str) -> str:
        text = _URL.sub(self._host, text)
        if self._secrets is not None:
            text = self._secrets.sub(MASK, text)
        return text if self._folders is None else self._folders.sub(_last_step, text)

    def _host(self, match: re.Match[str]) -> str:
        """The host alone of a URL at a server's host, with the stop behind it; any other URL as it is."""
        whole, host = match.group(), match["host"].lower()
        bare = whole.rstrip(_STOPS)
        shown = self._hosts.get(host + (match["port"] or "")) or self._hosts.get(host)
        if shown is None or bare in self._redirects or self._is_ours(bare):
            return whole
        return shown + whole[len(bare) :]

    def _is_ours(self, url: str) -> bool:
        return any(url == page or url.startswith(f"{page}/") for page in self._ours)


def _block(block: Block, conceal: Conceal) -> Block:
    match block:
        case Text():
            return replace(block, words=_words(block.words, conceal), next_step=_step(block.next_step, conceal))
        case SecretPrompt():
            return replace(block, text=conceal(block.text))
        case ServerList():
            servers = tuple(_status(one, conceal) for one in block.servers)
            return replace(block, servers=servers, hint=block.hint and _words(block.hint, conceal))
        case ServerDetail(status, facts):
            rows = tuple(
                (label, status.target if value == status.address else _words(value, conceal)) for label, value in facts
            )
            return replace(block, server=_status(status, conceal), facts=rows)
        case Checklist():
            items = tuple(
                replace(item, sentence=conceal(item.sentence), next_step=_step(item.next_step, conceal), data=None)
                for item in block.items
            )
            return replace(block, items=items, note=block.note and _words(block.note, conceal))
        case Table():
            return replace(block, rows=tuple((left, conceal(right)) for left, right in block.rows))


def _words(words: Words, conceal: Conceal) -> Words:
    if isinstance(words, str):
        return conceal(words)
    return tuple(conceal(part) if isinstance(part, str) else part for part in parts(words))


def _step(step: Step | None, conceal: Conceal) -> Step | None:
    return replace_fields(step, around=conceal(step.around)) if isinstance(step, Next) else step and conceal(step)


def _status(status: ServerStatus, conceal: Conceal) -> ServerStatus:
    connection = status.connection
    return replace_fields(
        status,
        address=status.target,
        detail=status.detail and conceal(status.detail),
        last_error=status.last_error and conceal(status.last_error),
        connection=replace_fields(connection, detail=connection.detail and conceal(connection.detail)),
    )


def _one_of(texts: Iterable[str], rest: str = "") -> re.Pattern[str] | None:
    """A pattern for any of `texts`, the longest first, and `rest` behind it."""
    found = sorted(set(texts), key=len, reverse=True)
    return re.compile(f"(?:{'|'.join(map(re.escape, found))}){rest}") if found else None


def _last_step(match: re.Match[str]) -> str:
    whole = match.group()
    bare = whole.rstrip(_STOPS)
    return bare.rpartition("/")[2] + whole[len(bare) :]
