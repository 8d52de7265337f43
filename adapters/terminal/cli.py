"""`slash-mcp`: the command line. Reads the arguments and imports the code of one command, and only that."""

from __future__ import annotations

import argparse
import os
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from adapters.terminal.screen import say
from adapters.text import clean
from mcp_auth.errors import ConfigError, McpAuthError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    _Commands: TypeAlias = "argparse._SubParsersAction[_CommandParser]"

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_COMMANDS = {
    "list": "adapters.terminal.listing",
    "auth": "adapters.terminal.auth",
    "paste": "adapters.terminal.commands",
    "key": "adapters.terminal.commands",
    "cancel": "adapters.terminal.commands",
    "logout": "adapters.terminal.commands",
    "test": "adapters.terminal.commands",
    "chat": "adapters.terminal.commands",
    "serve": "adapters.terminal.commands",
    "demo": "adapters.terminal.demo",
    "people": "adapters.terminal.people",
    "allow": "adapters.terminal.people",
    "deny": "adapters.terminal.people",
    "audit": "adapters.terminal.audit",
    "doctor": "adapters.terminal.doctor",
    "init": "adapters.terminal.setup",
    "add": "adapters.terminal.setup",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 something failed, 2 usage or configuration, 130 interrupted."""
    options = _parser().parse_args(arguments)
    command = options.command or "list"
    try:
        run = getattr(import_module(_COMMANDS[command]), f"run_{command}")
        code: int = run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `head` does; nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except ConfigError as error:
        complain(error)
        return USAGE
    except McpAuthError as error:
        complain(error)
        return FAILED
    return code


def complain(error: McpAuthError) -> None:
    """One error on standard error: what happened, and the next command."""
    say(f"slash-mcp: {for_shell(str(error))}", sys.stderr)


def for_shell(text: str) -> str:
    """A sentence on one line, without control characters, with the chat's commands as they are typed in a shell."""
    # Not the end of an address: `https://example.com/mcp answers`.
    return re.sub(r"(?<![\w./:-])/mcp(?= )", "slash-mcp", clean(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slash-mcp",
        description="Sign in to MCP servers, from here and from any chat.",
        epilog="Begin with: slash-mcp init, slash-mcp add NAME URL, slash-mcp auth.",
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--config", metavar="FILE", help="configuration: YAML, or an .mcp.json")
    parser.add_argument("--home", metavar="DIR", help="where everything is kept (default: ~/.slash-mcp)")
    parser.add_argument("--as", dest="acting_for", metavar="PERSON", help="act with this person's credentials")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_CommandParser)
    _add_signing_in(commands)
    _add_chats(commands)
    _add_people(commands)
    _add_setting_up(commands)
    parser.set_defaults(server=None, probe=False, json=False)
    return parser


def _add_signing_in(commands: _Commands) -> None:
    listing = _command(commands, "list", "every server with its status (also without a command)")
    listing.add_argument("server", nargs="?", metavar="SERVER", help="one in detail")
    listing.add_argument("--probe", action="store_true", help="connect to each and show whether it answers")
    listing.add_argument("--json", action="store_true", help="one JSON document")

    auth = _command(commands, "auth", "sign in: to SERVER, or to all that need it")
    auth.add_argument("servers", nargs="*", metavar="SERVER", help="also one that is signed in, to do it again")
    auth.add_argument("--no-browser", action="store_true", help="only print the link")
    auth.add_argument("--no-wait", action="store_true", help="print the link and exit; the sign-in stays open")
    auth.add_argument("--timeout", type=_seconds, metavar="S", help="wait at most S seconds")
    auth.add_argument("--fresh", action="store_true", help="look everything up anew and register anew")
    auth.add_argument("--json", action="store_true", help="one JSON object a line")

    paste = _command(commands, "paste", "finish a sign-in with the address of the browser's last page")
    paste.add_argument("url", nargs="?", metavar="URL", help="left out or -: read from standard input")

    key = _command(commands, "key", "enter an API key")
    key.add_argument("server", metavar="SERVER", help="the key is tried there before it is stored")
    key.add_argument("--stdin", action="store_true", help="read the key from standard input")
    key.add_argument("--variable", metavar="NAME", help="which variable, when the server needs several")
    key.add_argument("--store-anyway", action="store_true", help="store it although the server cannot be reached")

    cancel = _command(commands, "cancel", "end open sign-ins")
    cancel.add_argument("server", nargs="?", metavar="SERVER", help="only the one to this server")
    logout = _command(commands, "logout", "revoke and delete a grant")
    logout.add_argument("server", metavar="SERVER", help="its whole name")
    test = _command(commands, "test", "connect and list the tools")
    test.add_argument("server", metavar="SERVER", help="one that is a command is started for it")
    test.add_argument("--json", action="store_true", help="one JSON document")


def _add_chats(commands: _Commands) -> None:
    chat = _command(commands, "chat", "type /mcp here, as in any chat")
    chat.add_argument("--wait", type=_seconds, default=0.0, metavar="S", help="at the end of input wait for sign-ins")
    serve = _command(commands, "serve", "run the callback endpoint and the configured chat platforms")
    serve.add_argument("--port", type=_port, metavar="N", help="instead of gateway.callback.port")
    demo = _command(commands, "demo", "try everything with local servers")
    demo.add_argument("--script", action="store_true", help="play it without a person and print what happens")


def _add_people(commands: _Commands) -> None:
    people = _command(commands, "people", "who is served, who asks to be, and who was shut out")
    people.add_argument("--json", action="store_true", help="one JSON document")
    allow = _command(commands, "allow", "let somebody in, by the code that the bot gave them")
    allow.add_argument("who", metavar="CODE", help="the code, or an account such as telegram:123456789")
    deny = _command(commands, "deny", "shut somebody out, at once")
    deny.add_argument(
        "who", metavar="PRINCIPAL", help="an account such as telegram:123456789, or the code of a request"
    )
    audit = _command(commands, "audit", "what happened: sign-ins, keys, people, refusals")
    audit.add_argument("--since", metavar="WHEN", help="90m, 12h, 7d, or a date such as 2026-11-25")
    audit.add_argument("--server", metavar="SERVER", help="only this server")
    audit.add_argument("-n", dest="count", type=_count, metavar="N", help="the last N (default: 50; 0: all)")
    audit.add_argument("--json", action="store_true", help="the lines as they are kept")


def _add_setting_up(commands: _Commands) -> None:
    _command(commands, "doctor", "check this installation and say what to fix")
    _command(commands, "init", "write a commented configuration")
    add = _command(commands, "add", "add a server to the configuration")
    add.add_argument("name", metavar="NAME", help="what it is called in every chat")
    add.add_argument("url", metavar="URL", help="it is asked what it wants before it is added")


def _command(commands: _Commands, name: str, does: str) -> _CommandParser:
    return commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")


class _CommandParser(argparse.ArgumentParser):
    """One command. The options for all of them may stand behind it too, as people type them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name, place in (("--config", "config"), ("--home", "home"), ("--as", "acting_for")):
            self.add_argument(name, dest=place, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"slash-mcp {version('slash-mcp')}")
        parser.exit()


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError("a port between 0 (any) and 65535 is wanted")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86400:
        raise argparse.ArgumentTypeError("a number of seconds between 0 and 86400 is wanted")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError("a whole number is wanted")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
