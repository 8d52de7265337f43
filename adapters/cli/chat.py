"""`slash-mcp chat`: a prompt with completion on a terminal, one command per line on a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from adapters.terminal.adapter import TerminalAdapter
from adapters.terminal.screen import LINE_MAX
from gateway.commands import Option, shown

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import FileHistory

    from gateway.gateway import Gateway

_OTHER_WORDS = ("/mcp", "list", "login")
_ENDS = frozenset({"exit", "quit", "/exit", "/quit"})


async def chat(gateway: Gateway, *, wait: float = 0.0, acting_for: str | None = None) -> bool:
    """Answer lines until the end of input, then wait up to `wait` seconds for open sign-ins.

    Returns whether every line was answered well.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        return await _at_terminal(gateway, wait, acting_for)
    adapter = TerminalAdapter(gateway, acting_for=acting_for)
    return await _answer(gateway, adapter, read_lines(sys.stdin), wait)


async def _at_terminal(gateway: Gateway, wait: float, acting_for: str | None) -> bool:
    from prompt_toolkit.patch_stdout import patch_stdout

    session = _session(gateway)
    with patch_stdout(raw=True):
        # Inside the patch, so that notices are drawn above the prompt.
        adapter = TerminalAdapter(gateway, out=sys.stdout, ask_hidden=_ask_hidden, acting_for=acting_for)
        return await _answer(gateway, adapter, _typed(session), wait)


async def _answer(gateway: Gateway, adapter: TerminalAdapter, lines: AsyncIterator[str], wait: float) -> bool:
    ok = True
    undo = adapter.install()
    try:
        async for line in lines:
            text = line.strip()
            if text.lower() in _ENDS:
                break
            if text:
                ok = await adapter.say(text) and ok
        if wait > 0:
            await gateway.settled(wait)
    finally:
        undo()
    return ok


async def _typed(session: PromptSession[str]) -> AsyncIterator[str]:
    while True:
        try:
            yield await session.prompt_async("> ")
        except KeyboardInterrupt:
            # Ctrl-C clears the line, as in a shell; the end of input leaves.
            continue
        except EOFError:
            return


async def read_lines(stream: TextIO) -> AsyncIterator[str]:
    """Lines as they come. A thread reads, because a pipe may stay silent for as long as it likes."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        try:
            with contextlib.suppress(ValueError, OSError):
                # A stream that is closed, or cannot be read, has ended.
                # A line without an end is none that a person typed.
                while (line := stream.readline(LINE_MAX)) and len(line) < LINE_MAX:
                    loop.call_soon_threadsafe(queue.put_nowait, line)
            loop.call_soon_threadsafe(queue.put_nowait, None)
        except RuntimeError:
            # The loop was closed under the reader: the program is ending.
            return

    threading.Thread(target=read, daemon=True, name="standard input").start()
    while (line := await queue.get()) is not None:
        yield line


def _verbs() -> dict[str, Option | None]:
    """What may be typed, and what stands after it."""
    return {spec.verb: spec.option for spec in shown() if spec.verb is not None}


def _session(gateway: Gateway) -> PromptSession[str]:
    from prompt_toolkit import PromptSession

    return PromptSession(
        history=_history(gateway.config.home / "chat-history", {*_verbs(), *_OTHER_WORDS, *gateway.names()}),
        completer=_completer(gateway.names()),
        complete_while_typing=False,
    )


def _history(path: Path, known: Collection[str]) -> FileHistory:
    """What was typed, as far as it is made of `known` words: anything else could be a key or a code."""
    from prompt_toolkit.history import FileHistory

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The library would create it readable for all.
    os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))

    class History(FileHistory):
        def append_string(self, string: str) -> None:
            if string.strip() and all(word in known for word in string.split()):
                super().append_string(string)

    return History(str(path))


def _completer(names: Iterable[str]) -> Completer:
    from prompt_toolkit.completion import NestedCompleter

    servers = dict.fromkeys(names)
    after = {
        verb: servers if option is not None and option.name == "server" else None for verb, option in _verbs().items()
    }
    return NestedCompleter.from_nested_dict({"/mcp": {**servers, **after}, **after})


async def _ask_hidden(question: str) -> str:
    """One line that is neither shown nor remembered; nothing when the person turns away."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app_session

    # With an output of its own the library hides what is typed at a dumb terminal, too.
    session: PromptSession[str] = PromptSession(is_password=True, output=get_app_session().output)
    try:
        return await session.prompt_async(question)
    except (EOFError, KeyboardInterrupt):
        return ""
