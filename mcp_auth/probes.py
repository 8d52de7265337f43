"""Looking at servers: whether one answers, takes the credentials that we have, and which tools it offers.

One probe for each server and owner is under way at a time, and so many in all. Whoever asks for what is being found out
already waits for that answer. Everybody in a chat may ask for the list, and each answer may be as large as a server can
make it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mcp_auth.agent import Sessions
from mcp_auth.changes import Change, Changes
from mcp_auth.config.models import Server
from mcp_auth.config.servers import Servers
from mcp_auth.credentials import StoredCredentials
from mcp_auth.errors import (
    CredentialsNeeded,
    KeyInvalid,
    KeyMissing,
    McpAuthError,
    RefreshUnavailable,
    ServerRefused,
    StoreError,
    TooManyOpenFiles,
    Unreachable,
    lacks_descriptors,
)
from mcp_auth.net.http import Http
from mcp_auth.oauth.discovery import probe_without_credentials
from mcp_auth.oauth.profiles import Profiles
from mcp_auth.oauth.rejections import Rejections
from mcp_auth.oauth.tokens import plain
from mcp_auth.status import ConnectionState, ConnectionStatus, needs_a_look
from mcp_auth.stores.base import Store

logger = logging.getLogger(__name__)

T = TypeVar("T")
Key = tuple[str, str]

# All probes at a time, and those of one server: a slow server does not take the places of the others.
PROBES = 32
PROBES_OF_ONE_SERVER = 8


class NoTurn(Exception):
    """Too many others were under way for a probe to begin in time: nobody was asked."""


@dataclass(eq=False, slots=True)
class _Running(Generic[T]):
    task: asyncio.Task[T]
    insists: bool
    has_begun: Callable[[], bool]
    waiting: int = 0
    is_stale: bool = False


@dataclass(eq=False, slots=True)
class Probes(Generic[T]):
    """`run` starts what it is given, or joins what is under way for the same key."""

    _running: dict[Key, _Running[T]] = field(default_factory=dict)
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PROBES))
    _places_of: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    async def run(
        self,
        server: str,
        owner: str,
        probe: Callable[[], Awaitable[T]],
        *,
        insist: bool = False,
        timeout: float | None = None,
    ) -> T:
        """The result of the probe under way, else of `probe`. A probe that nobody waits for any more is cancelled.

        `insist`: not that of a probe which did not.

        Raises:
            TimeoutError: no result within `timeout` seconds.
            NoTurn: it did not even begin in that time.
        """
        running: list[_Running[T]] = []
        try:
            async with asyncio.timeout(timeout):
                return await self._join(server, owner, probe, insist, running)
        except TimeoutError:
            # Without one that was joined, another of this server's is still under way.
            if not running or running[0].has_begun():
                raise
            raise NoTurn from None

    async def _join(
        self, server: str, owner: str, probe: Callable[[], Awaitable[T]], insist: bool, joined: list[_Running[T]]
    ) -> T:
        key = (server, owner)
        while (running := self._running.get(key)) is not None and (
            running.is_stale or (insist and not running.insists)
        ):
            await asyncio.wait({running.task})
        if running is None:
            begun = asyncio.Event()
            task = asyncio.create_task(self._take_place(server, probe, begun))
            running = self._running[key] = _Running(task, insist, begun.is_set)
            running.task.add_done_callback(lambda _: self._forget(key))
        joined.append(running)
        running.waiting += 1
        try:
            return await asyncio.shield(running.task)
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                # Somebody new is not to join what is being given up.
                running.is_stale = True
                running.task.cancel()

    def changed(self, server: str, owner: str) -> None:
        """Other credentials from now on: who asks next gets a probe of its own, after the one under way."""
        running = self._running.get((server, owner))
        if running is not None:
            running.is_stale = True

    async def _take_place(self, server: str, probe: Callable[[], Awaitable[T]], begun: asyncio.Event) -> T:
        of_server = self._places_of.setdefault(server, asyncio.Semaphore(PROBES_OF_ONE_SERVER))
        async with of_server, self._places:
            begun.set()
            return await probe()

    def _forget(self, key: Key) -> None:
        running = self._running.pop(key)
        if not running.task.cancelled():
            # Where everybody has left, nobody asks for it.
            running.task.exception()


class NotAsked(McpAuthError):
    """A server was not asked, for want of a credential."""


class Prober:
    """Looks at servers with an owner's credentials. What is wrong with a server is a state, and no error."""

    def __init__(
        self,
        servers: Servers,
        store: Store,
        http: Http,
        profiles: Profiles,
        credentials: StoredCredentials,
        sessions: Sessions,
        rejections: Rejections,
        changes: Changes,
        bytes_max: int,
    ) -> None:
        self._servers = servers
        self._store = store
        self._http = http
        self._profiles = profiles
        self._credentials = credentials
        self._sessions = sessions
        self._rejections = rejections
        self._bytes_max = bytes_max
        self._running: Probes[tuple[list[str], int]] = Probes()
        changes.on_change(self._note)

    def _note(self, change: Change) -> None:
        if change.kind in ("signed_in", "signed_out", "key_set"):
            self._running.changed(change.server, change.owner)

    async def probe(
        self, server: str, owner: str, *, timeout: float, start_stdio: bool = False, insist: bool = False
    ) -> ConnectionStatus:
        """Connect and list the tools. Commands start on request only. `insist`: a person asks about this very server.

        Raises:
            UnknownServer.
        """
        entry = self._servers.named(server)
        if not entry.enabled or entry.problem is not None or (entry.url is None and not start_stdio):
            return ConnectionStatus()
        try:
            tools, ms = await self._running.run(
                server, owner, lambda: self._tools(entry, owner, insist=insist), insist=insist, timeout=timeout
            )
        except NoTurn:
            return ConnectionStatus(
                detail=f"not asked: too many other servers gave no answer within {timeout:.0f} seconds"
            )
        except (KeyMissing, KeyInvalid, StoreError, TooManyOpenFiles, NotAsked) as error:
            return ConnectionStatus(detail=error.message)
        except RefreshUnavailable as error:
            # Nobody refused anything for good.
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=error.message)
        except (CredentialsNeeded, ServerRefused) as error:
            return ConnectionStatus(ConnectionState.REFUSED, detail=error.message)
        except TimeoutError:
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=f"no answer within {timeout:.0f} seconds")
        except McpAuthError as error:
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=_what_and_now(error))
        except Exception as error:  # noqa: BLE001 - a foreign server can make the SDK raise anything
            if lacks_descriptors(error):
                return ConnectionStatus(detail=TooManyOpenFiles().message)
            logger.debug("%s answered something that is no MCP: %s", server, type(error).__name__)
            return ConnectionStatus(ConnectionState.UNREACHABLE, detail=_no_mcp(error, entry))
        return ConnectionStatus(ConnectionState.READY, tuple(filter(entry.tools.selects, tools)), ms)

    async def _tools(self, entry: Server, owner: str, *, insist: bool) -> tuple[list[str], int]:
        """The names of all tools, and how many milliseconds it took to get them."""
        started = time.perf_counter()
        if entry.url is not None:
            await self._prepare(entry, entry.url, owner, insist=insist)
        names: list[str] = []
        async with self._sessions.open(entry, owner, insist=insist, bytes_max=self._bytes_max) as client:
            cursor = None
            while True:
                page = await client.list_tools(cursor=cursor)
                names += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if cursor is None or len(names) > 10_000:
                    break
        await self._rejections.note_success(entry, owner)
        return names, round((time.perf_counter() - started) * 1000)

    async def _prepare(self, entry: Server, url: str, owner: str, *, insist: bool) -> None:
        """Find out what the server wants where nobody knows, else have what it wants.

        Raises:
            NotAsked: what the server needs is not there, so it was not asked and refused nothing.
        """
        if needs_a_look(entry, await self._store.profiles.get(url)):
            await self._profiles.probe(entry)
            return
        try:
            await self._credentials.headers(entry, owner, insist=insist)
        except RefreshUnavailable:
            raise
        except CredentialsNeeded as error:
            raise NotAsked(error.message) from None

    async def reach(self, server: str) -> int:
        """The status of one request without credentials; any answer of a server will do.

        Raises:
            Unreachable: there is none, or one that says that no server is there.
        """
        entry = self._servers.usable(server)
        answer = await probe_without_credentials(self._http, self._servers.rules(entry), entry, {})
        if answer.seen is not None and answer.seen.is_elsewhere:
            said, todo = answer.seen.words()
            raise Unreachable(f"{said[0].upper()}{said[1:]}.", next_step=todo)
        return answer.status

    async def confirm_works(self, server: str, owner: str, timeout: float) -> ConnectionStatus:
        """What new credentials are worth: what the endpoint has found out already, else as `try_out`."""
        sign_in = await self._store.sign_ins.latest(owner, server)
        if sign_in is not None and sign_in.status == "done" and sign_in.check is not None:
            check = sign_in.check
            return ConnectionStatus(ConnectionState(check.state), check.tools, check.ms, check.detail)
        return await self.try_out(server, owner, timeout)

    async def try_out(self, server: str, owner: str, timeout: float) -> ConnectionStatus:
        """An authenticated call with new credentials: keeps them when it works, brings the old ones back on a no."""
        url, grants = self._servers.named(server).url or "", self._store.grants
        new = await grants.get(owner, server, url)
        self._running.changed(server, owner)
        result = await self.probe(server, owner, timeout=timeout)
        if new is None or new.previous is None or new.previous.tokens is None:
            return result
        kept = await grants.get(owner, server, url)
        if kept is not None and kept.tokens is not None and kept.signed_in_at == new.previous.signed_in_at:
            detail = f"{server} refused the new access, so the sign-in of before is kept."
            return ConnectionStatus(ConnectionState.REFUSED, detail=detail)
        return result


def _what_and_now(error: McpAuthError) -> str:
    """What was seen, and what to do where that is no command: the line around it names one already."""
    if not isinstance(error.next_step, str):
        return error.message
    return f"{error.message.rstrip('.')}; {error.next_step}"


def _no_mcp(error: Exception, entry: Server) -> str:
    """What a server answered instead of MCP, or its own error."""
    from mcp import MCPError

    said = plain(error.error.message, 160) if isinstance(error, MCPError) else None
    if said is None or said.startswith(_WORDS_OF_THE_SDK):
        return f"it does not answer as an MCP server does; check the {'url' if entry.url is not None else 'command'}"
    return f"it answers with an error: {said}"


# What the SDK says in the server's place when an answer is no MCP.
_WORDS_OF_THE_SDK = (
    "Failed to parse",
    "Unexpected content type",
    "server answered a request with 202",
    "Server returned an error response",
    "Connection closed",
)
