"""The commands that do one thing to one server, and the long-running ones."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from argparse import Namespace
from getpass import getpass

from adapters.cli.ask import answer, answer_once, checked, tell
from adapters.cli.cli import FAILED, OK
from adapters.cli.listing import find_server
from adapters.terminal.screen import Progress, as_json_text, read_line, say
from adapters.text import clean
from gateway.gateway import Gateway
from gateway.grammar import Cancel, Key, Logout, Paste, Test
from gateway.invocations import LOCAL
from gateway.replies import SecretPrompt
from gateway.sentences import auth_state, tested, tools
from mcp_auth.config.load import load
from mcp_auth.errors import ConfigError, KeyRefused, Unreachable, sentence
from mcp_auth.keys import KeyTrial, Verdict
from mcp_auth.net.names import run, runner
from mcp_auth.outcome import Next, Outcome
from mcp_auth.status import ConnectionState, ServerStatus


def run_paste(options: Namespace) -> int:
    # An address in the arguments would be seen by everybody who lists processes: `-` avoids that.
    text = options.url if options.url not in (None, "-") else _read_address()
    reply = answer_once(load(options.config, options.home), options, Paste(text))
    status = reply.data
    if isinstance(status, Outcome):
        say(status, sys.stderr, before="slash-mcp: ")
        return FAILED
    if not isinstance(status, ServerStatus):
        return tell(reply)
    names, detail = status.connection.tools, status.connection.detail
    found = tools(len(names)) if names is not None else f"But {detail}"
    who = f" as {status.account}" if status.account else ""
    say(f"Signed in to {status.name}{who}. {sentence(found)}")
    return OK


def run_cancel(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = find_server(config, options.server, whole=True) if options.server else None
    return tell(answer_once(config, options, Cancel(name)))


def run_logout(options: Namespace) -> int:
    config = load(options.config, options.home)
    return tell(answer_once(config, options, Logout(find_server(config, options.server, whole=True))))


def run_test(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = find_server(config, options.server)
    with Progress(f"connecting to {name}..."):
        reply = answer_once(config, options, Test(name))
    status = reply.data
    if not isinstance(status, ServerStatus):
        raise TypeError("a test answers with the server as it is")
    found = status.connection
    if options.json:
        answered = {"server": name, "state": found.state.value, "tools": list(found.tools or ()), "ms": found.ms}
        print(as_json_text({**answered, "detail": found.detail}))
    elif found.state is ConnectionState.READY:
        print(f"{name}: ready, {tools(len(found.tools or ()))}, {found.ms} ms")
        for tool in found.tools or ():
            print(f"  {clean(tool, 200)}")
        if status.not_renewable:
            say(f"slash-mcp: It is {auth_state(status, time.time())}", sys.stderr, next_step=status.next)
    else:
        said = tested(status, found, time.time())
        say(sentence(said.text), sys.stderr, next_step=said.next_step, before="slash-mcp: ")
    return OK if reply.ok else FAILED


def run_key(options: Namespace) -> int:
    config = load(options.config, options.home)
    name = find_server(config, options.server)
    if config.servers[name].problem is not None:
        raise ConfigError(config.servers[name].problem or "")
    gateway = Gateway(config, alone=True)
    # Questions are asked between the runs of the loop: inside one, the first Ctrl-C would go unnoticed.
    with runner() as loop:
        try:
            return _enter_keys(loop, gateway, options, name)
        finally:
            loop.run(gateway.stop())


def _enter_keys(loop: asyncio.Runner, gateway: Gateway, options: Namespace, name: str) -> int:
    reply, entered = loop.run(answer(gateway, options, Key(name, options.variable))), []
    while (prompt := reply.prompt) is not None and reply.ok:
        value = _read_secret(prompt, options.stdin)
        if not value:
            nothing = "slash-mcp: Nothing was entered, and nothing was stored."
            say(nothing, sys.stderr, next_step=Next("key", name))
            return FAILED
        entered.append(prompt.variable)
        with Progress(f"trying it at {name}..."):
            reply = checked(loop.run(gateway.submit_secret(LOCAL, prompt.id, value)))
    trial = reply.data
    if not isinstance(trial, KeyTrial):
        return tell(reply)
    if trial.verdict is Verdict.REFUSED:
        raise KeyRefused(f"{trial.detail} Nothing was stored.", next_step=Next("key", name))
    if trial.verdict is Verdict.UNREACHABLE:
        if not _store_anyway(trial.detail, options):
            step = Next("key", name, ("--store-anyway",), on_host=True)
            raise Unreachable(f"{trial.detail} Nothing was stored.", next_step=step)
        loop.run(answer(gateway, options, reply.buttons[0].command or ""))
    verified = "" if trial.verdict is Verdict.ACCEPTED else ", not verified"
    say(f"{trial.detail} Stored{verified}: {', '.join(entered)}.")
    return OK


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


def _read_address() -> str:
    if sys.stdin.isatty():
        print("Address of the browser's last page: ", end="", file=sys.stderr, flush=True)
    return read_line()


def _read_secret(prompt: SecretPrompt, from_stdin: bool) -> str:
    """One value, without an echo. On standard input one line each, in the order of the entry."""
    if from_stdin or not sys.stdin.isatty():
        return read_line().strip()
    try:
        return getpass(f"{prompt.variable} for {prompt.server} ({prompt.where}): ").strip()
    except EOFError:
        # Ctrl-D
        print(file=sys.stderr)
        return ""


def _store_anyway(detail: str, options: Namespace) -> bool:
    if options.store_anyway:
        return True
    if options.stdin or not sys.stdin.isatty():
        return False
    say(f"{detail} So the key could not be tried.")
    try:
        return input("Store it anyway? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False
