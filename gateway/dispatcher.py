"""One invocation -> replies, by the specs of `gateway.commands`. Knows who is served, how often; knows no platform."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

from gateway import error_reports, grammar, policy, sentences
from gateway.bounded_dict import BoundedDict
from gateway.commands import CommandSpec, parse, spec_of
from gateway.invocations import LOCAL, Capabilities, Invocation, Principal
from gateway.key_prompts import KeyPrompts
from gateway.pairing import Pairing
from gateway.people import People
from gateway.replies import Audience, Decision, Deferred, Ignored, Immediate, Modal, Reply, TextModal, say
from gateway.request import Request, Services
from gateway.sign_ins import SignInWatcher
from mcp_auth.config.models import Config
from mcp_auth.errors import Busy, CodeRejected, McpAuthError, StoreError, WrongPerson
from mcp_auth.limits import CODES, COMMANDS, too_often
from mcp_auth.outcome import Outcome

if TYPE_CHECKING:
    from mcp_auth.core import McpAuth

_log = logging.getLogger("gateway")
_EVENTS_KEPT = 10_000


class Dispatcher:
    """Answers invocations from people who are allowed; strangers get one sentence a minute.

    Args:
        watcher: follows the sign-ins that are begun here.
        people: who is served at this moment.
    """

    def __init__(
        self,
        auth: McpAuth,
        watcher: SignInWatcher,
        people: People,
        pairing: Pairing,
        clock: Callable[[], float] = time.time,
    ) -> None:
        prompts = KeyPrompts(auth, watcher.key_stored, clock)
        self._services = Services(auth, watcher, people, pairing, prompts, clock)
        self._events: BoundedDict[tuple[str, str], None] = BoundedDict(_EVENTS_KEPT)

    @property
    def config(self) -> Config:
        """With the people of this moment."""
        return self._services.people.config

    def decide(self, invocation: Invocation, capabilities: Capabilities) -> Decision:
        """What a platform has to do before the first reply is there. Pure; from memory."""
        if self._is_known_event(invocation):
            return Ignored()
        command = self._parse(invocation)
        spec = spec_of(command)
        if not policy.is_allowed(invocation.principal, self.config.gateway):
            if self._services.pairing.is_silent(invocation.principal) and not spec.is_proof:
                return Ignored()
            return Immediate(Audience.CALLER if invocation.private else Audience.CHAT)
        request = Request.of(self._services, invocation, capabilities)
        form = _form_for(command, request)
        if form is not None:
            return form
        return Deferred(spec.audience) if spec.slow else Immediate(spec.audience)

    async def handle(self, invocation: Invocation, capabilities: Capabilities) -> AsyncGenerator[Reply, None]:
        """The replies, each replacing the one before. None for duplicates and for strangers who were told already."""
        if self._is_known_event(invocation):
            return
        if invocation.event_id:
            self._events[invocation.principal.platform, invocation.event_id] = None
        self._services.people.refresh()
        command = self._parse(invocation)
        spec = spec_of(command)
        if not policy.is_allowed(invocation.principal, self.config.gateway):
            reply = await self._warn(command, invocation.principal) or await self._services.pairing.answer(invocation)
            if reply is not None:
                yield reply
            return
        self._services.pairing.forget(invocation.principal)
        request = Request.of(self._services, invocation, capabilities)
        wait = _wait(spec, request)
        if wait:
            yield say(too_often(wait), audience=spec.audience, ok=False)
            return
        try:
            answer = spec.run(command, request)
            if isinstance(answer, AsyncGenerator):
                async with aclosing(answer) as replies:
                    async for reply in replies:
                        yield reply
            else:
                yield await answer
        except McpAuthError as error:
            yield say(_explain(error, request.principal), audience=spec.audience, ok=False, data=error)
        except Exception as error:  # noqa: BLE001 - every command answers, whatever happens below
            yield say(sentences.unexpected(error_reports.note(error)), audience=spec.audience, ok=False)

    async def submit_secret(self, principal: Principal, prompt_id: str, value: str) -> Reply:
        """The answer to a `SecretPrompt`. Never raises; says what became of it."""
        self._services.people.refresh()
        if not policy.is_allowed(principal, self.config.gateway):
            return say(sentences.NOT_SERVED, audience=Audience.CALLER, ok=False)
        try:
            return await self._services.prompts.submit(principal, prompt_id, value)
        except McpAuthError as error:
            return say(_explain(error, principal), audience=Audience.CALLER, ok=False, data=error)
        except Exception as error:  # noqa: BLE001 - the person waits for an answer
            return say(sentences.unexpected(error_reports.note(error)), audience=Audience.CALLER, ok=False)

    def close(self) -> None:
        """Forget what was entered and not stored."""
        self._services.prompts.close()

    async def _warn(self, command: grammar.Command, principal: Principal) -> Reply | None:
        """For a stranger who sends a code that one of our pages shows: somebody forwarded them the link."""
        auth = self._services.auth
        if not isinstance(command, grammar.Confirm | grammar.ReviewCode) or auth.limits.take(CODES, str(principal)):
            return None
        try:
            await auth.burn(command.code, str(principal))
        except WrongPerson as error:
            return say(error.message, audience=Audience.CALLER, ok=False)
        except CodeRejected as error:
            # An account of somebody who is allowed with another one.
            return say(sentences.error(error), audience=Audience.CALLER, ok=False)
        except (StoreError, Busy) as error:
            # A stranger is told nothing of this machine.
            _log.error("a stranger's code could not be looked at: %s", error.code)
        return None

    def _parse(self, invocation: Invocation) -> grammar.Command:
        return invocation.command or parse(invocation.text, list(self.config.servers))

    def _is_known_event(self, invocation: Invocation) -> bool:
        return (invocation.principal.platform, invocation.event_id) in self._events


def _form_for(command: grammar.Command, request: Request) -> Modal | TextModal | None:
    """What a form has to be opened for, as the platform's first answer."""
    if isinstance(command, grammar.Key) and command.server and request.may_prompt and not request.has_key_forms:
        return Modal(command.server) if request.may_change(command.server) else None
    if isinstance(command, grammar.ArgumentMissing) and request.capabilities.modal:
        if command.verb == "paste" and request.may_paste(private=True):
            return TextModal("paste")
        if command.verb == "confirm" and request.config.gateway.public_url is not None:
            return TextModal("confirm")
    return None


def _wait(spec: CommandSpec, request: Request) -> float:
    """Seconds until this principal may ask again; 0: now. The operator at the terminal always may."""
    if request.principal == LOCAL:
        return 0.0
    limits, person = request.auth.limits, request.counted_as
    wait = limits.take(COMMANDS, person)
    return wait or limits.take(spec.limit, person) if spec.limit is not None else wait


def _explain(error: McpAuthError, principal: Principal) -> Outcome:
    """A sentence for whoever asked. Which file is in trouble is told at the terminal, else in the log."""
    if principal == LOCAL:
        return error.outcome
    if isinstance(error, StoreError):
        _log.error("%s", error)
    return sentences.error(error)
