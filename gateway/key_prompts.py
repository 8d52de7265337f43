"""Questions for API keys: open for ten minutes, answered by the one who was asked, in memory only."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gateway import sentences
from gateway.invocations import Principal
from gateway.replies import Audience, Button, Reply, Said, SecretPrompt, Text, done, say, text
from mcp_auth.errors import KeyInvalid, NotAllowed
from mcp_auth.limits import TRIES
from mcp_auth.outcome import Next

if TYPE_CHECKING:
    from mcp_auth.core import McpAuth
    from mcp_auth.keys import KeyTrial, KeyVariable

LIFETIME = 600.0
_OPEN_AT_MOST = 1000


@dataclass(slots=True)
class _Pending:
    """One question. `values` holds what was entered so far and leaves memory with the question."""

    principal: Principal
    server: str
    owner: str
    variables: tuple[KeyVariable, ...]
    expires_at: float
    values: dict[str, str] = field(default_factory=dict, repr=False)
    tries: int = 0
    busy: bool = False
    # The server could not be reached: only the button is a valid answer now.
    awaiting_word: bool = False


class KeyPrompts:
    """Asks for keys, tries them, stores them.

    Args:
        stored: told of every key that was stored, by whom and for which server.
    """

    def __init__(
        self, auth: McpAuth, stored: Callable[[Principal, str], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._auth = auth
        self._stored = stored
        self._clock = clock
        self._open: dict[str, _Pending] = {}

    def ask(self, principal: Principal, server: str, owner: str, variables: tuple[KeyVariable, ...]) -> Reply:
        """A prompt for the first of `variables`; the others follow one by one."""
        self._forget_old()
        pending = _Pending(principal, server, owner, variables, self._clock() + LIFETIME)
        return self._prompt(self._new_id(pending), pending)

    def is_open(self, principal: Principal, prompt_id: str) -> bool:
        self._forget_old()
        pending = self._open.get(prompt_id)
        return pending is not None and pending.principal == principal

    async def submit(self, principal: Principal, prompt_id: str, value: str) -> Reply:
        """Take the answer to a prompt: try it, then store it.

        Raises:
            NotAllowed: this person may no longer. StoreError, Busy: the key could not be written; the question is over.
        """
        self._forget_old()
        pending = self._open.get(prompt_id)
        if pending is None or pending.awaiting_word:
            return say(sentences.PROMPT_OVER, audience=Audience.CALLER, ok=False)
        if pending.principal != principal:
            return say(sentences.PROMPT_NOT_YOURS, audience=Audience.CALLER, ok=False)
        if pending.busy:
            return say(sentences.PROMPT_BUSY, audience=Audience.CALLER, ok=False)
        pending.busy = True
        try:
            return await self._take(prompt_id, pending, value)
        finally:
            pending.busy = False

    async def store_anyway(self, principal: Principal, prompt_id: str) -> Reply:
        """The word of the person: store what could not be tried.

        Raises:
            NotAllowed, KeyInvalid, StoreError, Busy: nothing was stored.
        """
        self._forget_old()
        pending = self._open.get(prompt_id)
        if pending is None or not pending.awaiting_word:
            return say(sentences.PROMPT_OVER, audience=Audience.CALLER, ok=False)
        if pending.principal != principal:
            return say(sentences.PROMPT_NOT_YOURS, audience=Audience.CALLER, ok=False)
        del self._open[prompt_id]
        await self._store(pending)
        return done(sentences.key_stored(pending.server, verified=False))

    def close(self) -> None:
        self._open.clear()

    async def _take(self, prompt_id: str, pending: _Pending, value: str) -> Reply:
        if not value.strip():
            return self._again(prompt_id, pending, sentences.KEY_EMPTY)
        asked = next(variable for variable in pending.variables if variable.name not in pending.values)
        pending.values[asked.name] = value
        if len(pending.values) < len(pending.variables):
            del self._open[prompt_id]
            return self._prompt(self._new_id(pending), pending)
        try:
            return await self._try(prompt_id, pending)
        except KeyInvalid as error:
            return self._again(prompt_id, pending, sentences.error(error), error)
        except BaseException:
            self._open.pop(prompt_id, None)
            raise

    async def _try(self, prompt_id: str, pending: _Pending) -> Reply:
        from mcp_auth.keys import Verdict

        await self._check_allowed(pending)
        trial = await self._auth.try_keys(pending.server, pending.values, pending.owner, by=str(pending.principal))
        if trial.verdict is Verdict.TOO_OFTEN:
            return self._again(prompt_id, pending, trial.detail, trial)
        if trial.verdict is Verdict.REFUSED:
            return self._again(prompt_id, pending, sentences.key_refused(pending.server), trial)
        if trial.verdict is Verdict.UNREACHABLE:
            return self._ask_for_word(prompt_id, pending, trial)
        await self._store(pending)
        self._open.pop(prompt_id, None)
        if trial.verdict is Verdict.NO_DIFFERENCE:
            return done(sentences.key_no_difference(pending.server), trial)
        if trial.verdict is Verdict.NOT_TRIED:
            return done(sentences.key_not_tried(pending.server, trial.detail), trial)
        return done(sentences.key_stored(pending.server, verified=True), trial)

    async def _store(self, pending: _Pending) -> None:
        await self._check_allowed(pending)
        await self._auth.set_keys(pending.server, pending.values, pending.owner, by=str(pending.principal))
        self._stored(pending.principal, pending.server)

    async def _check_allowed(self, pending: _Pending) -> None:
        """A question may be older than a change of who is in charge, or of who is one person."""
        decision = await self._auth.policy.decide(str(pending.principal), pending.server, pending.owner)
        if not decision.allowed:
            raise NotAllowed(f"You may no longer set a key for {pending.server}; nothing was stored.")

    def _again(self, prompt_id: str, pending: _Pending, why: Said, data: KeyTrial | KeyInvalid | None = None) -> Reply:
        """Nothing was stored: the same question once more, at most `TRIES` times."""
        pending.tries += 1
        pending.values.clear()
        if pending.tries >= TRIES:
            self._open.pop(prompt_id, None)
            last = replace(text(why, "warning"), next_step=Next("key", pending.server))
            summary = sentences.PRIVATE_ANSWER
            return Reply((last,), audience=Audience.CALLER, summary=summary, ok=False, data=data)
        prompt = self._prompt(prompt_id, pending)
        return replace(prompt, blocks=(text(why, "bad"), *prompt.blocks), ok=False, data=data)

    def _ask_for_word(self, prompt_id: str, pending: _Pending, trial: KeyTrial) -> Reply:
        del self._open[prompt_id]
        pending.awaiting_word = True
        pending.expires_at = self._clock() + LIFETIME
        button = Button(sentences.STORE_ANYWAY, command=f"key-store {self._new_id(pending)}")
        return Reply(
            (Text(sentences.key_unreachable(pending.server, trial.detail), tone="warning"),),
            buttons=(button,),
            audience=Audience.CALLER,
            summary=sentences.PRIVATE_ANSWER,
            ok=False,
            data=trial,
        )

    def _prompt(self, prompt_id: str, pending: _Pending) -> Reply:
        asked = next(variable for variable in pending.variables if variable.name not in pending.values)
        is_tried = self._auth.config.servers[pending.server].url is not None
        text = sentences.key_prompt(pending.server, asked.name, asked.where, is_tried=is_tried)
        prompt = SecretPrompt(prompt_id, pending.server, asked.name, text, pending.expires_at, asked.where)
        return Reply((prompt,), audience=Audience.CALLER, summary=sentences.PRIVATE_ANSWER)

    def _new_id(self, pending: _Pending) -> str:
        # Short, because a button's command is: 64 bytes in Telegram. The principal is checked, so 72 bits do.
        prompt_id = secrets.token_urlsafe(9)
        self._open[prompt_id] = pending
        return prompt_id

    def _forget_old(self) -> None:
        now = self._clock()
        for prompt_id in [key for key, pending in self._open.items() if pending.expires_at <= now]:
            del self._open[prompt_id]
        while len(self._open) > _OPEN_AT_MOST:
            del self._open[next(iter(self._open))]
