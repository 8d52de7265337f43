"""An authorization server and a protected MCP server on loopback, with a knob for every duty and every fault.

It speaks RFC 9728, RFC 8414, RFC 7591, RFC 6749/7636, RFC 7009, RFC 9207 and enough of MCP's streamable HTTP
(JSON answers, no sessions) for the SDK's client. It checks what it receives as a strict server does.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.patience import PATIENCE
from tests.servers.threads import loopback_socket, serving


class LostResponse(Response):
    """An answer that breaks off before its body: the connection is closed."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"100"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"acc', "more_body": True})


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float


@dataclass
class Knobs:
    """How the server behaves. Set them at any time."""

    # discovery
    prm_path: str | None = "path"  # "path", "root", "header" or None
    prm_status: int = 200
    prm: dict[str, Any] = field(default_factory=dict)  # overrides members; a None value removes the member
    challenge: str | None = None  # WWW-Authenticate verbatim; None: a good one
    challenge_scope: str | None = None
    issuer_path: str = ""
    well_known: str = "oauth"  # "oauth", "oidc-path", "oidc-suffix" or "none"
    metadata: dict[str, Any] = field(default_factory=dict)
    metadata_status: int = 200
    # registration
    registration: Response | None = None
    registration_extra: dict[str, Any] = field(default_factory=dict)
    # authorization
    iss: str = "right"  # "right", "wrong" or "missing"
    authorize_error: dict[str, str] | None = None
    # tokens
    token_answers: list[Any] = field(default_factory=list)  # Response, or "drop", used up before the real thing
    token_gate: threading.Event | None = None  # answers wait until it is set
    token_delay: float = 0.0  # answers take at least so many seconds
    expires_in: int | None = 3600  # 0: as servers do that mean a token which never ends
    give_refresh_token: bool = True
    rotate: bool = True
    scope_answer: str | None = None  # None: as asked; "": left out
    auth_method: str | None = None  # what the token endpoint insists on
    id_token_claims: dict[str, Any] | None = None
    revocation_status: int = 200
    # Paths that answer this status (a redirect leads to `/elsewhere`), and paths that redirect there, as it is written.
    gone: dict[str, int] = field(default_factory=dict)
    gone_to: dict[str, str] = field(default_factory=dict)
    raw_status: int = 200
    raw: dict[str, bytes] = field(default_factory=dict)  # paths that answer exactly this, as JSON
    # the resource
    protected: bool = True
    open_methods: tuple[str, ...] = ()  # JSON-RPC methods that need no token
    api_key: str | None = None
    mcp_answers: list[Response] = field(default_factory=list)
    # Results of `tools/list`, one for each question, before `tools` is the answer.
    tool_pages: list[dict[str, Any]] = field(default_factory=list)
    mcp_gate: threading.Event | None = None  # answers wait until it is set
    mcp_delay: float = 0.0  # answers take at least so many seconds
    need_scope: str | None = None  # 403 insufficient_scope without it
    tools: tuple[str, ...] = ("add", "search", "read_file")


class OAuthServer:
    """Runs in a thread of its own, so that tests of every kind, processes included, can use it."""

    def __init__(self) -> None:
        self.reset()
        self._lock = threading.Lock()
        self._socket = loopback_socket()
        self.port: int = self._socket.getsockname()[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/mcp"

    def reset(self) -> None:
        """As new, on the same port."""
        self.knobs = Knobs()
        self.seen: list[Seen] = []
        self.clients: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.access: dict[str, dict[str, Any]] = {}
        self.refresh: dict[str, dict[str, Any]] = {}
        self.refreshes = 0
        self.families_killed = 0
        self.in_flight = 0
        self.most_in_flight = 0

    @property
    def issuer(self) -> str:
        return self.origin + self.knobs.issuer_path

    def requests(self, path: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path == path]

    def forget(self) -> None:
        self.seen.clear()

    def expire_access_tokens(self) -> None:
        for token in self.access.values():
            token["expires_at"] = 0

    # -- running -----------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[OAuthServer]:
        routes = [Route("/{path:path}", self._dispatch, methods=["GET", "POST", "DELETE", "HEAD"])]
        with serving(Starlette(routes=routes), self._socket):
            yield self

    async def _dispatch(self, request: Request) -> Response:
        body = await request.body()
        form = {}
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            form = dict(parse_qsl(body.decode()))
        path = request.url.path
        seen = Seen(
            request.method, path, dict(request.query_params), form, dict(request.headers), body, time.monotonic()
        )
        self.seen.append(seen)
        if path in self.knobs.gone_to:
            return PlainTextResponse("", 307, {"Location": self.knobs.gone_to[path]})
        if path in self.knobs.gone:
            return PlainTextResponse("", self.knobs.gone[path], {"Location": f"{self.origin}/elsewhere"})
        if path in self.knobs.raw:
            return Response(self.knobs.raw[path], self.knobs.raw_status, media_type="application/json")
        if path == "/mcp":
            return await self._mcp(seen)
        if "/.well-known/oauth-protected-resource" in path:
            return self._prm(path)
        if "/.well-known/" in path:
            return self._metadata(path)
        handler = {
            "/register": self._register,
            "/authorize": self._authorize,
            "/revoke": self._revoke,
        }.get(path.removeprefix(self.knobs.issuer_path))
        if handler is not None:
            return handler(seen)
        if path.removeprefix(self.knobs.issuer_path) in ("/token", "/v2/token"):
            return await self._token(seen, request)
        return PlainTextResponse("not found", 404)

    # -- discovery ---------------------------------------------------------------------------

    def _prm(self, path: str) -> Response:
        knobs = self.knobs
        where = {
            "path": "/.well-known/oauth-protected-resource/mcp",
            "root": "/.well-known/oauth-protected-resource",
            "header": "/elsewhere/.well-known/oauth-protected-resource",
        }.get(knobs.prm_path or "")
        if knobs.prm_status != 200:
            return PlainTextResponse("trouble", knobs.prm_status)
        if path != where:
            return PlainTextResponse("not found", 404)
        document = {"resource": self.url, "authorization_servers": [self.issuer], **knobs.prm}
        return JSONResponse({k: v for k, v in document.items() if v is not None})

    def _metadata(self, path: str) -> Response:
        knobs = self.knobs
        where = {
            "oauth": f"/.well-known/oauth-authorization-server{knobs.issuer_path}",
            "oidc-path": f"/.well-known/openid-configuration{knobs.issuer_path}",
            "oidc-suffix": f"{knobs.issuer_path}/.well-known/openid-configuration",
        }.get(knobs.well_known)
        if path != where:
            return PlainTextResponse("not found", 404)
        if knobs.metadata_status != 200:
            return PlainTextResponse("trouble", knobs.metadata_status)
        base = self.origin + knobs.issuer_path
        document = {
            "issuer": self.issuer,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "registration_endpoint": f"{base}/register",
            "revocation_endpoint": f"{base}/revoke",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            **knobs.metadata,
        }
        return JSONResponse({k: v for k, v in document.items() if v is not None})

    # -- the authorization server ------------------------------------------------------------

    def _register(self, seen: Seen) -> Response:
        if self.knobs.registration is not None:
            return self.knobs.registration
        asked = json.loads(seen.body)
        client_id = f"client-{secrets.token_hex(6)}"
        answer = {**asked, "client_id": client_id, **self.knobs.registration_extra}
        answer = {k: v for k, v in answer.items() if v is not None}
        self.clients[client_id] = answer
        return JSONResponse(answer, 201)

    def _authorize(self, seen: Seen) -> Response:
        query = seen.query
        redirect = query["redirect_uri"]
        client = self.clients.get(query["client_id"])
        if client is not None and redirect not in client.get("redirect_uris", []):
            return PlainTextResponse("redirect_uri is not registered", 400)
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
            return PlainTextResponse("bad request", 400)
        answer = {"state": query["state"]}
        if self.knobs.iss != "missing":
            said = self.knobs.metadata.get("issuer") or self.issuer
            answer["iss"] = said if self.knobs.iss == "right" else "https://evil.example.com"
        if self.knobs.authorize_error is not None:
            answer |= self.knobs.authorize_error
        else:
            code = secrets.token_urlsafe(24)
            self.codes[code] = query
            answer["code"] = code
        separator = "&" if "?" in redirect else "?"
        return RedirectResponse(f"{redirect}{separator}{urlencode(answer)}", 302)

    async def _passed(self, gate: threading.Event | None, delay: float) -> None:
        """Until the gate is open (a test opens it, in another thread), or the server is as new."""
        knobs = self.knobs
        await asyncio.sleep(delay)
        while gate is not None and not gate.is_set() and self.knobs is knobs:
            await asyncio.sleep(0.005)

    async def _token(self, seen: Seen, request: Request) -> Response:
        await self._passed(self.knobs.token_gate, self.knobs.token_delay)
        answer = None
        if self.knobs.token_answers:
            answer = self.knobs.token_answers.pop(0)
        if isinstance(answer, Response):
            return answer
        with self._lock:
            real = self._real_token(seen)
        if answer == "drop":
            # The server did its work, and the answer got lost on the way.
            return LostResponse()
        return real

    def _real_token(self, seen: Seen) -> Response:
        form = seen.form
        client_id, method = self._client_auth(seen)
        if client_id is None or (self.knobs.auth_method is not None and method != self.knobs.auth_method):
            return JSONResponse({"error": "invalid_client"}, 401)
        if form.get("grant_type") == "authorization_code":
            code = self.codes.pop(form.get("code", ""), None)
            if code is None or code["client_id"] != client_id or code["redirect_uri"] != form.get("redirect_uri"):
                return JSONResponse({"error": "invalid_grant"}, 400)
            digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
            if base64.urlsafe_b64encode(digest).decode().rstrip("=") != code["code_challenge"]:
                return JSONResponse({"error": "invalid_grant", "error_description": "PKCE"}, 400)
            return self._issue(client_id, code.get("scope"), form.get("resource"), secrets.token_hex(8))
        if form.get("grant_type") == "refresh_token":
            self.refreshes += 1
            old = self.refresh.get(form.get("refresh_token", ""))
            if old is None or old["client_id"] != client_id:
                return JSONResponse({"error": "invalid_grant"}, 400)
            if old["used"] and self.knobs.rotate:
                # A rotated token comes back: somebody stole it, so the whole family dies.
                self.families_killed += 1
                for tokens in (self.refresh, self.access):
                    for token in [t for t, data in tokens.items() if data["family"] == old["family"]]:
                        del tokens[token]
                return JSONResponse({"error": "invalid_grant", "error_description": "reuse"}, 400)
            old["used"] = True
            return self._issue(client_id, old["scope"], old["resource"], old["family"])
        return JSONResponse({"error": "unsupported_grant_type"}, 400)

    def _issue(self, client_id: str, scope: str | None, resource: str | None, family: str) -> Response:
        knobs = self.knobs
        granted = scope if knobs.scope_answer is None else knobs.scope_answer
        data = {"client_id": client_id, "scope": granted, "resource": resource, "family": family}
        access = f"at-{secrets.token_urlsafe(24)}"
        lifetime = knobs.expires_in or 3600
        self.access[access] = {**data, "expires_at": time.time() + lifetime}
        answer: dict[str, Any] = {"access_token": access, "token_type": "bearer"}
        if knobs.expires_in is not None:
            answer["expires_in"] = knobs.expires_in
        if granted:
            answer["scope"] = granted
        if knobs.give_refresh_token and (knobs.rotate or not any(r["family"] == family for r in self.refresh.values())):
            refresh = f"rt-{secrets.token_urlsafe(24)}"
            self.refresh[refresh] = {**data, "used": False}
            answer["refresh_token"] = refresh
        if knobs.id_token_claims is not None:
            claims = base64.urlsafe_b64encode(json.dumps(knobs.id_token_claims).encode()).decode().rstrip("=")
            answer["id_token"] = f"e30.{claims}.c2ln"
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def _client_auth(self, seen: Seen) -> tuple[str | None, str]:
        header = seen.headers.get("authorization", "")
        client_id, secret, method = seen.form.get("client_id"), seen.form.get("client_secret"), "client_secret_post"
        if header.startswith("Basic "):
            user, _, password = base64.b64decode(header[6:]).decode().partition(":")
            client_id, secret, method = unquote(user), unquote(password), "client_secret_basic"
        elif secret is None:
            method = "none"
        known = self.clients.get(client_id or "")
        if known is not None and str(known.get("client_secret") or "") != (secret or ""):
            return None, method
        return client_id, method

    def _revoke(self, seen: Seen) -> Response:
        if self.knobs.revocation_status != 200:
            return PlainTextResponse("trouble", self.knobs.revocation_status)
        token = seen.form.get("token", "")
        self.access.pop(token, None)
        self.refresh.pop(token, None)
        return PlainTextResponse("")

    # -- the MCP server ----------------------------------------------------------------------

    async def _mcp(self, seen: Seen) -> Response:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self._passed(self.knobs.mcp_gate, self.knobs.mcp_delay)
            return self._mcp_answer(seen)
        finally:
            self.in_flight -= 1

    def _mcp_answer(self, seen: Seen) -> Response:
        knobs = self.knobs
        if knobs.mcp_answers:
            return knobs.mcp_answers.pop(0)
        if seen.method != "POST":
            return PlainTextResponse("", 405)
        message = json.loads(seen.body)
        method = message.get("method", "")
        refusal = None if method in knobs.open_methods else self._refusal(seen)
        if refusal is not None:
            return refusal
        if "id" not in message:
            return Response(status_code=202)
        if method == "initialize":
            result: dict[str, Any] = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "test", "version": "1"},
            }
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in knobs.tools]
            result = knobs.tool_pages.pop(0) if knobs.tool_pages else {"tools": tools}
        elif method == "tools/call":
            result = {"content": [{"type": "text", "text": "done"}]}
        elif method == "ping":
            result = {}
        else:
            error = {"code": -32601, "message": "Method not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "error": error}, 200)
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def _refusal(self, seen: Seen) -> Response | None:
        knobs = self.knobs
        if knobs.api_key is not None:
            return (
                None if seen.headers.get("authorization") == f"Bearer {knobs.api_key}" else PlainTextResponse("", 401)
            )
        if not knobs.protected:
            return None
        token = self.access.get(seen.headers.get("authorization", "").removeprefix("Bearer "))
        good = (
            token is not None
            and token["expires_at"] > time.time()
            and token["resource"] in (self.url, None, knobs.prm.get("resource"))
        )
        if token is None or not good:
            return PlainTextResponse("", 401, {"WWW-Authenticate": self._challenge()})
        if knobs.need_scope is not None and knobs.need_scope not in (token["scope"] or "").split():
            header = f'Bearer error="insufficient_scope", scope="{knobs.need_scope}"'
            return PlainTextResponse("", 403, {"WWW-Authenticate": header})
        return None

    def _challenge(self) -> str:
        if self.knobs.challenge is not None:
            return self.knobs.challenge
        parts = []
        if self.knobs.prm_path == "header":
            parts.append(f'resource_metadata="{self.origin}/elsewhere/.well-known/oauth-protected-resource"')
        elif self.knobs.prm_path == "path":
            parts.append(f'resource_metadata="{self.origin}/.well-known/oauth-protected-resource/mcp"')
        if self.knobs.challenge_scope is not None:
            parts.append(f'scope="{self.knobs.challenge_scope}"')
        return f"Bearer {', '.join(parts)}".strip()


def authorize(link: str) -> str:
    """What a browser does with a link, up to the redirect: the redirect's URL, not yet visited."""
    response = httpx2.get(link, follow_redirects=False, verify=False, timeout=PATIENCE)
    assert response.status_code == 302, response.text
    location: str = response.headers["location"]
    assert urlsplit(location).scheme in ("http", "https")
    return location


def visit(url: str) -> httpx2.Response:
    """What a browser does with the redirect."""
    return httpx2.get(url, follow_redirects=False, verify=False, timeout=PATIENCE)
