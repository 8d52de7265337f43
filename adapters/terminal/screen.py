"""What is known of the screen, and how lines get onto it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TextIO, cast

from adapters.text import clean, wrap
from gateway.surfaces import Words, in_shell, shell_command
from mcp_auth.errors import StoreError
from mcp_auth.outcome import Outcome, Step

# Characters. No key and no address is longer.
LINE_MAX = 1_000_000


def settle_streams() -> None:
    """What a caller closed reads as ended and is written to nobody; a character that cannot be had is a `?`."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif name != "stderr" and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not isinstance(sys.stderr, _Complaints):
        sys.stderr = cast("TextIO", _Complaints(sys.stderr))


class _Complaints:
    """Standard error. Where its reader went away, or its disk is full, nobody is told, and the command goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            forget(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            forget(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forget(stream: TextIO) -> None:
    """Write to nobody from now on, also what is left when the program ends."""
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, stream.fileno())
    os.close(nobody)


def read_line() -> str:
    """One line of standard input.

    Raises:
        StoreError: it cannot be read, or has no end.
    """
    try:
        line = sys.stdin.readline(LINE_MAX)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise StoreError(
            f"Standard input cannot be read ({why}).", next_step="give it a file or a pipe, or type it at a terminal"
        ) from None
    if len(line) >= LINE_MAX:
        raise StoreError("Standard input has a line without an end.", next_step="give it one line")
    return line


def columns(out: TextIO) -> int | None:
    """How wide the terminal is; None where `out` is none: a pipe and a file have no edge."""
    return line_width() if out.isatty() else None


def line_width() -> int:
    """`COLUMNS`, else the width of the terminal of standard output, else 80; as `shutil.get_terminal_size` has it."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80 if sys.__stdout__ else 80
    except (OSError, ValueError):
        # Redirected, or closed.
        return 80


def is_colored(out: TextIO) -> bool:
    """Colour on a terminal, unless `NO_COLOR` is set (no-color.org)."""
    return is_live(out) and not os.environ.get("NO_COLOR")


def is_live(out: TextIO) -> bool:
    """Whether a line on it can be drawn anew."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def say(said: Words | Outcome, out: TextIO | None = None, *, next_step: Step | None = None, before: str = "") -> None:
    """One sentence and what to do next, as on a command line: on one line, and on a terminal broken between words.

    `before`: a mark, or who speaks.
    """
    out = sys.stdout if out is None else out
    if isinstance(said, Outcome):
        next_step, said = said.next_step, said.text
    text = f"{before}{clean(in_shell(said))}"
    print(wrap(text, columns(out), "  ", next_step, shell_command), file=out, flush=True)


class Progress:
    """What is going on, as the last line of a terminal while it goes on; nothing elsewhere.

    It goes to standard error, so that standard output holds results only.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._live = is_live(sys.stderr)
        self._shown = False

    def show(self, text: str) -> None:
        """Something else goes on now."""
        self._text = text
        self._shown = True
        self._draw(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Room for lines of output, above it."""
        if self._shown:
            self._draw("")
        yield
        # Beside a pipe nobody knows when the lines arrive on the same screen.
        if self._shown and sys.stdout.isatty():
            self._draw(self._text)

    def _draw(self, text: str) -> None:
        if self._live:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        self.show(self._text)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown = False
        self._draw("")


def as_json_text(document: object) -> str:
    """One line of JSON in which nothing but letters and signs stands as it is: it may be read on a terminal."""
    import json

    return escaped(json.dumps(document, ensure_ascii=False))


def escaped(text: str) -> str:
    """JSON whose control, formatting and bidirectional characters are escapes, so that no terminal acts on them."""
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
