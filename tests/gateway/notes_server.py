"""A real MCP server behind the SDK's own OAuth authorization server, on loopback; whoever opens its link is let in."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx2
import uvicorn
from mcp.server.auth.provider import AccessToken, AuthorizationCode, AuthorizationParams, RefreshToken
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tests.patience import PATIENCE


@dataclass
class Knobs:
    """What a test changes while the server runs."""

    allow: bool = True
    refresh_tokens: bool = True
    lifetime: int = 3600
    mcp_accepts_tokens: bool = True
    revocation_works: bool = True


@dataclass
class NotesServer:
    base: str
    knobs: Knobs = field(default_factory=Knobs)
    clients: dict[str, OAuthClientInformationFull] = field(default_factory=dict)
    codes: dict[str, AuthorizationCode] = field(default_factory=dict)
    access: dict[str, AccessToken] = field(default_factory=dict)
    refresh: dict[str, RefreshToken] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"{self.base}/mcp"

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id or ""] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        answer = {"state": params.state, "iss": self.base}
        if not self.knobs.allow:
            return f"{params.redirect_uri}?{urlencode({'error': 'access_denied', **answer})}"
        code = AuthorizationCode(
            code=secrets.token_urlsafe(24),
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id or "",
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        self.codes[code.code] = code
        return f"{params.redirect_uri}?{urlencode({'code': code.code, **answer})}"

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self.codes[authorization_code.code]
        return self._issue(authorization_code.client_id, authorization_code.scopes, authorization_code.resource)

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self.refresh[refresh_token.token]
        return self._issue(refresh_token.client_id, scopes, refresh_token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.access.get(token) if self.knobs.mcp_accepts_tokens else None

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        if not self.knobs.revocation_works:
            raise RuntimeError("the revocation endpoint is broken")
        self.access.pop(token.token, None)
        self.refresh.pop(token.token, None)

    def _issue(self, client_id: str, scopes: list[str], resource: str | None) -> OAuthToken:
        access, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        ends = int(time.time()) + self.knobs.lifetime
        self.access[access] = AccessToken(
            token=access, client_id=client_id, scopes=scopes, expires_at=ends, resource=resource
        )
        if self.knobs.refresh_tokens:
            self.refresh[refresh] = RefreshToken(token=refresh, client_id=client_id, scopes=scopes, resource=resource)
        return OAuthToken(
            access_token=access,
            expires_in=self.knobs.lifetime,
            refresh_token=refresh if self.knobs.refresh_tokens else None,
        )


@contextlib.asynccontextmanager
async def notes_server() -> AsyncIterator[NotesServer]:
    bound = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{bound.getsockname()[1]}"
    notes = NotesServer(base)
    provider: Any = notes
    mcp = MCPServer(
        "notes",
        auth_server_provider=provider,
        auth=AuthSettings(
            issuer_url=base,
            resource_server_url=f"{base}/mcp",
            validate_token_resource=True,
            client_registration_options=ClientRegistrationOptions(enabled=True),
            revocation_options=RevocationOptions(enabled=True),
        ),
        log_level="ERROR",
    )

    @mcp.tool()
    def list_notes() -> str:
        return "buy milk"

    @mcp.tool()
    def add_note(text: str) -> str:
        return text

    server = uvicorn.Server(uvicorn.Config(mcp.streamable_http_app(), log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield notes
    server.should_exit = True
    await serving


async def open_link(link: str) -> str:
    """What a browser does up to the last redirect. Returns its address, which is not opened."""
    async with httpx2.AsyncClient(verify=False, timeout=PATIENCE) as browser:
        answer = await browser.get(link)
        assert answer.status_code in (302, 307), answer.text
        return str(answer.headers["location"])


async def open_page(address: str) -> str:
    """Open the last page, ours."""
    async with httpx2.AsyncClient(verify=False, timeout=PATIENCE) as browser:
        return (await browser.get(address)).text
