"""`/mcp key`: asks for an API key where nobody reads it, or says which ways there are."""

from __future__ import annotations

from gateway import grammar, sentences
from gateway.replies import Audience, Button, Reply, Text, say
from gateway.request import Request
from gateway.sign_ins import requester_of
from mcp_auth.errors import ConfigError
from mcp_auth.keys import KeyVariable
from mcp_auth.outcome import Next
from mcp_auth.status import AuthState


async def ask_key(command: grammar.Key, request: Request) -> Reply:
    name = command.server
    if name is None:
        missing = [one.name for one in await request.statuses() if one.auth is AuthState.KEY_MISSING]
        if len(missing) != 1:
            which = [grammar.command_for("key", one) for one in missing]
            return say(sentences.argument_missing("key", which) if which else sentences.KEY_NONE_MISSING)
        name = missing[0]
    if not request.may_change(name):
        request.note_refusal("key", name)
        return say(sentences.ONLY_ADMINS, ok=False)
    owner = request.owner(name)
    variables = await request.auth.key_variables(name, owner)
    wanted = _choose(variables, command.variable)
    if not wanted:
        text = sentences.key_not_needed(name, [one.name for one in variables])
        step = Next("key" if variables else "test", name)
        return say(text, ok=False, data=ConfigError(text, next_step=step))
    if request.has_key_forms:
        return await _key_form(name, owner, wanted, request)
    if not request.may_prompt:
        ways = sentences.key_ways(name, request.principal.platform, in_chat=request.capabilities.secret_input)
        return say(ways, ok=False)
    return request.services.prompts.ask(request.principal, name, owner, wanted)


def _choose(variables: tuple[KeyVariable, ...], only: str | None) -> tuple[KeyVariable, ...]:
    """The variable that is named, else the unset ones, else all that have no default."""
    if only is not None:
        return tuple(one for one in variables if one.name == only)
    unset = tuple(one for one in variables if not one.is_set)
    return unset or tuple(one for one in variables if not one.has_default) or variables


async def _key_form(server: str, owner: str, variables: tuple[KeyVariable, ...], request: Request) -> Reply:
    """A link to a page of ours, where the key passes through no chat."""
    started = await request.auth.key_form(server, owner, requester_of(request.invocation), variables)
    request.services.watcher.follow(started.form, None)
    text = sentences.key_form(server, started.expires_at, request.services.clock())
    note = sentences.NOTE_PROOF if started.needs_proof else None
    return Reply(
        tuple(Text(one) for one in (text, note) if one),
        buttons=(Button(sentences.BUTTON_KEY_FORM, url=started.link),),
        audience=Audience.CALLER,
        summary=sentences.links_summary(1),
    )


async def warn_of_exposed_key(command: grammar.KeyExposed, request: Request) -> Reply:
    return say(sentences.key_exposed(command.server), ok=False)


async def store_anyway(command: grammar.KeyStoreAnyway, request: Request) -> Reply:
    return await request.services.prompts.store_anyway(request.principal, command.prompt_id)
