"""The commands that do one thing to one server, and the long-running ones."""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from getpass import getpass

from adapters.cli.cli import FAILED, OK, USAGE, for_shell
from adapters.cli.listing import find_server, owner_of
from adapters.terminal.screen import Progress, as_json_text, read_line, say
from adapters.text import clean
from gateway.invocations import LOCAL
from gateway.sentences import confirmed, refused_after_sign_in, renewal_trouble, tested, tools
from gateway.surfaces import in_shell, with_next
from mcp_auth.config.load import load
from mcp_auth.config.models import Config
from mcp_auth.core import McpAuth
from mcp_auth.errors import ConfigError, KeyRefused, SignInError, UnknownServer, Unreachable, sentence
from mcp_auth.keys import KeyTrial, KeyVariable, Verdict
from mcp_auth.links.gate import goes_on_by_itself
from mcp_auth.links.tickets import typed_code
from mcp_auth.net.names import run
from mcp_auth.outcome import Next
from mcp_auth.states import SHOWS_CODE
from mcp_auth.status import ConnectionState, ConnectionStatus, ServerStatus


def run_paste(options: Namespace) -> int:
    # An address in the arguments would be seen by everybody who lists processes: `-` avoids that.
    text = options.url if options.url not in (None, "-") else _read_address()

    async def paste() -> int:
        async with McpAuth.open(options.config, home=options.home) as auth:
            if typed_code(text) is not None and await _has_page(auth):
                record = await auth.confirm(text, str(LOCAL), private=True)
                say(for_shell(confirmed(record.server, by_itself=goes_on_by_itself(record))))
                return OK
            sign_in = await auth.paste(text, str(LOCAL))
            connection = await auth.confirm_works(sign_in.server, sign_in.owner)
            if connection.state is ConnectionState.REFUSED:
                refused = refused_after_sign_in(sign_in.server, connection)
                say(f"slash-mcp: {with_next(refused, Next('auth', sign_in.server), in_shell)}", sys.stderr)
                return FAILED
            found = tools(len(connection.tools)) if connection.tools is not None else f"But {connection.detail}"
            who = f" as {sign_in.account}" if sign_in.account else ""
            say(f"Signed in to {sign_in.server}{who}. {sentence(found)}")
            return OK

    return run(paste())


async def _has_page(auth: McpAuth) -> bool:
    """Whether a page of ours waits for the operator: eight characters are its code then, not the browser's."""
    return any(
        one.gate is not None and one.origin.principal == str(LOCAL) and one.status in SHOWS_CODE
        for one in await auth.open_sign_ins()
    )


def run_key(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = find_server(config, options.server)
    owner = owner_of(config, name, options)

    async def needed() -> tuple[KeyVariable, ...]:
        async with McpAuth.open(config) as auth:
            return await auth.key_variables(name, owner)

    async def tried(values: dict[str, str]) -> KeyTrial:
        async with McpAuth.open(config) as auth:
            return await auth.try_keys(name, values, owner, by=str(LOCAL))

    async def store(values: dict[str, str]) -> None:
        async with McpAuth.open(config) as auth:
            await auth.set_keys(name, values, owner, by=str(LOCAL))

    if config.servers[name].problem is not None:
        raise ConfigError(config.servers[name].problem or "")
    # Questions are asked between the event loops: inside one, the first Ctrl-C would go unnoticed.
    variables = run(needed())
    asked = _asked_for(variables, options.variable)
    if not asked:
        known = ", ".join(variable.name for variable in variables)
        say(f"slash-mcp: {name} needs {f'only {known}' if known else 'no key'}.", sys.stderr)
        return USAGE
    values = {variable.name: _read_secret(name, variable, options.stdin) for variable in asked}
    if not all(values.values()):
        nothing = with_next("Nothing was entered, and nothing was stored.", Next("key", name), in_shell)
        say(f"slash-mcp: {nothing}", sys.stderr)
        return FAILED
    with Progress(f"trying it at {name}..."):
        trial = run(tried(values))
    if trial.verdict is Verdict.REFUSED:
        raise KeyRefused(f"{trial.detail} Nothing was stored.", next_step=Next("key", name))
    if trial.verdict is Verdict.UNREACHABLE and not _store_anyway(trial.detail, options):
        raise Unreachable(
            f"{trial.detail} Nothing was stored.", next_step=Next("key", name, ("--store-anyway",), on_host=True)
        )
    run(store(values))
    verified = "" if trial.verdict is Verdict.ACCEPTED else ", not verified"
    say(f"{for_shell(trial.detail)} Stored{verified}: {', '.join(values)}.")
    return OK


def run_cancel(options: Namespace) -> int:
    config = load(options.config, options.home)
    names = [_whole_name(config, options.server)] if options.server else list(config.servers)

    async def cancel() -> int:
        ended, too_late = [], []
        async with McpAuth.open(config) as auth:
            for name in names:
                try:
                    if await auth.cancel(name, owner_of(config, name, options)):
                        ended.append(name)
                except SignInError as error:
                    too_late.append(with_next(error.text, error.next_step, in_shell))
        for line in ([f"Cancelled: {', '.join(ended)}."] if ended else []) + too_late or ["No sign-in is open."]:
            say(line)
        return FAILED if too_late else OK

    return run(cancel())


def run_logout(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = _whole_name(config, options.server)

    async def logout() -> int:
        async with McpAuth.open(config) as auth:
            result = await auth.logout(name, owner_of(config, name, options), by=str(LOCAL))
        say(for_shell(with_next(result.detail, result.next_step, in_shell)))
        return OK if result.deleted else FAILED

    return run(logout())


def run_test(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = find_server(config, options.server)

    async def test() -> tuple[ServerStatus, ConnectionStatus]:
        async with McpAuth.open(config) as auth:
            owner = owner_of(config, name, options)
            connection = await auth.test(name, owner)
            return await auth.status(name, owner), connection

    with Progress(f"connecting to {name}..."):
        status, found = run(test())
    ready = found.state is ConnectionState.READY
    if options.json:
        answer = {"server": name, "state": found.state.value, "tools": list(found.tools or ()), "ms": found.ms}
        print(as_json_text({**answer, "detail": found.detail}))
    elif ready:
        print(f"{name}: ready, {tools(len(found.tools or ()))}, {found.ms} ms")
        for tool in found.tools or ():
            print(f"  {clean(tool, 200)}")
        if status.not_renewable:
            say(f"slash-mcp: {for_shell(renewal_trouble(status, time.time()))}", sys.stderr)
    else:
        said = tested(status, found)
        say(f"slash-mcp: {for_shell(said if 'Next: ' in said else sentence(said))}", sys.stderr)
    return OK if ready else FAILED


def run_chat(options: Namespace) -> int:
    from adapters.cli.chat import chat
    from gateway.gateway import Gateway

    if sys.stdin.isatty() and sys.stdout.isatty():
        say("Type /mcp to see your servers, or help. Ctrl-D leaves.\n")

    async def talk() -> int:
        async with Gateway.from_config(options.config, home=options.home) as gateway:
            return OK if await chat(gateway, wait=options.wait, acting_for=options.acting_for) else FAILED

    return run(talk())


def run_serve(options: Namespace) -> int:
    from gateway.serve import serve

    level = logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # At DEBUG the HTTP libraries log headers, and headers hold tokens.
    for name in ("httpcore2", "httpx2", "hpack", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs what servers send, each message that it cannot use; what is wrong with a server is its status.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    run(serve(options.config, home=options.home, port=options.port))
    return OK


def _whole_name(config: Config, typed: str) -> str:
    """What ends something wants the whole name, in whatever case."""
    name = find_server(config, typed)
    if name.casefold() != typed.casefold():
        raise UnknownServer(f"This command wants the whole name. Did you mean {name}?", next_step=Next("list"))
    return name


def _asked_for(variables: tuple[KeyVariable, ...], only: str | None) -> list[KeyVariable]:
    """The variable that is named, else the unset ones, else all that have no default."""
    if only is not None:
        return [variable for variable in variables if variable.name == only]
    unset = [variable for variable in variables if not variable.is_set]
    return unset or [variable for variable in variables if not variable.has_default] or list(variables)


def _read_address() -> str:
    if sys.stdin.isatty():
        print("Address of the browser's last page: ", end="", file=sys.stderr, flush=True)
    return read_line()


def _read_secret(server: str, variable: KeyVariable, from_stdin: bool) -> str:
    """One value, without an echo. On standard input one line each, in the order of the entry."""
    if from_stdin or not sys.stdin.isatty():
        return read_line().strip()
    try:
        return getpass(f"{variable.name} for {server} ({variable.where}): ").strip()
    except EOFError:
        # Ctrl-D
        print(file=sys.stderr)
        return ""


def _store_anyway(detail: str, options: Namespace) -> bool:
    if options.store_anyway:
        return True
    if options.stdin or not sys.stdin.isatty():
        return False
    say(f"{for_shell(detail)} So the key could not be tried.")
    try:
        return input("Store it anyway? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
