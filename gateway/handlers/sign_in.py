"""`/mcp auth`: a link for every server that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway import error_reports, grammar, policy, sentences
from gateway.handlers.listing import may_have_changed, probe
from gateway.invocations import LOCAL
from gateway.replies import Button, ChecklistItem, ItemState, Reply, say
from gateway.request import Request
from gateway.sign_ins import Board, origin_of
from mcp_auth.errors import McpAuthError
from mcp_auth.limits import SERVER_SIGN_INS, SERVER_SIGN_INS_EACH, SIGN_INS, too_often
from mcp_auth.status import NEEDS_SIGN_IN, AuthState, ServerStatus, needs_a_look, wants_sign_in

_BEGIN_SECONDS = 60.0


async def sign_in(command: grammar.Auth, request: Request) -> AsyncGenerator[Reply, None]:
    statuses = await _targets(command, request)
    if not statuses:
        yield await _nothing_to_do(request)
        return
    board, edits = Board(request.invocation, {}), request.capabilities.edits
    to_begin = []
    for status in statuses:
        item = _first_item(status, request, named=bool(command.servers))
        board.set(item)
        if item.state is ItemState.PREPARING:
            to_begin.append(status.name)
    if edits:
        request.services.watcher.keep(board)
        if to_begin:
            yield board.reply(final=False)
    async with aclosing(_begin_all(to_begin, board, request)) as steps:
        async for _ in steps:
            if edits:
                yield board.reply(final=False)
    yield board.reply()


async def _nothing_to_do(request: Request) -> Reply:
    """Every server has what it needs, or what it needs is no sign-in."""
    if not request.config.servers:
        return say(sentences.NO_SERVERS)
    trouble = sentences.in_trouble(await request.statuses(), request.services.clock())
    return say(trouble or sentences.NOTHING_TO_SIGN_IN, ok=not trouble)


async def _targets(command: grammar.Auth, request: Request) -> list[ServerStatus]:
    """The named servers, or all that need a sign-in or a key; what was never looked at is looked at once."""
    if command.servers:
        return [await request.status(name) for name in command.servers]
    statuses = await request.statuses()
    unknown = [status.name for status in statuses if await _is_unknown(status, request)]
    if unknown:
        async for _ in probe(unknown, request, {}):
            pass
        statuses = await request.statuses()
    return [status for status in statuses if wants_sign_in(status) or status.auth is AuthState.KEY_MISSING]


async def _is_unknown(status: ServerStatus, request: Request) -> bool:
    server = request.config.servers[status.name]
    if server.url is None:
        return False
    return needs_a_look(server, await request.auth.store.connections.get(server.url))


def _first_item(status: ServerStatus, request: Request, *, named: bool) -> ChecklistItem:
    """What can be said before anything is asked: a key, a refusal, or that the link is on its way."""
    name = status.name
    if not request.may_change(name):
        request.note_refusal("auth", name)
        return ChecklistItem(name, ItemState.FAILED, sentences.ONLY_ADMINS)
    if status.auth is AuthState.KEY_MISSING or (named and status.auth is AuthState.KEY_SET):
        text = sentences.checklist_key(status.variables)
        return ChecklistItem(name, ItemState.KEY, text, command=grammar.command_for("key", name))
    oauth = status.auth in NEEDS_SIGN_IN or status.auth is AuthState.SIGNED_IN
    open_so_far = status.auth is AuthState.NONE_NEEDED and request.config.servers[name].url is not None
    if not (oauth or open_so_far or may_have_changed(status, request)):
        state = ItemState.FAILED if status.auth is AuthState.MISCONFIGURED else ItemState.DONE
        return ChecklistItem(name, state, sentences.nothing_to_do(status))
    if not policy.may_sign_in(request.principal, request.config.gateway):
        request.note_refusal("auth", name)
        return ChecklistItem(name, ItemState.FAILED, sentences.team_sign_in(name))
    wait = _wait_to_begin(status, request)
    if wait:
        return ChecklistItem(name, ItemState.FAILED, too_often(wait))
    return ChecklistItem(name, ItemState.PREPARING, sentences.PREPARING)


async def _begin_all(names: list[str], board: Board, request: Request) -> AsyncGenerator[None, None]:
    """Begin in parallel; yields when something is ready that was not shown."""
    tasks = {asyncio.create_task(_begin(name, board, request)) for name in names}
    try:
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if tasks:
                yield None
    finally:
        for task in tasks:
            task.cancel()


async def _begin(name: str, board: Board, request: Request) -> None:
    """One server's line: its link, or why there is none. One failure leaves the others alone."""
    capabilities = request.capabilities
    is_reused = False
    try:
        async with asyncio.timeout(_BEGIN_SECONDS):
            origin = origin_of(request.invocation, board if capabilities.lasting_edits else None)
            started = await request.auth.sign_in(name, request.owner(name), origin)
            is_reused = started.reused
    except McpAuthError as error:
        text = sentences.error(error)
    except TimeoutError:
        text = sentences.TOO_LONG
    except Exception as error:  # noqa: BLE001 - the other servers keep their links
        text = sentences.unexpected(error_reports.note(error))
    else:
        board.note = sentences.links_note(
            local=request.principal == LOCAL,
            private=request.invocation.private,
            listening=started.listening,
            public=started.public,
            needs_proof=started.needs_proof,
            form=capabilities.modal,
        )
        if capabilities.modal:
            verb = "confirm" if started.public else "paste"
            board.button = Button(sentences.BUTTON_FORMS[verb], command=verb)
        text = sentences.link_ready(
            started.expires_at, request.services.clock(), started.host, started.issued_elsewhere
        )
        board.set(ChecklistItem(name, ItemState.LINK, text, link=started.link, expires_at=started.expires_at))
        request.services.watcher.follow(started.sign_in, board if capabilities.edits else None)
        return
    finally:
        # One that failed was asked of the server too.
        if not is_reused:
            _count_begun(name, request)
    board.set(ChecklistItem(name, ItemState.FAILED, text, command=grammar.command_for("auth", name)))


def _wait_to_begin(status: ServerStatus, request: Request) -> float:
    if request.principal == LOCAL:
        return 0.0
    limits, person = request.auth.limits, request.counted_as
    wait = limits.take(SIGN_INS, person)
    if wait or status.auth is AuthState.SIGN_IN_OPEN:
        # What is open costs the server nothing: its link is said again.
        return wait
    return limits.wait(SERVER_SIGN_INS_EACH, f"{status.name} {person}") or limits.wait(SERVER_SIGN_INS, status.name)


def _count_begun(server: str, request: Request) -> None:
    if request.principal != LOCAL:
        request.auth.limits.take(SERVER_SIGN_INS_EACH, f"{server} {request.counted_as}")
        request.auth.limits.take(SERVER_SIGN_INS, server)
