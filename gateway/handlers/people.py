"""`/mcp people`, `allow` and `deny`: who is served."""

from __future__ import annotations

from gateway import grammar, sentences
from gateway.replies import Audience, Reply, Table, Text, done, say
from gateway.request import Request


async def show_people(_: grammar.ShowPeople, request: Request) -> Reply:
    if (refusal := _refuse(request, "people")) is not None:
        return refusal
    now = request.services.clock()
    rows = tuple((one.principal, sentences.person_line(one, now)) for one in request.services.people.listed())
    block = Table(rows) if rows else Text(sentences.NOBODY)
    return Reply((block,), audience=Audience.CALLER, summary=sentences.PRIVATE_ANSWER, title=sentences.PEOPLE_TITLE)


async def allow(command: grammar.Allow, request: Request) -> Reply:
    if (refusal := _refuse(request, "allow")) is not None:
        return refusal
    paired = await request.services.people.allow(command.code, request.principal)
    return done(sentences.let_in(paired))


async def deny(command: grammar.Deny, request: Request) -> Reply:
    if (refusal := _refuse(request, "deny")) is not None:
        return refusal
    principal = await request.services.people.deny(command.who, request.principal)
    return say(sentences.shut_out(principal), audience=Audience.CALLER)


def _refuse(request: Request, verb: str) -> Reply | None:
    """Only admins decide who is served, and in private: a code read by others is a code taken by others."""
    if not request.is_admin:
        request.note_refusal(verb)
        return say(sentences.PEOPLE_ONLY_ADMINS, audience=Audience.CALLER, ok=False)
    return None if request.invocation.private else say(sentences.PEOPLE_PRIVATE, ok=False)
