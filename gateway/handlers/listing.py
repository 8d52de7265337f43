"""`/mcp`, `/mcp SERVER` and `/mcp test SERVER`: what is known, and what servers say right now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec.structs import replace

from gateway import grammar, sentences
from gateway.replies import Audience, Button, Reply, ServerDetail, ServerList, say
from gateway.request import Request
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus, wants_sign_in

PROBE_SECONDS = 10.0
PROBES_SECONDS = 15.0
# Results that are there by then are shown before the slow ones.
_FIRST_RESULTS_SECONDS = 2.0
_USABLE = frozenset({AuthState.SIGNED_IN, AuthState.KEY_SET, AuthState.NONE_NEEDED})


async def show_list(command: grammar.ListServers, request: Request) -> AsyncGenerator[Reply, None]:
    statuses = await request.statuses()
    starts = command.start_commands
    live = [one.name for one in statuses if starts or _is_probed(one, request)] if request.capabilities.edits else []
    yield _list(statuses, request, final=not live)
    if not live:
        return
    results: dict[str, ConnectionStatus] = {}
    async with aclosing(probe(live, request, results, start_stdio=starts)) as steps:
        async for _step in steps:
            statuses = [
                replace(one, connection=results.get(one.name, one.connection)) for one in await request.statuses()
            ]
            yield _list(statuses, request, final=len(results) == len(live))


async def show_detail(command: grammar.Detail, request: Request) -> AsyncGenerator[Reply, None]:
    status = await request.status(command.server)
    starts = command.start_commands
    live = request.capabilities.edits and (starts or _is_probed(status, request))
    yield _detail(status, request, final=not live)
    if live:
        owner = request.owner(command.server)
        connection = await request.auth.probe(command.server, owner, timeout=PROBE_SECONDS, start_stdio=starts)
        yield _detail(replace(await request.status(command.server), connection=connection), request, final=True)


async def test(command: grammar.Test, request: Request) -> AsyncGenerator[Reply, None]:
    if request.capabilities.edits:
        yield say(sentences.testing(command.server), audience=Audience.CALLER, final=False)
    connection = await request.auth.probe(command.server, request.owner(command.server), insist=True)
    status = await request.status(command.server)
    ready = connection.state is ConnectionState.READY
    data, now = replace(status, connection=connection), request.services.clock()
    yield say(sentences.tested(status, connection, now), audience=Audience.CALLER, ok=ready, data=data)


async def probe(
    names: list[str], request: Request, results: dict[str, ConnectionStatus], *, start_stdio: bool = False
) -> AsyncGenerator[None, None]:
    """Fill `results`: yields after the quick ones, and when all are there or `PROBES_SECONDS` have passed."""
    limit = request.bound(PROBE_SECONDS)
    tasks = {
        asyncio.create_task(request.auth.probe(name, request.owner(name), timeout=limit, start_stdio=start_stdio)): name
        for name in names
    }
    try:
        for seconds in (_FIRST_RESULTS_SECONDS, PROBES_SECONDS - _FIRST_RESULTS_SECONDS):
            waiting = [task for task, name in tasks.items() if name not in results]
            done, _ = await asyncio.wait(waiting, timeout=seconds)
            results.update({tasks[task]: task.result() for task in done})
            if len(results) == len(names):
                break
            if done and seconds == _FIRST_RESULTS_SECONDS:
                yield None
    finally:
        for task in tasks:
            task.cancel()
    late = ConnectionStatus(ConnectionState.UNREACHABLE, detail=sentences.NO_ANSWER)
    results.update({name: late for name in names if name not in results})
    yield None


def may_have_changed(status: ServerStatus, request: Request) -> bool:
    """What a look at the server found wrong, and not the configuration: the next look may find otherwise."""
    return status.auth is AuthState.MISCONFIGURED and request.config.servers[status.name].problem is None


def _is_probed(status: ServerStatus, request: Request) -> bool:
    """Live results never start a command, and without a sign-in there is nothing to find out."""
    has_url = request.config.servers[status.name].url is not None
    return has_url and (status.auth in _USABLE or may_have_changed(status, request))


def _list(statuses: list[ServerStatus], request: Request, *, final: bool) -> Reply:
    if not statuses:
        return say(sentences.NO_SERVERS)
    if not request.invocation.private:
        statuses = [replace(status, account=None) for status in statuses]
    needed = any(wants_sign_in(status) or status.auth is AuthState.KEY_MISSING for status in statuses)
    hint = sentences.HINT_AUTH if needed else None
    buttons = (Button(sentences.BUTTON_AUTH, command="auth"),) if needed else ()
    return Reply((ServerList(tuple(statuses), hint),), buttons=buttons, final=final, title=sentences.TITLE)


def _detail(status: ServerStatus, request: Request, *, final: bool) -> Reply:
    facts = sentences.facts(status, request.services.clock())
    verb = status.next.verb if status.next is not None else ""
    label = sentences.BUTTONS.get(verb)
    buttons = (Button(label, command=grammar.command_for(verb, status.name)),) if label else ()
    return Reply(
        (ServerDetail(status, facts),),
        buttons=buttons,
        audience=Audience.CALLER,
        final=final,
        summary=sentences.PRIVATE_ANSWER,
        title=status.name,
    )
