"""What became of something and what to do next, as data. Words are made where they are shown.

A chat shows `/mcp auth notes`, the command line `slash-mcp auth notes`, Discord a mention that can be clicked; an
embedding program reads `next_step.verb` and `next_step.server`. Here a command never stands in a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from mcp_auth.redaction import Redacted

Verb = Literal[
    "list", "auth", "key", "paste", "confirm", "cancel", "logout", "test", "people", "allow", "deny", "help",
    "doctor", "init", "add", "serve", "audit",
]  # fmt: skip


class Next(Redacted, msgspec.Struct, frozen=True, omit_defaults=True):
    """A command of the product as the next step.

    Args:
        verb: `list` shows every server, with `server` that one.
        arguments: what follows the server: options, or what a person fills in (`CODE`).
        on_host: only the operator can do it, on the command line of the host.
        is_secret: the arguments are for one person (a code); neither `repr` nor `str` shows them.
        around: the sentence it stands in, with `{}` in its place: `wait a moment, then {}`.
    """

    verb: Verb
    server: str | None = None
    arguments: tuple[str, ...] = ()
    on_host: bool = False
    is_secret: bool = False
    around: str = "{}"

    def __str__(self) -> str:
        """The command alone, without the name of a program: for logs, and for programs that embed this package."""
        arguments = ("***",) if self.is_secret else self.arguments
        return self.around.replace("{}", " ".join(filter(None, (self.verb, self.server, *arguments))), 1)

    def _shown(self) -> Iterator[tuple[str, str]]:
        for name, shown in super()._shown():
            yield name, "***" if name == "arguments" and self.is_secret else shown


class Shell(str):
    """An instruction that is typed into a shell as it is: `chmod 700 /srv/mcp`."""


# A next step: a command, or an instruction in words.
Step = Next | str


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """How something ended: for programs and for people.

    Args:
        code: of the class of the error behind it (`mcp_auth.errors`), or a word for what ended well.
        sentence: the same in English, without the next step.
        server: whose matter it is, where the sentence does not name it.
    """

    code: str
    sentence: str
    server: str | None = None
    next_step: Step | None = None

    @property
    def text(self) -> str:
        """The sentence, with the server's name."""
        return f"{self.server}: {self.sentence}" if self.server is not None else self.sentence
