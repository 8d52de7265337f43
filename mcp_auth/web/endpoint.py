"""The endpoint: our own pages and the callbacks, as one ASGI application.

    /a/<ticket>               a sign-in's page          /a/<ticket>/state   what its own browser is shown
    /k/<ticket>               a key form                /k/<ticket>/state
    .../login/<token>         where a platform's login sends the browser back to
    /callback/<connection>    the redirect of a sign-in that began at /a
    /client/<connection>.json the client ID metadata document
    /callback                 the redirect in loopback mode
    configured redirect URIs  their own paths, in either mode
    /healthz, /readyz

GET never changes a thing, except where OAuth wants it: a callback. Addresses are built from `gateway.public_url`
and never from what a request says about itself. Unknown paths are 404 and change nothing.

A browser is known by a secret. With script it is no cookie, which a neighbour on another port could plant: the page's
script keeps it, and posts it to see anything. Without script a sign-in has a cookie, and its last page a proof of its
own; a key form carries the secret from form to form.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from hmac import compare_digest
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_auth.errors import (
    Busy,
    McpAuthError,
    NotProven,
    OtherBrowser,
    StoreError,
)
from mcp_auth.kinds import KINDS, LinkKind, kind_of
from mcp_auth.limits import AddressLimits
from mcp_auth.links import tickets
from mcp_auth.links.verification import Stage
from mcp_auth.net.rules import is_loopback_url, with_ipv6_forms
from mcp_auth.records import KeptIn, KeyForm, Linked, Visit, sha256
from mcp_auth.states import OPEN
from mcp_auth.web import page_texts as texts
from mcp_auth.web import pages
from mcp_auth.web.callbacks import Callbacks
from mcp_auth.web.forms import OURS, Forms, is_carried, is_foreign, is_scripted, posted_secret, read_form
from mcp_auth.web.guards import Guarded
from mcp_auth.web.kinds import pages_of, where_to_get
from mcp_auth.web.pages import Page
from mcp_auth.web.services import Services
from mcp_auth.web.standing import rejected_page, result_page, unknown_link, used_page, working_page
from mcp_auth.web.visits import browser_kind, shown_address

logger = logging.getLogger(__name__)

CALLBACK_PATH = "/callback"

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


def application(services: Services, *, prefix: str = "", loopback_paths: Collection[str] = ()) -> ASGIApp:
    """The endpoint, which sees the client's own address where a trusted proxy tells it. Arguments: see `Endpoint`."""
    app, trusted = (
        Endpoint(services, prefix=prefix, loopback_paths=loopback_paths),
        services.config.gateway.trusted_proxies,
    )
    if not trusted:
        return app
    from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

    return cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), with_ipv6_forms(trusted)))


class Endpoint:
    """The application. Needs no lifespan; every request is served from the store.

    Args:
        prefix: the path under which it is reached, beside the one of `gateway.public_url` and of a mount.
        loopback_paths: the paths of loopback redirect URIs; looked at for each request. Empty: none is served.
    """

    def __init__(
        self,
        auth: Services,
        *,
        prefix: str = "",
        loopback_paths: Collection[str] = (),
    ) -> None:
        self._auth = auth
        public_url = auth.config.gateway.public_url
        self._public_url = public_url
        own = urlsplit(public_url).path if public_url is not None else ""
        self._prefixes = sorted({one.rstrip("/") for one in (prefix, own) if one.strip("/")}, key=len, reverse=True)
        self._forms = Forms(public_url)
        self._callbacks = Callbacks(auth, self._forms, loopback_paths)
        self.routes = self._routes()
        pages_app = _with_headers(AddressLimits(self._application(), auth.limits, self._link_in))
        is_https = public_url is not None and not is_loopback_url(public_url)
        self._app = Guarded(pages_app, auth.mounts, auth.limits, is_https=is_https)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        if scope["type"] != "http":
            return
        scope = self._without_prefix(scope)
        await self._app(scope, receive, send)

    def _without_prefix(self, scope: Scope) -> Scope:
        # A mount around us leaves its own path in `path` and names it in `root_path` (ASGI).
        path: str = scope["path"]
        for prefix in (scope.get("root_path", ""), *self._prefixes):
            if prefix and path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
        return {**scope, "path": path, "root_path": ""}

    async def _link_in(self, scope: Scope) -> str | None:
        """The record to which a request's ticket or `state` belongs, when it is one of ours."""
        letter, _, rest = scope["path"].lstrip("/").partition("/")
        try:
            for kind in KINDS:
                if kind.letter == letter:
                    record = await self._auth.of_ticket(kind, rest.partition("/")[0])
                    return None if record is None else record.id
            state = dict(parse_qsl(scope["query_string"].decode("latin-1"))).get("state", "")
            sign_in = await self._auth.of_state(state)
        except (StoreError, Busy):
            return None
        if sign_in is None or not compare_digest((sign_in.state or "").encode(), state.encode()):
            return None
        return sign_in.id

    def _routes(self) -> list[Route]:
        routes = [
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
        ]
        if self._public_url is not None:
            routes += [
                *(route for kind in KINDS for route in self._routes_of(kind)),
                Route("/callback/{connection}", _shown(self._callbacks.take), methods=["GET", "POST"]),
                Route("/client/{connection}.json", self._client_document),
            ]
        return [*routes, Route("/{path:path}", _shown(self._callbacks.take_elsewhere), methods=["GET", "POST"])]

    def _routes_of(self, kind: LinkKind) -> list[Route]:
        path = f"/{kind.letter}/{{ticket}}"
        return [
            Route(path, _shown(partial(self._page, kind)), methods=["GET", "POST"]),
            Route(f"{path}/state", _shown(partial(self._state, kind)), methods=["POST"]),
            Route(f"{path}/login/{{token}}", _shown(partial(self._login, kind)), methods=["GET", "POST"]),
        ]

    def _application(self) -> Starlette:
        app = Starlette(
            routes=self.routes,
            exception_handlers={HTTPException: _refusal, McpAuthError: _trouble, Exception: _trouble},
        )
        # It would build an address from the Host header.
        app.router.redirect_slashes = False
        app.state.typed = self._auth.logins.command
        return app

    # -- key forms ---------------------------------------------------------------------------

    async def _fill(self, request: Request, form: KeyForm, given: Mapping[str, str], browser: str) -> Page:
        values = {field.name: given.get(f"key{index}", "") for index, field in enumerate(form.fields)}
        entry = await self._auth.key_forms.fill(form, browser, values, untried=given.get("untried") == "yes")
        if entry.form.status == "exchanging":
            return working_page(entry.form)
        if entry.form.status != "confirmed":
            return result_page(entry.form, entry.error)
        return pages.key_page(
            entry.form,
            error=entry.error,
            may_store=entry.may_store,
            where=where_to_get(form, self._auth.config),
            carried=self._forms.carried(request, form, browser),
            status=422 if entry.error else 200,
        )

    # -- what both have in common ------------------------------------------------------------

    async def _page(self, kind: LinkKind, request: Request) -> Response | Page:
        ticket = request.path_params["ticket"]
        record = await self._auth.of_ticket(kind, ticket)
        if record is None:
            return unknown_link()
        try:
            if request.method == "POST":
                return await self._posted(request, record)
            if is_scripted(record) and not (record.status in OPEN and _opened(record) != sha256(ticket)):
                return pages.shell_page(record, "page")
            secret = self._forms.kept_cookie(request, record)
            stage = self._auth.verifier.stage(record, ticket, secret)
            return self._start(request, record) if stage is Stage.START else self._show(request, record, stage, secret)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return rejected_page(error)

    async def _posted(self, request: Request, record: Linked) -> Response | Page:
        ticket = request.path_params["ticket"]
        given = await read_form(request)
        if "form" in given or is_foreign(request):
            return await self._continued(request, record, given)
        action = given.get("action")
        # The secret tells which browser a form belongs to, and whoever asked for the link may know it; whose browser
        # sends the form is told by its cookie.
        is_own = not is_carried(record) or self._forms.is_own_form(request, record, given.get(OURS, ""))
        secret = posted_secret(given) if is_own else None
        stage = self._auth.verifier.stage(record, ticket, secret)
        if secret is None or stage is Stage.START:
            # A form of a page that is no longer shown, or of somebody else's.
            return self._start(request, record, error=texts.FORM_STALE, status=403)
        if action == "key" and stage is Stage.GO and kind_of(record).asks:
            return await self._fill(request, cast("KeyForm", record), given, secret)
        if action == "code":
            renewed = await self._auth.verifier.renew_code(record, ticket, secret)
            return self._show(request, renewed, self._auth.verifier.stage(renewed, ticket, secret), secret)
        return self._show(request, record, stage, secret)

    async def _continued(self, request: Request, record: Linked, given: Mapping[str, str]) -> Response | Page:
        """Continue was pressed: this browser is bound by the secret that it sends."""
        ticket, secret = request.path_params["ticket"], posted_secret(given)
        if secret is None or not self._forms.is_own_form(request, record, given.get("form", "")):
            has_cookie = self._forms.form_cookie(request, record) is not None
            error = texts.FORM_STALE if has_cookie else texts.NO_COOKIE
            return self._start(request, record, error=error, status=403)
        # Loading the page again must not send the form again.
        answer = RedirectResponse(f"./{ticket}", 303)
        if given.get("action") != "continue":
            return answer
        kept_in = kind_of(record).kept_without_script
        if given.get("kept") == "storage":
            kept_in = "storage"
        identity, visit = await self._auth.logins.identity(request), self._visit(request)
        opened = await self._open(record, ticket, secret, kept_in, identity, visit)
        if kept_in == "forms":
            return self._show(request, opened, self._auth.verifier.stage(opened, ticket, secret), secret)
        if kept_in == "cookie":
            self._forms.set_cookie(answer, self._forms.cookie_name(record), f"{secret}.{ticket}")
        return answer

    async def _open(
        self,
        record: Linked,
        ticket: str,
        secret: str,
        kept_in: KeptIn,
        identity: str | None,
        visit: Visit | None = None,
    ) -> Linked:
        uses_code = self._auth.config.gateway.verify != "browser"
        if not uses_code and kept_in != "storage" and not self._auth.logins.knows_browsers:
            raise NotProven(texts.NEEDS_SCRIPT)
        return await self._auth.verifier.open(
            record,
            ticket,
            secret,
            kept_in,
            identity=identity,
            logins=kept_in == "storage" and self._auth.logins.login_for(record.origin.principal) is not None,
            visit=visit,
        )

    def _visit(self, request: Request) -> Visit:
        address = shown_address(request.client.host) if request.client is not None else None
        return Visit(browser=browser_kind(request.headers.get("user-agent", "")), address=address, at=self._auth.now())

    async def _state(self, kind: LinkKind, request: Request) -> Response | Page:
        """What the shell of a page shows, and the waiting page asks every other second: for its own browser alone."""
        ticket = request.path_params["ticket"]
        record = await self._auth.of_ticket(kind, ticket)
        if record is None or is_foreign(request):
            raise HTTPException(404)
        given = await read_form(request)
        secret = posted_secret(given) if is_scripted(record) else None
        try:
            stage = self._auth.verifier.stage(record, ticket, secret)
        except OtherBrowser as error:
            return rejected_page(error)
        if stage is Stage.START:
            return JSONResponse({"state": "start"})
        page = self._show(request, record, stage, secret)
        return JSONResponse({"state": page.state}) if given.get("seen") == page.state else page

    async def _login(self, kind: LinkKind, request: Request) -> Response | Page:
        """Back from a platform's login: only the bound browser knows this address, so nobody can send it here.

        A GET cannot say which browser it is: that is looked at when its page is posted.
        """
        ticket = request.path_params["ticket"]
        record = await self._auth.of_ticket(kind, ticket)
        if record is None:
            raise HTTPException(404)
        login = self._auth.logins.login_for(record.origin.principal)
        if login is None or not is_scripted(record):
            raise HTTPException(404)
        if request.method != "POST":
            # It comes from the platform's site, and the browser says so.
            answer = {name: value for name, value in request.query_params.items() if name in login.fields}
            return pages.login_page(record, sorted(login.fields), answer)
        if is_foreign(request):
            raise HTTPException(404)
        given = await read_form(request)
        secret = posted_secret(given)
        try:
            stage = self._auth.verifier.stage(record, ticket, secret)
            if secret is None or not tickets.is_return_token(request.path_params["token"], secret, record.id):
                raise OtherBrowser(
                    "This login was begun in another browser, or for another link. Nothing was changed.",
                    next_step="ask for a new link in the chat",
                )
            if stage is Stage.CODE:
                identity = login.principal({name: given[name] for name in login.fields if given.get(name)})
                if identity is None:
                    raise NotProven(
                        "That login cannot be verified; it may be too old.", next_step="go back and try again"
                    )
                record = await self._open(record, ticket, secret, "storage", identity)
            return self._show(request, record, self._auth.verifier.stage(record, ticket, secret), secret)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return rejected_page(error)

    def _show(self, request: Request, record: Linked, stage: Stage, secret: str | None) -> Page:
        """How it stands, for the browser with this secret."""
        if stage is Stage.ENDED:
            return result_page(record) if self._auth.verifier.is_bound(record, secret) else used_page(record)
        if stage is Stage.WORKING:
            return working_page(record)
        if stage is Stage.CODE:
            return self._code_page(request, record, secret or "")
        return pages_of(record).released(record, self._auth.config, self._forms.carried(request, record, secret or ""))

    def _code_page(self, request: Request, record: Linked, secret: str) -> Page:
        binding, now = record.binding, self._auth.now()
        uses_code = self._auth.config.gateway.verify != "browser"
        code = None
        if uses_code and binding is not None and binding.code_nonce is not None and now < binding.code_expires_at:
            code = tickets.code_for(secret, binding.code_nonce)
        return pages.code_page(
            record,
            code,
            now,
            uses_code=uses_code,
            button=self._auth.logins.link_for(record.origin.principal, code) if code is not None else None,
            login=self._login_link(request, record, secret) if is_scripted(record) else None,
            carried=self._forms.carried(request, record, secret),
        )

    def _login_link(self, request: Request, record: Linked, secret: str) -> tuple[str, str] | None:
        """What the button of the platform's login says, and where it leads."""
        login = self._auth.logins.login_for(record.origin.principal)
        if login is None:
            return None
        ticket, token = request.path_params["ticket"], tickets.return_token(secret, record.id)
        return login.label, login.start(f"{self._public_url}/{kind_of(record).letter}/{ticket}/login/{token}")

    def _start(self, request: Request, record: Linked, *, error: str | None = None, status: int = 200) -> Response:
        """The page with Continue, whose token belongs to the form cookie of this browser."""
        ticket, cookie = request.path_params["ticket"], self._forms.form_cookie(request, record)
        kept = cookie or tickets.new_secret()
        page = pages.start_page(
            record,
            pages_of(record).start(record),
            tickets.form_token(kept, ticket),
            tickets.new_secret(),
            self._auth.now(),
            error=error,
            status=status,
        )
        answer = page.document()
        if cookie is None:
            self._forms.set_cookie(answer, self._forms.form_cookie_name(record), kept)
        return answer

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


def _shown(handler: Callable[[Request], Awaitable[Response | Page]]) -> Callable[[Request], Awaitable[Response]]:
    """A page as a document, or as JSON for the script of one."""

    async def respond(request: Request) -> Response:
        answer = await handler(request)
        if not isinstance(answer, Page):
            return answer
        return answer.response(as_json=_wants_json(request), typed=request.app.state.typed)

    return respond


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _opened(record: Linked) -> str | None:
    return record.binding.opened if record.binding is not None else None


async def _refusal(request: Request, error: Exception) -> Response:
    """A request that no page of ours sends."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    if status == 405:
        return PlainTextResponse("", 405, error.headers if isinstance(error, HTTPException) else None)
    heading = texts.NOTHING_HEADING if status == 404 else texts.METHOD_HEADING
    line = texts.REFUSALS.get(status, texts.REFUSALS[400])
    page = pages.message_page(pages.Message(heading, (line,), "note", status=status))
    return page.response(as_json=_wants_json(request))


async def _trouble(request: Request, error: Exception) -> Response:
    """Whatever was not foreseen. Its text may hold a link, so nobody sees it."""
    line, status = (texts.LATER_LINE, 503) if isinstance(error, StoreError | Busy) else (texts.TROUBLE_LINE, 500)
    page = pages.message_page(pages.Message(texts.TROUBLE_HEADING, (line,), "bad", status=status))
    return page.response(as_json=_wants_json(request))


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
