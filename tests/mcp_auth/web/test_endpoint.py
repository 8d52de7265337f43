"""The endpoint's own pages, documents and headers, alone and inside somebody else's application."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from msgspec.structs import replace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from mcp_auth import McpAuth
from mcp_auth.errors import (
    AlreadyFinished,
    Busy,
    CallbackRejected,
    ConfigError,
    McpAuthError,
    OtherBrowser,
    SignInExpired,
    StoreError,
)
from mcp_auth.limits import POSTS
from mcp_auth.links import tickets
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import Check, Requester, SignIn
from mcp_auth.status import ConnectionState
from mcp_auth.stores.base import Links
from mcp_auth.web import endpoint, forms, standing
from mcp_auth.web import page_texts as texts
from tests.browser import Browser, Page
from tests.homes import open_auth, query_of, write_home
from tests.mcp_auth.stores.backends import key_form, sign_in
from tests.servers.oauth import OAuthServer

ANN = Requester(principal="telegram:100001", display_name="Ann")
PUBLIC = "https://bot.example.com"


def opened(folder: Path, oauth: OAuthServer, gateway: dict[str, Any] | None = None, **options: object) -> McpAuth:
    servers = {"notes": {"url": oauth.url, "auth": "oauth", "oauth": options}}
    return open_auth(
        folder, servers, {"public_url": PUBLIC, "allow": ["telegram:100001"], "verify": "none", **(gateway or {})}
    )


async def test_the_page_says_who_asked_for_what_and_until_when(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.open((await auth.sign_in("notes", "shared", ANN)).link)

    assert page.status == 200
    for said in ("Ann", "Telegram", "…0001", "notes", "127.0.0.1", "10 minutes", "UTC", "Continue"):
        assert said in page.text
    assert "100001" not in page.source


async def test_https_gets_host_cookies_that_no_script_and_no_other_host_can_reach(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """One for each sign-in, and only where no script can keep the browser's secret."""
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        started = await auth.sign_in("notes", "shared", ANN)
        page = await browser.open(started.link)
        given = {**page.fields, "action": "continue"}
        answer = await browser.request("POST", page.url, data=given)
        name = tickets.secret_name("a", started.sign_in.id, started.sign_in.created_at)
        kept = await browser.request("POST", page.url, data={**given, "kept": "storage"})

    (cookie,) = answer.headers.get_list("set-cookie")
    assert answer.status == kept.status == 303
    assert cookie.startswith(f"__Host-slash-mcp-{name}=")
    assert page.headers.get_list("set-cookie")[0].startswith(f"__Host-slash-mcp-{name}-form=")
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert parts == {"httponly", "secure", "samesite=lax", "path=/", "max-age=3600"}
    assert kept.headers.get_list("set-cookie") == []


async def test_every_answer_keeps_itself_to_itself(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        link = (await auth.sign_in("notes", "shared", ANN)).link
        answers = [await browser.open(f"{PUBLIC}{path}") for path in ("/", "/healthz", "/callback/x", "/k/x")]
        answers += [await browser.open(link), await browser.press(await browser.open(link))]
        answers += [await browser.request("DELETE", link), await browser.request("POST", link)]
    for page in answers:
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-robots-tag"] == "noindex, nofollow"
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert page.headers["cross-origin-resource-policy"] == "same-origin"
        assert page.headers["permissions-policy"] == "camera=(), geolocation=(), microphone=()"
        assert not re.findall(r"(?:src|href)=\"(?!data:|http://127)", page.source)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/readyz", 200),
        ("POST", "/healthz", 404),
        ("POST", "/readyz", 404),
        ("GET", "/a/x/state", 404),
        ("GET", "/k/x/state", 404),
        ("POST", "/client/x.json", 404),
        ("POST", "/nowhere", 404),
        ("PUT", "/nowhere", 405),
        ("DELETE", "/a/x", 405),
        ("PATCH", "/callback/x", 405),
    ],
)
async def test_an_address_answers_to_its_own_methods_alone(
    tmp_path: Path, oauth: OAuthServer, method: str, path: str, status: int
) -> None:
    form = {"any": "thing"} if method == "POST" else None
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        assert (await browser.request(method, f"{PUBLIC}{path}", data=form)).status == status


@pytest.mark.parametrize("prefix", ["", "/mcp"])
async def test_it_is_mounted_in_a_fastapi_application(tmp_path: Path, oauth: OAuthServer, prefix: str) -> None:
    auth = opened(tmp_path, oauth, {"public_url": f"{PUBLIC}/mcp"})
    host = FastAPI()

    @host.get("/hello")
    def hello() -> str:
        return "hello"

    host.mount("/" if prefix else "/mcp", auth.asgi_app(prefix=prefix))
    async with auth, Browser(host) as browser:
        link = (await auth.sign_in("notes", "shared", ANN)).link
        assert link.startswith(f"{PUBLIC}/mcp/a/")
        page = await browser.sign_in(link)
        assert page.url == link
        assert page.heading == "notes is connected"
        assert (await browser.open(f"{PUBLIC}/hello")).source == '"hello"'
        assert (await browser.open(f"{PUBLIC}/mcp/healthz")).source == "ok\n"


async def test_a_web_socket_is_refused_politely(tmp_path: Path, oauth: OAuthServer) -> None:
    """Said nothing to, the server around us would log a fault of ours for everybody who tries."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async with opened(tmp_path, oauth) as auth:
        scope = {"type": "websocket", "path": "/a/x", "headers": [], "query_string": b"", "scheme": "wss"}
        await auth.asgi_app()(scope, receive, send)
    assert sent == ["websocket.close"]


async def test_without_a_public_url_there_is_nothing_to_mount(tmp_path: Path) -> None:
    async with McpAuth.open(home=write_home(tmp_path, {})) as auth:
        with pytest.raises(ConfigError, match="public_url"):
            auth.asgi_app()


async def test_what_others_mounted_is_served_beside_the_pages(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth:
        auth.mount("/hooks/chat", PlainTextResponse("heard"))
        async with Browser(auth.asgi_app(prefix="/mcp")) as browser:
            assert (await browser.request("POST", f"{PUBLIC}/mcp/hooks/chat")).source == "heard"
            assert (await browser.open(f"{PUBLIC}/hooks/chat/more")).source == "heard"
            assert (await browser.open(f"{PUBLIC}/hooks/chatter")).status == 404


async def test_the_client_id_is_the_address_of_our_own_document(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata = {"client_id_metadata_document_supported": True}
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
        asked = query_of(page.next or "")
        document = (await browser.open(asked["client_id"])).source

    import json

    read = json.loads(document)
    assert oauth.requests("/register") == []
    assert read["client_id"] == asked["client_id"]
    assert read["redirect_uris"] == [asked["redirect_uri"]]
    assert (read["application_type"], read["token_endpoint_auth_method"]) == ("web", "none")
    assert asked["redirect_uri"].startswith(f"{PUBLIC}/callback/")


async def test_the_document_can_be_turned_off_and_unknown_ones_are_404(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.metadata = {"client_id_metadata_document_supported": True}
    async with opened(tmp_path, oauth, cimd=False) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
        asked = query_of(page.next or "")
        connection = asked["redirect_uri"].rpartition("/")[2]
        assert (await browser.open(f"{PUBLIC}/client/{connection}.json")).status == 404
    assert asked["client_id"].startswith("client-")
    (registered,) = oauth.clients.values()
    assert registered["application_type"] == "web"
    assert registered["redirect_uris"] == [asked["redirect_uri"]]


@pytest.mark.parametrize(
    ("metadata", "options", "answers"),
    [
        ({"client_id_metadata_document_supported": True}, {}, 200),
        ({"client_id_metadata_document_supported": False}, {}, 404),
        ({}, {}, 404),
        ({"client_id_metadata_document_supported": True}, {"cimd": False}, 404),
        ({"client_id_metadata_document_supported": True}, {"client_id": "by-hand"}, 404),
        (
            {"client_id_metadata_document_supported": True},
            {"client_metadata_url": "https://elsewhere.example/client.json"},
            404,
        ),
    ],
    ids=["used", "said not to be", "not said", "turned off", "registered by hand", "a document elsewhere"],
)
async def test_the_document_answers_only_where_it_is_used(
    tmp_path: Path, oauth: OAuthServer, metadata: dict[str, Any], options: dict[str, Any], answers: int
) -> None:
    oauth.knobs.metadata = metadata
    async with opened(tmp_path, oauth, **options) as auth, Browser(auth.asgi_app()) as browser:
        started = await auth.sign_in("notes", "shared", ANN)
        connection = started.sign_in.redirect_uri.rpartition("/")[2]

        page = await browser.open(f"{PUBLIC}/client/{connection}.json")

        assert page.status == answers


async def test_the_start_page_shows_the_scopes_and_marks_the_new_ones(tmp_path: Path, oauth: OAuthServer) -> None:
    """A forwarded link, or a server that wants more than before: what is asked for stands there before it is given."""
    oauth.knobs.challenge_scope = "read"
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        first = await browser.open((await auth.sign_in("notes", "shared", ANN)).link)
        assert "Access read" in first.text
        assert "new" not in first.text
        await browser.open(await browser.authorize(await browser.press(first)))
        oauth.knobs.need_scope = "write"
        assert (await auth.probe("notes")).state is ConnectionState.REFUSED

        again = await browser.open((await auth.sign_in("notes", "shared", ANN)).link)

        assert "Access write new read" in again.text


async def test_many_scopes_are_counted_and_hostile_ones_are_text(tmp_path: Path, oauth: OAuthServer) -> None:
    scopes = [*(f"scope{number}" for number in range(20)), "<b>x</b>"]
    async with opened(tmp_path, oauth, scope=" ".join(reversed(scopes))) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.open((await auth.sign_in("notes", "shared", ANN)).link)
        assert "and 9 more" in page.text
        assert "<b>x" not in page.source


async def test_ready_says_whether_the_store_answers(
    tmp_path: Path, oauth: OAuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp_auth.errors import StoreError

    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        assert (await browser.open(f"{PUBLIC}/readyz")).status == 200

        async def broken(self: Links[SignIn], id: str) -> None:
            raise StoreError("the disk is gone")

        monkeypatch.setattr(Links, "get", broken)
        assert (await browser.open(f"{PUBLIC}/readyz")).status == 503
        assert (await browser.open(f"{PUBLIC}/healthz")).status == 200
        page = await browser.open(f"{PUBLIC}/a/{'A' * 64}")
        assert (page.status, page.heading) == (503, "Something went wrong")


async def test_the_last_page_can_be_loaded_again_and_the_link_too(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        link = (await auth.sign_in("notes", "shared", ANN)).link
        done = await browser.sign_in(link)
        for url in (done.url, link):
            again = await browser.open(url)
            assert (again.status, again.heading) == (200, "notes is connected")
    assert len(oauth.requests("/token")) == 1


async def test_a_refusal_at_the_authorization_server_is_said_and_stays(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.authorize_error = {"error": "access_denied", "error_description": "<b>No</b> \u202eelgoog"}
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.sign_in((await auth.sign_in("notes", "shared", ANN)).link)
        assert (await browser.open(page.url)).source == page.source
    assert page.heading == "notes is not connected"
    assert "Access was denied: <b>No</b> elgoog." in page.text
    assert "<b>No" not in page.source
    assert "type in the chat: auth notes" in page.text


async def test_a_server_that_refuses_the_new_access_is_not_called_connected(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
        redirect = await browser.authorize(page)
        oauth.knobs.mcp_answers = [PlainTextResponse("", 401) for _ in range(6)]
        assert (await browser.open(redirect)).heading == "notes is not connected"


async def test_the_waiting_page_asks_whether_it_may_go_on(tmp_path: Path, oauth: OAuthServer) -> None:
    async with opened(tmp_path, oauth, {"verify": "code"}) as auth, Browser(auth.asgi_app()) as browser:
        page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
        own = {"secret": browser.kept(page.url, page.kept or "") or "", "seen": "code"}

        async def state(**given: str) -> Page:
            headers = {"Accept": "application/json"}
            return await browser.request("POST", f"{page.url}/state", data=given, headers=headers)

        assert (await state(**own)).source == '{"state":"code"}'
        for secret in ("", "A" * 43, "A" * 5000, own["secret"][:-1], own["secret"] + "A"):
            other = await state(secret=secret)
            assert other.status == 403
            assert page.code not in other.source
        assert (await browser.request("GET", f"{page.url}/state")).status == 404
        foreign = {"Sec-Fetch-Site": "same-site"}
        assert (await browser.request("POST", f"{page.url}/state", data=own, headers=foreign)).status == 404
        await auth.confirm(page.code, ANN.principal, private=True)
        assert json.loads((await state(**own)).source)["state"] == "go"
        shell = await browser.request("GET", page.url)
        assert shell.heading == "Just a moment"
        assert page.code not in shell.source
        assert "script-src 'sha256-" in shell.headers["content-security-policy"]
        assert "<noscript>" in shell.source


async def test_pages_that_wait_for_minutes_lock_nobody_out(tmp_path: Path, oauth: OAuthServer) -> None:
    """What their scripts ask by themselves is no guess: two people behind one address, and then a third."""
    async with opened(tmp_path, oauth, {"verify": "code"}) as auth:
        app = auth.asgi_app()

        async def from_afar(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": ("192.0.2.7", 50_000)}, receive, send)

        async with Browser(from_afar) as browser:
            page = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))
            own = {"secret": browser.kept(page.url, page.kept or "") or "", "seen": "code"}
            asked = [await browser.request("POST", f"{page.url}/state", data=own) for _ in range(120)]
            # Redirect URIs of the configuration are where the operator wants them.
            places = (f"{PUBLIC}/callback/x", f"{PUBLIC}/oauth/done")
            brought = [await browser.request("POST", places[n % 2], data={"answer": ""}) for n in range(60)]

            again = await browser.press(await browser.open((await auth.sign_in("notes", "shared", ANN)).link))

    assert {answer.status for answer in asked} == {200}
    assert 429 not in {answer.status for answer in brought}
    assert again.heading == "Is it you?"


async def test_a_proxy_tells_the_address_only_when_it_is_trusted(tmp_path: Path, oauth: OAuthServer) -> None:
    seen: list[str] = []

    async def witness(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await PlainTextResponse("ok")(scope, receive, send)

    for trusted in ([], ["127.0.0.0/8"]):
        auth = opened(tmp_path, oauth, {"trusted_proxies": trusted})
        auth.mount("/hooks/witness", witness)
        async with auth, Browser(auth.asgi_app()) as browser:
            await browser.request(
                "GET", f"{PUBLIC}/hooks/witness", headers={"X-Forwarded-For": "203.0.113.7, 127.0.0.9"}
            )
    assert seen == ["127.0.0.1", "203.0.113.7"]


@pytest.mark.parametrize("peer", ["127.0.0.9", "::ffff:127.0.0.9"])
async def test_a_trusted_proxy_is_known_in_both_forms_of_its_address(
    tmp_path: Path, oauth: OAuthServer, peer: str
) -> None:
    """A listener on `::` sees IPv4 peers in IPv6's clothes; believed to be this computer, nobody would be counted."""
    seen: list[str] = []

    async def witness(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])
        await PlainTextResponse("ok")(scope, receive, send)

    auth = opened(tmp_path, oauth, {"trusted_proxies": ["127.0.0.0/8"]})
    auth.mount("/hooks/witness", witness)
    async with auth:
        transport = httpx2.ASGITransport(app=auth.asgi_app(), client=(peer, 1))
        async with httpx2.AsyncClient(transport=transport) as client:
            await client.get(f"{PUBLIC}/hooks/witness", headers={"X-Forwarded-For": "203.0.113.7"})
    assert seen == ["203.0.113.7"]


async def test_an_address_that_asks_too_often_waits_and_somebody_elses_webhook_does_not(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async def hook(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("hooked")(scope, receive, send)

    async with opened(tmp_path, oauth) as auth:
        auth.mount("/hooks/slack", hook)
        transport = httpx2.ASGITransport(app=auth.asgi_app(), client=("192.0.2.7", 50_000))
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC) as client:
            statuses = [(await client.post("/a/guess")).status_code for _ in range(POSTS.amount + 1)]
            limited = await client.post("/a/guess")
            hooked = await client.post("/hooks/slack")

    assert 429 not in statuses[:-1]
    assert (statuses[-1], limited.status_code, hooked.status_code) == (429, 429, 200)
    assert int(limited.headers["Retry-After"]) >= 1
    assert limited.headers["Cache-Control"] == "no-store"
    assert limited.headers["X-Content-Type-Options"] == "nosniff"


def ended(status: Any, **fields: Any) -> SignIn:
    end = Outcome("failed", "So it went.", next_step=Next("auth", "notes"))
    return sign_in("0" * 32, status=status, end=end, **fields)


@pytest.mark.parametrize(
    ("status", "heading", "tone", "http"),
    [
        ("expired", texts.EXPIRED_HEADING, "note", 410),
        ("cancelled", texts.CANCELLED_HEADING, "note", 410),
        ("refused", texts.REFUSED_HEADING, "bad", 200),
        ("failed", texts.FAILED_HEADING, "bad", 200),
    ],
)
def test_a_page_says_how_it_ended_to_the_browser_in_which_it_did(
    status: Any, heading: str, tone: str, http: int
) -> None:
    page = standing.result_page(ended(status), "And this was wrong.")
    assert (page.heading, page.tone, page.status, page.state) == (heading, tone, http, "ended")
    assert page.context["lines"] == ["And this was wrong.", "So it went."]
    assert (page.context["command"], page.names) == (Next("auth", "notes"), {"server": "notes"})
    assert standing.result_page(ended(status)).context["lines"] == ["So it went."]


def test_a_page_says_what_was_connected() -> None:
    page = standing.result_page(ended("done"))
    assert (page.heading, page.tone, page.status) == (texts.DONE_HEADING, "good", 200)
    assert (page.context["lines"], page.context["facts"], page.context["closing"]) == ([], (), texts.CLOSE)
    known = ended("done", account="ada", check=Check(state="ready", tools=("a", "b")))
    assert standing.result_page(known).context["facts"] == ((texts.ACCOUNT, "ada"), (texts.TOOLS, "2"))
    (fact,) = standing.result_page(ended("done", check=Check(state="unreachable", detail="no"))).context["facts"]
    assert fact == (texts.CONNECTION, texts.connection("unreachable", "no"))
    form = replace(key_form("0" * 32), status="done", end=Outcome("accepted", "The key works."))
    page = standing.result_page(form)
    assert (page.heading, page.tone, page.context["lines"]) == (texts.KEY_DONE_HEADING, "good", ["The key works."])


@pytest.mark.parametrize(
    ("status", "heading", "line"),
    [
        ("expired", texts.EXPIRED_HEADING, texts.EXPIRED_LINE),
        ("cancelled", texts.CANCELLED_HEADING, texts.CANCELLED_LINE),
        ("done", texts.USED_HEADING, texts.USED_LINE),
        ("refused", texts.USED_HEADING, texts.USED_LINE),
        ("failed", texts.USED_HEADING, texts.USED_LINE),
    ],
)
def test_another_browser_learns_that_it_is_over_and_nothing_else(status: Any, heading: str, line: str) -> None:
    page = standing.used_page(ended(status))
    assert (page.heading, page.tone, page.status) == (heading, "note", 410)
    assert (page.context["lines"], page.context["command"]) == ([line], Next("auth", "notes"))
    assert "So it went" not in page.document().body.decode()
    assert standing.used_page(replace(key_form("0" * 32), status=status)).context["command"] == Next("key", "notes")


@pytest.mark.parametrize(
    ("error", "heading", "tone", "http"),
    [
        (AlreadyFinished("Why."), texts.USED_HEADING, "note", 409),
        (SignInExpired("Why."), texts.EXPIRED_HEADING, "note", 410),
        (OtherBrowser("Why."), texts.OTHER_BROWSER_HEADING, "note", 403),
        (CallbackRejected("Why."), "Not signed in", "bad", 400),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_rejected_answer_is_shown_with_its_reason_and_its_status(
    error: McpAuthError, heading: str, tone: str, http: int
) -> None:
    page = standing.rejected_page(error)
    assert (page.heading, page.tone, page.status, page.context["lines"][0]) == (heading, tone, http, "Why.")


def test_a_page_that_waits_asks_again_and_has_no_mark() -> None:
    page = standing.working_page(ended("exchanging"))
    assert (page.heading, page.state, page.status, page.tone) == (texts.WORKING_HEADING, "working", 200, "note")
    assert (page.context["refresh"], page.context["mark"]) == (2, None)
    assert standing.how_it_stands(ended("exchanging")).state == "working"
    assert standing.working_page(key_form("0" * 32)).heading == texts.KEY_WORKING_HEADING
    unknown = standing.unknown_link()
    assert (unknown.heading, unknown.status, unknown.tone) == (texts.NOTHING_HEADING, 404, "note")
    assert unknown.context["lines"][0] == texts.UNKNOWN_LINK_LINE


def asked(*, as_json: bool) -> Request:
    accept = [(b"accept", b"application/json")] if as_json else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": accept})


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("error", "http", "heading", "said"),
    [
        (HTTPException(404), 404, texts.NOTHING_HEADING, texts.NOTHING_LINE),
        (HTTPException(413), 413, texts.METHOD_HEADING, texts.REFUSALS[413]),
        (HTTPException(425), 425, texts.METHOD_HEADING, texts.REFUSALS[425]),
        (HTTPException(418), 418, texts.METHOD_HEADING, texts.REFUSALS[400]),
        (ValueError("s3cret"), 400, texts.METHOD_HEADING, texts.REFUSALS[400]),
    ],
    ids=str,
)
async def test_a_request_that_no_page_sends_is_refused_in_the_form_it_asked_for(
    error: Exception, http: int, heading: str, said: str, as_json: bool
) -> None:
    answer = await endpoint._refusal(asked(as_json=as_json), error)
    body = unescape(bytes(answer.body).decode())
    assert (answer.status_code, body.startswith("{")) == (http, as_json)
    assert heading in body and said in body and "s3cret" not in body


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("error", "http", "said"),
    [
        (StoreError("s3cret"), 503, texts.LATER_LINE),
        (Busy("s3cret"), 503, texts.LATER_LINE),
        (ValueError("s3cret"), 500, texts.TROUBLE_LINE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_trouble_says_whether_it_may_pass_and_nothing_of_its_own(
    error: Exception, http: int, said: str, as_json: bool
) -> None:
    answer = await endpoint._trouble(asked(as_json=as_json), error)
    body = unescape(bytes(answer.body).decode())
    assert (answer.status_code, body.startswith("{")) == (http, as_json)
    assert texts.TROUBLE_HEADING in body and said in body and "s3cret" not in body


async def test_what_is_no_get_or_post_is_refused_without_a_body() -> None:
    answer = await endpoint._refusal(asked(as_json=False), HTTPException(405, headers={"Allow": "GET"}))
    assert (answer.status_code, answer.body, answer.headers["allow"]) == (405, b"", "GET")


@pytest.mark.parametrize(
    ("cookies", "found"),
    [
        ([b"a=1; own=2; b=3"], "2"),
        ([b"a=1", b"own=2"], "2"),
        ([b"own=2=3"], "2=3"),
        ([b" \town=2"], "2"),
        ([b"own=2; own=3"], None),
        ([b"own=2", b"own=2"], None),
        ([b"owner=2; Own=3"], None),
        ([b"\xa0own=2"], None),
        ([], None),
    ],
    ids=str,
)
def test_of_cookies_the_one_of_exactly_this_name_counts_when_it_is_alone(
    cookies: list[bytes], found: str | None
) -> None:
    scope = {"type": "http", "headers": [(b"cookie", one) for one in cookies]}
    assert forms._cookie(Request(scope), "own") == found


@pytest.mark.parametrize(
    ("site", "foreign"),
    [(None, False), ("same-origin", False), ("none", False), ("same-site", True), ("cross-site", True), ("", True)],
)
def test_a_browser_says_whether_another_site_sends_it(site: str | None, foreign: bool) -> None:
    headers = [] if site is None else [(b"sec-fetch-site", site.encode())]
    assert forms.is_foreign(Request({"type": "http", "headers": headers})) is foreign


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/x-www-form-urlencoded", b"a=1&b=&c=x+y", {"a": "1", "b": "", "c": "x y"}),
        ("Application/X-WWW-Form-Urlencoded ; charset=utf-8", b"a=1", {"a": "1"}),
        ("application/x-www-form-urlencoded", b"a=1&a=2&b=3", {"b": "3"}),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * (64 * 1024 - 2), {"a": "x" * (64 * 1024 - 2)}),
        ("application/x-www-form-urlencoded", b"a=" + b"x" * (64 * 1024 - 1), 413),
        ("application/x-www-form-urlencoded", b"a=\xff", 400),
        ("application/x-www-form-urlencoded", b"a=%ff", 400),
        (
            "application/x-www-form-urlencoded",
            b"&".join(b"a%d=1" % n for n in range(50)),
            {f"a{n}": "1" for n in range(50)},
        ),
        ("application/x-www-form-urlencoded", b"&".join(b"a%d=1" % n for n in range(51)), 400),
        ("application/json", b"{}", 415),
        ("", b"a=1", 415),
    ],
    ids=range(11),
)
async def test_a_form_is_small_and_says_each_thing_once(kind: str, body: bytes, expected: object) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind.encode())]}
    try:
        found: object = await forms.read_form(Request(scope, receive))
    except HTTPException as error:
        found = error.status_code
    assert found == expected
