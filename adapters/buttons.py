"""What a button carries: a command of ours in a few bytes, and for whom it is. Pure.

A platform hands this text back when somebody presses. It holds no name (a name may be too long and may be private),
so a button still works after a restart, and on every replica.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gateway import commands, grammar
from gateway.invocations import Principal

_PREFIX = "mcp"
_PROMPT = "prompt"


def pack(command: str, owner: Principal, servers: Sequence[str]) -> str:
    """`auth github` as `mcp:auth:1f9a03c4:77ab01`: verb, server's tag, owner's tag. At most 64 bytes of ASCII.

    A command that is only a server's name means its status. One whose argument is no server (`key-store ID`) keeps
    it as it is.

    Raises:
        ValueError: it does not fit. Names of servers always do.
    """
    verb, _, rest = command.partition(" ")
    argument = rest
    for name in servers:
        if command == commands.detail_for(name):
            verb, rest = "status", name
        if rest and rest in (name, grammar.quote(name)):
            argument = _tag(name, 8)
    packed = f"{_PREFIX}:{verb}:{argument}:{_tag(str(owner), 6)}"
    if len(packed.encode()) > 64 or not packed.isascii():
        raise ValueError("a button's command is a verb with a server or a short id")
    return packed


def is_ours(data: str) -> bool:
    return data.startswith(f"{_PREFIX}:") and data.count(":") == 3


def unpack(data: str, servers: Sequence[str]) -> str | None:
    """The command behind a button, without `/mcp`. None: it is none of ours, or names a server that is gone."""
    if not is_ours(data):
        return None
    _, verb, argument, _ = data.split(":")
    if not argument:
        return verb
    for name in servers:
        if _tag(name, 8) == argument:
            return grammar.command_for(verb, name)
    # A prompt's id and a code keep their own form; a tag of a server that was removed leads nowhere.
    return f"{verb} {argument}" if verb in ("key-store", "confirm") else None


def pack_prompt(prompt_id: str, owner: Principal) -> str:
    """The button that opens the platform's input for a `SecretPrompt` which is asked already."""
    return f"{_PREFIX}:{_PROMPT}:{prompt_id}:{_tag(str(owner), 6)}"


def prompt_of(data: str) -> str | None:
    """The id of the prompt that a button of `pack_prompt` opens. None: it is another button."""
    _, verb, prompt_id, _ = data.split(":") if is_ours(data) else ("", "", "", "")
    return prompt_id if verb == _PROMPT else None


def is_for(data: str, principal: Principal) -> bool:
    """Whether the button was made for this principal. Everybody may see it, and only one may press it."""
    return is_ours(data) and data.rsplit(":", 1)[1] == _tag(str(principal), 6)


def _tag(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
