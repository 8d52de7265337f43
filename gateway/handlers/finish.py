"""What ends something: `/mcp paste`, `confirm`, `cancel` and `logout`, and the codes that a page's button brings."""

from __future__ import annotations

from gateway import grammar, sentences
from gateway.invocations import LOCAL
from gateway.replies import Audience, Button, Reply, Said, Text, done, say
from gateway.request import Request
from mcp_auth.errors import SignInError, WrongPerson
from mcp_auth.kinds import KEY_FORM, kind_of
from mcp_auth.links.tickets import typed_code
from mcp_auth.links.verification import goes_on_by_itself
from mcp_auth.states import SHOWS_CODE


async def paste(command: grammar.Paste, request: Request) -> Reply:
    may_here = request.may_paste(private=request.invocation.private)
    if not may_here:
        request.note_refusal("paste")
        may_anywhere = request.may_paste(private=True)
        return say(sentences.PASTE_PRIVATE if may_anywhere else sentences.PASTE_OFF_TEAM, ok=False)
    if request.principal == LOCAL and typed_code(command.text) is not None and await _shows_code(request):
        return await confirm(grammar.Confirm(command.text), request)
    watcher = request.services.watcher
    try:
        async with watcher.answering(request.principal):
            ended = await watcher.settle(await request.auth.paste(command.text, str(request.principal)))
    except WrongPerson:
        request.note_refusal("paste")
        raise
    if ended.ok:
        return done(ended.said, ended.data)
    return say(ended.said, audience=Audience.CALLER, ok=False, data=ended.data)


async def _shows_code(request: Request) -> bool:
    """Whether a page of ours waits for the operator: eight characters are its code then, not the browser's."""
    return any(
        one.binding is not None and one.origin.principal == str(request.principal) and one.status in SHOWS_CODE
        for one in await request.auth.open_sign_ins()
    )


async def confirm(command: grammar.Confirm, request: Request) -> Reply:
    if request.config.gateway.public_url is None:
        return say(sentences.CONFIRM_NOT_NEEDED)
    principal, private = str(request.principal), request.invocation.private
    async with request.services.watcher.answering(request.principal):
        record = await request.auth.confirm(command.code, principal, private=private)
    return done(sentences.confirmed(record.server, by_itself=goes_on_by_itself(record)))


async def review(command: grammar.ReviewCode, request: Request) -> Reply:
    """Anybody can send somebody a link that brings a code here: what it is for is said, and one button confirms."""
    record = await request.auth.review(command.code, str(request.principal), private=request.invocation.private)
    visit = record.binding.visit if record.binding is not None else None
    text = sentences.review(record.server, kind_of(record) is KEY_FORM, visit, request.services.clock())
    button = Button(sentences.BUTTON_CONFIRM, command=f"confirm {typed_code(command.code) or ''}")
    return Reply((Text(text),), (button,), Audience.CALLER, summary=sentences.PRIVATE_ANSWER)


async def cancel(command: grammar.Cancel, request: Request) -> Reply:
    servers = [command.server] if command.server else list(request.config.servers)
    mine = [name for name in servers if request.may_change(name)]
    if not mine:
        request.note_refusal("cancel", command.server)
        return say(sentences.ONLY_ADMINS if servers else sentences.CANCELLED_NONE, ok=False)
    cancelled: list[str] = []
    too_late: list[Said] = []
    async with request.services.watcher.answering(request.principal):
        for name in mine:
            try:
                owner = request.owner(name)
                form = await request.auth.cancel_key_form(name, owner)
                if await request.auth.cancel(name, owner) or form:
                    cancelled.append(name)
            except SignInError as error:
                too_late.append(sentences.error(error))
    ended = [sentences.cancelled(cancelled)] if cancelled else [] if too_late else [sentences.CANCELLED_NONE]
    return say(*ended, *too_late, ok=not too_late)


async def logout(command: grammar.Logout, request: Request) -> Reply:
    name = command.server
    if not request.may_change(name):
        request.note_refusal("logout", name)
        return say(sentences.ONLY_ADMINS, ok=False)
    async with request.services.watcher.answering(request.principal):
        result = await request.auth.logout(name, request.owner(name), by=str(request.principal))
    return say(result.outcome, ok=result.deleted)
