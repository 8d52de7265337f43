"""`slash-mcp`: the command line. Reads the arguments and imports the code of one command, and only that."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from adapters.terminal.screen import forget, line_width, say, settle_streams
from mcp_auth.config.permissions import INSECURE_HOME
from mcp_auth.errors import ConfigError, McpAuthError, StoreError, TooManyOpenFiles, is_out_of_descriptors
from mcp_auth.outcome import Shell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 something failed, 2 usage or configuration, 130 interrupted."""
    settle_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `head` does; nothing is wrong.
        forget(sys.stdout)
        return OK
    except ConfigError as error:
        complain(error)
        return USAGE
    except McpAuthError as error:
        complain(error)
        return FAILED
    except OSError as error:
        if is_out_of_descriptors(error):
            complain(TooManyOpenFiles())
            return FAILED
        # What no place below foresaw: a folder that may not be entered, output to a full disk.
        what = f"{error.filename} cannot be used" if error.filename else "The output cannot be written"
        complain(StoreError(f"{what} ({error.strerror or type(error).__name__})."))
        if not error.filename:
            forget(sys.stdout)
        return FAILED
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        options = _parser(_command_in(arguments)).parse_args(arguments)
    except SystemExit as end:
        # A help, the version, or a slip that was said.
        return int(end.code or 0)
    command = options.command or "list"
    if command == "help":
        print(_parser().format_help(), end="")
        return OK
    run = getattr(import_module(f"adapters.cli.{_COMMANDS[command][0]}"), f"run_{command}")
    with insecure_home(options.insecure_home):
        code: int = run(options)
    return code


@contextmanager
def insecure_home(wanted: bool) -> Iterator[None]:
    """Everything below reads a configuration somewhere; what it may look like is said in one place."""
    if not wanted or INSECURE_HOME in os.environ:
        yield
        return
    os.environ[INSECURE_HOME] = "1"
    try:
        yield
    finally:
        del os.environ[INSECURE_HOME]


def complain(error: McpAuthError) -> None:
    """One error on standard error: what happened, and the next command."""
    say(error.outcome, sys.stderr, before="slash-mcp: ")


def _add_options(name: str, add: Callable[..., object]) -> None:
    """What may stand behind a command. `add`: as `ArgumentParser.add_argument`."""
    match name:
        case "list":
            add("server", nargs="?", metavar="SERVER", help="one in detail")
            add("--probe", action="store_true", help="connect to each and show whether it answers")
            add("--json", action="store_true", help="one JSON document")
        case "auth":
            add("servers", nargs="*", metavar="SERVER", help="also one that is signed in, to do it again")
            add("--no-browser", action="store_true", help="only print the link")
            add("--no-wait", action="store_true", help="print the link and exit; the sign-in stays open")
            add("--timeout", type=_seconds, metavar="S", help="wait at most S seconds")
            add("--fresh", action="store_true", help="look everything up anew and register anew")
            add("--json", action="store_true", help="one JSON object a line")
        case "paste":
            add(
                "url",
                nargs="?",
                metavar="URL",
                help="or the code of a page of ours; left out or -: read from standard input",
            )
        case "key":
            add("server", metavar="SERVER", help="the key is tried there before it is stored")
            add("--stdin", action="store_true", help="read the key from standard input")
            add("--variable", metavar="NAME", help="which variable, when the server needs several")
            add("--store-anyway", action="store_true", help="store it although the server cannot be reached")
        case "cancel":
            add("server", nargs="?", metavar="SERVER", help="only the one to this server")
        case "logout":
            add("server", metavar="SERVER", help="its whole name")
        case "test":
            add("server", metavar="SERVER", help="one that is a command is started for it")
            add("--json", action="store_true", help="one JSON document")
        case "chat":
            add("--wait", type=_seconds, default=0.0, metavar="S", help="at the end of input wait for sign-ins")
        case "serve":
            add("--port", type=_port, metavar="N", help="instead of gateway.callback.port")
        case "demo":
            add("--script", action="store_true", help="play it without a person and print what happens")
        case "people":
            add("--json", action="store_true", help="one JSON document")
        case "allow":
            add("who", metavar="CODE", help="the code, or an account such as telegram:123456789")
        case "deny":
            add("who", metavar="PRINCIPAL", help="an account such as telegram:123456789, or the code of a request")
        case "audit":
            add("--since", metavar="WHEN", help="90m, 12h, 7d, or a date such as 2026-11-25")
            add("--server", metavar="SERVER", help="only this server")
            add("-n", dest="count", type=_count, metavar="N", help="the last N (default: 50; 0: all)")
            add("--json", action="store_true", help="the lines as they are kept")
        case "add":
            add("name", metavar="NAME", help="what it is called in every chat")
            add("url", metavar="URL", help="it is asked what it wants before it is added")


# Name: the module with its `run_<name>`, and what it does.
_COMMANDS = {
    "list": ("listing", "every server with its status (also without a command)"),
    "auth": ("auth", "sign in: to SERVER, or to all that need it"),
    "paste": ("commands", "finish a sign-in with the address of the browser's last page"),
    "key": ("commands", "enter an API key"),
    "cancel": ("commands", "end open sign-ins"),
    "logout": ("commands", "revoke and delete a grant"),
    "test": ("commands", "connect and list the tools"),
    "chat": ("commands", "type /mcp here, as in any chat"),
    "serve": ("commands", "run the callback endpoint and the configured chat platforms"),
    "demo": ("demo", "try everything with local servers"),
    "people": ("people", "who is served, who asks to be, and who was shut out"),
    "allow": ("people", "let somebody in, by the code that the bot gave them"),
    "deny": ("people", "shut somebody out, at once"),
    "audit": ("audit", "what happened: sign-ins, keys, people, refusals"),
    "help": ("", "this list"),
    "doctor": ("doctor", "check this installation and say what to fix"),
    "init": ("setup", "write a commented configuration"),
    "add": ("setup", "add a server to the configuration"),
}
_VALUED = ("--config", "--home", "--as")


def _parser(asked: str | None = None) -> argparse.ArgumentParser:
    """`asked`: the only command whose options are made; None: those of all, for a help or a slip."""
    parser = _Parser(
        prog="slash-mcp",
        description="Sign in to MCP servers, from here and from any chat.",
        epilog="Begin with: slash-mcp init, slash-mcp add NAME URL, slash-mcp auth.",
    )
    parser.add_argument("--version", action=_Version)
    parser.add_argument("--config", metavar="FILE", help="configuration: YAML, or an .mcp.json")
    parser.add_argument("--home", metavar="DIR", help="where everything is kept (default: ~/.slash-mcp)")
    parser.add_argument("--insecure-home", action="store_true", help="also where others may write in it")
    parser.add_argument("--as", dest="acting_for", metavar="PERSON", help="act with this person's credentials")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    # With `prog` given, argparse does not format a usage line to find it.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_CommandParser, prog=parser.prog)
    for name, (_, does) in _COMMANDS.items():
        if asked in (None, name):
            command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
            _add_options(name, command.add_argument)
    parser.set_defaults(server=None, probe=False, json=False)
    return parser


def _command_in(arguments: Sequence[str]) -> str | None:
    """The command that will run, where that is sure at a glance."""
    before = ""
    for argument in arguments:
        if argument == "-h" or (argument.startswith("--h") and "--help".startswith(argument)):
            return None
        # Options may be abbreviated.
        is_value = len(before) > 2 and any(option.startswith(before) for option in _VALUED)
        if not argument.startswith("-") and not is_value:
            return argument if argument in _COMMANDS else None
        before = argument
    return "list"


class _Parser(argparse.ArgumentParser):
    """Says what was wrong, and where to read on."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        say(f"{self.prog}: {message}", sys.stderr, next_step=Shell(f"{self.prog} --help"))
        raise SystemExit(USAGE)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse takes a text that cannot be written for one that was.
        (file or sys.stderr).write(message)

    def _get_formatter(self) -> argparse.HelpFormatter:
        # argparse makes one for every argument, and loads `shutil` to learn how wide the terminal is.
        return argparse.HelpFormatter(self.prog, width=line_width() - 2)


class _CommandParser(_Parser):
    """One command. The options for all of them may stand behind it too, as people type them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_argument("--insecure-home", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
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
