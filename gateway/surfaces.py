"""How commands of the product are written: in a chat, and on the command line of the host.

A text with commands in it is `Words`, and whoever shows it writes the commands in the way of its surface.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import msgspec

from mcp_auth.errors import sentence
from mcp_auth.outcome import Next, Step, Verb

HOST_ONLY = frozenset({"doctor", "init", "add", "serve", "audit"})
IN_CHATS = frozenset(get_args(Verb)) - HOST_ONLY
# What the command line calls otherwise.
_ON_HOST = {"confirm": "paste"}


class Typed(msgspec.Struct, frozen=True):
    """A command as `gateway.commands.parse` reads it, without the `/mcp`: `auth "my server"`."""

    text: str


Part = str | Next | Typed
Words = Part | tuple[Part, ...]
Surface = Callable[[Next | Typed], str]


def parts(words: Words, next_step: Step | None = None) -> tuple[Part, ...]:
    """`words` in pieces: texts, and commands with nothing around them. `next_step`: said behind them."""
    found: list[Part] = []
    for part in words if isinstance(words, tuple) else (words,):
        if isinstance(part, Next):
            before, _, after = part.around.partition("{}")
            found += [before, msgspec.structs.replace(part, around="{}"), after]
        else:
            found.append(part)
    if next_step is not None:
        ends = isinstance(found[-1], str) and sentence(found[-1]) == found[-1]
        found += [" Next: " if ends else ". Next: ", *parts(next_step)]
    return tuple(part for part in found if part != "")


def is_for_chats(part: Part) -> bool:
    """Whether it is a command that is typed in a chat."""
    return isinstance(part, Typed) or (isinstance(part, Next) and part.verb in IN_CHATS and not part.on_host)


def chat_command(step: Next | Typed, program: str = "/mcp") -> str:
    """`/mcp auth "my server"`. What only the operator can do is told as it is typed on the host."""
    if not is_for_chats(step):
        return shell_command(step)
    return f"{program} {typed_text(step)}".rstrip()


def typed_text(step: Next | Typed) -> str:
    """What stands behind the name of the chat's command."""
    if isinstance(step, Typed):
        return step.text
    # The list starts without what commands need.
    from gateway.grammar import command_for

    named = command_for("status" if step.verb == "list" else step.verb, step.server)
    bare = step.verb == "list" and step.server is None
    return " ".join((*(() if bare else (named,)), *step.arguments))


def shell_command(step: Next | Typed) -> str:
    """`slash-mcp auth 'my server'`"""
    import shlex

    if isinstance(step, Typed):
        return f"slash-mcp {step.text}"
    if step.server is None:
        arguments = step.arguments
    elif step.server.startswith("-"):
        arguments = (*step.arguments, "--", step.server)
    else:
        arguments = (step.server, *step.arguments)
    return " ".join(("slash-mcp", _ON_HOST.get(step.verb, step.verb), *map(shlex.quote, arguments)))


def write(words: Words, next_step: Step | None = None, surface: Surface = chat_command) -> str:
    """A text as it is read on a surface."""
    return "".join(part if isinstance(part, str) else surface(part) for part in parts(words, next_step))


def in_chat(words: Words, next_step: Step | None = None) -> str:
    return write(words, next_step)


def in_shell(words: Words, next_step: Step | None = None) -> str:
    return write(words, next_step, shell_command)
