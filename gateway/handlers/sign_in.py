"""`/mcp auth`: a link for every server that needs one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway import error_reports, grammar, policy, sentences
from gateway.handlers.listing import may_have_changed, probe
from gateway.invocations import LOCAL
from gateway.replies import Button, ChecklistItem, ItemState, Reply, say
from gateway.request import Request
from gateway.sign_ins import Board, requester_of
from mcp_auth.errors import McpAuthError, ReauthorizationNeeded, Unreachable
from mcp_auth.limits import SERVER_SIGN_INS, SERVER_SIGN_INS_EACH, SIGN_INS, too_often
from mcp_auth.outcome import Next
from mcp_auth.status import (
    NEEDS_SIGN_IN,
    AuthState,
    ConnectionState,
    ConnectionStatus,
    ServerStatus,
    wants_sign_in,
)

if TYPE_CHECKING:
    from mcp_auth.oauth.sign_in import StartedSignIn

_BEGIN_SECONDS = 60.0


async def sign_in(command: grammar.Auth, request: Request) -> AsyncGenerator[Reply, None]:
    board, edits = Board(request.invocation, {}), request.capabilities.edits
    statuses = await _targets(command, board, request)
    if not statuses and not board.items:
        yield await _nothing_to_do(request)
        return
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
    async with aclosing(_begin_all(to_begin, command, board, request)) as steps:
        async for _ in steps:
            if edits:
                yield board.reply(final=False)
    yield board.reply()


async def _nothing_to_do(request: Request) -> Reply:
    """Every server has what it needs, or what it needs is no sign-in."""
    if not request.config.servers:
        return say(sentences.NO_SERVERS)
    trouble = sentences.in_trouble(await request.statuses(), request.services.clock())
    return say(*trouble, ok=False) if trouble else say(sentences.NOTHING_TO_SIGN_IN)


async def _targets(command: grammar.Auth, board: Board, request: Request) -> list[ServerStatus]:
    """The named servers, or all that need a sign-in or a key; what was never looked at is looked at once.

    A program hears of those, too, of which that cannot be said, and of those where a sign-in would not help.
    """
    if command.servers:
        return [await request.status(name) for name in command.servers]
    unknown = await request.auth.unknown()
    results: dict[str, ConnectionStatus] = {}
    if unknown:
        async for _ in probe(unknown, request, results):
            pass
        # What was not asked, for want of file descriptors or of its turn, is as little known as before.
        unknown = await request.auth.unknown()
    statuses = await request.statuses()
    if request.invocation.command is not None:
        for name, connection in results.items():
            lost = connection.detail is not None and name in unknown
            if lost or connection.state is ConnectionState.UNREACHABLE:
                problem = Unreachable(f"{name} could not be asked: {connection.detail}", next_step=Next("test", name))
                board.set(_failed(name, problem))
        for one in statuses:
            if one.not_renewable and not wants_sign_in(one):
                text = f"{one.name}: {sentences.auth_state(one, request.services.clock())}."
                board.set(_failed(one.name, ReauthorizationNeeded(text, next_step=one.next)))
    return [status for status in statuses if wants_sign_in(status) or status.auth is AuthState.KEY_MISSING]


def _failed(name: str, error: McpAuthError) -> ChecklistItem:
    return ChecklistItem.failed(name, sentences.error(error), grammar.command_for("auth", name), error)


def _first_item(status: ServerStatus, request: Request, *, named: bool) -> ChecklistItem:
    """What can be said before anything is asked: a key, a refusal, or that the link is on its way."""
    name = status.name
    if not request.may_change(name):
        request.note_refusal("auth", name)
        return ChecklistItem(name, ItemState.FAILED, sentences.ONLY_ADMINS)
    if status.auth is AuthState.KEY_MISSING or (named and status.auth is AuthState.KEY_SET):
        text = sentences.checklist_key(status.variables)
        return ChecklistItem(name, ItemState.KEY, text, command=grammar.command_for("key", name), data=status)
    oauth = status.auth in NEEDS_SIGN_IN or status.auth is AuthState.SIGNED_IN
    open_so_far = status.auth is AuthState.NONE_NEEDED and request.config.servers[name].url is not None
    if not (oauth or open_so_far or may_have_changed(status, request)):
        state = ItemState.FAILED if status.auth is AuthState.MISCONFIGURED else ItemState.DONE
        return ChecklistItem(name, state, sentences.nothing_to_do(status), data=status)
    if not policy.may_sign_in(request.principal, request.config.gateway):
        request.note_refusal("auth", name)
        return ChecklistItem.failed(name, sentences.team_sign_in(name))
    wait = _wait_to_begin(status, request)
    if wait:
        return ChecklistItem(name, ItemState.FAILED, too_often(wait))
    return ChecklistItem(name, ItemState.PREPARING, sentences.PREPARING)


async def _begin_all(
    names: list[str], command: grammar.Auth, board: Board, request: Request
) -> AsyncGenerator[None, None]:
    """Begin in parallel; yields when something is ready that was not shown."""
    tasks = {asyncio.create_task(_begin(name, command, board, request)) for name in names}
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


async def _begin(name: str, command: grammar.Auth, board: Board, request: Request) -> None:
    """One server's line: its link, or why there is none. One failure leaves the others alone."""
    capabilities = request.capabilities
    is_reused = False
    again = grammar.command_for("auth", name)
    try:
        async with asyncio.timeout(request.bound(_BEGIN_SECONDS)):
            origin = requester_of(request.invocation, board if capabilities.lasting_edits else None)
            started = await request.auth.sign_in(
                name, request.owner(name), origin, fresh=command.fresh, listen=command.listen
            )
            is_reused = started.reused
    except McpAuthError as error:
        item = _failed(name, error)
    except TimeoutError as error:
        item = ChecklistItem(name, ItemState.FAILED, sentences.TOO_LONG, command=again, data=error)
    except Exception as error:  # noqa: BLE001 - the other servers keep their links
        item = ChecklistItem.failed(name, sentences.unexpected(error_reports.note(error)), again)
    else:
        item = _link(name, started, board, request)
        request.services.watcher.follow(started.sign_in, board if capabilities.edits else None)
    finally:
        # One that failed was asked of the server too.
        if not is_reused:
            _count_begun(name, request)
    board.set(item)


def _link(name: str, started: StartedSignIn, board: Board, request: Request) -> ChecklistItem:
    form = request.capabilities.modal
    board.note = sentences.links_note(
        local=request.principal == LOCAL,
        private=request.invocation.private,
        listening=started.listening,
        public=started.public,
        needs_proof=started.needs_proof,
        form=form,
    )
    if form:
        verb = "confirm" if started.public else "paste"
        board.button = Button(sentences.BUTTON_FORMS[verb], command=verb)
    text = sentences.link_ready(started.expires_at, request.services.clock(), started.host, started.issued_elsewhere)
    until = started.expires_at
    return ChecklistItem(name, ItemState.LINK, text, link=started.link, expires_at=until, data=started)


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
