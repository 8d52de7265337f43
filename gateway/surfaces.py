"""How a command of the product is typed: in a chat, and on the command line of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from mcp_auth.errors import sentence
from mcp_auth.outcome import Next, Step, Verb

# A next step as it is said somewhere.
Surface = Callable[[Step], str]

HOST_ONLY = frozenset({"doctor", "init", "add", "serve", "audit"})
IN_CHATS = frozenset(get_args(Verb)) - HOST_ONLY
# What the command line calls otherwise.
_ON_HOST = {"confirm": "paste"}


def in_chat(step: Step, program: str = "/mcp") -> str:
    """`/mcp auth "my server"`. What only the operator can do is told as it is typed on the host."""
    if isinstance(step, str):
        return step
    return step.around.replace("{}", chat_command(step, program), 1)


def chat_command(step: Next, program: str = "/mcp") -> str:
    """The command alone."""
    if step.on_host or step.verb not in IN_CHATS:
        return shell_command(step)
    # The list starts without what commands need.
    from gateway import grammar

    if step.verb == "list":
        command = grammar.command_for("status", step.server) if step.server is not None else ""
    else:
        command = grammar.command_for(step.verb, step.server)
    return " ".join(filter(None, (program, command, *step.arguments)))


def in_shell(step: Step) -> str:
    """`slash-mcp auth 'my server'`"""
    if isinstance(step, str):
        return step
    return step.around.replace("{}", shell_command(step), 1)


def shell_command(step: Next) -> str:
    """The command alone."""
    import shlex

    if step.server is None:
        arguments = step.arguments
    elif step.server.startswith("-"):
        arguments = (*step.arguments, "--", step.server)
    else:
        arguments = (step.server, *step.arguments)
    return " ".join(("slash-mcp", _ON_HOST.get(step.verb, step.verb), *map(shlex.quote, arguments)))


def with_next(text: str, step: Step | None, surface: Surface = in_chat) -> str:
    """A sentence, and what to do next."""
    return f"{sentence(text)} Next: {surface(step)}" if step else sentence(text)
