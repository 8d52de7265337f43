"""What an adapter is, and the driver that all of them share."""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from adapters.base import Finding
from adapters.refusals import EditWindowClosed, NotSupported, PrivateDeliveryUnavailable
from adapters.symbols import WARN
from gateway import sentences
from gateway.invocations import Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Audience, Button, Notice, Reply, SecretPrompt, Text

if TYPE_CHECKING:
    from gateway.gateway import Gateway

_log = logging.getLogger(__name__)


class Adapter(Protocol):
    """What the driver needs of a platform. What `slash-mcp serve` and `doctor` need besides is `gateway.Platform`."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef: ...

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        """Show `reply` to this principal and nobody else.

        Raises:
            PrivateDeliveryUnavailable: it cannot be done; nothing was posted anywhere.
        """
        ...

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        """Replace a message.

        Raises:
            EditWindowClosed: too late; the caller delivers anew.
        """
        ...

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Open the platform's own secret input. `trigger` is the live interaction and never stored.

        Raises:
            NotSupported: there is none.
        """
        ...


class Driver:
    """Walks the replies of an invocation and brings each to where its audience is.

    An adapter holds nothing but its platform: it makes an `Invocation` and calls `run_invocation`.
    """

    def __init__(self, gateway: Gateway, adapter: Adapter) -> None:
        self._gateway = gateway
        self._adapter = adapter

    async def run_invocation(self, invocation: Invocation, trigger: object = None) -> bool:
        """Answer one invocation. Returns whether it went well (the last reply's `ok`).

        The first reply is sent, each later one replaces it. What is meant for the caller never goes to
        a chat that others read.
        """
        shown: _Shown | None = None
        ok = True
        async with aclosing(self._gateway.handle(invocation, self._adapter.capabilities)) as replies:
            async for reply in replies:
                ok = reply.ok
                if reply.prompt is not None and await self._asked(reply.prompt, trigger):
                    continue
                try:
                    shown = await self._show(invocation, reply, shown)
                except PrivateDeliveryUnavailable as unavailable:
                    # Never the content: only that there is one, and how to get it. What would follow is not begun.
                    said = _public(unavailable.how or sentences.NOT_IN_PRIVATE, unavailable.way)
                    await self._adapter.reply(invocation.chat, said)
                    return False
                self._gateway.delivered(invocation, shown.message)
        return ok

    async def notify(self, notice: Notice) -> bool:
        """Bring a notice to its person or chat. Returns whether it arrived."""
        if notice.message is not None:
            try:
                await self._adapter.update(notice.message, notice.reply)
            except EditWindowClosed:
                # The same news comes as a notice of its own.
                _log.debug("a message of %s can no longer be edited", notice.chat.platform)
            return True
        if notice.reply.audience is Audience.CHAT:
            await self._adapter.reply(notice.chat, notice.reply)
            return True
        try:
            # News for somebody who is in no chat with us right now names the platform only.
            via = notice.chat if notice.chat.data else None
            await self._adapter.deliver_private(notice.principal, notice.reply, via)
        except PrivateDeliveryUnavailable as unavailable:
            if notice.reply.summary and notice.chat.data:
                await self._adapter.reply(notice.chat, _public(notice.reply.summary, unavailable.way))
            return False
        return True

    async def _asked(self, prompt: SecretPrompt, trigger: object) -> bool:
        try:
            await self._adapter.ask_secret(prompt, trigger)
        except NotSupported:
            return False
        return True

    async def _show(self, invocation: Invocation, reply: Reply, shown: _Shown | None) -> _Shown:
        for_all = reply.audience is Audience.CHAT or invocation.private
        # What everybody reads is never edited into something for one of them.
        if shown is not None and (for_all or not shown.public):
            try:
                return _Shown(await self._adapter.update(shown.message, reply), shown.public)
            except EditWindowClosed:
                return await self._private(invocation, reply)
        if for_all:
            return _Shown(await self._adapter.reply(invocation.chat, reply), public=not invocation.private)
        return await self._private(invocation, reply)

    async def _private(self, invocation: Invocation, reply: Reply) -> _Shown:
        message = await self._adapter.deliver_private(invocation.principal, reply, invocation.chat)
        if reply.summary and not invocation.private and not self._adapter.capabilities.ephemeral:
            await self._adapter.reply(invocation.chat, _public(reply.summary))
        return _Shown(message, public=False)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where the last reply stands. `public`: others read it too."""

    message: MessageRef
    public: bool


def remark(text: str) -> Reply:
    """One sentence for the person who did something here that leads nowhere."""
    return Reply((Text(text, tone="warning"),), audience=Audience.CALLER, ok=False)


def nobody_served(gateway: Gateway, platform: str) -> list[Finding]:
    """For `check`: a warning while this platform's bot would answer nobody."""
    if any(one.startswith(f"{platform}:") for one in gateway.config.gateway.allow):
        return []
    how = f"write /mcp to the bot in private, then `slash-mcp allow CODE`; or add {platform}:ID to gateway.allow"
    return [Finding(WARN, f"nobody is served here yet. Next: {how}")]


def _public(text: str, way: Button | None = None) -> Reply:
    return Reply((Text(text),), buttons=(way,) if way is not None else ())
