"""The endpoint: our own pages and the callbacks, as one ASGI application.

    /a/<ticket>               a sign-in's page          /a/<ticket>/state   has it changed?
    /k/<ticket>               a key form                /k/<ticket>/state
    .../login/<token>         where a platform's login sends the browser back to
    /callback/<connection>    the redirect of a sign-in that began at /a
    /client/<connection>.json the client ID metadata document
    /callback                 the redirect in loopback mode
    configured redirect URIs  their own paths, in either mode
    /healthz, /readyz

GET never changes a thing, except where OAuth wants it: a callback. Addresses are built from `gateway.public_url`
and never from what a request says about itself. Unknown paths are 404 and change nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_auth import page_texts as texts
from mcp_auth import pages, tickets
from mcp_auth.answers import Binding, parse_query
from mcp_auth.errors import (
    AlreadyFinished,
    AuthorizationRefused,
    Busy,
    McpAuthError,
    NotAllowed,
    NotProven,
    OtherBrowser,
    SignInExpired,
    StoreError,
    TokenRequestFailed,
)
from mcp_auth.gate import Stage, again_for
from mcp_auth.limits import AddressLimits
from mcp_auth.network import is_loopback_url
from mcp_auth.records import KeyForm, Linked, SignIn
from mcp_auth.vendors import where_to_get_key

if TYPE_CHECKING:
    from mcp_auth.core import McpAuth

logger = logging.getLogger(__name__)

CALLBACK_PATH = "/callback"
_MAX_BODY = 64 * 1024
_BODY_SECONDS = 10.0
# Longer than any sign-in: the cookie must be there when the authorization server sends the browser back.
_COOKIE_SECONDS = 3600

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
}

_ENDS = (AuthorizationRefused, TokenRequestFailed, NotProven, NotAllowed)

L = TypeVar("L", SignIn, KeyForm)


class Endpoint:
    """The application. Needs no lifespan; every request is served from the store.

    Args:
        prefix: the path under which it is reached, beside the one of `gateway.public_url` and of a mount.
        loopback_paths: the paths of loopback redirect URIs; looked at for each request. Empty: none is served.
        mounts: somebody else's applications by path; each sees the path without any prefix.
    """

    def __init__(
        self,
        auth: McpAuth,
        *,
        prefix: str = "",
        loopback_paths: Collection[str] = (),
        mounts: Mapping[str, ASGIApp] | None = None,
    ) -> None:
        self._auth = auth
        self._loopback_paths = loopback_paths
        # The very mapping, not its content: a platform may hang in its webhook later.
        self._mounts = mounts if mounts is not None else {}
        public_url = auth.config.gateway.public_url
        self._public_url = public_url
        own = urlsplit(public_url).path if public_url is not None else ""
        self._prefixes = sorted({one.rstrip("/") for one in (prefix, own) if one.strip("/")}, key=len, reverse=True)
        plain_http = public_url is not None and is_loopback_url(public_url)
        # Without TLS a browser takes no `__Host-` cookie; on loopback nobody listens in.
        self._secure = not plain_http
        self._browser_cookie = "slash-mcp" if plain_http else "__Host-slash-mcp"
        self._form_cookie = f"{self._browser_cookie}-form"
        self.routes = self._routes()
        self._app = _with_headers(AddressLimits(self._application(), auth.limits))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        scope = self._without_prefix(scope)
        app = self._mounted(scope["path"])
        if app is None:
            await self._app(scope, receive, send)
        else:
            await app(scope, _in_time(receive), send)

    def _mounted(self, path: str) -> ASGIApp | None:
        for below, app in self._mounts.items():
            if path == below or path.startswith(f"{below}/"):
                return app
        return None

    def _without_prefix(self, scope: Scope) -> Scope:
        # A mount around us leaves its own path in `path` and names it in `root_path` (ASGI).
        path: str = scope["path"]
        for prefix in (scope.get("root_path", ""), *self._prefixes):
            if prefix and path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
        return {**scope, "path": path, "root_path": ""}

    def _routes(self) -> list[Route]:
        routes = [
            Route("/healthz", self._health, methods=["GET"]),
            Route("/readyz", self._ready, methods=["GET"]),
        ]
        if self._public_url is not None:
            routes += [
                Route("/a/{ticket}", self._sign_in_page, methods=["GET", "POST"]),
                Route("/a/{ticket}/state", self._sign_in_state, methods=["GET"]),
                Route("/a/{ticket}/login/{token}", self._sign_in_login, methods=["GET", "POST"]),
                Route("/k/{ticket}", self._key_page, methods=["GET", "POST"]),
                Route("/k/{ticket}/state", self._key_state, methods=["GET"]),
                Route("/k/{ticket}/login/{token}", self._key_login, methods=["GET", "POST"]),
                Route("/callback/{connection}", self._callback, methods=["GET"]),
                Route("/client/{connection}.json", self._client_document, methods=["GET"]),
            ]
        return [*routes, Route("/{path:path}", self._elsewhere, methods=["GET"])]

    def _application(self) -> Starlette:
        app = Starlette(
            routes=self.routes,
            exception_handlers={HTTPException: _refusal, McpAuthError: _trouble, Exception: _trouble},
        )
        # It would build an address from the Host header.
        app.router.redirect_slashes = False
        return app

    # -- sign-ins ----------------------------------------------------------------------------

    async def _sign_in_page(self, request: Request) -> Response:
        return await self._page(request, self._find_sign_in, self._show_sign_in)

    async def _sign_in_state(self, request: Request) -> Response:
        return await self._state(request, self._find_sign_in)

    async def _sign_in_login(self, request: Request) -> Response:
        return await self._login(request, self._find_sign_in)

    async def _find_sign_in(self, ticket: str) -> SignIn | None:
        return await self._auth.sign_in_of_ticket(ticket)

    async def _show_sign_in(self, request: Request, sign_in: SignIn, stage: Stage) -> Response:
        if stage is Stage.GO:
            return pages.go_page(sign_in)
        if stage is Stage.WORKING:
            return _working_page(sign_in)
        return await self._show(request, sign_in, stage)

    async def _callback(self, request: Request) -> Response:
        """The redirect of a sign-in that began at /a: path, cookie, state and iss must agree."""
        return await self._answered(request, f"{self._public_url}/callback/{request.path_params['connection']}")

    async def _answered(self, request: Request, url: str) -> Response:
        """The answer of the authorization server, at `url`."""
        _check_own_visit(request)
        binding = Binding(browser=self._browser(request))
        try:
            answer = parse_query(request.url.query, url)
            if answer.state is None and answer.code is None and answer.error is None:
                raise HTTPException(404)
            try:
                sign_in = await self._auth.finish(answer, binding)
            except _ENDS:
                # It has ended with this answer; asked again, it says how, as it will when the page is loaded again.
                sign_in = await self._auth.finish(answer, binding)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return _rejected_page(error)
        return _working_page(sign_in) if sign_in.status == "exchanging" else _result_page(sign_in)

    async def _elsewhere(self, request: Request) -> Response:
        """A redirect URI of the configuration below `public_url`, or one in loopback mode: `state` tells."""
        if self._public_url is not None and await self._auth.ends_on_page(request.query_params.get("state", "")):
            return await self._answered(request, f"{self._public_url}{request.url.path}")
        return await self._loopback_callback(request)

    async def _loopback_callback(self, request: Request) -> Response:
        """The redirect in loopback mode, found by its `state`."""
        if request.url.path not in self._loopback_paths:
            raise HTTPException(404)
        if request.method != "GET":
            # Link scanners ask with HEAD; only a browser's own GET carries an answer.
            raise HTTPException(405, headers={"Allow": "GET"})
        try:
            url = f"{request.url.scheme}://{request.url.netloc}{request.url.path}"
            answer = parse_query(request.url.query, url)
            if answer.state is None and answer.code is None and answer.error is None:
                raise HTTPException(404)
            sign_in = await self._auth.finish(answer, Binding())
        except AuthorizationRefused as error:
            return _refused_page(error)
        except McpAuthError as error:
            return _rejected_page(error)
        return pages.message_page(
            pages.Message(
                "{server} is signed in",
                (sign_in.outcome or "",),
                "good",
                names={"server": sign_in.server},
                closing=texts.CLOSE,
            )
        )

    # -- key forms ---------------------------------------------------------------------------

    async def _key_page(self, request: Request) -> Response:
        return await self._page(request, self._find_key_form, self._show_key_form)

    async def _key_state(self, request: Request) -> Response:
        return await self._state(request, self._find_key_form)

    async def _key_login(self, request: Request) -> Response:
        return await self._login(request, self._find_key_form)

    async def _find_key_form(self, ticket: str) -> KeyForm | None:
        return await self._auth.key_form_of_ticket(ticket)

    async def _show_key_form(self, request: Request, form: KeyForm, stage: Stage) -> Response:
        if stage is Stage.GO:
            return self._with_form_cookie(
                request, lambda token: pages.key_page(form, token, where=self._where_to_get_key(form))
            )
        if stage is Stage.WORKING:
            return _working_page(form)
        return await self._show(request, form, stage)

    async def _fill(self, request: Request, form: KeyForm, given: Mapping[str, str], browser: str) -> Response:
        values = {field.name: given.get(f"key{index}", "") for index, field in enumerate(form.fields)}
        entry = await self._auth.fill_key_form(form, browser, values, untried=given.get("untried") == "yes")
        if entry.form.status == "exchanging":
            return _working_page(entry.form)
        if entry.form.status != "confirmed":
            return _result_page(entry.form, entry.error)
        return self._with_form_cookie(
            request,
            lambda token: pages.key_page(
                entry.form,
                token,
                error=entry.error,
                may_store=entry.may_store,
                where=self._where_to_get_key(form),
                status=422 if entry.error else 200,
            ),
        )

    def _where_to_get_key(self, form: KeyForm) -> str | None:
        server = self._auth.config.servers.get(form.server)
        return where_to_get_key(server.url) if server is not None and server.url is not None else None

    # -- what both have in common ------------------------------------------------------------

    async def _page(
        self,
        request: Request,
        find: Callable[[str], Awaitable[L | None]],
        show: Callable[[Request, L, Stage], Awaitable[Response]],
    ) -> Response:
        ticket = request.path_params["ticket"]
        record = await find(ticket)
        if record is None:
            return _unknown_link()
        browser = self._browser(request)
        form_cookie = _cookie(request, self._form_cookie)
        if request.method == "POST" and browser is None and form_cookie is not None:
            # Of a double tap on Continue the first answer is lost, with the cookie in it.
            browser = tickets.browser_cookie(form_cookie)
        try:
            stage = self._auth.gatekeeper.stage(record, ticket, browser)
            if request.method == "POST":
                return await self._posted(request, record, stage, browser)
            return await show(request, record, stage)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return _rejected_page(error)

    async def _posted(self, request: Request, record: SignIn | KeyForm, stage: Stage, browser: str | None) -> Response:
        ticket = request.path_params["ticket"]
        given = await _form(request)
        if not self._is_own_form(request, given, ticket):
            return self._with_form_cookie(
                request,
                lambda token: pages.start_page(record, token, self._auth.now(), error=texts.FORM_STALE, status=403),
            )
        action = given.get("action")
        if action == "key" and stage is Stage.GO and isinstance(record, KeyForm) and browser is not None:
            return await self._fill(request, record, given, browser)
        if action == "code" and browser is not None:
            await self._auth.gatekeeper.renew_code(record, ticket, browser)
        if action == "continue" and browser is not None:
            await self._open(record, ticket, browser, await self._auth.identity(request))
        # Loading the page again must not send the form again.
        answer = RedirectResponse(f"./{ticket}", 303)
        if browser is not None:
            self._set_cookie(answer, self._browser_cookie, browser)
        return answer

    async def _open(self, record: SignIn | KeyForm, ticket: str, browser: str, identity: str | None) -> None:
        await self._auth.gatekeeper.open(
            record,
            ticket,
            browser,
            identity=identity,
            codes=self._auth.config.gateway.verify != "browser",
            logins=self._auth.browser_login(record.origin.principal) is not None,
        )

    async def _login(self, request: Request, find: Callable[[str], Awaitable[L | None]]) -> Response:
        """Back from a platform's login: only the bound browser knows this address, so nobody can send it here."""
        ticket, browser = request.path_params["ticket"], self._browser(request)
        record = await find(ticket)
        if (
            record is None
            or browser is None
            or not tickets.is_return_token(request.path_params["token"], browser, record.id)
        ):
            raise HTTPException(404)
        login = self._auth.browser_login(record.origin.principal)
        try:
            stage = self._auth.gatekeeper.stage(record, ticket, browser)
            if stage is not Stage.CODE or login is None:
                return RedirectResponse(f"../../{ticket}", 303)
            if request.method != "POST":
                answer = {name: value for name, value in request.query_params.items() if name in login.fields}
                return self._with_form_cookie(
                    request, lambda token: pages.login_page(token, sorted(login.fields), answer)
                )
            given = await _form(request)
            if not self._is_own_form(request, given, ticket):
                raise HTTPException(403)
            identity = login.principal({name: given[name] for name in login.fields if given.get(name)})
            if identity is None:
                raise NotProven("That login cannot be verified; it may be too old.", next_step="go back and try again")
            await self._open(record, ticket, browser, identity)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return _rejected_page(error)
        return RedirectResponse(f"../../{ticket}", 303)

    async def _show(self, request: Request, record: SignIn | KeyForm, stage: Stage) -> Response:
        if stage is Stage.ENDED:
            browser = self._browser(request)
            return _result_page(record) if self._auth.gatekeeper.is_bound(record, browser) else _used_page(record)
        if stage is Stage.START:
            return self._with_form_cookie(request, lambda token: pages.start_page(record, token, self._auth.now()))
        return self._with_form_cookie(request, lambda token: self._code_page(request, record, token))

    def _code_page(self, request: Request, record: SignIn | KeyForm, token: str) -> Response:
        gate, now = record.gate, self._auth.now()
        code = None
        browser = self._browser(request)
        if gate is not None and gate.code_nonce is not None and browser is not None and now < gate.code_expires_at:
            code = tickets.code_for(browser, gate.code_nonce)
        button = self._auth.confirm_link(record.origin.principal, code) if code is not None else None
        uses_code = self._auth.config.gateway.verify != "browser"
        return pages.code_page(
            record, code, token, now, uses_code=uses_code, button=button, login=self._login_link(request, record)
        )

    def _login_link(self, request: Request, record: SignIn | KeyForm) -> tuple[str, str] | None:
        """What the button of the platform's login says, and where it leads."""
        login, browser = self._auth.browser_login(record.origin.principal), self._browser(request)
        if login is None or browser is None:
            return None
        kind = "k" if isinstance(record, KeyForm) else "a"
        ticket, token = request.path_params["ticket"], tickets.return_token(browser, record.id)
        return login.label, login.start(f"{self._public_url}/{kind}/{ticket}/login/{token}")

    async def _state(self, request: Request, find: Callable[[str], Awaitable[L | None]]) -> Response:
        """What the waiting page asks every other second; only its own browser gets an answer."""
        ticket = request.path_params["ticket"]
        record = await find(ticket)
        if record is None or not self._auth.gatekeeper.is_bound(record, self._browser(request)):
            raise HTTPException(404)
        stage = self._auth.gatekeeper.stage(record, ticket, self._browser(request))
        gate = record.gate
        over = gate is not None and gate.code is not None and self._auth.now() >= gate.code_expires_at
        if stage is Stage.CODE and over:
            return JSONResponse({"state": "code over"})
        return JSONResponse({"state": stage.value})

    # -- forms and cookies -------------------------------------------------------------------

    def _browser(self, request: Request) -> str | None:
        return _cookie(request, self._browser_cookie)

    def _is_own_form(self, request: Request, given: Mapping[str, str], ticket: str) -> bool:
        """Whether a form was sent by our own page in this very browser."""
        # A page under `no-referrer` sends the origin as "null", so only another site's is telling.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        return tickets.is_form_token(given.get("form", ""), _cookie(request, self._form_cookie), ticket)

    def _with_form_cookie(self, request: Request, make: Callable[[str], Response]) -> Response:
        """A page with a form, whose token belongs to the form cookie of this browser."""
        cookie = _cookie(request, self._form_cookie)
        ticket = request.path_params["ticket"]
        if cookie is not None:
            return make(tickets.form_token(cookie, ticket))
        cookie = tickets.new_cookie()
        answer = make(tickets.form_token(cookie, ticket))
        self._set_cookie(answer, self._form_cookie, cookie)
        return answer

    def _set_cookie(self, answer: Response, name: str, value: str) -> None:
        answer.set_cookie(
            name, value, max_age=_COOKIE_SECONDS, path="/", secure=self._secure, httponly=True, samesite="lax"
        )

    # -- documents and health ----------------------------------------------------------------

    async def _client_document(self, request: Request) -> Response:
        document = await self._auth.client_document(request.path_params["connection"])
        if document is None:
            raise HTTPException(404)
        return JSONResponse(document, headers={"Cache-Control": "public, max-age=3600"})

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, request: Request) -> Response:
        """Whether sign-ins can be served: the store answers."""
        try:
            await self._auth.store.sign_ins.get("0" * 32)
        except (StoreError, Busy):
            return PlainTextResponse("the store does not answer\n", 503)
        return PlainTextResponse("ready\n")


def _in_time(receive: Receive) -> Receive:
    """`receive` whose body is given up after `_BODY_SECONDS`: webhooks read all of it before they know the sender."""
    until = asyncio.get_running_loop().time() + _BODY_SECONDS
    is_over = False

    async def received() -> Message:
        nonlocal is_over
        if is_over:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            is_over = True
            return {"type": "http.disconnect"}
        is_over = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    return received


def _cookie(request: Request, name: str) -> str | None:
    """The one cookie of exactly this name, when it can be ours.

    Starlette strips what Unicode calls white space from names, so that a neighbouring host could set what reads as
    `__Host-...` here (RFC 6265 section 5.4 leaves nothing to strip but one space). Two of a name: one was tossed in.
    """
    sent = [pair.strip(" \t") for header in request.headers.getlist("cookie") for pair in header.split(";")]
    values = [value for sent_name, _, value in (pair.partition("=") for pair in sent) if sent_name == name]
    return values[0] if len(values) == 1 and tickets.is_cookie(values[0]) else None


async def _form(request: Request) -> dict[str, str]:
    """A small urlencoded form; what stands in it twice counts as not given.

    Raises:
        HTTPException: 408 too slow, 413 too large, 415 another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MAX_BODY:
                    raise HTTPException(413)
    except TimeoutError:
        raise HTTPException(408) from None
    except ClientDisconnect:
        raise HTTPException(400) from None
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise HTTPException(400) from None
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def _check_own_visit(request: Request) -> None:
    """A callback is a person's own GET: not a scanner's HEAD, and not what a browser fetches ahead of time."""
    if request.method != "GET":
        raise HTTPException(405, headers={"Allow": "GET"})
    purpose = " ".join(request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz", "x-purpose"))
    if "prefetch" in purpose.lower() or "preview" in purpose.lower():
        raise HTTPException(425)


# -- pages for how things stand --------------------------------------------------------------


def _result_page(record: SignIn | KeyForm, error: str | None = None) -> Response:
    """How it ended, for the browser in which it was done."""
    is_key = isinstance(record, KeyForm)
    names = {"server": record.server}
    if record.status == "done":
        heading = texts.KEY_DONE_HEADING if is_key else texts.DONE_HEADING
        said = (record.outcome or "",) if is_key else ()
        return pages.message_page(
            pages.Message(heading, said, "good", names=names, facts=_facts(record), closing=texts.CLOSE)
        )
    heading, tone, status = {
        "expired": (texts.EXPIRED_HEADING, "note", 410),
        "cancelled": (texts.CANCELLED_HEADING, "note", 410),
        "refused": (texts.REFUSED_HEADING, "bad", 200),
    }.get(record.status, (texts.FAILED_HEADING, "bad", 200))
    lines = (error or "", record.outcome or "")
    return pages.message_page(pages.Message(heading, lines, tone, status=status, names=names, command=record.next_step))


def _facts(record: Linked) -> tuple[tuple[str, str], ...]:
    if not isinstance(record, SignIn):
        return ()
    facts = [(texts.ACCOUNT, record.account)] if record.account else []
    check = record.check
    if check is not None and check.tools is not None:
        facts.append((texts.TOOLS, str(len(check.tools))))
    elif check is not None:
        facts.append((texts.CONNECTION, texts.connection(check.state, check.detail)))
    return tuple(facts)


def _used_page(record: SignIn | KeyForm) -> Response:
    """For a browser that is not the one: that it is over, and nothing else."""
    heading, line = {
        "expired": (texts.EXPIRED_HEADING, texts.EXPIRED_LINE),
        "cancelled": (texts.CANCELLED_HEADING, texts.CANCELLED_LINE),
    }.get(record.status, (texts.USED_HEADING, texts.USED_LINE))
    return pages.message_page(pages.Message(heading, (line,), "note", status=410, command=again_for(record)))


def _working_page(record: SignIn | KeyForm) -> Response:
    heading = texts.KEY_WORKING_HEADING if isinstance(record, KeyForm) else texts.WORKING_HEADING
    return pages.message_page(pages.Message(heading, (), "note", names={"server": record.server}, refresh=2))


def _unknown_link() -> Response:
    return pages.message_page(
        pages.Message(texts.NOTHING_HEADING, (texts.UNKNOWN_LINK_LINE,), "note", status=404, command=texts.ASK_ANEW)
    )


def _refused_page(error: McpAuthError) -> Response:
    return pages.message_page(pages.Message("Not signed in", (error.message,), "bad", command=error.next_step))


def _rejected_page(error: McpAuthError) -> Response:
    heading, tone, status = "Not signed in", "bad", 400
    if isinstance(error, AlreadyFinished):
        heading, tone, status = texts.USED_HEADING, "note", 409
    elif isinstance(error, SignInExpired):
        heading, tone, status = texts.EXPIRED_HEADING, "note", 410
    elif isinstance(error, OtherBrowser):
        heading, tone, status = texts.OTHER_BROWSER_HEADING, "note", 403
    return pages.message_page(pages.Message(heading, (error.message,), tone, status=status, command=error.next_step))


async def _refusal(request: Request, error: Exception) -> Response:
    """A request that no page of ours sends."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    if status == 405:
        return PlainTextResponse("", 405, error.headers if isinstance(error, HTTPException) else None)
    heading = texts.NOTHING_HEADING if status == 404 else texts.METHOD_HEADING
    line = texts.REFUSALS.get(status, texts.REFUSALS[400])
    return pages.message_page(pages.Message(heading, (line,), "note", status=status))


async def _trouble(request: Request, error: Exception) -> Response:
    """Whatever was not foreseen. Its text may hold a link, so nobody sees it."""
    if isinstance(error, StoreError | Busy):
        return pages.message_page(pages.Message(texts.TROUBLE_HEADING, (texts.LATER_LINE,), "bad", status=503))
    return pages.message_page(pages.Message(texts.TROUBLE_HEADING, (texts.TROUBLE_LINE,), "bad", status=500))


def _with_headers(app: ASGIApp) -> ASGIApp:
    """Every answer carries the headers that keep it to itself; a page's own policy stays."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await app(scope, receive, sent)
        except Exception as error:  # noqa: BLE001 - Starlette has answered; what is left would become a traceback
            logger.error("a page failed: %s", type(error).__name__)

    return guarded
