"""The same person in chat and browser: which browser a link is bound to, and how it is proven whose browser that is.

A link can be forwarded. So a link of ours opens for one browser, and goes on only after the proof: a code that
this browser shows and that the person who asked sends in the chat, or an identity that was proven in the browser.

Cookies know no ports: whoever runs another service on the same host can plant one. So a browser with script is bound
by a secret that its script keeps and posts. Without script, a sign-in's browser is bound by a cookie, which is no proof
of anything: it is asked for on the last page, in that response alone, just before the code is exchanged.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar, cast

import msgspec

from mcp_auth.changes import Changes
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import (
    CallbackRejected,
    McpAuthError,
    NotAllowed,
    NotConfirmedYet,
    NotProven,
    OtherBrowser,
    UnknownSignIn,
    WrongPerson,
)
from mcp_auth.kinds import LinkKind, again_for, kind_of
from mcp_auth.links import tickets
from mcp_auth.links.policy import Policy, PolicyDecision
from mcp_auth.outcome import Next
from mcp_auth.records import BrowserBinding, KeptIn, Linked, SignIn, Visit, sha256
from mcp_auth.states import IN_FLIGHT, OPEN, RELEASED, stepped
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

CODE_LIFETIME = 300.0
_TICKETS_KEPT = 5
_VOIDED_KEPT = 16

L = TypeVar("L", bound=Linked)
E = TypeVar("E", bound=McpAuthError)


class Stage(StrEnum):
    """What a browser with a good ticket is shown."""

    START = "start"
    CODE = "code"
    GO = "go"
    WORKING = "working"
    ENDED = "ended"


class Authorizer(Protocol):
    """Makes what the browser of a kind of link needs to go on, `mcp_auth.oauth.sign_in.SignIns` for one."""

    def authorize(self, record: Any) -> Any:
        """The record with which its browser may go on, not yet stored."""
        ...


@dataclass(eq=False, repr=False)
class LinkVerifier:
    """Opens links for one browser each. `takes_codes`: a code may be the proof, and not a login alone.

    Args:
        policy: asked when a link is opened, and at its end.
        authorizers: by kind, what a record goes through before it is stored as `confirmed`.
    """

    gateway: GatewayOptions
    store: Store
    policy: Policy
    authorizers: Mapping[LinkKind, Authorizer]
    changes: Changes
    clock: Callable[[], float] = time.time

    @property
    def takes_codes(self) -> bool:
        return self.gateway.verify != "browser"

    async def open(
        self,
        record: L,
        ticket: str,
        browser: str,
        kept_in: KeptIn,
        *,
        identity: str | None = None,
        logins: bool = False,
        visit: Visit | None = None,
    ) -> L:
        """Continue was pressed: bind `browser`, and let it go on or show it how to prove itself.

        Args:
            browser: the secret by which it is known from now on. `kept_in`: where it keeps it.
            identity: the principal proven in the browser, if any.
            logins: whether the page offers a platform's login.
            visit: what is known of the browser, for the person who is asked in the chat.

        Raises:
            OtherBrowser: the link is bound to another one. NotProven: a proof is needed, and none is to be had here.
            WrongPerson: somebody else is signed in here; the record ended. NotAllowed: revoked meanwhile.
        """
        # Whoever planted the cookie would know an early code: there, the proof is asked for on the last page.
        is_early = kept_in != "cookie"
        is_bound_anew = False

        async def bind(record: L) -> L | None:
            nonlocal is_bound_anew
            stage = self.stage(record, ticket, browser)
            is_bound_anew = stage is Stage.START
            if not is_bound_anew and not (stage is Stage.CODE and identity is not None):
                return None
            decision = await self.decide(record)
            if identity is not None and not self.policy.is_same_person(record.origin.principal, identity):
                raise await self.end_as_stolen(record, identity)
            if decision.needs_proof and identity is None and not self.takes_codes and not logins:
                raise NotProven("Sign in to the application itself first, in this browser.")
            binding = binding_of(record)
            if is_bound_anew:
                binding = self._bind(binding, ticket, browser, kept_in, visit)
                binding = self._with_code(binding, browser) if self.takes_codes and is_early else binding
            proof: Any = "browser" if identity is not None and is_early else None
            opened = stepped(record, "opened", self.clock(), binding=msgspec.structs.replace(binding, proof=proof))
            may_go_on = proof is not None or not decision.needs_proof or not is_early
            return self.release(opened) if may_go_on else opened

        stored = await self.update(record, bind)
        if is_bound_anew:
            self.changes.write_continued(stored)
        return stored

    async def renew_code(self, record: L, ticket: str, browser: str) -> L:
        """A new code for the bound browser, when the old one is over and a code may be the proof.

        Wrong ones stay counted.

        Raises:
            OtherBrowser.
        """

        async def renew(record: L) -> L | None:
            if self.stage(record, ticket, browser) is not Stage.CODE or not self.takes_codes:
                return None
            return msgspec.structs.replace(record, binding=self._with_code(binding_of(record), browser))

        return await self.update(record, renew)

    async def ask_last(self, sign_in: SignIn, code: str, *, identity: str | None = None) -> tuple[SignIn, str]:
        """The authorization server has answered a browser without script: a last page, and its one-time secret.

        Every earlier last page, and what was proven on it, counts no more.

        Args:
            code: the authorization server's.
            identity: as in `open`.

        Raises:
            WrongPerson, NotAllowed: it ended. NotProven: nothing was changed. UnknownSignIn: it waits for no answer.
        """
        secret = ""

        async def ask(sign_in: SignIn) -> SignIn:
            nonlocal secret
            if sign_in.status not in RELEASED:
                raise UnknownSignIn("This sign-in waits for no answer.", next_step=again_for(sign_in))
            decision = await self.decide(sign_in)
            if identity is not None and not self.policy.is_same_person(sign_in.origin.principal, identity):
                raise await self.end_as_stolen(sign_in, identity)
            if decision.needs_proof and identity is None and not self.takes_codes:
                raise NotProven("Sign in to the application itself first, in this browser, and load this page again.")
            secret = tickets.new_secret()
            binding = msgspec.structs.replace(
                _voided(binding_of(sign_in)), answer=tickets.last_page(secret, code), proof=None, code_nonce=None
            )
            if decision.needs_proof and identity is None:
                binding = self._with_code(binding, secret)
            return stepped(sign_in, "answered", self.clock(), binding=binding)

        return await self.update(sign_in, ask), secret

    async def check_last(self, sign_in: SignIn, code: str, secret: str | None, identity: str | None) -> None:
        """Check a last page that was sent: is it the newest, may it still be done, and was it proven whose it is?

        Raises:
            CallbackRejected: a newer one counts. NotConfirmedYet: the code has not been sent; nothing was changed.
            WrongPerson, NotAllowed: it ended.
        """
        binding = binding_of(sign_in)
        if secret is None or not tickets.is_last_page(secret, code, binding.answer):
            raise CallbackRejected(
                "This page no longer counts: a newer one took its place.", next_step="go on there, or begin again"
            )
        decision = await self.decide(sign_in)
        if identity is not None and not self.policy.is_same_person(sign_in.origin.principal, identity):
            raise await self.end_as_stolen(sign_in, identity)
        if decision.needs_proof and identity is None and binding.proof is None:
            raise NotConfirmedYet("The code of this page has not been sent in the chat yet.")

    async def show_last_again(self, sign_in: SignIn, code: str, secret: str) -> SignIn | None:
        """The record for a last page that is shown again: with a new code when the old one is over.

        None: this page does not count, or no more.
        """

        def counts(sign_in: SignIn) -> bool:
            binding = binding_of(sign_in)
            is_newest = sign_in.status == "answered" and tickets.is_last_page(secret, code, binding.answer)
            return is_newest and (binding.proof is not None or self.takes_codes)

        async def renew(sign_in: SignIn) -> SignIn | None:
            binding = binding_of(sign_in)
            is_fresh = binding.code_nonce is not None and self.clock() < binding.code_expires_at
            if not counts(sign_in) or binding.proof is not None or is_fresh:
                return None
            return msgspec.structs.replace(sign_in, binding=self._with_code(binding, secret))

        shown = await self.update(sign_in, renew)
        return shown if counts(shown) else None

    async def check_end(self, record: Linked, browser: str | None) -> None:
        """Check once more, at the end: the right browser, an allowed person, and the proof if one is needed by now.

        Raises:
            OtherBrowser, NotAllowed, NotProven. The last two end the record.
        """
        binding = binding_of(record)
        if browser is None or not tickets.is_same(browser, binding.browser):
            raise _other_browser()
        await self.check_still(record, may_be_unproven=binding.proof is not None)

    async def check_still(self, record: Linked, *, may_be_unproven: bool) -> None:
        """Check once more, at the end: an allowed person, and the proof if one is needed by now.

        Raises:
            NotAllowed, NotProven. Both end the record.
        """
        decision = await self.decide(record)
        needs_proof = decision.needs_page if record.binding is None else decision.needs_proof
        if needs_proof and not may_be_unproven:
            sentence = "By now it has to be proven who sits at the browser, so this was not finished."
            raise await self.end(
                record, NotProven(sentence, server=record.server, next_step=Next("auth", record.server))
            )

    def stage(self, record: Linked, ticket: str, browser: str | None) -> Stage:
        """What this browser is shown for this ticket. Changes nothing.

        Raises:
            OtherBrowser: another browser is bound, and this ticket is the one that bound it.
        """
        binding = binding_of(record)
        is_bound = browser is not None and tickets.is_same(browser, binding.browser)
        if record.status not in OPEN:
            return Stage.ENDED
        if not is_bound and binding.opened is not None and tickets.is_same(ticket, binding.opened):
            raise _other_browser()
        if record.status in IN_FLIGHT:
            return Stage.WORKING
        if not is_bound:
            # A newer ticket may move the sign-in to another browser: only who asked in the chat has it.
            return Stage.START
        # From a last page, too, the way leads to the authorization server again: it is asked anew.
        return Stage.GO if record.status in RELEASED else Stage.CODE

    def is_bound(self, record: Linked, browser: str | None) -> bool:
        return browser is not None and tickets.is_same(browser, binding_of(record).browser)

    def add_ticket(self, record: L) -> tuple[L, str]:
        """The record with one more ticket, not yet stored. Earlier ones work until one is opened."""
        binding = record.binding or BrowserBinding()
        ticket = tickets.new_ticket(record.id)
        # The opened one stays whatever comes, or its browser would lose its page.
        older = [digest for digest in binding.tickets if digest != binding.opened][-_TICKETS_KEPT + 1 :]
        kept = [binding.opened] if binding.opened is not None else []
        changed = msgspec.structs.replace(binding, tickets=(*kept, *older, sha256(ticket)))
        return msgspec.structs.replace(record, binding=changed), ticket

    async def issue_ticket(self, record: L) -> tuple[L, str]:
        """One more ticket of a stored record.

        Raises:
            UnknownSignIn: a newer record took its place. StoreError.
        """
        ticket = ""

        async def add(record: L) -> L:
            nonlocal ticket
            changed, ticket = self.add_ticket(record)
            return changed

        return await self.update(record, add), ticket

    def knows(self, record: Linked, ticket: str) -> bool:
        binding = record.binding
        return binding is not None and any(tickets.is_same(ticket, digest) for digest in binding.tickets)

    async def end(self, record: L, why: E) -> E:
        """End the record as failed, unless it has ended already. Returns `why`."""
        is_ended_here = False

        async def fail(record: L) -> L | None:
            nonlocal is_ended_here
            is_ended_here = record.status in OPEN
            if not is_ended_here:
                return None
            return stepped(record, "failed", self.clock(), end=why.outcome)

        ended = await self.update(record, fail)
        if is_ended_here:
            self.changes.end(ended)
        return why

    async def again(self, record: L) -> L:
        """The record as it is stored now.

        Raises:
            UnknownSignIn: a newer one took its place.
        """
        current: L | None = await self.store.links(kind_of(record)).get(record.id)
        if current is None or current.created_at != record.created_at:
            raise UnknownSignIn("This link has been replaced by a newer one.", next_step=Next("auth", record.server))
        return current

    async def decide(self, record: Linked) -> PolicyDecision:
        """What the policy says of the person who asked.

        Raises:
            NotAllowed: that person may not do this any more; the record ended.
        """
        decision = await self.policy.decide(record.origin.principal, record.server, record.owner)
        if decision.allowed:
            return decision
        sentence = f"The person who asked may no longer do this at {record.server}; nothing was finished."
        raise await self.end(record, NotAllowed(sentence))

    def _bind(
        self, binding: BrowserBinding, ticket: str, browser: str, kept_in: KeptIn, visit: Visit | None
    ) -> BrowserBinding:
        """Bound anew: nothing that was shown or proven in another browser goes along."""
        digest = sha256(ticket)
        return BrowserBinding(
            tickets=(digest,),
            opened=digest,
            browser=sha256(browser),
            kept_in=kept_in,
            visit=visit,
            voided=_voided(binding).voided,
            attempts=binding.attempts,
        )

    def _with_code(self, binding: BrowserBinding, browser: str) -> BrowserBinding:
        nonce = tickets.new_secret()
        code = sha256(tickets.code_for(browser, nonce))
        return msgspec.structs.replace(
            _voided(binding), code=code, code_nonce=nonce, code_expires_at=self.clock() + CODE_LIFETIME
        )

    def release(self, record: L) -> L:
        """The record whose browser may go on, not yet stored."""
        binding = msgspec.structs.replace(binding_of(record), code=None, code_nonce=None)
        confirmed = stepped(record, "confirmed", self.clock(), binding=binding)
        authorizer = self.authorizers.get(kind_of(record))
        return confirmed if authorizer is None else cast(L, authorizer.authorize(confirmed))

    async def end_as_stolen(self, record: Linked, by: str) -> WrongPerson:
        """The link was in somebody else's hands: it ends, and both learn of it."""
        sentence = (
            f"Somebody else opened the link for {record.server}, so it was stopped. "
            "A link is for the person who asked for it only."
        )
        await self.end(record, WrongPerson(sentence, next_step=again_for(record)))
        self.changes.write_burned(record, by)
        return WrongPerson(
            "That belongs to something another person began, and it was stopped: whoever sent you that link would "
            "have got access to your account.",
            next_step=Next("auth", around="do not open such links; your own begins with {}"),
        )

    async def update(self, record: L, edit: Callable[[L], Awaitable[L | None]]) -> L:
        """Store what `edit` makes of the record; see `mcp_auth.stores.updates.update`."""
        view = self.store.links(kind_of(record))
        return await update(record.server, lambda: self.again(record), edit, view.put_if, start=record)


def goes_on_by_itself(record: Linked) -> bool:
    """Whether the page follows a confirmed code by itself: with script, it does."""
    return record.binding is None or record.binding.kept_in == "storage"


def binding_of(record: Linked) -> BrowserBinding:
    """Which browser a link of ours is bound to, and how far the proof is."""
    if record.binding is None:
        raise ValueError("this record is not reached by a link of ours")
    return record.binding


def _voided(binding: BrowserBinding) -> BrowserBinding:
    """Without its code, which counts no more."""
    if binding.code is None:
        return binding
    return msgspec.structs.replace(binding, code=None, voided=(*binding.voided, binding.code)[-_VOIDED_KEPT:])


def _other_browser() -> OtherBrowser:
    return OtherBrowser(
        "The link was opened there first, or this browser no longer has what it kept for it. Nothing was changed.",
        next_step="ask for a new link in the chat",
    )
