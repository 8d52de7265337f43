"""What an agent uses: an `httpx2.Auth` bound to one server, and MCP sessions over every transport."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO
from urllib.parse import urlsplit

import httpx2

from mcp_auth.config.models import Config, Server
from mcp_auth.config.servers import Servers
from mcp_auth.config.variables import Variables
from mcp_auth.credentials import OwnerCredentials, StoredCredentials
from mcp_auth.errors import (
    CredentialsNeeded,
    McpAuthError,
    ReauthorizationNeeded,
    ServerRefused,
    TooManyOpenFiles,
    Unreachable,
    is_out_of_descriptors,
    lacks_descriptors,
)
from mcp_auth.keys import Keys
from mcp_auth.net.http import USER_AGENT, Http, what_helps, why_unreachable
from mcp_auth.net.responses import Seen
from mcp_auth.oauth.challenge import BearerChallenge, bearer_challenge
from mcp_auth.oauth.server_json import json_object
from mcp_auth.outcome import Next

if TYPE_CHECKING:
    from mcp import Client

    from mcp_auth.net.bodies import BoundedAnswers

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 300.0


class Credentials(Protocol):
    """Where `ServerAuth` gets what it sends, and whom it tells what the server says to it."""

    @property
    def is_doubted(self) -> bool:
        """Whether a yes of the server would be news: it refused these credentials before."""
        ...

    async def headers(self, request: httpx2.Request, refused: str | None = None) -> dict[str, str]:
        """Everything to send with `request`. `refused`: the `Authorization` value that was answered 401."""
        ...

    async def take_refusal(self, status: int, challenge: BearerChallenge | None, sent: str | None) -> McpAuthError:
        """The server's final no, and the error that stands for it."""
        ...

    async def note_success(self, sent: str) -> None:
        """The server took this `Authorization` value for a call that it would refuse without."""
        ...


class ServerAuth(httpx2.Auth):
    """Attaches one owner's credentials to requests for one server, and to no others.

    Holds no lock while a request is under way: concurrent requests never wait for each other. On a
    401 the token is refreshed once and the request sent once more. `refusal` is the server's last no.
    """

    requires_response_body = False

    def __init__(self, server: Server, credentials: Credentials) -> None:
        if server.url is None:
            raise ValueError("only a server with a url takes HTTP credentials")
        self._url = httpx2.URL(server.url)
        self._own = _parts(self._url)
        # SSE names another path of the same folder for its messages; streamable HTTP has one path.
        path = self._url.path if server.transport == "http" else self._url.path.rpartition("/")[0]
        self._below = path.rstrip("/") + "/"
        self._credentials = credentials
        self.refusal: McpAuthError | None = None

    def __repr__(self) -> str:
        return f"ServerAuth({self._url.host})"

    def belongs(self, url: httpx2.URL) -> bool:
        """Whether a request to `url` is one to this server: its scheme, host and port, and its path or below."""
        own = self._url
        if _parts(url) == self._own:
            return True
        if (url.scheme, url.host, url.port) != (own.scheme, own.host, own.port):
            return False
        path = url.path
        return path == own.path or (path.startswith(self._below) and ".." not in path)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        if not self.belongs(request.url):
            yield request
            return
        try:
            headers = await self._credentials.headers(request)
        except CredentialsNeeded as error:
            self.refusal = error
            raise
        _set(request, headers)
        sent = headers.get("Authorization")
        response = yield request
        if not self.belongs(response.url):
            # Somebody else's no, where the client follows redirects, says nothing of what was sent to the server.
            return
        no = _no(response)
        if no is not None and no.to_credentials and sent is not None:
            try:
                again = await self._credentials.headers(request, refused=sent)
            except ReauthorizationNeeded as error:
                logger.debug("no other credentials: %s", error.code)
            except CredentialsNeeded as error:
                # No other token now is no word about ever.
                self.refusal = error
                return
            else:
                if again.get("Authorization") != sent:
                    _set(request, again)
                    sent = again.get("Authorization")
                    response = yield request
                    no = _no(response)
        if no is not None:
            self.refusal = await self._credentials.take_refusal(no.status, no.challenge, sent)
        elif sent is not None and self._credentials.is_doubted and response.is_success and _needs_credentials(request):
            await self._credentials.note_success(sent)


@dataclass(frozen=True, slots=True)
class _No:
    """A no to what was sent: to the credentials themselves, or else to what they allow."""

    status: int
    challenge: BearerChallenge | None
    to_credentials: bool


def _no(response: httpx2.Response) -> _No | None:
    """What the server says against our credentials; None where it says nothing of them.

    Some say `invalid_token` with another status than the 401 of RFC 6750 section 3.1.
    """
    if response.status_code not in (400, 401, 403):
        return None
    challenge = bearer_challenge(response.headers.get_list("www-authenticate"))
    error = (challenge.error or "").lower() if challenge is not None else ""
    if response.status_code == 401 or error == "invalid_token":
        return _No(response.status_code, challenge, to_credentials=True)
    if response.status_code == 403 and error == "insufficient_scope":
        return _No(403, challenge, to_credentials=False)
    return None


def _needs_credentials(request: httpx2.Request) -> bool:
    """Whether this is a call, and no part of the handshake, which some servers leave open to everybody."""
    try:
        message = json.loads(request.content)
    except (httpx2.RequestNotRead, ValueError):
        return False
    method = message.get("method") if isinstance(message, dict) else None
    return isinstance(method, str) and not method.startswith(("initialize", "notifications/", "ping"))


def _parts(url: httpx2.URL) -> tuple[bytes, bytes, int | None, bytes]:
    """What two spellings of the same URL have in common, without decoding any of it."""
    return url.raw_scheme, url.raw_host, url.port, url.raw_path


def _set(request: httpx2.Request, headers: dict[str, str]) -> None:
    # One by one: `Headers.update` builds a second `Headers` first, for every request.
    for name, value in headers.items():
        request.headers[name] = value


@dataclass(eq=False, repr=False)
class Sessions:
    """Connects to servers with an owner's credentials."""

    config: Config
    servers: Servers
    http: Http
    variables: Variables
    keys: Keys
    credentials: StoredCredentials

    def http_auth(self, entry: Server, owner: str, *, insist: bool = False) -> ServerAuth:
        """Authentication bound to the server's origin and path."""
        return ServerAuth(entry, OwnerCredentials(self.credentials, entry, owner, insist))

    @contextlib.asynccontextmanager
    async def open(
        self, entry: Server, owner: str, *, insist: bool = False, bytes_max: int | None = None
    ) -> AsyncIterator[Client]:
        """A connected client, signed in.

        Args:
            insist: as in `Refresher.access_token`.
            bytes_max: of all that the server may send.

        Raises:
            CredentialsNeeded and its children, ServerRefused, Unreachable.
        """
        from mcp_auth.net.bodies import BoundedAnswers

        if entry.url is None:
            keys = await self.keys.of(entry, owner)
            environment = {name: self.variables.resolve(value, keys=keys) for name, value in entry.env.items()}
            arguments = tuple(self.variables.resolve(value, keys=keys) for value in entry.args)
            async with open_session(
                entry, auth=None, transport=None, environment=environment, arguments=arguments
            ) as client:
                yield client
            return
        # Missing credentials are said before a connection is made.
        headers = await self.credentials.headers(entry, owner, insist=insist)
        rules = self.servers.rules(entry)
        if self.config.gateway.network.proxy is not None:
            url, is_signed_in = urlsplit(entry.url), "Authorization" in headers and "Authorization" not in entry.headers
            rules.check_proxied(url.scheme, url.hostname or "", url.port, credentials=is_signed_in)
        transport = BoundedAnswers(
            self.http.transport(rules),
            entry.name,
            message_max=self.config.gateway.network.max_body,
            total_max=bytes_max,
        )
        auth = self.http_auth(entry, owner, insist=insist)
        async with open_session(entry, auth=auth, transport=transport, environment={}) as client:
            yield client


@contextlib.asynccontextmanager
async def open_session(
    server: Server,
    *,
    auth: ServerAuth | None,
    transport: BoundedAnswers | None,
    environment: dict[str, str],
    arguments: tuple[str, ...] = (),
) -> AsyncIterator[Client]:
    """A connected MCP client over streamable HTTP, SSE or stdio.

    Raises:
        CredentialsNeeded, ServerRefused: the server said no, or there is nothing to send.
        Unreachable: it could not be reached or started.
    """
    from mcp import MCPError

    last = LastAnswer(server)
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield await _connect(server, stack, auth, transport, environment, arguments, last)
    except (BaseExceptionGroup, MCPError, httpx2.HTTPError, OSError, McpAuthError) as error:
        if transport is not None and transport.trouble is not None:
            raise transport.trouble from None
        raise _as_ours(server, auth, last.seen, error) from None


class LastAnswer:
    """The server's last answer to a message, while it was none of MCP: the SDK keeps it to itself."""

    def __init__(self, server: Server) -> None:
        self._is_sse = server.transport == "sse"
        self.seen: Seen | None = None

    async def note(self, response: httpx2.Response) -> None:
        is_stream = self._is_sse and response.request.method == "GET"
        if response.request.method != "POST" and not is_stream:
            return
        seen = Seen.of(response.status_code, response.headers, str(response.request.url))
        if seen.status in (400, 404, 405, 406) and seen.kind == "application/json":
            # An error of the protocol says more than the status that it came with.
            await response.aread()
            document = json_object(response.content)
            self.seen = None if document is not None and isinstance(document.get("error"), dict) else seen
            return
        is_usable = seen.is_usable and (not is_stream or seen.kind == "text/event-stream")
        self.seen = None if is_usable else seen


async def _connect(
    server: Server,
    stack: contextlib.AsyncExitStack,
    auth: ServerAuth | None,
    transport: httpx2.AsyncBaseTransport | None,
    environment: dict[str, str],
    arguments: tuple[str, ...],
    last: LastAnswer,
) -> Client:
    from mcp import Client, StdioServerParameters
    from mcp.client.sse import sse_client
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if server.command is not None:
        # The child's own words go nowhere: they may hold secrets, and nobody would read them.
        quiet = stack.enter_context(_nowhere())
        parameters = StdioServerParameters(
            command=server.command, args=list(arguments), env=environment, cwd=server.cwd
        )
        return await stack.enter_async_context(Client(stdio_client(parameters, errlog=quiet)))
    url, question_mark, _ = (server.url or "").partition("?")
    if question_mark and transport is not None:
        transport = _WithQuery(transport, httpx2.URL(server.url or ""))
    timeout = httpx2.Timeout(server.connect_timeout or CONNECT_TIMEOUT, read=server.timeout or READ_TIMEOUT)

    def client_for(
        headers: dict[str, str] | None = None, timeout: httpx2.Timeout = timeout, auth: httpx2.Auth | None = auth
    ) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            headers={"User-Agent": USER_AGENT, **(headers or {})},
            timeout=timeout,
            auth=auth,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
            event_hooks={"response": [last.note]},
        )

    if server.transport == "sse":
        legacy = sse_client(url, httpx_client_factory=client_for, auth=auth)  # type: ignore[arg-type]
        return await stack.enter_async_context(Client(legacy, mode="legacy"))
    http_client = await stack.enter_async_context(client_for())
    # Events are bounded by the transport, as every other answer is.
    streams = streamable_http_client(url, http_client=http_client, max_sse_event_size=None)
    return await stack.enter_async_context(Client(streams))


class _WithQuery(httpx2.AsyncBaseTransport):
    """Adds the query of the configured URL below the libraries that log URLs: it may hold a key."""

    def __init__(self, inner: httpx2.AsyncBaseTransport, url: httpx2.URL) -> None:
        self._inner = inner
        self._url = url

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        if url.query or _parts(url) != _parts(self._url.copy_with(query=None)):
            return await self._inner.handle_async_request(request)
        whole = httpx2.Request(
            request.method, self._url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )
        return await self._inner.handle_async_request(whole)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _as_ours(server: Server, auth: ServerAuth | None, seen: Seen | None, error: BaseException) -> BaseException:
    """The error that a caller can act on: what the server said behind a protocol error, or the only one in a group."""
    leaves = list(_leaves(error))
    for leaf in leaves:
        if isinstance(leaf, McpAuthError):
            return leaf
    if auth is not None and auth.refusal is not None:
        return auth.refusal
    for leaf in leaves:
        if isinstance(leaf, httpx2.TransportError) and not isinstance(leaf, httpx2.SSEError):
            if lacks_descriptors(leaf):
                return TooManyOpenFiles()
            sentence = f"{server.name} cannot be reached ({why_unreachable(leaf)})."
            return Unreachable(sentence, next_step=what_helps(leaf, server.url or ""))
    if seen is not None:
        return _explained(server, seen)
    if len(leaves) != 1:
        return error
    leaf = leaves[0]
    if isinstance(leaf, httpx2.HTTPError):
        return Unreachable(f"{server.name} does not answer as an MCP server does ({type(leaf).__name__}).")
    if is_out_of_descriptors(leaf):
        return TooManyOpenFiles()
    if isinstance(leaf, OSError) and server.command is not None:
        return Unreachable(
            f"The command of {server.name} could not be started ({leaf.strerror or type(leaf).__name__}).",
            next_step="check command and args in the configuration",
        )
    return leaf


def _explained(server: Server, seen: Seen) -> McpAuthError:
    """The error behind the last answer, which was none of MCP."""
    if seen.status in (401, 403) and server.headers:
        return ServerRefused(f"{server.name} refused the key (HTTP {seen.status}).", next_step=Next("key", server.name))
    said, todo = seen.words()
    if seen.status in (401, 403):
        return ServerRefused(f"{said}.", server=server.name, next_step=todo or Next("list", server.name))
    return Unreachable(f"{said}.", server=server.name, next_step=todo)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
