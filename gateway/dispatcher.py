"""One invocation -> replies. Knows commands, people and `McpAuth`; knows no platform and no markup."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from gateway import error_reports, grammar, policy, sentences
from gateway.bounded_dict import BoundedDict
from gateway.commands import help_rows, spec_of
from gateway.invocations import LOCAL, Capabilities, Invocation, Principal
from gateway.key_prompts import KeyPrompts
from gateway.pairing import Pairing
from gateway.people import People
from gateway.replies import (
    Audience,
    Button,
    ChecklistItem,
    Decision,
    Deferred,
    Ignored,
    Immediate,
    ItemState,
    Modal,
    Reply,
    ServerDetail,
    ServerList,
    Table,
    Text,
    TextModal,
)
from gateway.sign_ins import Board, SignInWatcher, origin_of
from mcp_auth.audit import Event
from mcp_auth.config.models import Config, Server
from mcp_auth.errors import Busy, CodeRejected, McpAuthError, SignInError, StoreError, WrongPerson
from mcp_auth.limits import (
    CODES,
    COMMANDS,
    SERVER_SIGN_INS,
    SERVER_SIGN_INS_EACH,
    SIGN_INS,
    counted_as,
    too_often,
)
from mcp_auth.links.gate import goes_on_by_itself
from mcp_auth.links.tickets import typed_code
from mcp_auth.records import KeyForm
from mcp_auth.status import (
    NEEDS_SIGN_IN,
    AuthState,
    ConnectionState,
    ConnectionStatus,
    ServerStatus,
    wants_sign_in,
)

if TYPE_CHECKING:
    from mcp_auth.core import McpAuth
    from mcp_auth.keys import KeyVariable

_log = logging.getLogger("gateway")
PROBE_SECONDS = 10.0
PROBES_SECONDS = 15.0
# Results that are there by then are shown before the slow ones.
_FIRST_RESULTS_SECONDS = 2.0
_BEGIN_SECONDS = 60.0
_EVENTS_KEPT = 10_000

_USABLE = frozenset({AuthState.SIGNED_IN, AuthState.KEY_SET, AuthState.NONE_NEEDED})
_BARE_PASTE, _BARE_CONFIRM = grammar.ArgumentMissing("paste"), grammar.ArgumentMissing("confirm")


@dataclass(frozen=True, slots=True)
class _Ask:
    """An invocation with what can be done with its answer."""

    invocation: Invocation
    capabilities: Capabilities

    @property
    def principal(self) -> Principal:
        return self.invocation.principal


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
        self._auth = auth
        self._watcher = watcher
        self._people = people
        self._pairing = pairing
        self._clock = clock
        self._prompts = KeyPrompts(auth, watcher.key_stored, clock)
        self._events: BoundedDict[tuple[str, str], None] = BoundedDict(_EVENTS_KEPT)

    @property
    def config(self) -> Config:
        """With the people of this moment."""
        return self._people.config

    def decide(self, invocation: Invocation, capabilities: Capabilities) -> Decision:
        """What a platform has to do before the first reply is there. Pure; from memory."""
        principal = invocation.principal
        if self._is_known_event(invocation):
            return Ignored()
        if not policy.is_allowed(principal, self.config.gateway):
            if self._pairing.is_silent(principal) and not spec_of(self._parse(invocation)).is_proof:
                return Ignored()
            return Immediate(Audience.CALLER if invocation.private else Audience.CHAT)
        command = self._parse(invocation)
        ask = _Ask(invocation, capabilities)
        if isinstance(command, grammar.Key) and command.server and self._may_prompt(ask) and not self._has_forms(ask):
            server = self.config.servers[command.server]
            if policy.may_change(principal, server, self.config):
                return Modal(command.server)
        form = self._form_for(command, principal) if capabilities.modal else None
        if form is not None:
            return form
        spec = spec_of(command)
        return Deferred(spec.audience) if spec.slow else Immediate(spec.audience)

    def _form_for(self, command: grammar.Command, principal: Principal) -> TextModal | None:
        gateway = self.config.gateway
        if command == _BARE_PASTE and policy.may_paste(principal, True, gateway):
            return TextModal("paste")
        if command == _BARE_CONFIRM and gateway.public_url is not None:
            return TextModal("confirm")
        return None

    async def handle(self, invocation: Invocation, capabilities: Capabilities) -> AsyncGenerator[Reply, None]:
        """The replies, each replacing the one before. None for duplicates and for strangers who were told already."""
        if self._is_known_event(invocation):
            return
        self._remember_event(invocation)
        self._people.refresh()
        if not policy.is_allowed(invocation.principal, self.config.gateway):
            reply = await self._warning(invocation) or await self._pairing.answer(invocation)
            if reply is not None:
                yield reply
            return
        command = self._parse(invocation)
        audience = spec_of(command).audience
        wait = self._wait(command, invocation.principal)
        if wait:
            yield _say(too_often(wait), audience, ok=False)
            return
        try:
            async with aclosing(_ANSWERS[type(command)](self, command, _Ask(invocation, capabilities))) as replies:
                async for reply in replies:
                    yield reply
        except McpAuthError as error:
            yield _say(self._told(error, invocation.principal), audience, ok=False)
        except Exception as error:  # noqa: BLE001 - every command answers, whatever happens below
            yield _say(sentences.unexpected(error_reports.note(error)), audience, ok=False)

    async def _warning(self, invocation: Invocation) -> Reply | None:
        """For a stranger who sends a code that one of our pages shows: somebody forwarded them the link."""
        command, principal = self._parse(invocation), str(invocation.principal)
        if not isinstance(command, grammar.Confirm | grammar.ReviewCode) or self._auth.limits.take(CODES, principal):
            return None
        try:
            await self._auth.gatekeeper.burn(command.code, principal)
        except WrongPerson as error:
            return _say(error.message, Audience.CALLER, ok=False)
        except CodeRejected as error:
            # An account of somebody who is allowed with another one.
            return _say(str(error), Audience.CALLER, ok=False)
        except (StoreError, Busy) as error:
            # A stranger is told nothing of this machine.
            _log.error("a stranger's code could not be looked at: %s", error.code)
        return None

    async def submit_secret(self, principal: Principal, prompt_id: str, value: str) -> Reply:
        """The answer to a `SecretPrompt`. Never raises; says what became of it."""
        self._people.refresh()
        if not policy.is_allowed(principal, self.config.gateway):
            return _say(sentences.NOT_SERVED, Audience.CALLER, ok=False)
        try:
            return await self._prompts.submit(principal, prompt_id, value)
        except McpAuthError as error:
            return _say(self._told(error, principal), Audience.CALLER, ok=False)
        except Exception as error:  # noqa: BLE001 - the person waits for an answer
            return _say(sentences.unexpected(error_reports.note(error)), Audience.CALLER, ok=False)

    def _told(self, error: McpAuthError, principal: Principal) -> str:
        """A sentence for whoever asked. Which file is in trouble is told at the terminal, else in the log."""
        if principal == LOCAL:
            return str(error)
        if isinstance(error, StoreError):
            _log.error("%s", error)
        return sentences.error(error)

    def close(self) -> None:
        """Forget what was entered and not stored."""
        self._prompts.close()

    # -- list and detail ---------------------------------------------------------------------

    async def _list(self, command: grammar.ListServers, ask: _Ask) -> AsyncGenerator[Reply, None]:
        statuses = await self._statuses(ask)
        to_probe = [status.name for status in statuses if self._is_probed(status)] if ask.capabilities.edits else []
        yield self._list_reply(statuses, ask, final=not to_probe)
        if not to_probe:
            return
        results: dict[str, ConnectionStatus] = {}
        async with aclosing(self._probe(to_probe, ask, results)) as steps:
            async for _ in steps:
                statuses = await self._statuses(ask, results)
                yield self._list_reply(statuses, ask, final=len(results) == len(to_probe))

    async def _statuses(self, ask: _Ask, results: dict[str, ConnectionStatus] | None = None) -> list[ServerStatus]:
        statuses = await self._auth.statuses(lambda name: self._owner(self.config.servers[name], ask))
        if not results:
            return statuses
        return [replace(one, connection=results.get(one.name, one.connection)) for one in statuses]

    def _is_probed(self, status: ServerStatus) -> bool:
        """Live results never start a command, and without a sign-in there is nothing to find out."""
        server = self.config.servers[status.name]
        return server.url is not None and (status.auth in _USABLE or self._may_have_changed(status))

    def _may_have_changed(self, status: ServerStatus) -> bool:
        """What a look at the server found wrong, and not the configuration: the next look may find otherwise."""
        return status.auth is AuthState.MISCONFIGURED and self.config.servers[status.name].problem is None

    async def _probe(
        self, names: list[str], ask: _Ask, results: dict[str, ConnectionStatus]
    ) -> AsyncGenerator[None, None]:
        """Fill `results`: yields after the quick ones, and when all are there or `PROBES_SECONDS` have passed."""
        servers = self.config.servers
        tasks = {
            asyncio.create_task(self._auth.probe(name, self._owner(servers[name], ask), timeout=PROBE_SECONDS)): name
            for name in names
        }
        try:
            for seconds in (_FIRST_RESULTS_SECONDS, PROBES_SECONDS - _FIRST_RESULTS_SECONDS):
                waiting = [task for task, name in tasks.items() if name not in results]
                done, _ = await asyncio.wait(waiting, timeout=seconds)
                results.update({tasks[task]: task.result() for task in done})
                if len(results) == len(names):
                    break
                if done and seconds == _FIRST_RESULTS_SECONDS:
                    yield None
        finally:
            for task in tasks:
                task.cancel()
        late = ConnectionStatus(ConnectionState.UNREACHABLE, detail=sentences.NO_ANSWER)
        results.update({name: late for name in names if name not in results})
        yield None

    def _list_reply(self, statuses: list[ServerStatus], ask: _Ask, *, final: bool) -> Reply:
        if not statuses:
            return _say(sentences.NO_SERVERS)
        if not ask.invocation.private:
            statuses = [replace(status, account=None) for status in statuses]
        needed = any(wants_sign_in(status) or status.auth is AuthState.KEY_MISSING for status in statuses)
        hint = sentences.HINT_AUTH if needed else None
        buttons = (Button(sentences.BUTTON_AUTH, command="auth"),) if needed else ()
        return Reply((ServerList(tuple(statuses), hint),), buttons=buttons, final=final, title=sentences.TITLE)

    async def _detail(self, command: grammar.Detail, ask: _Ask) -> AsyncGenerator[Reply, None]:
        owner = self._owner(self.config.servers[command.server], ask)
        status = await self._auth.status(command.server, owner)
        live = ask.capabilities.edits and self._is_probed(status)
        yield self._detail_reply(status, final=not live)
        if not live:
            return
        connection = await self._auth.probe(command.server, owner, timeout=PROBE_SECONDS)
        status = await self._auth.status(command.server, owner)
        yield self._detail_reply(replace(status, connection=connection), final=True)

    def _detail_reply(self, status: ServerStatus, *, final: bool) -> Reply:
        facts = sentences.facts(status, self._clock())
        verb, _, _ = (status.next or "").partition(" ")
        label = sentences.BUTTONS.get(verb)
        buttons = (Button(label, command=grammar.command_for(verb, status.name)),) if label else ()
        return Reply(
            (ServerDetail(status, facts),),
            buttons=buttons,
            audience=Audience.CALLER,
            final=final,
            summary=sentences.PRIVATE_ANSWER,
            title=status.name,
        )

    # -- auth --------------------------------------------------------------------------------

    async def _auth_command(self, command: grammar.Auth, ask: _Ask) -> AsyncGenerator[Reply, None]:
        statuses = await self._auth_targets(command, ask)
        if not statuses:
            yield await self._nothing_to_sign_in(ask)
            return
        board = Board(ask.invocation, {})
        to_begin = []
        for status in statuses:
            item = self._first_item(status, named=bool(command.servers), ask=ask)
            board.set(item)
            if item.state is ItemState.PREPARING:
                to_begin.append(status.name)
        if ask.capabilities.edits:
            self._watcher.keep(board)
            if to_begin:
                yield board.reply(final=False)
        async with aclosing(self._begin_all(to_begin, board, ask)) as steps:
            async for _ in steps:
                if ask.capabilities.edits:
                    yield board.reply(final=False)
        yield board.reply()

    async def _nothing_to_sign_in(self, ask: _Ask) -> Reply:
        """Every server has what it needs, or what it needs is no sign-in."""
        if not self.config.servers:
            return _say(sentences.NO_SERVERS)
        trouble = sentences.in_trouble(await self._statuses(ask), self._clock())
        return _say(trouble or sentences.NOTHING_TO_SIGN_IN, ok=not trouble)

    async def _auth_targets(self, command: grammar.Auth, ask: _Ask) -> list[ServerStatus]:
        """The named servers, or all that need a sign-in or a key; what was never looked at is looked at once."""
        servers = self.config.servers
        if command.servers:
            return [await self._auth.status(name, self._owner(servers[name], ask)) for name in command.servers]
        statuses = await self._statuses(ask)
        unknown = [status.name for status in statuses if await self._is_unknown(status)]
        if unknown:
            async for _ in self._probe(unknown, ask, {}):
                pass
            statuses = await self._statuses(ask)
        return [status for status in statuses if wants_sign_in(status) or status.auth is AuthState.KEY_MISSING]

    async def _is_unknown(self, status: ServerStatus) -> bool:
        from mcp_auth.status import needs_a_look

        server = self.config.servers[status.name]
        if server.url is None:
            return False
        return needs_a_look(server, await self._auth.store.connections.get(server.url))

    def _first_item(self, status: ServerStatus, *, named: bool, ask: _Ask) -> ChecklistItem:
        """What can be said before anything is asked: a key, a refusal, or that the link is on its way."""
        server = self.config.servers[status.name]
        if not policy.may_change(ask.principal, server, self.config):
            self._note_refusal(ask, "auth", status.name)
            return ChecklistItem(status.name, ItemState.FAILED, sentences.ONLY_ADMINS)
        if status.auth is AuthState.KEY_MISSING or (named and status.auth is AuthState.KEY_SET):
            text = sentences.checklist_key(status.variables)
            return ChecklistItem(status.name, ItemState.KEY, text, command=grammar.command_for("key", status.name))
        oauth = status.auth in NEEDS_SIGN_IN or status.auth is AuthState.SIGNED_IN
        open_so_far = status.auth is AuthState.NONE_NEEDED and server.url is not None
        look = open_so_far or self._may_have_changed(status)
        if not oauth and not look:
            state = ItemState.FAILED if status.auth is AuthState.MISCONFIGURED else ItemState.DONE
            return ChecklistItem(status.name, state, sentences.nothing_to_do(status))
        if not policy.may_sign_in(ask.principal, self.config.gateway):
            self._note_refusal(ask, "auth", status.name)
            return ChecklistItem(status.name, ItemState.FAILED, sentences.team_sign_in(status.name))
        wait = self._wait_to_begin(ask.principal, status)
        if wait:
            return ChecklistItem(status.name, ItemState.FAILED, too_often(wait))
        return ChecklistItem(status.name, ItemState.PREPARING, sentences.PREPARING)

    async def _begin_all(self, names: list[str], board: Board, ask: _Ask) -> AsyncGenerator[None, None]:
        """Begin in parallel; yields when something is ready that was not shown."""
        tasks = {asyncio.create_task(self._begin(name, board, ask)) for name in names}
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

    async def _begin(self, name: str, board: Board, ask: _Ask) -> None:
        """One server's line: its link, or why there is none. One failure leaves the others alone."""
        again = grammar.command_for("auth", name)
        is_reused = False
        try:
            async with asyncio.timeout(_BEGIN_SECONDS):
                owner = self._owner(self.config.servers[name], ask)
                origin = origin_of(ask.invocation, board if ask.capabilities.lasting_edits else None)
                started = await self._auth.sign_in(name, owner, origin)
                is_reused = started.reused
        except McpAuthError as error:
            board.set(ChecklistItem(name, ItemState.FAILED, sentences.error(error), command=again))
            return
        except TimeoutError:
            board.set(ChecklistItem(name, ItemState.FAILED, sentences.TOO_LONG, command=again))
            return
        except Exception as error:  # noqa: BLE001 - the other servers keep their links
            text = sentences.unexpected(error_reports.note(error))
            board.set(ChecklistItem(name, ItemState.FAILED, text, command=again))
            return
        finally:
            # One that failed was asked of the server too.
            if not is_reused:
                self._count_begun(ask.principal, name)
        board.note = sentences.links_note(
            local=ask.principal == LOCAL,
            private=ask.invocation.private,
            listening=started.listening,
            public=started.public,
            needs_proof=started.needs_proof,
            form=ask.capabilities.modal,
        )
        if ask.capabilities.modal:
            verb = "confirm" if started.public else "paste"
            board.button = Button(sentences.BUTTON_FORMS[verb], command=verb)
        text = sentences.link_ready(started.expires_at, self._clock(), started.host, started.issued_elsewhere)
        item = ChecklistItem(name, ItemState.LINK, text, link=started.link, expires_at=started.expires_at)
        board.set(item)
        self._watcher.follow(started.sign_in, board if ask.capabilities.edits else None)

    # -- finishing and ending ----------------------------------------------------------------

    async def _paste(self, command: grammar.Paste, ask: _Ask) -> AsyncGenerator[Reply, None]:
        gateway = self.config.gateway
        if not policy.may_paste(ask.principal, ask.invocation.private, gateway):
            self._note_refusal(ask, "paste")
        if not policy.may_paste(ask.principal, True, gateway):
            yield _say(sentences.PASTE_OFF_TEAM, ok=False)
            return
        if not policy.may_paste(ask.principal, ask.invocation.private, gateway):
            yield _say(sentences.PASTE_PRIVATE, ok=False)
            return
        try:
            async with self._watcher.answering(ask.principal):
                sign_in = await self._auth.paste(command.text, str(ask.principal))
                outcome = await self._watcher.settle(sign_in)
        except WrongPerson:
            self._note_refusal(ask, "paste")
            raise
        yield _done(outcome.text) if outcome.ok else _say(outcome.text, Audience.CALLER, ok=False)

    async def _confirm(self, command: grammar.Confirm, ask: _Ask) -> AsyncGenerator[Reply, None]:
        if self.config.gateway.public_url is None:
            yield _say(sentences.CONFIRM_NOT_NEEDED)
            return
        async with self._watcher.answering(ask.principal):
            record = await self._auth.confirm(command.code, str(ask.principal), private=ask.invocation.private)
        yield _done(sentences.confirmed(record.server, by_itself=goes_on_by_itself(record)))

    async def _review(self, command: grammar.ReviewCode, ask: _Ask) -> AsyncGenerator[Reply, None]:
        """Anybody can send somebody a link that brings a code here: what it is for is said, and one button confirms."""
        record = await self._auth.review(command.code, str(ask.principal), private=ask.invocation.private)
        visit = record.gate.visit if record.gate is not None else None
        code = typed_code(command.code) or ""
        text = sentences.review(record.server, isinstance(record, KeyForm), visit, self._clock())
        button = Button(sentences.BUTTON_CONFIRM, command=f"confirm {code}")
        yield Reply((Text(text),), (button,), Audience.CALLER, summary=sentences.PRIVATE_ANSWER)

    async def _cancel(self, command: grammar.Cancel, ask: _Ask) -> AsyncGenerator[Reply, None]:
        servers = [self.config.servers[command.server]] if command.server else list(self.config.servers.values())
        mine = [server for server in servers if policy.may_change(ask.principal, server, self.config)]
        if not mine:
            self._note_refusal(ask, "cancel", command.server)
            yield _say(sentences.ONLY_ADMINS if servers else sentences.CANCELLED_NONE, ok=False)
            return
        cancelled, too_late = [], []
        async with self._watcher.answering(ask.principal):
            for server in mine:
                try:
                    if await self._cancel_one(server, ask):
                        cancelled.append(server.name)
                except SignInError as error:
                    too_late.append(sentences.error(error))
        said = [sentences.cancelled(cancelled)] if cancelled else []
        yield _say("\n".join([*said, *too_late]) or sentences.CANCELLED_NONE, ok=not too_late)

    async def _cancel_one(self, server: Server, ask: _Ask) -> bool:
        owner = self._owner(server, ask)
        form = await self._auth.cancel_key_form(server.name, owner)
        return await self._auth.cancel(server.name, owner) or form

    async def _logout(self, command: grammar.Logout, ask: _Ask) -> AsyncGenerator[Reply, None]:
        server = self.config.servers[command.server]
        if not policy.may_change(ask.principal, server, self.config):
            self._note_refusal(ask, "logout", server.name)
            yield _say(sentences.ONLY_ADMINS, ok=False)
            return
        async with self._watcher.answering(ask.principal):
            result = await self._auth.logout(server.name, self._owner(server, ask), by=str(ask.principal))
        yield _say(result.detail, ok=result.deleted)

    async def _test(self, command: grammar.Test, ask: _Ask) -> AsyncGenerator[Reply, None]:
        server = self.config.servers[command.server]
        if ask.capabilities.edits:
            yield _say(sentences.testing(server.name), Audience.CALLER, final=False)
        owner = self._owner(server, ask)
        connection = await self._auth.test(server.name, owner)
        status = await self._auth.status(server.name, owner)
        ready = connection.state is ConnectionState.READY
        yield _say(sentences.tested(status, connection), Audience.CALLER, ok=ready)

    # -- keys --------------------------------------------------------------------------------

    async def _key(self, command: grammar.Key, ask: _Ask) -> AsyncGenerator[Reply, None]:
        name = command.server
        if name is None:
            missing = [one.name for one in await self._statuses(ask) if one.auth is AuthState.KEY_MISSING]
            if len(missing) != 1:
                yield _say(sentences.key_which(missing) if missing else sentences.KEY_NONE_MISSING)
                return
            name = missing[0]
        yield await self._key_reply(self.config.servers[name], ask)

    async def _key_reply(self, server: Server, ask: _Ask) -> Reply:
        if not policy.may_change(ask.principal, server, self.config):
            self._note_refusal(ask, "key", server.name)
            return _say(sentences.ONLY_ADMINS, ok=False)
        owner = self._owner(server, ask)
        variables = await self._auth.key_variables(server.name, owner)
        wanted = (
            tuple(one for one in variables if not one.is_set)
            or tuple(one for one in variables if not one.has_default)
            or variables
        )
        if not wanted:
            return _say(sentences.key_not_needed(server.name), ok=False)
        if self._has_forms(ask):
            return await self._key_form(server, owner, wanted, ask)
        if not self._may_prompt(ask):
            in_chat = ask.capabilities.secret_input
            return _say(sentences.key_ways(server.name, ask.principal.platform, in_chat=in_chat), ok=False)
        return self._prompts.ask(ask.principal, server.name, owner, wanted)

    async def _key_form(self, server: Server, owner: str, variables: tuple[KeyVariable, ...], ask: _Ask) -> Reply:
        """A link to a page of ours, where the key passes through no chat."""
        started = await self._auth.key_form(server.name, owner, origin_of(ask.invocation), variables)
        self._watcher.follow(started.form, None)
        text = sentences.key_form(server.name, started.expires_at, self._clock())
        note = sentences.NOTE_PROOF if started.needs_proof else None
        return Reply(
            tuple(Text(one) for one in (text, note) if one),
            buttons=(Button(sentences.BUTTON_KEY_FORM, url=started.link),),
            audience=Audience.CALLER,
            summary=sentences.links_summary(1),
        )

    def _has_forms(self, ask: _Ask) -> bool:
        """The terminal hides what is typed and needs no page."""
        return self.config.gateway.public_url is not None and ask.principal != LOCAL

    def _may_prompt(self, ask: _Ask) -> bool:
        return ask.capabilities.secret_input and policy.secrets_in_chat(ask.principal, self.config.gateway)

    async def _key_exposed(self, command: grammar.KeyExposed, ask: _Ask) -> AsyncGenerator[Reply, None]:
        yield _say(sentences.key_exposed(command.server), ok=False)

    async def _key_store(self, command: grammar.KeyStoreAnyway, ask: _Ask) -> AsyncGenerator[Reply, None]:
        yield await self._prompts.store_anyway(ask.principal, command.prompt_id)

    # -- people ------------------------------------------------------------------------------

    async def _allow(self, command: grammar.Allow, ask: _Ask) -> AsyncGenerator[Reply, None]:
        refusal = self._refused_people(ask, "allow")
        if refusal is not None:
            yield refusal
            return
        paired = await asyncio.to_thread(self._people.allow, command.code, ask.principal)
        self._pairing.tell_allowed()
        yield _done(sentences.let_in(paired))

    async def _deny(self, command: grammar.Deny, ask: _Ask) -> AsyncGenerator[Reply, None]:
        refusal = self._refused_people(ask, "deny")
        if refusal is not None:
            yield refusal
            return
        principal = await asyncio.to_thread(self._people.deny, command.who, ask.principal)
        yield _say(sentences.shut_out(principal), Audience.CALLER)

    async def _show_people(self, command: grammar.ShowPeople, ask: _Ask) -> AsyncGenerator[Reply, None]:
        refusal = self._refused_people(ask, "people")
        if refusal is not None:
            yield refusal
            return
        now = self._clock()
        rows = tuple((one.principal, sentences.person_line(one, now)) for one in self._people.listed())
        block = Table(rows) if rows else Text(sentences.NOBODY)
        yield Reply((block,), audience=Audience.CALLER, summary=sentences.PRIVATE_ANSWER, title=sentences.PEOPLE_TITLE)

    def _refused_people(self, ask: _Ask, verb: str) -> Reply | None:
        """Only admins decide who is served, and in private: a code read by others is a code taken by others."""
        if not policy.is_admin(ask.principal, self.config.gateway):
            self._note_refusal(ask, verb)
            return _say(sentences.PEOPLE_ONLY_ADMINS, Audience.CALLER, ok=False)
        if not ask.invocation.private:
            return _say(sentences.PEOPLE_PRIVATE, ok=False)
        return None

    # -- words -------------------------------------------------------------------------------

    async def _help(self, command: grammar.Help, ask: _Ask) -> AsyncGenerator[Reply, None]:
        admin = policy.is_admin(ask.principal, self.config.gateway)
        yield Reply((Table(help_rows(admin=admin)),), title=sentences.HELP_TITLE)

    async def _suggestion(self, command: grammar.Suggestion, ask: _Ask) -> AsyncGenerator[Reply, None]:
        yield _choices(sentences.suggestion(command.commands), command.commands)

    async def _ambiguous(self, command: grammar.Ambiguous, ask: _Ask) -> AsyncGenerator[Reply, None]:
        yield _choices(sentences.ambiguous(command.commands), command.commands)

    async def _whole_name(self, command: grammar.WholeNameNeeded, ask: _Ask) -> AsyncGenerator[Reply, None]:
        yield _say(sentences.whole_name(command.commands), ok=False)

    async def _argument_missing(self, command: grammar.ArgumentMissing, ask: _Ask) -> AsyncGenerator[Reply, None]:
        if command == _BARE_PASTE and not policy.may_paste(ask.principal, True, self.config.gateway):
            yield _say(sentences.PASTE_OFF_TEAM, ok=False)
            return
        yield _say(sentences.argument_missing(command.verb, command.commands), ok=False)

    # -- people and events -------------------------------------------------------------------

    def _parse(self, invocation: Invocation) -> grammar.Command:
        return grammar.parse(invocation.text, list(self.config.servers))

    def _owner(self, server: Server, ask: _Ask) -> str:
        return policy.owner_for(ask.principal, server, self.config, ask.invocation.acting_for)

    def _note_refusal(self, ask: _Ask, verb: str, server: str | None = None) -> None:
        self._auth.audit.write(Event.COMMAND_REFUSED, who=ask.principal, server=server, outcome=verb)

    def _wait(self, command: grammar.Command, principal: Principal) -> float:
        """Seconds until this principal may ask again; 0: now. The operator at the terminal always may."""
        if principal == LOCAL:
            return 0.0
        limits, person = self._auth.limits, self._counted_as(principal)
        wait = limits.take(COMMANDS, person)
        limit = spec_of(command).limit
        return wait or limits.take(limit, person) if limit is not None else wait

    def _wait_to_begin(self, principal: Principal, status: ServerStatus) -> float:
        if principal == LOCAL:
            return 0.0
        limits, person = self._auth.limits, self._counted_as(principal)
        wait = limits.take(SIGN_INS, person)
        if wait or status.auth is AuthState.SIGN_IN_OPEN:
            # What is open costs the server nothing: its link is said again.
            return wait
        return limits.wait(SERVER_SIGN_INS_EACH, f"{status.name} {person}") or limits.wait(SERVER_SIGN_INS, status.name)

    def _count_begun(self, principal: Principal, server: str) -> None:
        if principal != LOCAL:
            self._auth.limits.take(SERVER_SIGN_INS_EACH, f"{server} {self._counted_as(principal)}")
            self._auth.limits.take(SERVER_SIGN_INS, server)

    def _counted_as(self, principal: Principal) -> str:
        """All accounts of one person count together."""
        return counted_as(str(principal), self.config.gateway)

    def _is_known_event(self, invocation: Invocation) -> bool:
        return (invocation.principal.platform, invocation.event_id) in self._events

    def _remember_event(self, invocation: Invocation) -> None:
        if invocation.event_id:
            self._events[invocation.principal.platform, invocation.event_id] = None


_ANSWERS: dict[type, Callable[[Dispatcher, Any, _Ask], AsyncGenerator[Reply, None]]] = {
    grammar.ListServers: Dispatcher._list,
    grammar.Detail: Dispatcher._detail,
    grammar.Auth: Dispatcher._auth_command,
    grammar.Key: Dispatcher._key,
    grammar.KeyExposed: Dispatcher._key_exposed,
    grammar.KeyStoreAnyway: Dispatcher._key_store,
    grammar.Paste: Dispatcher._paste,
    grammar.Confirm: Dispatcher._confirm,
    grammar.ReviewCode: Dispatcher._review,
    grammar.Cancel: Dispatcher._cancel,
    grammar.Logout: Dispatcher._logout,
    grammar.Test: Dispatcher._test,
    grammar.Allow: Dispatcher._allow,
    grammar.Deny: Dispatcher._deny,
    grammar.ShowPeople: Dispatcher._show_people,
    grammar.Help: Dispatcher._help,
    grammar.Suggestion: Dispatcher._suggestion,
    grammar.Ambiguous: Dispatcher._ambiguous,
    grammar.WholeNameNeeded: Dispatcher._whole_name,
    grammar.ArgumentMissing: Dispatcher._argument_missing,
}


def _say(text: str, audience: Audience = Audience.CHAT, *, ok: bool = True, final: bool = True) -> Reply:
    tone: Any = "plain" if ok else "warning"
    summary = sentences.PRIVATE_ANSWER if audience is Audience.CALLER else None
    return Reply((Text(text, tone=tone),), audience=audience, final=final, summary=summary, ok=ok)


def _done(text: str) -> Reply:
    """What the person wanted has happened."""
    return Reply((Text(text, tone="good"),), audience=Audience.CALLER, summary=sentences.PRIVATE_ANSWER)


def _choices(text: str, commands: tuple[str, ...]) -> Reply:
    buttons = tuple(Button(command, command=command) for command in commands[:4])
    return Reply((Text(text, tone="warning"),), buttons=buttons, ok=False)
