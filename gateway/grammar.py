"""Words -> Command: what stands behind each verb, read by `gateway.commands.parse`. Pure and total.

A command never carries words that it did not understand: they may be a secret or a link, and whoever
answers could repeat them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class ListServers:
    """`/mcp`. `start_commands`: as a program may want, every server is asked, and commands are started for it."""

    start_commands: bool = False


@dataclass(frozen=True, slots=True)
class Detail:
    """`/mcp SERVER`. `start_commands`: as above."""

    server: str
    start_commands: bool = False


@dataclass(frozen=True, slots=True)
class Auth:
    """`/mcp auth [SERVER ...]`; no server: all that need it.

    Only a program sets the others. `fresh`, `listen`: see `McpAuth.sign_in`.
    """

    servers: tuple[str, ...] = ()
    fresh: bool = False
    listen: bool = True


@dataclass(frozen=True, slots=True)
class Key:
    """`/mcp key [SERVER]`; no server: the only one that lacks a key, if it is the only one.

    `variable`: only this one, as a program may want.
    """

    server: str | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class KeyExposed:
    """Somebody typed a key into the chat. The value is not here on purpose."""

    server: str | None = None


@dataclass(frozen=True, slots=True)
class KeyStoreAnyway:
    """The button under "could not be tried": stores the value of a pending prompt."""

    prompt_id: str


@dataclass(frozen=True, slots=True)
class Paste:
    """`/mcp paste URL`, or the bare redirect URL."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Confirm:
    """`/mcp confirm CODE`"""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReviewCode:
    """What a page's button brings into the chat: the code, to be looked at. It confirms nothing."""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Cancel:
    """`/mcp cancel [SERVER]`"""

    server: str | None = None


@dataclass(frozen=True, slots=True)
class Logout:
    """`/mcp logout SERVER`"""

    server: str


@dataclass(frozen=True, slots=True)
class Test:
    """`/mcp test SERVER`"""

    __test__ = False

    server: str


@dataclass(frozen=True, slots=True)
class Allow:
    """`/mcp allow CODE`: lets in the person who was given this code."""

    code: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """`/mcp deny PRINCIPAL` or the code of a request."""

    who: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ShowPeople:
    """`/mcp people`"""


@dataclass(frozen=True, slots=True)
class Help:
    """`/mcp help`"""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Not understood. `commands`: what may have been meant, best first, without `/mcp`; may be empty."""

    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """More than one server begins like this."""

    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WholeNameNeeded:
    """`logout` and `cancel` with the beginning of a name only."""

    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ArgumentMissing:
    """A verb that needs something after it: `paste`, `confirm`, `logout`, `test`, `allow`, `deny`."""

    verb: str
    commands: tuple[str, ...] = ()


Command = (
    ListServers
    | Detail
    | Auth
    | Key
    | KeyExposed
    | KeyStoreAnyway
    | Paste
    | Confirm
    | ReviewCode
    | Cancel
    | Logout
    | Test
    | Allow
    | Deny
    | ShowPeople
    | Help
    | Suggestion
    | Ambiguous
    | WholeNameNeeded
    | ArgumentMissing
)


def after_prefix(text: str) -> str | None:
    """What stands after `/mcp`, `!mcp` or `/mcp@botname`. None: the text begins with none of them."""
    found = PREFIX.match(text.strip())
    return text.strip()[found.end() :].strip() if found else None


def looks_like_redirect(text: str) -> bool:
    """Is this whole text an http(s) URL with an authorization answer in its query?"""
    text = unwrap(text[:ADDRESS_MAX].strip())
    if len(text.split()) > 1:
        return False
    try:
        url = urlsplit(text)
        query = parse_qs(url.query, max_num_fields=50)
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.netloc) and bool(query.keys() & {"state", "code", "error"})


def command_for(verb: str, server: str | None = None) -> str:
    """`auth "my server"`: the text that `parse` reads back as this verb with exactly this server."""
    if server is None:
        return verb
    return f"{verb} {quote(server)}"


def close_matches(word: str, choices: Iterable[str], *, n: int, cutoff: float) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(word, choices, n=n, cutoff=cutoff)


def quote(server: str) -> str:
    if not any(c.isspace() for c in server):
        return server
    return f"'{server}'" if '"' in server else f'"{server}"'


PREFIX = re.compile(r"\A[/!]mcp(?:@\w{1,64})?(?=\s|$)", re.IGNORECASE)
_WORD = re.compile(
    r'"(?P<double>[^"]*)(?:"|$)|\'(?P<single>[^\']*)(?:\'|$)|[“„](?P<curly>[^“”]*)(?:[“”]|$)|(?P<bare>\S+)'
)
_PROMPT_ID = re.compile(r"[A-Za-z0-9_-]{8,32}")
# Names and verbs have room in it many times; what is compared with every name is not to be as long as one likes.
LINE_MAX = 1_000
# An authorization server's answer may be longer; what is cut here is still too long for one.
ADDRESS_MAX = 10_000
# Shorter words without a similar name are taken for a typing error, not for a secret.
_SECRET_LENGTH = 12
# In shorter names one slip is too much of the whole to say what was meant.
_SLIP_LENGTH = 3


def is_one_slip(typed: str, meant: str) -> bool:
    """One letter is wrong, missing or too many, or two neighbours are swapped: nothing else was meant then."""
    if len(meant) < _SLIP_LENGTH:
        return False
    at = next((at for at, (one, other) in enumerate(zip(typed, meant, strict=False)) if one != other), len(typed))
    left, wanted = typed[at:], meant[at:]
    wrong, missing, extra = left[1:] == wanted[1:], left == wanted[1:], left[1:] == wanted
    swapped = left[:2] == wanted[1::-1] and left[2:] == wanted[2:]
    return wrong or missing or extra or swapped


Parse = Callable[[str, Sequence[str]], Command]
"""What stands behind a verb, and the configured servers, as a command."""


def takes_nothing(make: Callable[[], Command]) -> Parse:
    return lambda rest, servers: make()


def takes_text(verb: str, make: Callable[[str], Command]) -> Parse:
    return lambda rest, servers: make(rest) if rest else ArgumentMissing(verb)


def takes_server(
    verb: str, make: Callable[[str], Command], *, without: Command | None = None, whole: bool = False
) -> Parse:
    """`without`: what the verb alone is; None: it needs a server. `whole`: the beginning of a name is not enough."""

    def read(rest: str, servers: Sequence[str]) -> Command:
        if not rest:
            return without or ArgumentMissing(verb, tuple(command_for(verb, name) for name in servers))
        return _read_server(rest, servers, verb, make, whole=whole)

    return read


def read_auth(rest: str, servers: Sequence[str]) -> Command:
    if not rest:
        return Auth()
    whole = find(rest, servers)
    if len(whole) == 1:
        return Auth((whole[0],))
    chosen: dict[str, None] = {}
    for word in _words(rest):
        command = _read_server(word, servers, "auth", lambda name: Auth((name,)))
        if not isinstance(command, Auth):
            return command
        chosen[command.servers[0]] = None
    return Auth(tuple(chosen)) if chosen else Auth()


def read_key(rest: str, servers: Sequence[str]) -> Command:
    if not rest:
        return Key()
    found = find(rest, servers)
    if len(found) == 1:
        return Key(found[0])
    if found:
        return Ambiguous(tuple(command_for("key", name) for name in found))
    first, more = split_first(rest)
    named = find(first, servers)
    if more:
        return KeyExposed(named[0] if len(named) == 1 else None)
    close = close_servers(first, servers)
    if not close and len(first) >= _SECRET_LENGTH:
        return KeyExposed()
    return Suggestion(tuple(command_for("key", name) for name in close))


def read_key_store(rest: str, servers: Sequence[str]) -> Command:
    return KeyStoreAnyway(rest) if _PROMPT_ID.fullmatch(rest) else Suggestion(("key",))


def read_paste(rest: str, servers: Sequence[str]) -> Command:
    return Paste(unwrap(rest)) if rest else ArgumentMissing("paste")


def _read_server(
    rest: str, servers: Sequence[str], verb: str, make: Callable[[str], Command], *, whole: bool = False
) -> Command:
    found = find(rest, servers, by_beginning=not whole)
    if len(found) == 1:
        return make(found[0])
    several = tuple(command_for(verb, name) for name in (find(rest, servers) if whole else found))
    if several:
        return WholeNameNeeded(several) if whole else Ambiguous(several)
    return Suggestion(tuple(command_for(verb, name) for name in close_servers(rest, servers)))


def find(text: str, servers: Sequence[str], *, by_beginning: bool = True) -> list[str]:
    """All servers that `text` (quoted or not) may mean; exact spelling beats case, whole beats beginning."""
    words = _words(text)
    for candidate in dict.fromkeys((text, words[0] if len(words) == 1 else text)):
        if candidate in servers:
            return [candidate]
        wanted = fold(candidate)
        whole = [name for name in servers if fold(name) == wanted]
        if whole:
            return whole
        begins = [name for name in servers if wanted and fold(name).startswith(wanted)] if by_beginning else []
        if begins:
            return begins
    return []


def close_servers(text: str, servers: Sequence[str]) -> list[str]:
    """Which servers may have been meant, best first, at most three."""
    names = {fold(name): name for name in servers}
    wanted = fold(text[:200])
    return [names[match] for match in close_matches(wanted, names, n=3, cutoff=0.5)]


def _words(text: str) -> list[str]:
    # One of the groups is what matched.
    return [match[match.lastgroup or 0] for match in _WORD.finditer(text)]


def split_first(text: str) -> tuple[str, str]:
    match = _WORD.match(text)
    if match is None:
        return text, ""
    return match[match.lastgroup or 0], text[match.end() :].strip()


def fold(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).casefold()


def unwrap(text: str) -> str:
    # Slack and mail programs put links into angle brackets.
    return text[1:-1] if text.startswith("<") and text.endswith(">") else text
