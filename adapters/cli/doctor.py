"""`slash-mcp doctor`: looks at everything that can be wrong and says what to do."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from adapters.base import Finding
from adapters.cli.cli import FAILED, OK, insecure_home
from adapters.cli.listing import owner_of
from adapters.symbols import BAD, GOOD, WARN, mark_of
from adapters.terminal.screen import Progress, say
from gateway.people import People, Standing
from gateway.sentences import auth_state, reused
from gateway.surfaces import Words, parts
from mcp_auth.config.load import load
from mcp_auth.config.models import Config
from mcp_auth.config.people import is_per_user
from mcp_auth.config.variables import Variables
from mcp_auth.errors import ConfigError, McpAuthError, StoreError, WritableByOthers
from mcp_auth.net.names import run
from mcp_auth.outcome import Next, Shell, Step
from mcp_auth.records import SHARED
from mcp_auth.status import AuthState, ServerStatus
from mcp_auth.stores.files import FileStore

if TYPE_CHECKING:
    from gateway.serve import MakePlatform
    from mcp_auth.core import McpAuth

_PLATFORM_SECONDS = 20.0
# Bytes. A record has at most a few thousand.
_ROOM = 100_000


def run_doctor(options: Namespace) -> int:
    findings = [*_environment(), _clock()]
    try:
        config = _loaded(options, findings)
    except ConfigError as error:
        findings.append(Finding.of(error))
    else:
        findings += _configuration(config)
        findings += _people(config)
        findings += _home(config)
        with Progress("asking the servers..."):
            findings += run(_running(config, lambda name: owner_of(config, name, options)))
        findings += run(_platforms(config))
    for one in findings:
        say(one.words, next_step=one.next_step, before=f"{one.mark} ")
    return FAILED if any(one.mark == BAD for one in findings) else OK


def _loaded(options: Namespace, findings: list[Finding]) -> Config:
    """The configuration, also where others may write it, which is a finding: what else is wrong is to be said too."""
    try:
        return load(options.config, options.home)
    except WritableByOthers as error:
        findings.append(Finding.of(error))
    with insecure_home(True):
        return load(options.config, options.home)


def _clock() -> Finding:
    """Whether this computer lives after the day on which this program was put onto it. Tokens expire by its clock."""
    if time.time() + 60 < Path(__file__).stat().st_mtime:
        return Finding(BAD, "this computer's clock is behind the day slash-mcp was installed", "set the clock")
    return Finding(GOOD, f"the clock says {time.strftime('%Y-%m-%d %H:%M %Z')}")


def _environment() -> Iterator[Finding]:
    yield Finding(GOOD, f"Python {sys.version.split()[0]}")
    for package in ("slash-mcp", "mcp"):
        try:
            yield Finding(GOOD, f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Finding(BAD, f"{package} is not installed here", Shell("pip install slash-mcp"))
    try:
        found = version("hermes-agent")
    except PackageNotFoundError:
        return
    yield Finding(
        BAD,
        f"hermes-agent {found} is in the same environment, and both bring a package called gateway.",
        "install slash-mcp into an environment of its own",
    )


def _configuration(config: Config) -> Iterator[Finding]:
    if config.path is None:
        yield Finding(WARN, f"there is no configuration in {config.home}", Next("init"))
        return
    yield Finding(GOOD, f"{config.path}: {_counted(len(config.servers), 'server')}")
    for warning in config.warnings:
        yield Finding(WARN, warning)
    for server in config.servers.values():
        if server.problem is not None:
            yield Finding(BAD, f"{server.name}: {server.problem}")
    yield from _literals(config)


def _literals(config: Config) -> Iterator[Finding]:
    """Secrets in the configuration itself, which people show each other and keep under version control."""
    from mcp_auth.shown import literal_gateway_secrets, literal_secrets

    places = [f"{place} of {server.name}" for server in config.servers.values() for place in literal_secrets(server)]
    for place in [*places, *literal_gateway_secrets(config)]:
        step = f"write ${{NAME}} there, and NAME=... into {config.env_file}"
        yield Finding(WARN, f"the configuration holds a secret: {place}", step)


def _people(config: Config) -> Iterator[Finding]:
    """Whether the people who are let in fit the configuration, and whether somebody waits."""
    try:
        people = People(config)
        people.check()
    except McpAuthError as error:
        yield Finding.of(error)
        return
    everybody = people.listed()
    served = sum(one.standing in (Standing.CONFIGURED, Standing.PAIRED) for one in everybody)
    yield Finding(GOOD, f"{_counted(served, 'account')} served besides this terminal")
    waiting = sum(one.standing is Standing.PENDING for one in everybody)
    if waiting:
        yield Finding(WARN, f"{waiting} asked to be let in", Next("people"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _home(config: Config) -> Iterator[Finding]:
    if not config.home.is_dir():
        yield Finding(GOOD, f"{config.home} will be made when it is first needed")
        return
    mode = stat.S_IMODE(config.home.stat().st_mode)
    if mode & 0o022:
        yield Finding(BAD, f"{config.home} can be written by others", Shell(f"chmod 700 {config.home}"))
    else:
        yield Finding(GOOD, f"nobody else can write into {config.home}")
    if not os.access(config.home, os.W_OK):
        yield Finding(BAD, f"{config.home} cannot be written", "run slash-mcp as the user who owns it")
    elif shutil.disk_usage(config.home).free < _ROOM:
        yield Finding(BAD, f"the disk of {config.home} is full", "make room there; nothing can be stored")
    yield from _secret_file(config)
    yield from _records(config)


def _secret_file(config: Config) -> Iterator[Finding]:
    path = config.env_file
    if not os.path.lexists(path):
        return
    bad_lines: list[str] = []
    try:
        Variables(config.env_file, config.gateway_variables, bad_lines.append).read()
    except McpAuthError as error:
        yield Finding.of(error)
        return
    for sentence in bad_lines:
        yield Finding(WARN, sentence, "write that line anew")
    if not path.exists():
        yield Finding(BAD, f"{path} leads nowhere", "remove that link")
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield Finding(WARN, f"{path} can be read by others", Shell(f"chmod 600 {path}"))
    else:
        yield Finding(GOOD, f"{path} is for its owner alone")


def _records(config: Config) -> Iterator[Finding]:
    """Whether every shared grant can be read."""
    store = FileStore(config.home)
    for server in config.servers.values():
        if server.url is None or server.problem is not None or is_per_user(server, config.gateway):
            continue
        try:
            store.grants.read(SHARED, server.name, server.url)
        except McpAuthError as error:
            yield Finding.of(error)


async def _running(config: Config, owner: Callable[[str], str]) -> list[Finding]:
    """What needs a socket: the callback port, and each server, with the credentials for it."""
    from mcp_auth.core import McpAuth

    findings = [_port(config), *await _public(config)]
    async with McpAuth.open(config) as auth:
        try:
            await auth.open_sign_ins()
        except McpAuthError as error:
            findings.append(Finding.of(error))
            return findings
        names = [one.name for one in config.servers.values() if one.url and one.enabled and one.problem is None]
        answers = await asyncio.gather(*(auth.parts.prober.reach(name) for name in names), return_exceptions=True)
        statuses = await auth.statuses(owner)
        findings += await _reused_names(auth)
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, McpAuthError):
            step = answer.next_step or "check its url, and the network of this host"
            findings.append(Finding(BAD, f"{name}: {answer.message}", step))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            findings.append(Finding(GOOD, f"{name} answers"))
    return [*findings, *_credentials(config, statuses)]


async def _reused_names(auth: McpAuth) -> list[Finding]:
    """Names of `people:` that stand for somebody else than when something was stored for them."""
    try:
        found = [reused(grant) for grant in await auth.reused_names()]
        return [Finding(WARN, one.text, one.next_step) for one in found]
    except StoreError:
        # Which record cannot be read is said with its server's status.
        return []


def _credentials(config: Config, statuses: list[ServerStatus]) -> Iterator[Finding]:
    """What the list says of each server's credentials, and what to do. An entry that is wrong was said before."""
    for status in statuses:
        if status.auth in (AuthState.NONE_NEEDED, AuthState.DISABLED) or config.servers[status.name].problem:
            continue
        mark = mark_of(status)
        words = f"{status.name}: {auth_state(status, time.time())}"
        yield Finding(mark, words, status.next if mark != GOOD else None)


async def _public(config: Config) -> list[Finding]:
    """Whether `gateway.public_url` leads to our pages. A network that hides a host from itself answers no as well."""
    from mcp_auth.net.http import Http
    from mcp_auth.net.rules import NetworkRules

    url = config.gateway.public_url
    if url is None:
        return []
    findings = list(_own_name(url))
    callback = config.gateway.callback
    http = Http(proxy=config.gateway.network.proxy)
    try:
        answer = await http.fetch(NetworkRules.for_url(url), "GET", f"{url}/healthz")
    except McpAuthError as error:
        why = error.message
    else:
        if (answer.status, answer.body) == (200, b"ok\n"):
            return [*findings, Finding(GOOD, f"{url} leads to the pages of slash-mcp")]
        why = f"it answers HTTP {answer.status}, and not with our pages."
    finally:
        await http.close()
    next_step = f"run slash-mcp serve, and let the proxy pass everything on to {callback.host}:{callback.port}"
    return [*findings, Finding(WARN, f"{url} does not lead to slash-mcp: {why}", next_step)]


def _own_name(url: str) -> Iterator[Finding]:
    """What shares scheme, name and port with the pages can do what they can, and no page can keep it out."""
    parts = urlsplit(url)
    if parts.path.strip("/"):
        yield Finding(
            WARN,
            f"{url} shares {parts.netloc} with other pages, which can read ours and act in their place.",
            f"give the endpoint a host name of its own, such as https://mcp.{parts.hostname}",
        )


async def _platforms(config: Config) -> list[Finding]:
    """What each configured platform says of its token and its reach."""
    from gateway.gateway import Gateway
    from gateway.serve import load_platforms

    if not config.gateway.platforms:
        return []
    gateway = Gateway.from_config(config)
    try:
        platforms = load_platforms(gateway)
        found = await asyncio.gather(*(_checked(name, make) for name, make in platforms.items()))
    except ConfigError as error:
        return [Finding.of(error)]
    finally:
        await gateway.stop()
    return [Finding(mark, (f"{name}: ", *parts(words)), step) for name, lines in found for mark, words, step in lines]


async def _checked(name: str, make: MakePlatform) -> tuple[str, Sequence[tuple[str, Words, Step | None]]]:
    try:
        async with asyncio.timeout(_PLATFORM_SECONDS):
            return name, await make().check()
    except ConfigError as error:
        return name, [Finding.of(error)]
    except TimeoutError:
        return name, [Finding(BAD, f"no answer within {_PLATFORM_SECONDS:.0f} s", "look at the network of this host")]


def _port(config: Config) -> Finding:
    host, port = config.gateway.callback.host, config.gateway.callback.port
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if _is_ours(config.home, port):
                return Finding(GOOD, f"port {port} is listened on by slash-mcp of this home")
            return Finding(
                WARN,
                f"port {port} on {host} is taken ({error.strerror}); links for registered clients will not come back.",
                "set gateway.callback.port to a free port",
            )
    return Finding(GOOD, f"port {port} on {host} is free for the callback")


def _is_ours(home: Path, port: int) -> bool:
    from mcp_auth.web.loopback import is_ours

    try:
        return is_ours(home, port)
    except StoreError:
        # That the home cannot be written is said above.
        return False
