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
from enum import StrEnum
from typing import Any, Protocol, TypeVar, cast

import msgspec

from mcp_auth.changes import Changes
from mcp_auth.config.models import GatewayOptions
from mcp_auth.errors import (
    CallbackRejected,
    CodeRejected,
    McpAuthError,
    NotAllowed,
    NotConfirmedYet,
    NotProven,
    OtherBrowser,
    UnknownSignIn,
    WrongPerson,
)
from mcp_auth.kinds import KINDS, LinkKind, again_for, kind_of
from mcp_auth.links import tickets
from mcp_auth.links.policy import Policy, PolicyDecision
from mcp_auth.outcome import Next
from mcp_auth.records import Gate, KeptIn, Linked, SignIn, Visit, sha256
from mcp_auth.requester import asked_by
from mcp_auth.states import CONTINUED, IN_FLIGHT, OPEN, RELEASED, SHOWS_CODE, UNPROVEN, stepped
from mcp_auth.stores.base import Store
from mcp_auth.stores.updates import update

CODE_LIFETIME = 300.0
CODE_ATTEMPTS = 5
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


class LinkView(Protocol[L]):
    """The store's view of one kind of link."""

    async def get(self, id: str) -> L | None: ...

    async def put_if(self, record: L) -> L | None: ...


def view_of(store: Store, record: L) -> LinkView[L]:
    """Where this record is stored."""
    return cast("LinkView[L]", getattr(store, kind_of(record).view))


class Gatekeeper:
    """Opens links for one browser each, and takes the codes.

    Args:
        policy: asked when a link is opened, and at its end.
        authorizers: by kind, what a record goes through before it is stored as `confirmed`.
    """

    def __init__(
        self,
        gateway: GatewayOptions,
        store: Store,
        policy: Policy,
        authorizers: Mapping[LinkKind, Authorizer],
        changes: Changes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Else only a login may be the proof.
        self._takes_codes = gateway.verify != "browser"
        self._store = store
        self._policy = policy
        self._authorizers = authorizers
        self._changes = changes
        self._clock = clock

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
            decision = await self._decide(record)
            if identity is not None and not self._policy.is_same_person(record.origin.principal, identity):
                raise await self._burned(record, identity)
            if decision.needs_proof and identity is None and not self._takes_codes and not logins:
                raise NotProven("Sign in to the application itself first, in this browser.")
            gate = _gate(record)
            if is_bound_anew:
                gate = self._bound(gate, ticket, browser, kept_in, visit)
                gate = self._with_code(gate, browser) if self._takes_codes and is_early else gate
            proof: Any = "browser" if identity is not None and is_early else None
            opened = stepped(record, "opened", self._clock(), gate=msgspec.structs.replace(gate, proof=proof))
            may_go_on = proof is not None or not decision.needs_proof or not is_early
            return self._release(opened) if may_go_on else opened

        stored = await self._update(record, bind)
        if is_bound_anew:
            self._changes.write_continued(stored)
        return stored

    async def renew_code(self, record: L, ticket: str, browser: str) -> L:
        """A new code for the bound browser, when the old one is over and a code may be the proof.

        Wrong ones stay counted.

        Raises:
            OtherBrowser.
        """

        async def renew(record: L) -> L | None:
            if self.stage(record, ticket, browser) is not Stage.CODE or not self._takes_codes:
                return None
            return msgspec.structs.replace(record, gate=self._with_code(_gate(record), browser))

        return await self._update(record, renew)

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
            decision = await self._decide(sign_in)
            if identity is not None and not self._policy.is_same_person(sign_in.origin.principal, identity):
                raise await self._burned(sign_in, identity)
            if decision.needs_proof and identity is None and not self._takes_codes:
                raise NotProven("Sign in to the application itself first, in this browser, and load this page again.")
            secret = tickets.new_secret()
            gate = msgspec.structs.replace(
                _voided(_gate(sign_in)), answer=tickets.last_page(secret, code), proof=None, code_nonce=None
            )
            if decision.needs_proof and identity is None:
                gate = self._with_code(gate, secret)
            return stepped(sign_in, "answered", self._clock(), gate=gate)

        return await self._update(sign_in, ask), secret

    async def check_last(self, sign_in: SignIn, code: str, secret: str | None, identity: str | None) -> None:
        """Policy a last page that was sent: is it the newest, may it still be done, and was it proven whose it is?

        Raises:
            CallbackRejected: a newer one counts. NotConfirmedYet: the code has not been sent; nothing was changed.
            WrongPerson, NotAllowed: it ended.
        """
        gate = _gate(sign_in)
        if secret is None or not tickets.is_last_page(secret, code, gate.answer):
            raise CallbackRejected(
                "This page no longer counts: a newer one took its place.", next_step="go on there, or begin again"
            )
        decision = await self._decide(sign_in)
        if identity is not None and not self._policy.is_same_person(sign_in.origin.principal, identity):
            raise await self._burned(sign_in, identity)
        if decision.needs_proof and identity is None and gate.proof is None:
            raise NotConfirmedYet("The code of this page has not been sent in the chat yet.")

    async def show_last_again(self, sign_in: SignIn, code: str, secret: str) -> SignIn | None:
        """The record for a last page that is shown again: with a new code when the old one is over.

        None: this page does not count, or no more.
        """

        def counts(sign_in: SignIn) -> bool:
            gate = _gate(sign_in)
            is_newest = sign_in.status == "answered" and tickets.is_last_page(secret, code, gate.answer)
            return is_newest and (gate.proof is not None or self._takes_codes)

        async def renew(sign_in: SignIn) -> SignIn | None:
            gate = _gate(sign_in)
            is_fresh = gate.code_nonce is not None and self._clock() < gate.code_expires_at
            if not counts(sign_in) or gate.proof is not None or is_fresh:
                return None
            return msgspec.structs.replace(sign_in, gate=self._with_code(gate, secret))

        shown = await self._update(sign_in, renew)
        return shown if counts(shown) else None

    async def confirm(self, text: str, principal: str, *, private: bool) -> Linked:
        """Take a code that `principal` sent. Releases the browser that shows it.

        Args:
            private: nobody else reads the chat where it was sent.

        Raises:
            CodeRejected: no such code, an old one, not in private, or a code is no proof here.
            WrongPerson: the code is somebody else's; that sign-in is over. NotAllowed: revoked meanwhile.
        """
        try:
            meant, code = await self._meant(text, principal, private=private)
            return await self._confirmed(meant, code)
        except CodeRejected:
            self._changes.write_wrong_code(principal, doing="confirm")
            raise

    async def review(self, text: str, principal: str, *, private: bool) -> Linked:
        """What a code that `principal` sent would confirm. Confirms nothing: anybody can send somebody a link with one.

        Raises:
            As `confirm`.
        """
        try:
            meant, _ = await self._meant(text, principal, private=private)
            if self._clock() >= _gate(meant).code_expires_at:
                raise _too_old()
        except CodeRejected:
            self._changes.write_wrong_code(principal, doing="review")
            raise
        # Looking is no guess.
        await self._uncount(meant)
        return meant

    async def _meant(self, text: str, principal: str, *, private: bool) -> tuple[Linked, str]:
        """The record whose page shows this code, and the code; a wrong one is counted."""
        code = tickets.typed_code(text)
        if code is None:
            raise CodeRejected(
                "A code has eight characters; copy it from the page.", next_step=Next("confirm", arguments=("CODE",))
            )
        await self._check_nobody_elses(code, principal)
        if not self._takes_codes:
            raise CodeRejected("A code is no proof here: the page asks you to log in.", next_step=Next("auth"))
        mine = await self._continued(principal=principal)
        if any(_is_voided(code, record) for record in mine):
            # It was right before, so it is no guess.
            raise CodeRejected(
                "That code no longer counts: a newer page or code took its place.",
                next_step=Next("confirm", arguments=("CODE",), around="{}, with the code of the newest page"),
            )
        mine = [record for record in mine if record.status in SHOWS_CODE and _gate(record).code is not None]
        if not mine:
            raise _no_page()
        if not private:
            raise CodeRejected(
                "A code counts only in a private chat; it was not used.", next_step="send it to me there"
            )
        counted = [one for one in [await self._counted(record) for record in mine] if one is not None]
        meant = next((record for record in counted if tickets.is_same(code, _gate(record).code)), None)
        if meant is None:
            raise await self._wrong(counted) if counted else _no_page()
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

    async def check_end(self, record: Linked, browser: str | None) -> None:
        """Policy once more, at the end: the right browser, an allowed person, and the proof if one is needed by now.

        Raises:
            OtherBrowser, NotAllowed, NotProven. The last two end the record.
        """
        gate = _gate(record)
        if browser is None or not tickets.is_same(browser, gate.browser):
            raise _other_browser()
        await self.check_still(record, may_be_unproven=gate.proof is not None)

    async def check_still(self, record: Linked, *, may_be_unproven: bool) -> None:
        """Policy once more, at the end: an allowed person, and the proof if one is needed by now.

        Raises:
            NotAllowed, NotProven. Both end the record.
        """
        decision = await self._decide(record)
        needs_proof = decision.needs_page if record.gate is None else decision.needs_proof
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
        gate = _gate(record)
        is_bound = browser is not None and tickets.is_same(browser, gate.browser)
        if record.status not in OPEN:
            return Stage.ENDED
        if not is_bound and gate.opened is not None and tickets.is_same(ticket, gate.opened):
            raise _other_browser()
        if record.status in IN_FLIGHT:
            return Stage.WORKING
        if not is_bound:
            # A newer ticket may move the sign-in to another browser: only who asked in the chat has it.
            return Stage.START
        # From a last page, too, the way leads to the authorization server again: it is asked anew.
        return Stage.GO if record.status in RELEASED else Stage.CODE

    def is_bound(self, record: Linked, browser: str | None) -> bool:
        return browser is not None and tickets.is_same(browser, _gate(record).browser)

    def add_ticket(self, record: L) -> tuple[L, str]:
        """The record with one more ticket, not yet stored. Earlier ones work until one is opened."""
        gate = record.gate or Gate()
        ticket = tickets.new_ticket(record.id)
        # The opened one stays whatever comes, or its browser would lose its page.
        older = [digest for digest in gate.tickets if digest != gate.opened][-_TICKETS_KEPT + 1 :]
        kept = [gate.opened] if gate.opened is not None else []
        changed = msgspec.structs.replace(gate, tickets=(*kept, *older, sha256(ticket)))
        return msgspec.structs.replace(record, gate=changed), ticket

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

        return await self._update(record, add), ticket

    def knows(self, record: Linked, ticket: str) -> bool:
        gate = record.gate
        return gate is not None and any(tickets.is_same(ticket, digest) for digest in gate.tickets)

    async def end(self, record: L, why: E) -> E:
        """End the record as failed, unless it has ended already. Returns `why`."""
        is_ended_here = False

        async def fail(record: L) -> L | None:
            nonlocal is_ended_here
            is_ended_here = record.status in OPEN
            if not is_ended_here:
                return None
            return stepped(record, "failed", self._clock(), end=why.outcome)

        ended = await self._update(record, fail)
        if is_ended_here:
            self._changes.end(ended)
        return why

    async def again(self, record: L) -> L:
        """The record as it is stored now.

        Raises:
            UnknownSignIn: a newer one took its place.
        """
        current = await view_of(self._store, record).get(record.id)
        if current is None or current.created_at != record.created_at:
            raise UnknownSignIn("This link has been replaced by a newer one.", next_step=Next("auth", record.server))
        return current

    # -- inside ------------------------------------------------------------------------------

    async def _decide(self, record: Linked) -> PolicyDecision:
        decision = await self._policy.decide(record.origin.principal, record.server, record.owner)
        if decision.allowed:
            return decision
        sentence = f"The person who asked may no longer do this at {record.server}; nothing was finished."
        raise await self.end(record, NotAllowed(sentence))

    def _bound(self, gate: Gate, ticket: str, browser: str, kept_in: KeptIn, visit: Visit | None) -> Gate:
        """Bound anew: nothing that was shown or proven in another browser goes along."""
        digest = sha256(ticket)
        return Gate(
            tickets=(digest,),
            opened=digest,
            browser=sha256(browser),
            kept_in=kept_in,
            visit=visit,
            voided=_voided(gate).voided,
            attempts=gate.attempts,
        )

    def _with_code(self, gate: Gate, browser: str) -> Gate:
        nonce = tickets.new_secret()
        code = sha256(tickets.code_for(browser, nonce))
        return msgspec.structs.replace(
            _voided(gate), code=code, code_nonce=nonce, code_expires_at=self._clock() + CODE_LIFETIME
        )

    def _release(self, record: L) -> L:
        gate = msgspec.structs.replace(_gate(record), code=None, code_nonce=None)
        confirmed = stepped(record, "confirmed", self._clock(), gate=gate)
        authorizer = self._authorizers.get(kind_of(record))
        return confirmed if authorizer is None else cast(L, authorizer.authorize(confirmed))

    async def _continued(self, *, principal: str | None = None, code: str | None = None) -> list[Linked]:
        """The records whose page shows a code right now, or has shown one: a person's, or those of this code."""
        now, digest = self._clock(), None if code is None else sha256(code)
        views = [getattr(self._store, kind.view) for kind in KINDS]
        found = [one for view in views for one in await view.open(principal=principal, code=digest)]
        return [one for one in found if one.status in CONTINUED and one.expires_at > now and one.gate is not None]

    async def _check_nobody_elses(self, code: str, principal: str) -> None:
        """A code that counts no more was seen in somebody else's hands all the same."""
        for record in await self._continued(code=code):
            asked = record.origin.principal
            if asked == principal:
                continue
            if self._policy.is_same_person(asked, principal):
                # Nobody else's hands: only another of the same person's.
                name, place = asked_by(asked, "")
                raise CodeRejected(
                    f"You asked for that with another account of yours ({place or name}), and only that one can "
                    "confirm it. Nothing was changed.",
                    next_step="send the code from there",
                )
            raise await self._burned(record, principal)

    async def _counted(self, record: L) -> L | None:
        """The record with one more attempt on it, stored before the code is compared: guesses cannot run beside."""
        is_counted = False

        async def count(record: L) -> L | None:
            nonlocal is_counted
            gate = _gate(record)
            is_counted = record.status in SHOWS_CODE and gate.attempts < CODE_ATTEMPTS
            if not is_counted:
                return None
            more = msgspec.structs.replace(gate, attempts=gate.attempts + 1)
            return msgspec.structs.replace(record, gate=more)

        counted = await self._update(record, count)
        return counted if is_counted else None

    async def _uncount(self, record: L) -> None:
        async def uncount(record: L) -> L | None:
            gate = _gate(record)
            if record.status not in SHOWS_CODE or gate.attempts == 0:
                return None
            fewer = msgspec.structs.replace(gate, attempts=gate.attempts - 1)
            return msgspec.structs.replace(record, gate=fewer)

        await self._update(record, uncount)

    async def _confirmed(self, record: L, code: str) -> L:
        async def prove(record: L) -> L | None:
            gate = _gate(record)
            if record.status in RELEASED and gate.proof == "code":
                # The same code was sent twice in one moment.
                return None
            if record.status not in SHOWS_CODE or not tickets.is_same(code, gate.code):
                raise _no_page()
            if self._clock() >= gate.code_expires_at:
                raise _too_old()
            await self._decide(record)
            gate = msgspec.structs.replace(gate, proof="code", code=None, code_nonce=None)
            proven = msgspec.structs.replace(record, gate=gate)
            # A last page goes on when its button is pressed.
            return self._release(proven) if record.status in UNPROVEN else proven

        return await self._update(record, prove)

    async def _wrong(self, counted: list[Linked]) -> CodeRejected:
        left = 0
        for record in counted:
            tries = CODE_ATTEMPTS - _gate(record).attempts
            left = max(left, tries)
            if tries <= 0:
                sentence = f"Five wrong codes were sent for {record.server}, so it was stopped."
                await self.end(record, CodeRejected(sentence, next_step=again_for(record)))
        if left == 0:
            return CodeRejected("That was the fifth wrong code, so it was stopped.", next_step=Next("auth"))
        tries_left = "1 try is" if left == 1 else f"{left} tries are"
        return CodeRejected(f"That code is wrong; {tries_left} left.", next_step="read it once more from the page")

    async def _burned(self, record: Linked, by: str) -> WrongPerson:
        """The link was in somebody else's hands: it ends, and both learn of it."""
        sentence = (
            f"Somebody else opened the link for {record.server}, so it was stopped. "
            "A link is for the person who asked for it only."
        )
        await self.end(record, WrongPerson(sentence, next_step=again_for(record)))
        self._changes.write_burned(record, by)
        return WrongPerson(
            "That belongs to something another person began, and it was stopped: whoever sent you that link would "
            "have got access to your account.",
            next_step=Next("auth", around="do not open such links; your own begins with {}"),
        )

    async def _update(self, record: L, edit: Callable[[L], Awaitable[L | None]]) -> L:
        view = view_of(self._store, record)
        return await update(record.server, lambda: self.again(record), edit, view.put_if, start=record)


def goes_on_by_itself(record: Linked) -> bool:
    """Whether the page follows a confirmed code by itself: with script, it does."""
    return record.gate is None or record.gate.kept_in == "storage"


def _gate(record: Linked) -> Gate:
    if record.gate is None:
        raise ValueError("this record is not reached by a link of ours")
    return record.gate


def _voided(gate: Gate) -> Gate:
    """Without its code, which counts no more."""
    if gate.code is None:
        return gate
    return msgspec.structs.replace(gate, code=None, voided=(*gate.voided, gate.code)[-_VOIDED_KEPT:])


def _is_voided(code: str, record: Linked) -> bool:
    return any(tickets.is_same(code, digest) for digest in _gate(record).voided)


def _other_browser() -> OtherBrowser:
    return OtherBrowser(
        "The link was opened there first, or this browser no longer has what it kept for it. Nothing was changed.",
        next_step="ask for a new link in the chat",
    )


def _too_old() -> CodeRejected:
    return CodeRejected("That code is older than five minutes.", next_step="take the new one from the page")


def _no_page() -> CodeRejected:
    return CodeRejected("No page of yours waits for a code.", next_step=Next("auth"))
