"""One-time pages on which API keys are typed, so that no key goes through a chat.

A form is a stored record like a sign-in, behind the same link, browser and proof; what is typed is never stored in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from mcp_auth.changes import Changes
from mcp_auth.config.models import Server
from mcp_auth.errors import AlreadyFinished, KeyInvalid, KeyMissing, KeyRefused, McpAuthError, SignInError
from mcp_auth.keys import Keys, KeyTrial, KeyVariable, Verdict
from mcp_auth.limits import TRIES
from mcp_auth.links.verification import LinkVerifier
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import BrowserBinding, KeyField, KeyForm, Requester, Status
from mcp_auth.states import IN_FLIGHT, OPEN, as_of, stepped
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

LIFETIME = 600.0


@dataclass(frozen=True, slots=True, repr=False)
class StartedKeyForm:
    """A key form and its link."""

    form: KeyForm
    link: str
    needs_proof: bool = False

    @property
    def expires_at(self) -> float:
        return self.form.expires_at

    def __repr__(self) -> str:
        return f"StartedKeyForm(server={self.form.server!r})"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of typed keys. `error`: a sentence, and the form is shown again.

    `may_store`: they could not be tried, and the person may have them stored all the same.
    """

    form: KeyForm
    error: str | None = None
    may_store: bool = False


@dataclass(eq=False, repr=False)
class KeyForms:
    """Begins, fills in and ends key forms."""

    store: Store
    keys: Keys
    verifier: LinkVerifier
    changes: Changes
    clock: Callable[[], float] = time.time

    async def begin(
        self, server: Server, owner: str, origin: Requester, variables: tuple[KeyVariable, ...]
    ) -> tuple[KeyForm, str]:
        """An open form for these variables, and a new ticket for it. The open one is handed out again.

        Raises:
            SignInError: somebody else has one open, or its key is being stored right now.
        """
        fields = tuple(KeyField(name=one.name, where=one.where) for one in variables)
        slot = await self.store.sign_ins.slot(owner, server.name)
        ticket = ""

        async def open_again(before: KeyForm | None) -> KeyForm:
            nonlocal ticket
            form = self._reusable(before, origin, fields)
            if form is None:
                now = self.clock()
                form = KeyForm(
                    id=slot,
                    server=server.name,
                    owner=owner,
                    status="started",
                    origin=origin,
                    created_at=now,
                    expires_at=now + LIFETIME,
                    version=before.version if before else 0,
                    binding=BrowserBinding(),
                    fields=fields,
                )
            form, ticket = self.verifier.add_ticket(form)
            return form

        async def before() -> KeyForm | None:
            form = await self.store.key_forms.get(slot)
            return None if form is None else await self._write_down(form)

        stored = await update(server.name, before, open_again, self.store.key_forms.put_if)
        if stored is None:
            raise AssertionError("every edit above makes a form")
        return stored, ticket

    def _reusable(self, before: KeyForm | None, origin: Requester, fields: tuple[KeyField, ...]) -> KeyForm | None:
        if before is None or before.status not in OPEN:
            return None
        if before.origin.principal != origin.principal:
            raise SignInError(
                f"Another account is entering a key for {before.server} right now.",
                next_step=Next("key", before.server, around="wait a few minutes, then {}"),
            )
        if before.status in IN_FLIGHT:
            raise _storing(before.server)
        return msgspec.structs.replace(before, origin=origin) if before.fields == fields else None

    async def current(self, slot: str) -> KeyForm | None:
        """The latest form in the slot as it is by now."""
        form = await self.store.key_forms.get(slot)
        return None if form is None else await self.as_of_now(form)

    async def open(self) -> list[KeyForm]:
        """Every form that is open by now."""
        stored = [await self.as_of_now(one) for one in await self.store.key_forms.open()]
        return [one for one in stored if one.status in OPEN]

    async def sweep(self) -> None:
        """As `SignIns.sweep`."""
        for form in await self.store.key_forms.due(self.clock()):
            if form.status in OPEN:
                await self._write_down(form)
            else:
                await self.store.key_forms.delete_if(form)

    async def as_of_now(self, form: KeyForm) -> KeyForm:
        """The form with what time has done to it."""
        return as_of(form, self.clock())

    async def _write_down(self, form: KeyForm) -> KeyForm:
        """The same, and an end is stored."""
        ended = await self.as_of_now(form)
        if ended is form:
            return form
        stored = await self.store.key_forms.put_if(ended)
        if stored is None:
            return await self.store.key_forms.get(form.id) or ended
        self.changes.end(stored)
        return stored

    async def fill(self, form: KeyForm, browser: str, values: Mapping[str, str], *, untried: bool = False) -> Entry:
        """Try what was typed, and store it. Once a form.

        Args:
            untried: the person's word that they be stored although they could not be tried.

        Raises:
            OtherBrowser, NotProven, NotAllowed: see `LinkVerifier.check_end`. AlreadyFinished: it was used before.
            StoreError, Busy: it could not be written; the form is over.
        """
        form = as_of(form, self.clock())
        if form.status != "confirmed":
            raise AlreadyFinished("This form was used before.", next_step=Next("key", form.server))
        await self.verifier.check_end(form, browser)
        empty = [field.name for field in form.fields if not values.get(field.name, "").strip()]
        if empty:
            return Entry(form, f"Nothing was entered for {', '.join(empty)}.")
        given = {field.name: values[field.name] for field in form.fields}
        by = form.origin.principal
        try:
            trial = await self.keys.attempt(form.server, given, form.owner, by=by)
        except (KeyInvalid, KeyMissing) as error:
            # The form is the command already.
            return await self._ask_again(form, str(error) if isinstance(error.next_step, str) else error.text)
        if trial.verdict is Verdict.TOO_OFTEN:
            return Entry(form, trial.detail)
        if trial.verdict is Verdict.REFUSED:
            return await self._ask_again(form, f"{form.server} refuses this key; nothing was stored.")
        if trial.verdict is Verdict.UNREACHABLE and not untried:
            sentence = f"The key could not be tried: {trial.detail} Nothing is stored yet."
            return Entry(form, sentence, may_store=True)
        # Asking the server takes its time, and people change.
        await self.verifier.check_end(form, browser)
        return await self._store_keys(form, given, trial)

    async def _store_keys(self, form: KeyForm, given: Mapping[str, str], trial: KeyTrial) -> Entry:
        now = self.clock()
        stored = await self.store.key_forms.put_if(stepped(form, "exchanging", now, claimed_at=now))
        if stored is None:
            # Sent twice, or cancelled meanwhile: what became of it counts.
            return Entry(await self.verifier.again(form))
        try:
            await self.keys.set(form.server, given, form.owner, by=form.origin.principal)
        except KeyInvalid as error:
            back = await self.store.key_forms.put_if(stepped(stored, "confirmed", self.clock(), claimed_at=None))
            return await self._ask_again(back or stored, str(error))
        except McpAuthError as error:
            await self._end(stored, "failed", msgspec.structs.replace(error.outcome, server=form.server))
            raise
        ended = await self._end(stored, "done", Outcome(trial.verdict.value, stored_sentence(form.server, trial)))
        return Entry(ended or stored)

    async def _ask_again(self, form: KeyForm, why: str) -> Entry:
        """Nothing was stored: the same form once more, at most `TRIES` times."""
        tries = form.tries + 1
        if tries >= TRIES:
            sentence = f"No working key was entered for {form.server} in {TRIES} tries."
            ended = await self._end(form, "failed", KeyRefused(sentence, next_step=Next("key", form.server)).outcome)
            return Entry(ended or form, why)
        counted = await self.store.key_forms.put_if(msgspec.structs.replace(form, tries=tries))
        return Entry(counted or await self.verifier.again(form), why)

    async def cancel(self, server: str, owner: str) -> bool:
        """End the open form of (owner, server). False when there is none.

        Raises:
            SignInError: its key is being stored right now.
        """
        form = await self.current(await self.store.sign_ins.slot(owner, server))
        if form is None or form.status not in OPEN:
            return False
        if form.status in IN_FLIGHT:
            raise _storing(server)
        cancelled = Outcome("cancelled", f"The key form of {server} was cancelled.")
        return await self._end(form, "cancelled", cancelled) is not None

    async def _end(self, form: KeyForm, status: Status, end: Outcome) -> KeyForm | None:
        ended = await self.store.key_forms.put_if(stepped(form, status, self.clock(), end=end))
        if ended is not None:
            self.changes.end(ended)
        return ended


def _storing(server: str) -> SignInError:
    return SignInError(
        f"A key for {server} is being stored right now.",
        next_step=Next("list", server, around="wait a moment, then {}"),
    )


def stored_sentence(server: str, trial: KeyTrial) -> str:
    """What became of a stored key, in one sentence."""
    if trial.verdict is Verdict.ACCEPTED:
        return f"The key for {server} works and is stored."
    return f"The key for {server} is stored, not verified. {trial.detail}"
