"""Every way in which a server fails to be one: what was seen, and what to do, on the real command line."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response

from mcp_auth import McpAuth
from mcp_auth.errors import ServerRefused, Unreachable
from mcp_auth.net.responses import Seen, retry_after, shown_url
from mcp_auth.outcome import Next
from tests.adapters.cli.typed import Run
from tests.homes import ME, open_auth, signed_in, write_home
from tests.ports import free_port
from tests.servers.oauth import OAuthServer

RPC_ERROR = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no such version"}}

# The answer, and what is said of it.
ANSWERS: dict[str, tuple[Callable[[], Response], tuple[str, ...]]] = {
    # Another host, in whatever way it is said
    **{
        f"moved-{status}": (
            lambda status=status: RedirectResponse("https://new.example/v2/mcp?key=s3cret", status),
            ("it redirects to https://new.example/v2/mcp;", "put that as url"),
        )
        for status in (301, 302, 303, 307, 308)
    },
    "page": (lambda: HTMLResponse("<html>Welcome"), ("it answers with a web page", "check the url")),
    "text": (lambda: PlainTextResponse("hello"), ("it answers with text/plain", "check the url")),
    "nothing": (lambda: Response(status_code=204), ("it answers nothing", "check the url")),
    "other-json": (lambda: JSONResponse({"hello": 1}), ("it does not answer as an MCP server does", "check the url")),
    "accepted": (lambda: Response(status_code=202), ("it does not answer as an MCP server does",)),
    "bad-request": (lambda: PlainTextResponse("no", 400), ("HTTP 400: it refuses the request", "check the url and")),
    "payment": (lambda: PlainTextResponse("", 402), ("HTTP 402: it asks for a payment", "ask whoever")),
    "legal": (lambda: PlainTextResponse("", 451), ("HTTP 451: it refuses the request", "ask whoever")),
    "nowhere": (lambda: PlainTextResponse("", 307), ("HTTP 307: it redirects", "check the url")),
    "choices": (lambda: PlainTextResponse("", 300, {"Location": "/x"}), ("HTTP 300: it redirects", "check the url")),
    "not-found": (lambda: JSONResponse({"detail": "Not Found"}, 404), ("HTTP 404", "check the path of the url")),
    "not-found-page": (lambda: HTMLResponse("<html>", 404), ("web page (HTTP 404)", "check the url")),
    "gone": (lambda: PlainTextResponse("", 410), ("HTTP 410", "check the url")),
    "method": (lambda: PlainTextResponse("", 405), ("HTTP 405", "transport")),
    "slow-down": (
        lambda: PlainTextResponse("", 429, {"retry-after": "30"}),
        ("HTTP 429: too many requests, again in 30 seconds",),
    ),
    "slow-down-without-a-word": (lambda: PlainTextResponse("", 429), ("HTTP 429", "try again later")),
    "slow-down-for-ever": (lambda: PlainTextResponse("", 429, {"retry-after": "9" * 40}), ("try again later",)),
    "broken": (lambda: PlainTextResponse("", 500), ("HTTP 500", "try again later")),
    "gateway": (lambda: HTMLResponse("<html>", 502), ("HTTP 502", "a gateway before the server", "try again later")),
    "maintenance": (lambda: PlainTextResponse("", 503, {"retry-after": "120"}), ("HTTP 503", "again in 2 minutes")),
    "timeout": (lambda: PlainTextResponse("", 504), ("HTTP 504",)),
    # The server's own words, where it speaks the protocol
    "protocol-error": (lambda: JSONResponse(RPC_ERROR, 400), ("it answers with an error: no such version",)),
}


def answer_always(oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Response]) -> None:
    monkeypatch.setattr(oauth, "_mcp_answer", lambda seen: answer())


def opened(folder: Path, url: str, **entry: Any) -> McpAuth:
    return open_auth(folder, {"notes": {"url": url, **entry}})


KEY = {"headers": {"Authorization": "Bearer key-value-1234"}}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_command_line_says_what_was_seen_and_what_to_do(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, run: Run, name: str
) -> None:
    answer, said = ANSWERS[name]
    answer_always(oauth, monkeypatch, answer)
    home = write_home(tmp_path, {"notes": {"url": oauth.url, **KEY}})

    done = run("--home", home, "test", "notes")

    assert done.code != 0
    assert [part for part in said if part not in done.out + done.err] == []
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize("transport", ["sse"])
@pytest.mark.parametrize("name", [name for name in ANSWERS if name not in ("protocol-error", "other-json", "accepted")])
async def test_over_sse_too(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, name: str, transport: str
) -> None:
    answer, said = ANSWERS[name]
    answer_always(oauth, monkeypatch, answer)
    async with opened(tmp_path, oauth.url, transport=transport, **KEY) as auth:
        tested = await auth.probe("notes", insist=True)
    assert [part for part in said if part not in (tested.detail or "")] == []


@pytest.mark.parametrize("name", ["moved-308", "page", "slow-down", "gateway", "text"])
async def test_a_signed_in_server_says_it_as_well_and_keeps_its_grant(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer, said = ANSWERS[name]
    async with opened(tmp_path, oauth.url, auth="oauth") as auth:
        await signed_in(auth)
        answer_always(oauth, monkeypatch, answer)
        tested = await auth.probe("notes", insist=True)
        with pytest.raises(Unreachable) as raised:
            async with auth.session("notes") as session:
                await session.list_tools()
        status = await auth.status("notes")
    assert [part for part in said if part not in (tested.detail or "")] == []
    assert said[0] in str(raised.value).replace(". Next: ", "; ")
    assert status.auth.value == "signed_in"


@pytest.mark.parametrize("body", [PlainTextResponse("no", 403), HTMLResponse("<html>Request blocked", 403)])
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_403_to_a_key_is_a_refused_key(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, transport: str, body: Response
) -> None:
    answer_always(oauth, monkeypatch, lambda: body)
    async with opened(tmp_path, oauth.url, transport=transport, **KEY) as auth:
        tested = await auth.probe("notes", insist=True)
        with pytest.raises(ServerRefused) as refused:
            async with auth.session("notes"):
                pass
    assert (tested.state.value, tested.detail) == ("refused", "notes refused the key (HTTP 403).")
    assert refused.value.next_step == Next("key", "notes")


@pytest.mark.parametrize("name", ["moved-301", "page", "not-found", "slow-down", "gateway"])
def test_doctor_and_test_agree(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, run: Run, name: str
) -> None:
    answer, said = ANSWERS[name]
    answer_always(oauth, monkeypatch, answer)
    home = write_home(tmp_path, {"notes": {"url": oauth.url, **KEY}})
    done = run("--home", home, "doctor")
    assert "notes answers" not in done.out
    assert said[0].rstrip(";").lower() in done.out.lower()


@pytest.mark.parametrize("name", ["moved-301", "page", "not-found"])
async def test_a_sign_in_at_a_wrong_address_says_what_is_there(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    answer, said = ANSWERS[name]
    answer_always(oauth, monkeypatch, answer)
    oauth.knobs.prm_path, oauth.knobs.well_known = None, "none"
    async with opened(tmp_path, oauth.url, auth="oauth") as auth:
        with pytest.raises(Exception, match="no OAuth metadata") as refused:
            await auth.sign_in("notes", "shared", ME, listen=False)
    assert said[0].rstrip(";") in str(refused.value)
    assert said[1] in str(refused.value)


async def test_our_sessions_say_who_they_are(tmp_path: Path, oauth: OAuthServer) -> None:
    """TradingView's CloudFront answers 403 to requests without a User-Agent of their own."""
    async with opened(tmp_path, oauth.url, auth="oauth") as auth:
        await signed_in(auth)
        oauth.forget()
        await auth.probe("notes", insist=True)
    assert {seen.headers["user-agent"] for seen in oauth.seen} == {"slash-mcp"}


async def test_an_answer_that_came_before_is_not_blamed_for_what_fails_later(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, oauth.url, auth="oauth") as auth:
        await signed_in(auth)
        with pytest.raises(ValueError, match="the agent's own"):
            async with auth.session("notes") as session:
                await session.list_tools()
                raise ValueError("the agent's own")


# -- below HTTP --------------------------------------------------------------------------------


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which each connection is served by `serve`, until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            try:
                serve(connection)
            except OSError:
                pass
            finally:
                connection.close()

        threading.Thread(target=run, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def banner(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")


def silence(connection: socket.socket) -> None:
    connection.recv(4096)


def plain_http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def self_signed() -> Callable[[socket.socket], None]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def serve(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).recv(4096)

    return serve


BELOW_HTTP: dict[str, tuple[str, Callable[[], Callable[[socket.socket], None]] | None, tuple[str, ...]]] = {
    "refused": ("http", None, ("connection refused", "check host and port of the url")),
    "ssh": ("http", lambda: banner, ("broke off without an answer", "may speak https")),
    "closed": ("http", lambda: silence, ("broke off without an answer", "may speak https")),
    "http-to-https": ("http", self_signed, ("broke off without an answer", "may speak https")),
    "https-to-http": ("https", lambda: plain_http, ("TLS failed", "does not speak https")),
    "self-signed": ("https", self_signed, ("its certificate is not valid", "SSL_CERT_FILE")),
}


@pytest.mark.parametrize("name", BELOW_HTTP)
async def test_a_connection_that_fails_says_why_and_what_to_check(tmp_path: Path, name: str) -> None:
    scheme, serve, said = BELOW_HTTP[name]
    with listening(serve() if serve else silence) as port:
        url = f"{scheme}://127.0.0.1:{port if serve else free_port()}/mcp"
        async with opened(tmp_path, url, **KEY) as auth:
            tested = await auth.probe("notes", insist=True)
        async with opened(tmp_path / "oauth", url, auth="oauth") as auth:
            with pytest.raises(Unreachable) as refused:
                await auth.sign_in("notes", "shared", ME, listen=False)
    assert [part for part in said if part not in (tested.detail or "")] == []
    assert said[1] in str(refused.value)


# -- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "location", "said"),
    [
        # Behind a proxy that ends TLS (litellm): the server thinks it is on http
        ("https://h.example/mcp", "http://h.example/mcp/", "put https://h.example/mcp/ as url"),
        ("http://h.example/mcp", "https://h.example/mcp", "it redirects to https://h.example/mcp; put that as url"),
        ("https://h.example/mcp", "/login?next=%2Fmcp#x", "it redirects to https://h.example/login; put that as url"),
        (
            "https://h.example/s/0123456789abcdef0123456789/mcp",
            "mcp/",
            "it redirects to https://h.example/s/…/mcp/;",
        ),
        ("https://h.example/mcp", "https://u:p@h.example:8443/x", "it redirects to https://h.example:8443/x;"),
        ("https://h.example/mcp", "javascript:alert(1)", "HTTP 302"),
        ("https://h.example/mcp", "https://[", "HTTP 302"),
        ("https://h.example/mcp", "https://h.example/\x1b[31m\u202e", "it redirects to https://h.example/?[31m?;"),
    ],
)
def test_a_redirect_names_where_it_leads_and_nothing_secret(url: str, location: str, said: str) -> None:
    assert said in Seen.of(302, {"location": location}, url).sentence()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        (" 1.5 ", 1.5),
        ("0", 0.0),
        ("-1", None),
        ("nan", None),
        ("9" * 400, None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 100.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, 0.0) == seconds


def test_a_shown_url_is_bounded() -> None:
    assert len(shown_url("https://h.example/" + "a/" * 5000)) < 100
