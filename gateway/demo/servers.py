"""The demo's MCP servers: notes behind OAuth, weather behind an API key, and their applications."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from gateway.demo.authorization_server import ACCOUNT, DemoProvider

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


def authorization_app(provider: DemoProvider, issuer: str) -> Starlette:
    """The authorization server: the SDK's routes, and the consent page."""
    routes = create_auth_routes(
        provider,
        AnyHttpUrl(issuer),
        client_registration_options=ClientRegistrationOptions(
            enabled=True, valid_scopes=["notes"], default_scopes=["notes"]
        ),
        revocation_options=RevocationOptions(enabled=True),
    )
    document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "registration_endpoint": f"{issuer}/register",
        "revocation_endpoint": f"{issuer}/revoke",
        "scopes_supported": ["notes"],
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "code_challenge_methods_supported": ["S256"],
        # The consent page answers with `iss` (RFC 9207), which the SDK's own metadata does not say.
        "authorization_response_iss_parameter_supported": True,
    }

    async def metadata(request: Request) -> JSONResponse:
        return JSONResponse(document, headers={"Cache-Control": "no-store"})

    own = [
        Route("/.well-known/oauth-authorization-server", metadata, methods=["GET"]),
        Route("/consent", provider.consent_page, methods=["GET", "POST"]),
    ]
    return Starlette(routes=[*own, *routes])


def notes_server(provider: DemoProvider, issuer: str, url: str) -> MCPServer[object]:
    """Notes, for who is signed in."""
    # From strings: a URL object would give the issuer a slash that it does not have.
    settings = AuthSettings.model_validate(
        {
            "issuer_url": issuer,
            "resource_server_url": url,
            "required_scopes": ["notes"],
            "validate_token_resource": True,
        }
    )
    server: MCPServer[object] = MCPServer("notes", token_verifier=provider, auth=settings, log_level="CRITICAL")
    notes = ["Buy oat milk", "Call the lighthouse keeper"]

    @server.tool()
    def list_notes() -> list[str]:
        """All notes, oldest first."""
        return notes

    @server.tool()
    def add_note(text: str) -> str:
        """Add one note."""
        notes.append(text)
        return f"Noted. There are {len(notes)} notes now."

    @server.tool()
    def whoami() -> str:
        """The account that is signed in."""
        token = get_access_token()
        return token.subject or ACCOUNT if token is not None else "nobody"

    return server


def weather_server() -> MCPServer[object]:
    """Weather; `KeyGuard` stands in front of it."""
    server: MCPServer[object] = MCPServer("weather", log_level="CRITICAL")

    @server.tool()
    def forecast(city: str) -> str:
        """Tomorrow's weather, freely invented."""
        kinds = ("sunny", "windy", "foggy", "a light drizzle")
        return f"{city}: {kinds[sum(map(ord, city)) % len(kinds)]}"

    return server


class KeyGuard:
    """Answers 401 to everything without the right `Authorization: Bearer <key>`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        refusal = JSONResponse({"error": "a valid key is needed"}, 401, headers={"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)


def weather_app(key: str) -> Starlette:
    app = weather_server().streamable_http_app()
    app.user_middleware.append(Middleware(KeyGuard, key=key))
    return app
