"""The one HTTP client: bounded in time and size, without cookies, ambient proxies or foreign redirects.

Every server has its own connections, because the network rules differ from server to server and a
connection that one server may use must not serve another. All share one TLS context.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpcore2
import httpx2

from mcp_auth.errors import AddressRefused, TooManyOpenFiles, Unreachable, is_out_of_descriptors, lacks_descriptors
from mcp_auth.net.bodies import ACCEPTED_CODINGS, decoded
from mcp_auth.net.names import Found, addresses_of, why_not_found
from mcp_auth.net.rules import NetworkRules, joined, origin_of, shown_host

MAX_BODY = 1024 * 1024
REQUEST_TIMEOUT = 15.0
CONNECT_TIMEOUT = 8.0
_REDIRECTS = 5
USER_AGENT = "slash-mcp"


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer. `body` is at most `MAX_BODY` bytes; never shown in a `repr`."""

    status: int
    headers: httpx2.Headers
    body: bytes
    url: str

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


class LostAnswer(Unreachable):
    """The request may have arrived, and no complete answer came back: its outcome is unknown."""

    code = "lost_answer"


class Http:
    """All requests of one `McpAuth`. Use it from one event loop; `close` ends its connections."""

    def __init__(self, *, proxy: str | None = None) -> None:
        self._proxy = proxy
        self._tls: ssl.SSLContext | None = None
        self._transports: dict[NetworkRules, GuardedTransport] = {}

    async def fetch(
        self,
        rules: NetworkRules,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        content: bytes | None = None,
        credentials: bool = True,
        timeout: float = REQUEST_TIMEOUT,
        head_only: bool = False,
    ) -> Answer:
        """Send one request and read the whole answer.

        Redirects are followed for GET only, and only within the origin. `head_only` stops after the
        headers (for event streams). `timeout` bounds everything, in seconds.

        Raises:
            AddressRefused: the rules forbid it; nothing was sent.
            LostAnswer: it may have been received.
            Unreachable: it was not sent.
        """
        try:
            async with asyncio.timeout(timeout):
                for _ in range(_REDIRECTS + 1):
                    parts = rules.check_url(url, credentials=credentials)
                    if self._proxy is not None:
                        rules.check_proxied(parts.scheme, parts.hostname or "", parts.port, credentials=credentials)
                    request = self._request(method, url, headers, form, content)
                    answer = await self._send(rules, request, parts.hostname or "", head_only)
                    target = _redirect_of(answer, url) if method == "GET" else None
                    if target is None:
                        return answer
                    rules.check_url(target, credentials=credentials)
                    if origin_of(target) != origin_of(url):
                        return answer
                    url = target
        except TimeoutError:
            host = shown_host(httpx2.URL(url).host)
            raise LostAnswer(f"{host} gave no answer within {timeout:.0f} seconds.") from None
        raise LostAnswer(f"{shown_host(httpx2.URL(url).host)} redirects in circles.")

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        form: Mapping[str, str] | None,
        content: bytes | None,
    ) -> httpx2.Request:
        sent = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
        sent.update(headers or {})
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
            content = urlencode(form).encode()
        try:
            return httpx2.Request(
                method, url, headers=sent, content=content, extensions={"timeout": {"connect": CONNECT_TIMEOUT}}
            )
        except (httpx2.InvalidURL, UnicodeEncodeError, ValueError):
            raise AddressRefused("The server names a URL that cannot be used.") from None

    async def _send(self, rules: NetworkRules, request: httpx2.Request, host: str, head_only: bool) -> Answer:
        shown = shown_host(host)
        try:
            response = await self.transport(rules).handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            sentence = f"{shown} cannot be reached ({why_unreachable(error)})."
            raise Unreachable(sentence, next_step=what_helps(error, str(request.url))) from None
        except (httpx2.TransportError, ssl.SSLError, OSError) as error:
            if lacks_descriptors(error):
                raise TooManyOpenFiles from None
            sentence = f"{shown} broke off without an answer ({type(error).__name__})."
            raise LostAnswer(sentence, next_step=what_helps(error, str(request.url))) from None
        try:
            body = b"" if head_only else await _read(response, shown)
        except (httpx2.TransportError, httpx2.DecodingError, ssl.SSLError, OSError) as error:
            raise LostAnswer(f"{shown} broke off in the middle of its answer ({type(error).__name__}).") from None
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, body, str(request.url))

    def transport(self, rules: NetworkRules) -> GuardedTransport:
        """The connections of one server, for an `httpx2.AsyncClient` of the MCP SDK as well."""
        transport = self._transports.get(rules)
        if transport is None:
            transport = self._transports[rules] = GuardedTransport(rules, self.tls, proxy=self._proxy)
        return transport

    def tls(self) -> ssl.SSLContext:
        # Building a context costs 26 ms and 800 kB: once, and only when https is used.
        if self._tls is None:
            self._tls = httpx2.create_ssl_context(trust_env=True)
        return self._tls

    async def close(self) -> None:
        transports = list(self._transports.values())
        self._transports.clear()
        for transport in transports:
            await transport.really_close()


def _redirect_of(answer: Answer, url: str) -> str | None:
    """Where a redirect leads; None: it is none, or leads nowhere."""
    location = answer.headers.get("location")
    if location is None or answer.status not in (301, 302, 303, 307, 308):
        return None
    return joined(url, location)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport whose connections obey `NetworkRules`. Closing a client that uses it leaves it open."""

    def __init__(self, rules: NetworkRules, tls: Any, *, proxy: str | None = None) -> None:
        self._rules = rules
        self._tls = tls
        self._proxy = proxy
        self._pools: dict[bool, httpcore2.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if not isinstance(request.stream, AsyncIterable):
            raise TypeError("the request's body must be readable asynchronously")
        url = request.url
        if self._proxy is not None:
            self._rules.check_proxied(url.scheme, url.raw_host.decode("ascii"), url.port)
        if request.headers.get("accept-encoding", "identity") != "identity":
            request.headers["accept-encoding"] = ACCEPTED_CODINGS
        core_request = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        try:
            response = await self._pool(url.scheme == "https").handle_async_request(core_request)
        except _CORE_ERRORS as error:
            raise _as_httpx(error) from error
        if not isinstance(response.stream, AsyncIterable):
            raise TypeError("the answer's body must be readable asynchronously")
        headers = httpx2.Headers(response.headers)
        coding = headers.get("content-encoding", "")
        if coding:
            # Unpacked here, in small pieces: what is left unsaid is not unpacked once more above.
            del headers["content-encoding"]
            headers.pop("content-length", None)
        return httpx2.Response(
            status_code=response.status,
            headers=headers,
            stream=_Body(response.stream, coding),
            extensions=response.extensions,
        )

    def _pool(self, secure: bool) -> httpcore2.AsyncConnectionPool:
        pool = self._pools.get(secure)
        if pool is None:
            pool = self._pools[secure] = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls() if secure else None,
                proxy=httpcore2.Proxy(self._proxy) if self._proxy else None,
                # Requests never wait for each other: no agent is held up by another's long stream.
                max_connections=None,
                max_keepalive_connections=20,
                keepalive_expiry=15.0,
                # A proxy connects for us (`NetworkRules.check_proxied`); its own address the operator chose.
                network_backend=_GuardedBackend(None if self._proxy else self._rules),
            )
        return pool

    async def aclose(self) -> None:
        """Nothing: the connections outlive each MCP session. See `really_close`."""

    async def really_close(self) -> None:
        pools = list(self._pools.values())
        self._pools.clear()
        for pool in pools:
            await pool.aclose()


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves a name once, checks every address, and connects to the one that was checked (DNS pinning)."""

    def __init__(self, rules: NetworkRules | None) -> None:
        self._rules = rules
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        name = host.strip("[]")
        limit = CONNECT_TIMEOUT if timeout is None else timeout
        ends = time.monotonic() + limit
        addresses = await _addresses(name, port, limit)
        failure: Exception = httpcore2.ConnectError("the name has no address")
        for number, address in enumerate(addresses):
            # Every address gets its share of the time that is left, so that one that is silent does not take it all.
            share = max(0.1, ends - time.monotonic()) / (len(addresses) - number)
            try:
                if self._rules is not None:
                    self._rules.check_address(name, port, address)
                return await self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (AddressRefused, httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                # A refusal is the better explanation than a later address that is merely down.
                failure = failure if isinstance(failure, AddressRefused) else error
                if lacks_descriptors(error):
                    raise TooManyOpenFiles from None
        raise failure


async def _addresses(name: str, port: int, limit: float) -> list[str]:
    """What `name` stands for, in the resolver's order; an address stands for itself, without the way to a thread."""
    try:
        return [str(ipaddress.ip_address(name))]
    except ValueError:
        pass
    try:
        found = await _look_up_within(limit, name, port)
    except (OSError, UnicodeError) as error:
        if is_out_of_descriptors(error):
            raise TooManyOpenFiles from None
        raise httpcore2.ConnectError("no address") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _look_up_within(limit: float, name: str, port: int) -> Found:
    try:
        async with asyncio.timeout(limit):
            return await addresses_of(name, port)
    except TimeoutError:
        raise socket.gaierror(socket.EAI_AGAIN, "no answer in time") from None


class _Body(httpx2.AsyncByteStream):
    def __init__(self, stream: AsyncIterable[bytes], coding: str) -> None:
        self._stream = stream
        self._coding = coding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in decoded(self._stream, self._coding):
                yield chunk
        except _CORE_ERRORS as error:
            raise _as_httpx(error) from error

    async def aclose(self) -> None:
        close = getattr(self._stream, "aclose", None)
        if close is not None:
            await close()


async def _read(response: httpx2.Response, shown: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAX_BODY:
            raise LostAnswer(f"{shown} sent more than {MAX_BODY // 1024} kB, which no such answer needs.")
        chunks.append(chunk)
    return b"".join(chunks)


def why_unreachable(error: Exception) -> str:
    """Words for why a connection failed, without addresses or queries."""
    if isinstance(error, httpx2.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        if isinstance(cause, ConnectionRefusedError):
            return "connection refused"
        if isinstance(cause, socket.gaierror | UnicodeError):
            return why_not_found(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.RemoteProtocolError):
        return "it broke off without an answer"
    return "no connection"


def what_helps(error: Exception, url: str) -> str | None:
    """What to do about `why_unreachable`, as a part of a sentence."""
    why = why_unreachable(error)
    is_tls = url.lower().startswith("https:")
    if why.startswith("its certificate"):
        return "have its certificate renewed; for a certificate authority of your own set SSL_CERT_FILE"
    if why == "TLS failed":
        return "check scheme and port of the url: what answers there does not speak https"
    if why == "the name is unknown":
        return "check the host in the url"
    if why.startswith("the name"):
        return "try again, and check the DNS of this host"
    if why == "connection refused":
        return "check host and port of the url, and whether the server runs"
    if isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError) and not is_tls:
        return "check scheme and port of the url: what answers there may speak https"
    return "check the url, and whether the server runs"


_CORE_TO_HTTPX: tuple[tuple[type[Exception], type[httpx2.TransportError]], ...] = (
    (httpcore2.ConnectTimeout, httpx2.ConnectTimeout),
    (httpcore2.ReadTimeout, httpx2.ReadTimeout),
    (httpcore2.WriteTimeout, httpx2.WriteTimeout),
    (httpcore2.PoolTimeout, httpx2.PoolTimeout),
    (httpcore2.ConnectError, httpx2.ConnectError),
    (httpcore2.ReadError, httpx2.ReadError),
    (httpcore2.WriteError, httpx2.WriteError),
    (httpcore2.ProxyError, httpx2.ProxyError),
    (httpcore2.UnsupportedProtocol, httpx2.UnsupportedProtocol),
    (httpcore2.LocalProtocolError, httpx2.LocalProtocolError),
    (httpcore2.RemoteProtocolError, httpx2.RemoteProtocolError),
)
_CORE_ERRORS = tuple(core for core, _ in _CORE_TO_HTTPX)


def _as_httpx(error: Exception) -> httpx2.TransportError:
    for core, ours in _CORE_TO_HTTPX:
        if isinstance(error, core):
            return ours(str(error))
    raise TypeError(f"{type(error).__name__} is not an error of the connection")
