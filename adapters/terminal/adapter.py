"""The terminal as a chat platform: replies are printed, secrets are typed without an echo."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from typing import TYPE_CHECKING, TextIO

from adapters.base import Capabilities, Driver, EditWindowClosed, Finding
from adapters.terminal.render import render
from gateway.invocations import LOCAL, ChatRef, Invocation, MessageRef, Principal
from gateway.replies import Reply, SecretPrompt, Text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.gateway import Gateway

PLATFORM = "cli"
# A pipe has no edge; this keeps a very long reason from making every line as long.
_PIPE_COLUMNS = 160


class TerminalAdapter:
    """Prints to `out`. One person, always private: whoever sits at the machine is the operator.

    `ask_hidden`: reads a secret without showing it; None where there is no terminal to type at.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        out: TextIO | None = None,
        ask_hidden: Callable[[str], Awaitable[str]] | None = None,
        acting_for: str | None = None,
    ) -> None:
        self._gateway = gateway
        self._out = out or sys.stdout
        self._ask_hidden = ask_hidden
        self._acting_for = acting_for
        self._events = itertools.count(1)
        self._driver = Driver(gateway, self)
        # What is printed stays: a terminal's lines are not edited. Where no echo can be off, the secret input is a
        # command of its own, and `ask_secret` names it.
        self.capabilities = Capabilities(PLATFORM, edit_window=0, secret_input=True)

    def install(self) -> Callable[[], None]:
        """Print the gateway's notices as they happen. Returns the undo."""
        return self._gateway.subscribe(PLATFORM, self._driver.notify)

    async def say(self, text: str) -> bool:
        """Answer one line, typed with or without `/mcp`. Returns whether it went well."""
        invocation = Invocation(
            principal=LOCAL,
            chat=ChatRef(PLATFORM),
            text=text,
            private=True,
            event_id=f"{time.time_ns()}-{next(self._events)}",
            acting_for=self._acting_for,
        )
        return await self._driver.run_invocation(invocation)

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef:
        self._print(reply)
        return MessageRef(PLATFORM)

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        return await self.reply(via or ChatRef(PLATFORM), reply)

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        raise EditWindowClosed

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        if self._ask_hidden is None:
            where = f"A key is not read from here. Next: slash-mcp key {prompt.server} --stdin"
            self._print(Reply((Text(where, tone="warning"),)))
            return
        question: SecretPrompt | None = prompt
        while question is not None:
            value = await self._ask_hidden(f"{question.text} ")
            reply = await self._gateway.submit_secret(LOCAL, question.id, value)
            question = next((block for block in reply.blocks if isinstance(block, SecretPrompt)), None)
            said = tuple(block for block in reply.blocks if not isinstance(block, SecretPrompt))
            if said:
                self._print(Reply(said, buttons=reply.buttons, ok=reply.ok))
            if not value:
                return

    async def check(self) -> list[Finding]:
        return []

    async def run(self) -> None:
        """The chat at this terminal, until its end of input."""
        from adapters.terminal.chat import chat

        await chat(self._gateway, acting_for=self._acting_for)

    def _print(self, reply: Reply) -> None:
        columns = shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns if self._out.isatty() else _PIPE_COLUMNS
        text = render(reply, columns=columns, color=is_colored(self._out), now=time.time())
        print(f"{text}\n", file=self._out, flush=True)


def is_colored(out: TextIO) -> bool:
    """Colour on a terminal, unless `NO_COLOR` is set (no-color.org)."""
    import os

    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
