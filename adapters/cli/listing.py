"""`slash-mcp list`: from local files at once; live results on request."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from adapters.terminal.screen import Progress, as_json_text, columns, is_colored, say
from adapters.terminal.table import Paint, server_list
from adapters.text import clean
from gateway.sentences import HINT_AUTH
from gateway.surfaces import in_shell, shell_command
from mcp_auth.config.load import load
from mcp_auth.config.models import Config, Server
from mcp_auth.config.people import is_per_user
from mcp_auth.errors import UnknownServer, sentence
from mcp_auth.listing import local_statuses
from mcp_auth.outcome import Next
from mcp_auth.records import SHARED
from mcp_auth.status import AuthState, ConnectionState, ServerStatus, wants_sign_in

if TYPE_CHECKING:
    from argparse import Namespace


def run_list(options: Namespace) -> int:
    config = load(options.config, options.home)
    statuses = chosen(config, options)
    for warning in config.warnings:
        _warn(warning)
    if options.probe:
        statuses = _probed(config, options)
    if options.json:
        print(as_json_text({"servers": [as_json(one, config.servers[one.name]) for one in statuses]}))
    elif options.server is not None:
        print(_detail(statuses[0]))
    elif statuses:
        print(_list(statuses))
    else:
        say(
            f"No MCP servers are configured in {config.path or config.home}.",
            next_step=Next("add", arguments=("NAME", "URL")),
        )
    bad = any(one.connection.state in (ConnectionState.REFUSED, ConnectionState.UNREACHABLE) for one in statuses)
    return 1 if bad else 0


def chosen(config: Config, options: Namespace) -> list[ServerStatus]:
    """The local statuses of all servers, or of the one that is asked for.

    Raises:
        UnknownServer: there is none of that name.
    """
    if options.server is not None:
        name = find_server(config, options.server)
        config = replace(config, servers={name: config.servers[name]})
    return local_statuses(config, lambda server: owner_of(config, server.name, options), time.time(), _warn)


def _warn(text: str) -> None:
    print(f"slash-mcp: {clean(sentence(text))}", file=sys.stderr)


def owner_of(config: Config, name: str, options: Namespace) -> str:
    """Whose credentials this command uses at this server: the operator's, or with `--as` those of somebody known.

    Raises:
        NotAllowed: `--as` names nobody who is known.
    """
    if options.acting_for is None and not is_per_user(config.servers[name], config.gateway):
        return SHARED
    from gateway.invocations import LOCAL
    from gateway.people import People
    from gateway.policy import owner_for

    people = People(config).ever_known if options.acting_for is not None else config
    return owner_for(LOCAL, config.servers[name], people, options.acting_for)


def find_server(config: Config, typed: str, *, whole: bool = False) -> str:
    """The configured name that was meant, as in a chat. `whole`: what ends something wants all of it, in any case.

    Raises:
        UnknownServer: none, or several.
    """
    from gateway.grammar import close_servers, find

    names = list(config.servers)
    found = find(typed, names)
    if len(found) == 1 and (not whole or find(typed, names, by_beginning=False)):
        return found[0]
    if len(found) == 1:
        raise UnknownServer(f"This command wants the whole name. Did you mean {found[0]}?", next_step=Next("list"))
    if found:
        raise UnknownServer(f"More than one server begins like that: {', '.join(found)}.", next_step="type more of it")
    if not names:
        raise UnknownServer("No MCP servers are configured.", next_step=Next("add", arguments=("NAME", "URL")))
    close = close_servers(typed, names)
    meant = f"Did you mean {' or '.join(close)}?" if close else f"There are: {', '.join(names)}."
    raise UnknownServer(f"No server has that name. {meant}", next_step=Next("list"))


def as_json(status: ServerStatus, server: Server) -> dict[str, Any]:
    where = {"command": status.address} if server.url is None else {"url": status.address}
    tools = status.connection.tools
    return {
        "name": status.name,
        "transport": status.transport,
        **where,
        "tools": status.tools,
        "auth": {
            "state": status.auth.value,
            "detail": status.detail or status.not_renewable,
            "account": status.account,
            "expires_at": status.expires_at,
            "next": in_shell(status.next) if status.next else None,
        },
        "connection": {
            "state": status.connection.state.value,
            "tools": len(tools) if tools is not None else None,
            "ms": status.connection.ms,
            "detail": status.connection.detail,
        },
    }


def _list(statuses: list[ServerStatus]) -> str:
    needed = any(wants_sign_in(one) or one.auth is AuthState.KEY_MISSING for one in statuses)
    hint = in_shell(HINT_AUTH) if needed else None
    return server_list(tuple(statuses), hint, columns(sys.stdout), Paint(is_colored(sys.stdout)), time.time())


def _detail(status: ServerStatus) -> str:
    from adapters.terminal.render import render
    from gateway.replies import Reply, ServerDetail
    from gateway.sentences import facts

    now = time.time()
    reply = Reply((ServerDetail(status, facts(status, now)),))
    width, color = columns(sys.stdout), is_colored(sys.stdout)
    return render(reply, columns=width, color=color, now=now, surface=shell_command)


def _probed(config: Config, options: Namespace) -> list[ServerStatus]:
    """The statuses with live results, all servers at once, each and all bounded in time."""
    from adapters.cli.ask import answer_once
    from gateway.grammar import Detail, ListServers
    from gateway.replies import ServerDetail, ServerList

    name = find_server(config, options.server) if options.server is not None else None
    with Progress("connecting..."):
        reply = answer_once(config, options, ListServers(True) if name is None else Detail(name, True))
    (block,) = reply.blocks
    if isinstance(block, ServerList):
        return list(block.servers)
    return [block.server] if isinstance(block, ServerDetail) else []
