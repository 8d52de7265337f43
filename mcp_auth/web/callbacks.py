"""The redirects of authorization servers: the answer of one, in the browser that it belongs to."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mcp_auth.errors import (
    AuthorizationRefused,
    Busy,
    McpAuthError,
    NotAllowed,
    NotConfirmedYet,
    NotProven,
    StoreError,
    TokenRequestFailed,
)
from mcp_auth.links import tickets
from mcp_auth.oauth.authorization import AuthorizationResponse, Binding, parse_query
from mcp_auth.records import SignIn
from mcp_auth.web import page_texts as texts
from mcp_auth.web import pages
from mcp_auth.web.forms import Forms, is_foreign, is_scripted, posted_secret, read_form
from mcp_auth.web.pages import Page
from mcp_auth.web.services import Services
from mcp_auth.web.standing import how_it_stands, refused_page, rejected_page

_ENDS = (AuthorizationRefused, TokenRequestFailed, NotProven, NotAllowed)


class Callbacks:
    """`loopback_paths`: as in `mcp_auth.web.endpoint.Endpoint`."""

    def __init__(self, services: Services, forms: Forms, loopback_paths: Collection[str]) -> None:
        self._services = services
        self._forms = forms
        self._loopback_paths = loopback_paths

    async def take(self, request: Request) -> Response | Page:
        """The redirect of a sign-in that began at /a: path, browser, state and iss must agree."""
        url = f"{self._services.config.gateway.public_url}/callback/{request.path_params['connection']}"
        return await self._take_answer(request, url, await read_form(request) if request.method == "POST" else None)

    async def _take_answer(self, request: Request, url: str, given: Mapping[str, str] | None) -> Response | Page:
        """The answer of the authorization server, at `url`. `given`: what a page of ours posts of it."""
        if given is None:
            _check_own_visit(request)
        elif is_foreign(request):
            raise HTTPException(403)
        try:
            if given is None:
                return await self._show(request, parse_query(request.url.query, url))
            if "answer" in given:
                return await self._take_from_script(parse_query(given["answer"], url), given)
            return await self._take_last(request, parse_query(_answer_of(given), url), given)
        except (StoreError, Busy):
            raise
        except McpAuthError as error:
            return rejected_page(error)

    async def _show(self, request: Request, answer: AuthorizationResponse) -> Page:
        """A GET knows no browser with script: its shell brings the answer. Without script, a last page."""
        if answer.state is None and answer.code is None and answer.error is None:
            raise HTTPException(404)
        sign_in = await self._sign_in_of(answer)
        if sign_in is not None and is_scripted(sign_in):
            return pages.shell_page(sign_in, "answer")
        binding = Binding(
            browser=self._forms.kept_cookie(request, sign_in), identity=await self._services.logins.identity(request)
        )
        if sign_in is None or answer.code is None or answer.error is not None:
            return await self._finish(answer, binding)
        shown_before = request.query_params.get("last")
        if shown_before is not None and (
            shown := await self._services.exchanges.last_page(answer, binding, shown_before)
        ):
            return self._last_page(shown, answer, shown_before, error=texts.LAST_PENDING)
        try:
            asked, secret = await self._services.exchanges.ask_last(answer, binding)
        except NotAllowed:
            # That ended it; the page says how.
            return await self._finish(answer, binding)
        return how_it_stands(asked) if secret is None else self._last_page(asked, answer, secret)

    async def _take_from_script(self, answer: AuthorizationResponse, given: Mapping[str, str]) -> Page:
        """By the script of the browser that is bound."""
        sign_in = await self._sign_in_of(answer)
        secret = posted_secret(given) if sign_in is not None and is_scripted(sign_in) else None
        return await self._finish(answer, Binding(browser=secret))

    async def _take_last(
        self, request: Request, answer: AuthorizationResponse, given: Mapping[str, str]
    ) -> Response | Page:
        """A last page was sent."""
        sign_in = await self._sign_in_of(answer)
        secret = given.get("last") or ""
        binding = Binding(
            browser=self._forms.kept_cookie(request, sign_in),
            last=secret,
            identity=await self._services.logins.identity(request),
        )
        try:
            page = await self._finish(answer, binding)
        except NotConfirmedYet:
            # What a form was answered with cannot be gone back to: each of these pages has an address of its own.
            again = f"{_answer_of(given)}&{urlencode({'last': secret})}"
            return RedirectResponse(f"{urlsplit(answer.redirect_uri or '').path}?{again}", 303)
        ticket = self._forms.kept_ticket(request, sign_in)
        return (
            page
            if ticket is None
            else RedirectResponse(f"{_path(self._services.config.gateway.public_url)}/a/{ticket}", 303)
        )

    def _last_page(
        self, sign_in: SignIn, answer: AuthorizationResponse, secret: str, *, error: str | None = None
    ) -> Page:
        nonce = sign_in.binding.code_nonce if sign_in.binding is not None else None
        code = tickets.code_for(secret, nonce) if nonce is not None else None
        button = self._services.logins.link_for(sign_in.origin.principal, code) if code is not None else None
        hidden = {"code": answer.code, "state": answer.state, "iss": answer.iss, "last": secret}
        sent = {name: value for name, value in hidden.items() if value is not None}
        return pages.last_page(sign_in, sent, code, button=button, error=error)

    async def _finish(self, answer: AuthorizationResponse, binding: Binding) -> Page:
        try:
            sign_in = await self._services.exchanges.finish(answer, binding)
        except _ENDS:
            # It has ended with this answer; asked again, it says how, as it will when the page is loaded again.
            sign_in = await self._services.exchanges.finish(answer, binding)
        return how_it_stands(sign_in)

    async def _sign_in_of(self, answer: AuthorizationResponse) -> SignIn | None:
        sign_in = await self._services.of_state(answer.state or "")
        if sign_in is None or sign_in.state is None or answer.state is None:
            return None
        return sign_in if hmac.compare_digest(sign_in.state.encode(), answer.state.encode()) else None

    async def take_elsewhere(self, request: Request) -> Response | Page:
        """A redirect URI of the configuration below `public_url`, or one in loopback mode: `state` tells."""
        given = None
        if self._services.config.gateway.public_url is not None:
            given = await read_form(request) if request.method == "POST" else None
            query = request.url.query if given is None else given.get("answer") or _answer_of(given)
            state = dict(parse_qsl(query, errors="replace")).get("state", "")
            if await self._services.of_state(state) is not None:
                return await self._take_answer(
                    request, f"{self._services.config.gateway.public_url}{request.url.path}", given
                )
        return await self._take_on_loopback(request)

    async def _take_on_loopback(self, request: Request) -> Page:
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
            sign_in = await self._services.exchanges.finish(answer, Binding())
        except AuthorizationRefused as error:
            return refused_page(error)
        except McpAuthError as error:
            return rejected_page(error)
        return pages.message_page(
            pages.Message(
                "{server} is signed in",
                (texts.signed_in(sign_in.server, sign_in.account),),
                "good",
                names={"server": sign_in.server},
                closing=texts.CLOSE,
            )
        )


def _answer_of(given: Mapping[str, str]) -> str:
    """The answer that stands on a last page, as a query again."""
    return urlencode({name: given[name] for name in ("code", "state", "iss") if name in given})


def _path(url: str | None) -> str:
    return urlsplit(url or "").path


def _check_own_visit(request: Request) -> None:
    """A callback is a person's own GET: not a scanner's HEAD, and not what a browser fetches ahead of time."""
    if request.method != "GET":
        raise HTTPException(405, headers={"Allow": "GET"})
    purpose = " ".join(request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz", "x-purpose"))
    if "prefetch" in purpose.lower() or "preview" in purpose.lower():
        raise HTTPException(425)
