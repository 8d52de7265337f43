"""Every command, once: how it is read and run, who hears its answer, whether it takes long, what it is counted by, how
help and menus name it.

Whatever is typed is read by `parse`; the help, the subcommands of Discord and the completion of the terminal follow
from the same table.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gateway import grammar, sentences
from gateway.grammar import find, fold
from gateway.handlers import finish, keys, listing, people, sign_in, words
from gateway.replies import Audience, Reply, Table
from gateway.request import Request
from gateway.surfaces import Words
from mcp_auth.limits import CODES, CONFIRMS, Rate
from mcp_auth.outcome import Next, Verb

Run = Callable[[Any, Request], Awaitable[Reply] | AsyncGenerator[Reply, None]]
"""One reply, or several of which each replaces the one before."""


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
        kind: what `parse` makes of it.
        run: answers it.
        parse: reads what stands behind its verb. None: it has no verb.
        words: other words that are read as its verb.
        verb: what is typed for it and shown in menus. None: it has no verb of its own, or one for buttons only.
        menu: what it does, in one sentence of a menu.
        help: rows of the help: what is typed behind the verb, and what it does.
        audience: who hears the answer.
        slow: it asks servers or waits for the disk, so a platform may have to say first that it works on it.
        limit: what it is counted by, beside the limit of all commands.
        admins: only they may use it.
    """

    kind: type[grammar.Command]
    run: Run
    parse: grammar.Parse | None = None
    verb: Verb | Literal["status"] | None = None
    menu: str = ""
    option: Option | None = None
    help: tuple[tuple[str, str], ...] = ()
    words: tuple[str, ...] = ()
    audience: Audience = Audience.CHAT
    slow: bool = False
    limit: Rate | None = None
    admins: bool = False

    @property
    def rows(self) -> tuple[tuple[Words, str], ...]:
        """Its rows of the help, with the command as data."""
        verb: Verb = "list" if self.verb is None or self.verb == "status" else self.verb
        return tuple((Next(verb, arguments=(behind,) if behind else ()), does) for behind, does in self.help)

    @property
    def is_proof(self) -> bool:
        """Whether it carries the code of a page, typed or brought by its button."""
        return self.limit is CONFIRMS


_SERVER = Option("server", "The server's name")
_ANY_SERVER = Option("server", "The server's name", required=False)
_CALLER = Audience.CALLER


async def _help(_: grammar.Help, request: Request) -> Reply:
    return Reply((Table(help_rows(admin=request.is_admin)),), title=sentences.HELP_TITLE)


SPECS: tuple[CommandSpec, ...] = (
    CommandSpec(grammar.ListServers, listing.show_list, help=(("", "every server and its status"),)),
    CommandSpec(
        grammar.Detail,
        listing.show_detail,
        grammar.takes_server("status", grammar.Detail, without=grammar.ListServers()),
        "status",
        "Every server and its status, or one in detail",
        _ANY_SERVER,
        (("SERVER", "one server in detail"),),
        ("list",),
        _CALLER,
    ),
    CommandSpec(
        grammar.Auth,
        sign_in.sign_in,
        grammar.read_auth,
        "auth",
        "Sign in wherever it is needed, or to one server again",
        _ANY_SERVER,
        (
            ("", "sign in wherever it is needed"),
            ("SERVER", "sign in to one server, or do it again"),
        ),
        ("login",),
        _CALLER,
        slow=True,
    ),
    CommandSpec(
        grammar.Key,
        keys.ask_key,
        grammar.read_key,
        "key",
        "Enter an API key",
        _ANY_SERVER,
        (("SERVER", "enter an API key"),),
        audience=_CALLER,
    ),
    CommandSpec(
        grammar.Paste,
        finish.paste,
        grammar.read_paste,
        "paste",
        "Finish a sign-in with the address of its last page",
        # Its argument is long: where there are menus, a form takes it.
        None,
        (("ADDRESS", "finish a sign-in with the address of its last page"),),
        audience=_CALLER,
        slow=True,
        limit=CODES,
    ),
    CommandSpec(
        grammar.Confirm,
        finish.confirm,
        grammar.takes_text("confirm", grammar.Confirm),
        "confirm",
        "Prove that it is you who signs in, with the code of the page",
        Option("code", "The code that the page shows"),
        (("CODE", "show that the page with this code is yours"),),
        audience=_CALLER,
        slow=True,
        limit=CONFIRMS,
    ),
    CommandSpec(
        grammar.Cancel,
        finish.cancel,
        grammar.takes_server("cancel", grammar.Cancel, without=grammar.Cancel(), whole=True),
        "cancel",
        "End open sign-ins",
        _ANY_SERVER,
        (("[SERVER]", "end open sign-ins"),),
        slow=True,
    ),
    CommandSpec(
        grammar.Logout,
        finish.logout,
        grammar.takes_server("logout", grammar.Logout, whole=True),
        "logout",
        "Revoke and delete a sign-in",
        _SERVER,
        (("SERVER", "revoke and delete a sign-in"),),
        slow=True,
    ),
    CommandSpec(
        grammar.Test,
        listing.test,
        grammar.takes_server("test", grammar.Test),
        "test",
        "Connect and list the tools",
        _SERVER,
        (("SERVER", "connect and list the tools"),),
        audience=_CALLER,
        slow=True,
    ),
    CommandSpec(
        grammar.ShowPeople,
        people.show_people,
        grammar.takes_nothing(grammar.ShowPeople),
        "people",
        "Who is served, and who asks to be (for admins)",
        None,
        (("", "who is served, and who asks to be"),),
        audience=_CALLER,
        admins=True,
    ),
    CommandSpec(
        grammar.Allow,
        people.allow,
        grammar.takes_text("allow", grammar.Allow),
        "allow",
        "Let in the person who was given this code (for admins)",
        Option("code", "The code that the person was given"),
        (("CODE", "let in the person who was given this code"),),
        audience=_CALLER,
        limit=CODES,
        admins=True,
    ),
    CommandSpec(
        grammar.Deny,
        people.deny,
        grammar.takes_text("deny", grammar.Deny),
        "deny",
        "Shut somebody out (for admins)",
        Option("who", "discord:USER_ID, another principal, or the code of a request"),
        (("WHO", "shut somebody out"),),
        audience=_CALLER,
        limit=CODES,
        admins=True,
    ),
    CommandSpec(
        grammar.Help,
        _help,
        grammar.takes_nothing(grammar.Help),
        "help",
        "What /mcp can do",
        None,
        (("", "this list"),),
    ),
    # For buttons and links only.
    CommandSpec(
        grammar.KeyStoreAnyway,
        keys.store_anyway,
        grammar.read_key_store,
        words=("key-store",),
        audience=_CALLER,
        slow=True,
    ),
    CommandSpec(
        grammar.ReviewCode,
        finish.review,
        grammar.takes_text("confirm", grammar.ReviewCode),
        words=("review-code",),
        audience=_CALLER,
        slow=True,
        limit=CONFIRMS,
    ),
    # What was typed is no command.
    CommandSpec(grammar.KeyExposed, keys.warn_of_exposed_key),
    CommandSpec(grammar.Suggestion, words.suggest),
    CommandSpec(grammar.Ambiguous, words.ask_which),
    CommandSpec(grammar.WholeNameNeeded, words.ask_whole_name),
    CommandSpec(grammar.ArgumentMissing, words.ask_argument),
)
_BY_KIND = {spec.kind: spec for spec in SPECS}
# Each word that a command begins with, and what reads the rest.
VERBS: dict[str, grammar.Parse] = {
    word: spec.parse for spec in SPECS for word in (spec.verb, *spec.words) if word and spec.parse is not None
}
_SHOWN = tuple(word for spec in SPECS for word in (spec.verb, *spec.words) if word and spec.verb is not None)
_TAKES_SERVER = frozenset(
    word for spec in SPECS if spec.option in (_SERVER, _ANY_SERVER) for word in (spec.verb, *spec.words)
)


def spec_of(command: grammar.Command) -> CommandSpec:
    return _BY_KIND[type(command)]


def shown() -> Iterator[CommandSpec]:
    """What a person may type, in the order of menus."""
    return (spec for spec in SPECS if spec.verb is not None)


def help_rows(*, admin: bool) -> tuple[tuple[Words, str], ...]:
    """The help: first what everybody may use."""
    rows = [row for spec in SPECS if not spec.admins for row in spec.rows]
    return (*rows, *(row for spec in SPECS if spec.admins and admin for row in spec.rows))


def parse(text: str, servers: Sequence[str]) -> grammar.Command:
    """What stood after `/mcp` (a leading `/mcp`, `/mcp@botname` or `!mcp` is taken off) as a command.

    Args:
        servers: the configured names. Matched case-insensitively and by unique beginning.
    """
    text = grammar.PREFIX.sub("", text[: grammar.ADDRESS_MAX].strip(), count=1).strip()
    if not text:
        return grammar.ListServers()
    if grammar.looks_like_redirect(text):
        return grammar.Paste(grammar.unwrap(text))
    first, rest = grammar.split_first(text)
    if fold(first) != "paste":
        first, rest = grammar.split_first(text[: grammar.LINE_MAX])
    parse_rest = VERBS.get(fold(first))
    if parse_rest is not None:
        return parse_rest(rest, servers)
    return _server_or_suggestion(text, first, rest, servers)


def detail_for(server: str) -> str:
    """The shortest command for one server's detail: its name, or `status NAME` when the name reads as a verb."""
    if fold(server.split(maxsplit=1)[0] if server.split() else "") in VERBS or grammar.PREFIX.match(server):
        return grammar.command_for("status", server)
    return grammar.quote(server)


def _server_or_suggestion(text: str, first: str, rest: str, servers: Sequence[str]) -> grammar.Command:
    found = find(text, servers)
    if len(found) == 1:
        return grammar.Detail(found[0])
    if found:
        return grammar.Ambiguous(tuple(detail_for(name) for name in found))
    named = find(first, servers)
    verb = fold(rest)
    if len(named) == 1 and verb in _TAKES_SERVER:
        return grammar.Suggestion((grammar.command_for(verb, named[0]),))
    return grammar.Suggestion(_nearest(first, rest, servers))


def _nearest(first: str, rest: str, servers: Sequence[str]) -> tuple[str, ...]:
    commands: dict[str, str] = {fold(name): detail_for(name) for name in servers}
    commands |= {verb: verb for verb in _SHOWN}
    # A long word is no misspelt name, and comparing it would cost quadratic time.
    typed = [word for word in (fold(first[:200]), fold(f"{first} {rest}"[:200])) if word]
    close = {match: None for match in commands if any(grammar.is_one_slip(word, match) for word in typed)}
    if not close:
        close = {match: None for word in typed for match in grammar.close_matches(word, commands, n=2, cutoff=0.6)}
    if not close and typed:
        close = {match: None for match in commands if len(typed[0]) > 1 and match.startswith(typed[0])}
    argument = find(rest, servers) if rest else []
    return tuple(
        grammar.command_for(commands[match], argument[0])
        if match in _TAKES_SERVER and len(argument) == 1
        else commands[match]
        for match in list(close)[:3]
    )
