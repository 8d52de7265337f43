"""What a chat is not told: the rest of a server's URL beside its host, a command's arguments, folders of this machine.

The last thing that happens to a reply before an adapter gets it, so that it holds for every sentence, also those that
other modules make of what servers say. Links and buttons are left as they are: they go where only one person reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from msgspec.structs import replace as replace_fields

from gateway.replies import Block, Checklist, Notice, Reply, SecretPrompt, ServerDetail, ServerList, Table, Text
from mcp_auth.config import Config
from mcp_auth.shown import MASK, brief_address, secrets_in
from mcp_auth.status import ServerStatus

Conceal = Callable[[str], str]


def for_chat(reply: Reply, config: Config) -> Reply:
    """`reply` as any chat may read it."""
    conceal = _concealing(config)
    return replace(
        reply,
        blocks=tuple(_block(block, conceal) for block in reply.blocks),
        summary=reply.summary and conceal(reply.summary),
        title=reply.title and conceal(reply.title),
    )


def notice_for_chat(notice: Notice, config: Config) -> Notice:
    return replace(notice, reply=for_chat(notice.reply, config))


def _block(block: Block, conceal: Conceal) -> Block:
    match block:
        case Text() | SecretPrompt():
            return replace(block, text=conceal(block.text))
        case ServerList():
            servers = tuple(_status(one, conceal) for one in block.servers)
            return replace(block, servers=servers, hint=block.hint and conceal(block.hint))
        case ServerDetail(status, facts):
            shown = {status.address: status.target}
            rows = tuple((label, shown.get(value) or conceal(value)) for label, value in facts)
            return replace(block, server=_status(status, conceal), facts=rows)
        case Checklist():
            items = tuple(replace(item, text=conceal(item.text)) for item in block.items)
            return replace(block, items=items, note=block.note and conceal(block.note))
        case Table():
            return replace(block, rows=tuple((left, conceal(right)) for left, right in block.rows))


def _status(status: ServerStatus, conceal: Conceal) -> ServerStatus:
    connection = status.connection
    return replace_fields(
        status,
        address=status.target,
        detail=status.detail and conceal(status.detail),
        last_error=status.last_error and conceal(status.last_error),
        connection=replace_fields(connection, detail=connection.detail and conceal(connection.detail)),
    )


def _concealing(config: Config) -> Conceal:
    servers = tuple((one.url or "", one.command or "", one.args) for one in config.servers.values())
    folders = {str(one) for one in (config.home, config.path and config.path.parent, Path.home()) if one}
    patterns = _patterns(
        servers,
        tuple(brief_address(one) for one in config.servers.values()),
        tuple(secret for one in config.servers.values() for secret in secrets_in(one)),
        tuple(sorted(folders - {"/", "."}, key=len, reverse=True)),
        config.gateway.public_url,
    )

    def conceal(text: str) -> str:
        for pattern, shown in patterns:
            text = pattern.sub(shown, text)
        return text

    return conceal


@lru_cache(maxsize=8)
def _patterns(
    servers: tuple[tuple[str, str, tuple[str, ...]], ...],
    shown: tuple[str, ...],
    secrets: tuple[str, ...],
    folders: tuple[str, ...],
    public_url: str | None,
) -> tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]:
    found: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = []
    for (url, _, _), host in zip(servers, shown, strict=True):
        if url:
            # A page of ours below the same host is to be read whole: where a client is registered, for one.
            ours = f"(?!{re.escape(public_url)}(?:/|$))" if public_url else ""
            origin = re.compile(rf"{ours}https?://(?:[^\s/@]*@)?{re.escape(host)}(?::\d+)?[^\s\"'<>()]*", re.IGNORECASE)
            found.append((origin, _keeping_the_stop(host)))
    found += [(re.compile(re.escape(secret)), MASK) for secret in secrets]
    for folder in folders:
        found.append((re.compile(rf"{re.escape(folder)}(?:/[^\s\"'<>():,;]*)?"), _last_step))
    return tuple(found)


def _keeping_the_stop(host: str) -> Callable[[re.Match[str]], str]:
    def shown(match: re.Match[str]) -> str:
        whole = match.group()
        return host + whole[len(whole.rstrip(".,;:!?")) :]

    return shown


def _last_step(match: re.Match[str]) -> str:
    whole = match.group()
    bare = whole.rstrip(".,;:!?")
    return bare.rpartition("/")[2] + whole[len(bare) :]
