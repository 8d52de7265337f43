"""The terminal as a chat platform: replies are printed, secrets are typed without an echo."""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING, TextIO

from adapters.base import Adapter
from adapters.terminal.qr import qr_code
from adapters.terminal.render import render
from adapters.terminal.screen import columns, is_colored
from gateway.invocations import LOCAL, Capabilities, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Checklist, ItemState, Reply, SecretPrompt, Text
from mcp_auth.config.models import Settings
from mcp_auth.outcome import Next

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.gateway import Gateway


class TerminalAdapter(Adapter[Settings]):
    """Prints to `out`. One person, always private: whoever sits at the machine is the operator.

    `ask_hidden`: reads a secret without showing it; None where there is no terminal to type at.
    """

    platform = LOCAL.platform
    title = "The terminal"
    options_type = Settings
    # What is printed stays: a terminal's lines are not edited. Where no echo can be off, the secret input is a
    # command of its own, and `ask_secret` names it.
    capabilities = Capabilities(edit_window=0, secret_input=True)

    def __init__(
        self,
        gateway: Gateway,
        *,
        out: TextIO | None = None,
        ask_hidden: Callable[[str], Awaitable[str]] | None = None,
        acting_for: str | None = None,
    ) -> None:
        super().__init__(gateway)
        self._out = out or sys.stdout
        self._ask_hidden = ask_hidden
        self._acting_for = acting_for
        self._events = itertools.count(1)

    def install(self) -> Callable[[], None]:
        """Print the gateway's notices as they happen. Returns the undo."""
        self.attach()
        return self.detach

    async def say(self, text: str) -> bool:
        """Answer one line, typed with or without `/mcp`. Returns whether it went well."""
        invocation = Invocation(
            principal=LOCAL,
            chat=ChatRef(self.platform),
            text=text,
            private=True,
            event_id=f"{time.time_ns()}-{next(self._events)}",
            acting_for=self._acting_for,
        )
        return await self.run_invocation(invocation)

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        self._print(reply)
        return MessageRef(self.platform)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self.reply(via or ChatRef(self.platform), reply)

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        if self._ask_hidden is None:
            here = Next("key", prompt.server, ("--stdin",), on_host=True)
            self._print(Reply((Text("A key is not read from here.", "warning", here),)))
            return
        question: SecretPrompt | None = prompt
        while question is not None:
            self._print(Reply((Text(question.text),)))
            value = await self._ask_hidden(f"{question.variable}: ")
            reply = await self.gateway.submit_secret(LOCAL, question.id, value)
            question = reply.prompt
            said = tuple(block for block in reply.blocks if not isinstance(block, SecretPrompt))
            if said:
                self._print(Reply(said, buttons=reply.buttons, ok=reply.ok))
            if not value:
                return

    def _print(self, reply: Reply) -> None:
        color = is_colored(self._out)
        text = render(reply, columns=columns(self._out), color=color, now=time.time())
        links = _links(reply)
        # One code fits on a screen; of several, a camera could not say which is which.
        if len(links) == 1 and self._out.isatty() and (code := qr_code(links[0], color=color)):
            text += f"\n{code}"
        print(f"{text}\n", file=self._out, flush=True)


def _links(reply: Reply) -> list[str]:
    items = [item for block in reply.blocks if isinstance(block, Checklist) for item in block.items]
    return [item.link for item in items if item.link and item.state is ItemState.LINK]
