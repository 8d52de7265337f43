"""The one HTTP client: TLS that is checked, why a connection failed, and what bounds an answer."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_auth.errors import AddressRefused, Unreachable
from mcp_auth.net.bodies import ACCEPTED_CODINGS
from mcp_auth.net.http import MAX_BODY, Answer, Http, LostAnswer, _GuardedBackend, what_helps, why_unreachable
from mcp_auth.net.rules import NetworkRules
from tests.patience import PATIENCE
from tests.servers.threads import loopback_socket, serving


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class Site:
    """Answers on loopback, over TLS or not. `seen`: the requests."""

    def __init__(self, port: int, scheme: str) -> None:
        self.origin = f"{scheme}://localhost:{port}"
        self.rules = NetworkRules.for_url(self.origin)
        self.seen: list[Request] = []
        self.answers: dict[str, Response] = {}

    async def answer(self, request: Request) -> Response:
        self.seen.append(request)
        return self.answers.get(request.url.path) or PlainTextResponse("here")


def site(scheme: str, certificate: Path | None = None) -> Any:
    bound = loopback_socket()
    here = Site(bound.getsockname()[1], scheme)
    app = Starlette(routes=[Route("/{path:path}", here.answer, methods=["GET", "POST"])])
    return here, serving(app, bound, certificate)


@pytest.fixture
def plain() -> Iterator[Site]:
    here, served = site("http")
    with served:
        yield here


@pytest.fixture
def secure(tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """Its certificate is for `localhost`, by an authority that SSL_CERT_FILE names."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    here, served = site("https", tmp_path / "server.pem")
    with served:
        yield here


@asynccontextmanager
async def client() -> AsyncIterator[Http]:
    http = Http()
    try:
        yield http
    finally:
        await http.close()


async def said(http: Http, url: str, **options: Any) -> str:
    with pytest.raises(Unreachable) as caught:
        await http.fetch(NetworkRules.for_url(url), "GET", url, **options)
    return caught.value.message


async def test_a_certificate_of_an_authority_that_the_system_trusts_is_good(secure: Site) -> None:
    async with client() as http:
        answer = await http.fetch(secure.rules, "GET", f"{secure.origin}/a")
        assert (answer.status, answer.body, answer.url) == (200, b"here", f"{secure.origin}/a")
        assert http.tls() is http.tls()
        assert isinstance(http.tls(), ssl.SSLContext)
        assert (http.tls().verify_mode, http.tls().check_hostname) == (ssl.CERT_REQUIRED, True)


async def test_a_certificate_that_is_not_good_is_called_so_and_nothing_is_sent(
    secure: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client() as http:
        other_name = secure.origin.replace("localhost", "127.0.0.1")
        assert "its certificate is not valid" in await said(http, other_name)
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    async with client() as http:
        assert "its certificate is not valid" in await said(http, secure.origin)
    assert secure.seen == []


async def test_a_server_that_speaks_no_tls_is_called_so(plain: Site) -> None:
    async with client() as http:
        assert "(TLS failed)" in await said(http, plain.origin.replace("http:", "https:"))


async def test_nobody_listening_is_a_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with client() as http:
        assert "(connection refused)" in await said(http, f"http://127.0.0.1:{port}/")


async def test_a_name_that_nobody_knows_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unknown(host: str, port: int, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    async with client() as http:
        assert "(the name is unknown)" in await said(http, "https://nowhere.example/")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx2.ConnectTimeout("10.0.0.1"), "no connection in time"),
        (httpx2.ConnectError("10.0.0.1"), "no connection"),
        (httpx2.PoolTimeout("10.0.0.1"), "no answer in time"),
        (httpx2.ReadTimeout("10.0.0.1"), "no answer in time"),
        (httpx2.ReadError("10.0.0.1"), "it broke off without an answer"),
        (httpx2.RemoteProtocolError("10.0.0.1"), "it broke off without an answer"),
    ],
)
def test_why_a_connection_failed_names_no_address(error: Exception, words: str) -> None:
    assert why_unreachable(error) == words


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (ConnectionRefusedError(), "connection refused"),
        (ssl.SSLError(1, "WRONG_VERSION_NUMBER"), "TLS failed"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "the name is unknown"),
        (OSError(113, "No route to host"), "no connection"),
    ],
)
@pytest.mark.parametrize("explicit", [True, False])
def test_the_cause_is_found_however_deep_it_lies(cause: Exception, words: str, explicit: bool) -> None:
    middle, outer = httpx2.ConnectError("middle"), httpx2.ConnectError("outer")
    if explicit:
        middle.__cause__, outer.__cause__ = cause, middle
    else:
        middle.__context__, outer.__context__ = cause, middle
    assert why_unreachable(outer) == words


async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(plain: Site) -> None:
    plain.answers = {
        "/fits": Response(b"x" * MAX_BODY),
        "/larger": Response(b"x" * (MAX_BODY + 1)),
        "/zip": Response(gzip.compress(b"x" * (MAX_BODY * 4)), headers={"Content-Encoding": "gzip"}),
    }
    async with client() as http:
        assert len((await http.fetch(plain.rules, "GET", f"{plain.origin}/fits")).body) == MAX_BODY
        for path in ("/larger", "/zip"):
            with pytest.raises(LostAnswer, match="more than 1024 kB"):
                await http.fetch(plain.rules, "GET", plain.origin + path)
        # Who needs the head alone, waits for no body
        answer = await http.fetch(plain.rules, "GET", f"{plain.origin}/larger", head_only=True)
        assert (answer.status, answer.body) == (200, b"")


async def test_redirects_are_followed_for_get_within_the_origin_and_not_in_circles(plain: Site) -> None:
    plain.answers = {
        "/start": RedirectResponse("/next", 302),
        "/next": RedirectResponse(f"{plain.origin}/end", 307),
        "/away": RedirectResponse("https://elsewhere.example/x", 302),
        "/circle": RedirectResponse("/circle", 302),
        "/plain": RedirectResponse("http://elsewhere.example/x", 302),
        "/nowhere": Response(status_code=302),
        "/made": Response(status_code=201, headers={"Location": "/end"}),
    }
    async with client() as http:
        end = await http.fetch(plain.rules, "GET", f"{plain.origin}/start")
        assert (end.status, end.url) == (200, f"{plain.origin}/end")
        plain.seen.clear()
        posted = await http.fetch(plain.rules, "POST", f"{plain.origin}/start", form={"a": "b"})
        assert (posted.status, len(plain.seen)) == (302, 1)
        for path, status in (("/away", 302), ("/nowhere", 302), ("/made", 201)):
            assert (await http.fetch(plain.rules, "GET", plain.origin + path)).status == status
        # Nothing is sent there, and yet it is no answer either
        with pytest.raises(AddressRefused):
            await http.fetch(plain.rules, "GET", f"{plain.origin}/plain")
        plain.seen.clear()
        with pytest.raises(Unreachable, match="redirects in circles"):
            await http.fetch(plain.rules, "GET", f"{plain.origin}/circle")
        assert len(plain.seen) == 6


async def test_what_is_sent_is_what_was_given_and_no_cookie_comes_back(plain: Site) -> None:
    plain.answers = {"/cookie": Response("ok", headers={"Set-Cookie": "a=b"})}
    async with client() as http:
        await http.fetch(plain.rules, "GET", f"{plain.origin}/cookie")
        await http.fetch(plain.rules, "POST", f"{plain.origin}/cookie", form={"a": "b c"}, headers={"X-Own": "1"})
    first, second = plain.seen
    assert (first.headers["accept"], first.headers["accept-encoding"]) == ("application/json", "identity")
    assert (second.headers["content-type"], second.headers["x-own"]) == ("application/x-www-form-urlencoded", "1")
    assert second.headers["content-length"] == str(len("a=b+c"))
    assert "cookie" not in second.headers
    assert {seen.headers["user-agent"] for seen in plain.seen} == {"slash-mcp"}


@pytest.mark.parametrize("url", ["http://localhost:1/\ud800", "http://localhost:1/\n"])
async def test_a_url_that_cannot_be_sent_is_refused_before_anything_is(url: str) -> None:
    async with client() as http:
        with pytest.raises(AddressRefused):
            await http.fetch(NetworkRules.for_url("http://localhost:1/"), "GET", url)


async def test_an_answer_that_does_not_come_is_lost_and_a_short_wait_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        async with client() as http:
            with pytest.raises(LostAnswer, match="within 0 seconds"):
                await http.fetch(NetworkRules.for_url(url), "GET", url, timeout=0.1)


@pytest.mark.parametrize("part", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"])
async def test_a_connection_that_breaks_off_is_a_lost_answer(part: bytes) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part)
        writer.close()

    server = await asyncio.start_server(broken, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with server, client() as http:
        with pytest.raises(LostAnswer, match="broke off"):
            await http.fetch(NetworkRules.for_url(url), "GET", url)


def test_an_answer_does_not_show_its_body() -> None:
    answer = Answer(200, httpx2.Headers({"a": "secret"}), b"secret", "http://x/?secret")
    assert repr(answer) == "Answer(status=200, 6 bytes)"


def untrusted() -> ssl.SSLCertVerificationError:
    """As OpenSSL makes it."""
    error = ssl.SSLCertVerificationError("no")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("cause", "url", "advice"),
    [
        (untrusted(), "https://h/", "have its certificate renewed"),
        (ssl.SSLError("no"), "https://h/", "does not speak https"),
        (socket.gaierror(socket.EAI_NONAME, "no"), "https://h/", "check the host in the url"),
        (socket.gaierror(socket.EAI_AGAIN, "no"), "https://h/", "check the DNS of this host"),
        (ConnectionRefusedError(), "https://h/", "check host and port of the url, and whether the server runs"),
        (OSError("no"), "https://h/", "check the url, and whether the server runs"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_why_nobody_answered_decides_what_is_advised(cause: Exception, url: str, advice: str) -> None:
    error = httpx2.ConnectError("no")
    error.__cause__ = cause
    assert advice in (what_helps(error, url) or "")


@pytest.mark.parametrize(("url", "may_be_https"), [("http://h/", True), ("https://h/", False)])
def test_an_answer_that_breaks_off_on_plain_http_may_be_https(url: str, may_be_https: bool) -> None:
    assert ("may speak https" in (what_helps(httpx2.ReadError("no"), url) or "")) is may_be_https


async def test_no_connection_is_left_in_use_after_an_answer_however_much_of_it_was_read(plain: Site) -> None:
    plain.answers = {"/large": Response(b"x" * (MAX_BODY + 1)), "/away": RedirectResponse("https://a.example/", 302)}
    async with client() as http:
        for _ in range(3):
            await http.fetch(plain.rules, "GET", f"{plain.origin}/large", head_only=True)
            await http.fetch(plain.rules, "GET", f"{plain.origin}/away")
            with pytest.raises(LostAnswer):
                await http.fetch(plain.rules, "GET", f"{plain.origin}/large")
        connections = http.transport(plain.rules)._pool(False).connections
        assert all(one.is_idle() or one.is_closed() for one in connections)
        assert len(connections) <= 1


async def test_requests_never_wait_for_each_other(plain: Site) -> None:
    """Given more answers under way than a pool has by default, and nobody reads them."""
    async with client() as http, asyncio.timeout(PATIENCE):
        transport = http.transport(plain.rules)
        held = [
            await transport.handle_async_request(httpx2.Request("GET", f"{plain.origin}/{number}"))
            for number in range(12)
        ]
        for response in held:
            await response.aclose()


def test_a_connection_has_eight_seconds_and_a_request_fifteen() -> None:
    request = Http()._request("GET", "https://h.example/", None, None, None)
    assert request.extensions == {"timeout": {"connect": 8.0}}
    assert inspect.signature(Http.fetch).parameters["timeout"].default == 15.0


@pytest.mark.parametrize("given", [None, 2.0])
async def test_every_address_of_a_name_gets_its_share_of_the_time(
    given: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given three addresses that fail at once: a third of all the time, half of what is left, all of it."""
    shares: list[float] = []

    class Silent(httpcore2.AnyIOBackend):
        async def connect_tcp(self, host: str, port: int, timeout: float | None = None, *rest: Any, **more: Any) -> Any:
            shares.append(timeout or 0.0)
            raise httpcore2.ConnectTimeout(host)

    async def three(host: str, port: int, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{n}", port)) for n in (1, 2, 3, 2)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", three)
    monkeypatch.setattr("mcp_auth.net.http.time.monotonic", lambda: 100.0)
    backend = _GuardedBackend(None)
    backend._inner = Silent()
    with pytest.raises(httpcore2.ConnectTimeout):
        await backend.connect_tcp("slow.example", 443, given)
    whole = 8.0 if given is None else given
    assert shares == pytest.approx([whole / 3, whole / 2, whole])


async def test_of_several_addresses_a_refusal_explains_more_than_one_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def two(host: str, port: int, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("10.0.0.1", "10.0.0.2")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", two)
    backend = _GuardedBackend(NetworkRules.for_url("https://mcp.example.com/"))
    with pytest.raises(AddressRefused, match="private address"):
        await backend.connect_tcp("as.example.com", 443, PATIENCE)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [("gzip, deflate, br, zstd", ACCEPTED_CODINGS), ("br", ACCEPTED_CODINGS), ("identity", "identity"), (None, None)],
)
async def test_no_coding_is_asked_for_that_cannot_be_bounded(plain: Site, asked: str | None, sent: str | None) -> None:
    assert ACCEPTED_CODINGS == "gzip, deflate"
    headers = {} if asked is None else {"Accept-Encoding": asked}
    async with client() as http:
        request = httpx2.Request("GET", f"{plain.origin}/", headers=headers)
        response = await http.transport(plain.rules).handle_async_request(request)
        await response.aread()
    assert plain.seen[-1].headers.get("accept-encoding") == sent


async def test_one_tls_context_serves_all_servers_and_is_made_only_where_it_is_used(plain: Site) -> None:
    async with client() as http:
        await http.fetch(plain.rules, "GET", f"{plain.origin}/")
        assert http._tls is None
        pools = [http.transport(NetworkRules.for_url(f"https://{name}.example/"))._pool(True) for name in "ab"]
        assert http._tls is not None
        assert [pool._ssl_context for pool in pools] == [http._tls, http._tls]


async def test_an_unpacked_answer_says_nothing_of_how_it_was_packed(plain: Site) -> None:
    body = b"x" * 100_000
    plain.answers = {"/zip": Response(gzip.compress(body), headers={"Content-Encoding": "gzip"})}
    async with client() as http:
        response = await http.transport(plain.rules).handle_async_request(httpx2.Request("GET", f"{plain.origin}/zip"))
        assert not {"content-encoding", "content-length"} & set(response.headers)
        assert await response.aread() == body
