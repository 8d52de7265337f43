"""The operator at this machine, as one more chat of the gateway: commands in, replies out."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import aclosing

from adapters.cli.cli import FAILED, OK
from adapters.terminal.screen import say
from gateway.gateway import Gateway
from gateway.grammar import Command
from gateway.invocations import LOCAL, Capabilities, ChatRef, Invocation, MessageRef
from gateway.replies import Reply, Text
from mcp_auth.config.models import Config
from mcp_auth.errors import McpAuthError
from mcp_auth.net.names import run

# What changes in an answer is printed beneath it, for as long as the command runs; keys are typed without an echo.
_CAPABILITIES = Capabilities(edit_window=86_400, secret_input=True)


async def ask(
    gateway: Gateway, options: Namespace, asked: Command | str, *, deadline: float | None = None
) -> AsyncGenerator[Reply, None]:
    """The replies to a command, or to that of a button; later changes of the last one come as notices."""
    text, command = (asked, None) if isinstance(asked, str) else ("", asked)
    invocation = Invocation(
        LOCAL,
        ChatRef(LOCAL.platform),
        text,
        private=True,
        event_id=str(time.time_ns()),
        acting_for=options.acting_for,
        command=command,
        deadline=deadline,
    )
    async with aclosing(gateway.handle(invocation, _CAPABILITIES)) as replies:
        async for reply in replies:
            yield reply
    gateway.delivered(invocation, MessageRef(LOCAL.platform))


async def answer(gateway: Gateway, options: Namespace, asked: Command | str) -> Reply:
    """The last reply to it.

    Raises:
        McpAuthError: the command failed with it.
    """
    last = None
    async for reply in ask(gateway, options, asked):
        last = reply
    if last is None:
        raise AssertionError("every command answers")
    return checked(last)


def checked(reply: Reply) -> Reply:
    """The reply, unless it says an error, which is raised."""
    if isinstance(reply.data, McpAuthError):
        raise reply.data
    return reply


def answer_once(config: Config, options: Namespace, command: Command) -> Reply:
    """As `answer`, with a gateway for this one command."""

    async def once() -> Reply:
        async with Gateway(config, alone=True) as gateway:
            return await answer(gateway, options, command)

    return run(once())


def tell(reply: Reply) -> int:
    """Print the sentences of a reply. Returns the exit code."""
    for block in reply.blocks:
        if isinstance(block, Text):
            say(block.words, next_step=block.next_step)
    return OK if reply.ok else FAILED
