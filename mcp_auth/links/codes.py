"""The codes that people send in a chat: each proves that the browser that shows it is theirs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mcp_auth.changes import Changes
from mcp_auth.errors import CodeRejected
from mcp_auth.kinds import KINDS, again_for
from mcp_auth.links import tickets
from mcp_auth.links.policy import Policy
from mcp_auth.links.verification import LinkVerifier, binding_of
from mcp_auth.outcome import Next
from mcp_auth.records import Linked, sha256
from mcp_auth.requester import asked_by
from mcp_auth.states import CONTINUED, RELEASED, SHOWS_CODE, UNPROVEN
from mcp_auth.stores.base import Store

CODE_ATTEMPTS = 5

L = TypeVar("L", bound=Linked)


@dataclass(eq=False, repr=False)
class Codes:
    """Takes codes. Five wrong ones end what they were sent for."""

    store: Store
    policy: Policy
    verifier: LinkVerifier
    changes: Changes
    clock: Callable[[], float] = time.time

    async def confirm(self, text: str, principal: str, *, private: bool) -> Linked:
        """Take a code that `principal` sent. Releases the browser that shows it.

        Args:
            private: nobody else reads the chat where it was sent.

        Raises:
            CodeRejected: no such code, an old one, not in private, or a code is no proof here.
            WrongPerson: the code is somebody else's; that sign-in is over. NotAllowed: revoked meanwhile.
        """
        try:
            meant, code = await self._find_meant(text, principal, private=private)
            return await self._prove(meant, code)
        except CodeRejected:
            self.changes.write_wrong_code(principal, doing="confirm")
            raise

    async def review(self, text: str, principal: str, *, private: bool) -> Linked:
        """What a code that `principal` sent would confirm. Confirms nothing: anybody can send somebody a link with one.

        Raises:
            As `confirm`.
        """
        try:
            meant, _ = await self._find_meant(text, principal, private=private)
            if self.clock() >= binding_of(meant).code_expires_at:
                raise _too_old()
        except CodeRejected:
            self.changes.write_wrong_code(principal, doing="review")
            raise
        # Looking is no guess.
        await self._uncount(meant)
        return meant

    async def _find_meant(self, text: str, principal: str, *, private: bool) -> tuple[Linked, str]:
        """The record whose page shows this code, and the code; a wrong one is counted."""
        code = tickets.typed_code(text)
        if code is None:
            raise CodeRejected(
                "A code has eight characters; copy it from the page.", next_step=Next("confirm", arguments=("CODE",))
            )
        await self._check_nobody_elses(code, principal)
        if not self.verifier.takes_codes:
            raise CodeRejected("A code is no proof here: the page asks you to log in.", next_step=Next("auth"))
        mine = await self._continued(principal=principal)
        if any(_is_voided(code, record) for record in mine):
            # It was right before, so it is no guess.
            raise CodeRejected(
                "That code no longer counts: a newer page or code took its place.",
                next_step=Next("confirm", arguments=("CODE",), around="{}, with the code of the newest page"),
            )
        mine = [record for record in mine if record.status in SHOWS_CODE and binding_of(record).code is not None]
        if not mine:
            raise _no_page()
        if not private:
            raise CodeRejected(
                "A code counts only in a private chat; it was not used.", next_step="send it to me there"
            )
        counted = [one for one in [await self._count_attempt(record) for record in mine] if one is not None]
        meant = next((record for record in counted if tickets.is_same(code, binding_of(record).code)), None)
        if meant is None:
            raise await self._reject(counted) if counted else _no_page()
        # The right code of one page is no guess at the others: whoever signs in to many servers sends many codes.
        for record in counted:
            if record is not meant:
                await self._uncount(record)
        return meant, code

    async def burn(self, text: str, principal: str) -> None:
        """End what shows the code that `principal` sent, who may confirm nothing. Any other text changes nothing.

        Raises:
            WrongPerson: it was such a code.
        """
        code = tickets.typed_code(text)
        if code is not None:
            await self._check_nobody_elses(code, principal)

    async def _continued(self, *, principal: str | None = None, code: str | None = None) -> list[Linked]:
        """The records whose page shows a code right now, or has shown one: a person's, or those of this code."""
        now, digest = self.clock(), None if code is None else sha256(code)
        views = [self.store.links(kind) for kind in KINDS]
        found = [one for view in views for one in await view.open(principal=principal, code=digest)]
        return [one for one in found if one.status in CONTINUED and one.expires_at > now and one.binding is not None]

    async def _check_nobody_elses(self, code: str, principal: str) -> None:
        """A code that counts no more was seen in somebody else's hands all the same."""
        for record in await self._continued(code=code):
            asked = record.origin.principal
            if asked == principal:
                continue
            if self.policy.is_same_person(asked, principal):
                # Nobody else's hands: only another of the same person's.
                name, place = asked_by(asked, "")
                raise CodeRejected(
                    f"You asked for that with another account of yours ({place or name}), and only that one can "
                    "confirm it. Nothing was changed.",
                    next_step="send the code from there",
                )
            raise await self.verifier.end_as_stolen(record, principal)

    async def _count_attempt(self, record: L) -> L | None:
        """The record with one more attempt on it, stored before the code is compared: guesses cannot run beside."""
        is_counted = False

        async def count(record: L) -> L | None:
            nonlocal is_counted
            binding = binding_of(record)
            is_counted = record.status in SHOWS_CODE and binding.attempts < CODE_ATTEMPTS
            if not is_counted:
                return None
            more = msgspec.structs.replace(binding, attempts=binding.attempts + 1)
            return msgspec.structs.replace(record, binding=more)

        counted = await self.verifier.update(record, count)
        return counted if is_counted else None

    async def _uncount(self, record: L) -> None:
        async def uncount(record: L) -> L | None:
            binding = binding_of(record)
            if record.status not in SHOWS_CODE or binding.attempts == 0:
                return None
            fewer = msgspec.structs.replace(binding, attempts=binding.attempts - 1)
            return msgspec.structs.replace(record, binding=fewer)

        await self.verifier.update(record, uncount)

    async def _prove(self, record: L, code: str) -> L:
        async def prove(record: L) -> L | None:
            binding = binding_of(record)
            if record.status in RELEASED and binding.proof == "code":
                # The same code was sent twice in one moment.
                return None
            if record.status not in SHOWS_CODE or not tickets.is_same(code, binding.code):
                raise _no_page()
            if self.clock() >= binding.code_expires_at:
                raise _too_old()
            await self.verifier.decide(record)
            binding = msgspec.structs.replace(binding, proof="code", code=None, code_nonce=None)
            proven = msgspec.structs.replace(record, binding=binding)
            # A last page goes on when its button is pressed.
            return self.verifier.release(proven) if record.status in UNPROVEN else proven

        return await self.verifier.update(record, prove)

    async def _reject(self, counted: list[Linked]) -> CodeRejected:
        left = 0
        for record in counted:
            tries = CODE_ATTEMPTS - binding_of(record).attempts
            left = max(left, tries)
            if tries <= 0:
                sentence = f"Five wrong codes were sent for {record.server}, so it was stopped."
                await self.verifier.end(record, CodeRejected(sentence, next_step=again_for(record)))
        if left == 0:
            return CodeRejected("That was the fifth wrong code, so it was stopped.", next_step=Next("auth"))
        tries_left = "1 try is" if left == 1 else f"{left} tries are"
        return CodeRejected(f"That code is wrong; {tries_left} left.", next_step="read it once more from the page")


def _is_voided(code: str, record: Linked) -> bool:
    return any(tickets.is_same(code, digest) for digest in binding_of(record).voided)


def _too_old() -> CodeRejected:
    return CodeRejected("That code is older than five minutes.", next_step="take the new one from the page")


def _no_page() -> CodeRejected:
    return CodeRejected("No page of yours waits for a code.", next_step=Next("auth"))
