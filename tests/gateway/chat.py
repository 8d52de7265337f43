"""One person's side of a chat for tests: types, reads the replies, receives notices. Everything behind it is real."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Checklist, ChecklistItem, Notice, Reply, SecretPrompt, ServerList, Table, Text
from gateway.surfaces import in_chat
from mcp_auth.config.models import CallbackOptions, Config, GatewayOptions, Server
from mcp_auth.stores.base import Store
from mcp_auth.stores.memory import MemoryStore
from tests.patience import PATIENCE
from tests.ports import free_port

TELEGRAM = Principal("telegram", "1")
FULL = Capabilities(edit_window=900, secret_input=True)
_events = itertools.count(1)


def configure(home: Path, *servers: Server, **gateway: Any) -> Config:
    options = GatewayOptions(**{"callback": CallbackOptions(port=free_port()), **gateway})
    return Config(home=home, path=None, servers={server.name: server for server in servers}, gateway=options)


def open_gateway(config: Config, store: Store | None = None, **auth: Any) -> Gateway:
    return Gateway(config, store=store or MemoryStore(), **auth)


class Chat:
    """`say` returns every reply; `notices` collects what comes later."""

    def __init__(
        self, gateway: Gateway, principal: Principal = LOCAL, *, private: bool = True, capabilities: Capabilities = FULL
    ) -> None:
        self.gateway = gateway
        self.principal = principal
        self.private = private
        self.capabilities = capabilities
        self.display_name = ""
        self.notices: list[Notice] = []
        self._arrived = asyncio.Event()
        self.unsubscribe = gateway.subscribe(principal.platform, self._receive)

    async def say(self, text: str, **changes: Any) -> list[Reply]:
        invocation = self.invocation(text, **changes)
        replies = []
        async for reply in self.gateway.handle(invocation, self.capabilities):
            replies.append(reply)
            self.gateway.delivered(invocation, MessageRef(self.principal.platform, {"id": invocation.event_id}))
        return replies

    def invocation(self, text: str, **changes: Any) -> Invocation:
        own = {"private": self.private, "event_id": f"e{next(_events)}", "display_name": self.display_name}
        given: dict[str, Any] = {**own, **changes}
        return Invocation(self.principal, ChatRef(self.principal.platform, {"chat": 7}), text, **given)

    async def notice(self, containing: str, timeout: float = PATIENCE) -> Notice:
        """The first new message (no edit) with these words, waited for."""
        return await self._wait(lambda one: one.message is None and containing in words(one.reply), timeout)

    async def edit(self, containing: str, timeout: float = PATIENCE) -> Notice:
        return await self._wait(lambda one: one.message is not None and containing in words(one.reply), timeout)

    async def _wait(self, fits: Any, timeout: float) -> Notice:
        async with asyncio.timeout(timeout):
            while True:
                for one in self.notices:
                    if fits(one):
                        return one
                self._arrived.clear()
                await self._arrived.wait()

    async def _receive(self, notice: Notice) -> None:
        self.notices.append(notice)
        self._arrived.set()


def words(reply: Reply) -> str:
    """Everything of a reply that a person reads, links excepted."""
    lines: list[str] = []
    for block in reply.blocks:
        match block:
            case Text() | SecretPrompt():
                lines.append(block.text)
            case Checklist():
                lines += [f"{item.server}: {item.text}" for item in block.items]
                lines += [in_chat(block.note or "")]
            case ServerList():
                lines += [f"{one.name} {one.auth} {one.connection.state}" for one in block.servers]
            case Table():
                lines += [" ".join(map(in_chat, row)) for row in block.rows]
            case _:
                lines += [f"{label}: {in_chat(value)}" for label, value in block.facts]
    return "\n".join(lines)


def item(reply: Reply, server: str) -> ChecklistItem:
    (checklist,) = (block for block in reply.blocks if isinstance(block, Checklist))
    return next(one for one in checklist.items if one.server == server)


def prompt_of(reply: Reply) -> SecretPrompt:
    return next(block for block in reply.blocks if isinstance(block, SecretPrompt))
