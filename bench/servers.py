"""Many MCP servers, each with an authorization server of its own, in one process on loopback. Every answer takes as
long as asked, and every request is counted.

    python -m bench.servers        prints its address as one line and serves until its standard input ends

`/s0/mcp`, `/s1/mcp`, ... are protected (RFC 9728, RFC 8414, RFC 7591, PKCE, rotating refresh tokens whose reuse ends
the family). A tool call is not part of what is measured: a POST with a valid token is answered with `{}`.
`/control/...` belongs to the bench: `delay=MS`, `reset`, `count`, `valid` (gives a good access token), `expire` (ends
all of them).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import threading
from collections import Counter
from urllib.parse import parse_qs, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route


class Servers:
    """The state of all of them."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.delay = 0.0
        self.requests: Counter[str] = Counter()
        self.now = self.most = 0
        self.access: set[str] = set()
        self.families: dict[str, str] = {}
        self.spent: set[str] = set()
        self.dead: set[str] = set()

    def routes(self) -> list[Route]:
        return [
            Route("/control/{what}", self.control, methods=["POST"]),
            Route("/.well-known/oauth-protected-resource/{name}/mcp", self.resource),
            Route("/.well-known/oauth-authorization-server/{name}", self.metadata),
            Route("/{name}/mcp", self.mcp, methods=["GET", "POST", "DELETE"]),
            Route("/{name}/register", self.register, methods=["POST"]),
            Route("/{name}/authorize", self.authorize),
            Route("/{name}/token", self.token, methods=["POST"]),
            # Where those look for it who do not keep the metadata (the 2025-03-26 revision's default).
            Route("/token", self.token, methods=["POST"]),
        ]

    async def control(self, request: Request) -> Response:
        what, _, value = request.path_params["what"].partition("=")
        if what == "delay":
            self.delay = float(value) / 1000
        if what == "reset":
            self.requests.clear()
            self.most = 0
        if what == "expire":
            self.access.clear()
        if what == "valid":
            return JSONResponse({"access_token": self._new_access()})
        return JSONResponse(
            {"requests": sum(self.requests.values()), "most at once": self.most, "by kind": self.requests}
        )

    async def _answer(self, kind: str, response: Response) -> Response:
        self.requests[kind] += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
        finally:
            self.now -= 1
        return response

    async def resource(self, request: Request) -> Response:
        issuer = f"{self.base}/{request.path_params['name']}"
        document = {"resource": f"{issuer}/mcp", "authorization_servers": [issuer], "scopes_supported": ["read"]}
        return await self._answer("resource metadata", JSONResponse(document))

    async def metadata(self, request: Request) -> Response:
        issuer = f"{self.base}/{request.path_params['name']}"
        document = {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}/authorize",
            "token_endpoint": f"{issuer}/token",
            "registration_endpoint": f"{issuer}/register",
            "response_types_supported": ["code"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": ["read"],
        }
        return await self._answer("authorization server metadata", JSONResponse(document))

    async def mcp(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token in self.access:
            return await self._answer("mcp", JSONResponse({}))
        name = request.path_params["name"]
        where = f"{self.base}/.well-known/oauth-protected-resource/{name}/mcp"
        challenge = {"WWW-Authenticate": f'Bearer resource_metadata="{where}"'}
        return await self._answer("refused", JSONResponse({"error": "invalid_token"}, 401, headers=challenge))

    async def register(self, request: Request) -> Response:
        wanted = json.loads(await request.body())
        client = {**wanted, "client_id": secrets.token_hex(8), "token_endpoint_auth_method": "none"}
        return await self._answer("registration", JSONResponse(client, 201))

    async def authorize(self, request: Request) -> Response:
        answer = urlencode({"code": secrets.token_hex(16), "state": request.query_params["state"]})
        return await self._answer(
            "authorization", RedirectResponse(f"{request.query_params['redirect_uri']}?{answer}", 302)
        )

    async def token(self, request: Request) -> Response:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        if form.get("grant_type") == "authorization_code":
            return await self._answer("code exchange", JSONResponse(self._tokens(self._new_family())))
        sent = form.get("refresh_token", "")
        family = self.families.get(sent)
        if family is None or family in self.dead or sent in self.spent:
            if family is not None:
                self.dead.add(family)
            return await self._answer("refresh refused", JSONResponse({"error": "invalid_grant"}, 400))
        self.spent.add(sent)
        following = secrets.token_hex(16)
        self.families[following] = family
        return await self._answer("refresh", JSONResponse(self._tokens(following)))

    def _tokens(self, refresh_token: str) -> dict[str, object]:
        return {
            "access_token": self._new_access(),
            "refresh_token": refresh_token,
            "token_type": "Bearer",
            "expires_in": 3600,
            "scope": "read",
        }

    def _new_access(self) -> str:
        token = secrets.token_hex(16)
        self.access.add(token)
        return token

    def _new_family(self) -> str:
        token = secrets.token_hex(16)
        self.families[token] = token
        return token


def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        bound.listen(2048)
        base = f"http://127.0.0.1:{bound.getsockname()[1]}"
        config = uvicorn.Config(Starlette(routes=Servers(base).routes()), log_config=None, access_log=False)
        server = uvicorn.Server(config)

        def watch() -> None:
            sys.stdin.read()
            server.should_exit = True

        threading.Thread(target=watch, daemon=True).start()
        print(base, flush=True)
        server.run(sockets=[bound])


if __name__ == "__main__":
    main()
