"""Every command, once: who hears its answer, whether it takes long, what it is counted by, how help and menus name it.

`gateway.grammar` reads what is typed, `gateway.dispatcher` runs it; the help, the subcommands of Discord and the
completion of the terminal follow from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gateway import grammar
from gateway.replies import Audience
from mcp_auth.limits import CODES, CONFIRMS, Rate


@dataclass(frozen=True, slots=True)
class Option:
    """What stands after the verb, as a menu asks for it."""

    name: Literal["server", "code", "who"]
    description: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """One kind of command.

    Args:
        kind: what `grammar.parse` makes of it.
        verb: what is typed for it and shown in menus. None: it has no verb of its own, or one for buttons only.
        menu: what it does, in one sentence of a menu.
        help: rows of the help: what is typed, and what it does.
        audience: who hears the answer.
        slow: it asks servers or waits for the disk, so a platform may have to say first that it works on it.
        limit: what it is counted by, beside the limit of all commands.
        admins: only they may use it.
    """

    kind: type[grammar.Command]
    verb: str | None = None
    menu: str = ""
    option: Option | None = None
    help: tuple[tuple[str, str], ...] = ()
    audience: Audience = Audience.CHAT
    slow: bool = False
    limit: Rate | None = None
    admins: bool = False

    @property
    def is_proof(self) -> bool:
        """Whether it carries the code of a page, typed or brought by its button."""
        return self.limit is CONFIRMS


_SERVER = Option("server", "The server's name")
_ANY_SERVER = Option("server", "The server's name", required=False)
_CALLER = Audience.CALLER

SPECS: tuple[CommandSpec, ...] = (
    CommandSpec(grammar.ListServers, help=(("/mcp", "every server and its status"),)),
    CommandSpec(
        grammar.Detail,
        "status",
        "Every server and its status, or one in detail",
        _ANY_SERVER,
        (("/mcp SERVER", "one server in detail"),),
        _CALLER,
    ),
    CommandSpec(
        grammar.Auth,
        "auth",
        "Sign in wherever it is needed, or to one server again",
        _ANY_SERVER,
        (
            ("/mcp auth", "sign in wherever it is needed"),
            ("/mcp auth SERVER", "sign in to one server, or do it again"),
        ),
        _CALLER,
        slow=True,
    ),
    CommandSpec(
        grammar.Key, "key", "Enter an API key", _ANY_SERVER, (("/mcp key SERVER", "enter an API key"),), _CALLER
    ),
    CommandSpec(
        grammar.Paste,
        "paste",
        "Finish a sign-in with the address of its last page",
        # Its argument is long: where there are menus, a form takes it.
        None,
        (("/mcp paste ADDRESS", "finish a sign-in with the address of its last page"),),
        _CALLER,
        slow=True,
        limit=CODES,
    ),
    CommandSpec(
        grammar.Confirm,
        "confirm",
        "Prove that it is you who signs in, with the code of the page",
        Option("code", "The code that the page shows"),
        (("/mcp confirm CODE", "show that the page with this code is yours"),),
        _CALLER,
        slow=True,
        limit=CONFIRMS,
    ),
    CommandSpec(
        grammar.Cancel,
        "cancel",
        "End open sign-ins",
        _ANY_SERVER,
        (("/mcp cancel [SERVER]", "end open sign-ins"),),
        slow=True,
    ),
    CommandSpec(
        grammar.Logout,
        "logout",
        "Revoke and delete a sign-in",
        _SERVER,
        (("/mcp logout SERVER", "revoke and delete a sign-in"),),
        slow=True,
    ),
    CommandSpec(
        grammar.Test,
        "test",
        "Connect and list the tools",
        _SERVER,
        (("/mcp test SERVER", "connect and list the tools"),),
        _CALLER,
        slow=True,
    ),
    CommandSpec(
        grammar.ShowPeople,
        "people",
        "Who is served, and who asks to be (for admins)",
        None,
        (("/mcp people", "who is served, and who asks to be"),),
        _CALLER,
        admins=True,
    ),
    CommandSpec(
        grammar.Allow,
        "allow",
        "Let in the person who was given this code (for admins)",
        Option("code", "The code that the person was given"),
        (("/mcp allow CODE", "let in the person who was given this code"),),
        _CALLER,
        limit=CODES,
        admins=True,
    ),
    CommandSpec(
        grammar.Deny,
        "deny",
        "Shut somebody out (for admins)",
        Option("who", "discord:USER_ID, another principal, or the code of a request"),
        (("/mcp deny WHO", "shut somebody out"),),
        _CALLER,
        limit=CODES,
        admins=True,
    ),
    CommandSpec(grammar.Help, "help", "What /mcp can do", None, (("/mcp help", "this list"),)),
    # For buttons and links only.
    CommandSpec(grammar.KeyStoreAnyway, audience=_CALLER, slow=True),
    CommandSpec(grammar.ReviewCode, audience=_CALLER, slow=True, limit=CONFIRMS),
    # What was typed is no command.
    CommandSpec(grammar.KeyExposed),
    CommandSpec(grammar.Suggestion),
    CommandSpec(grammar.Ambiguous),
    CommandSpec(grammar.WholeNameNeeded),
    CommandSpec(grammar.ArgumentMissing),
)
_BY_KIND = {spec.kind: spec for spec in SPECS}


def spec_of(command: grammar.Command) -> CommandSpec:
    return _BY_KIND[type(command)]


def shown() -> Iterator[CommandSpec]:
    """What a person may type, in the order of menus."""
    return (spec for spec in SPECS if spec.verb is not None)


def help_rows(*, admin: bool) -> tuple[tuple[str, str], ...]:
    """The help: first what everybody may use."""
    rows = [row for spec in SPECS if not spec.admins for row in spec.help]
    return (*rows, *(row for spec in SPECS if spec.admins and admin for row in spec.help))
