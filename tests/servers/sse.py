"""The SDK's own MCP server over SSE, which takes the tokens of the authorization server of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from tests.servers.oauth import OAuthServer
from tests.servers.threads import loopback_socket, serving

PRM_PATH = "/.well-known/oauth-protected-resource/v1/sse"


@contextmanager
def sse_server(oauth: OAuthServer) -> Iterator[str]:
    """Its URL, until the block ends."""
    bound = loopback_socket()
    origin = f"http://127.0.0.1:{bound.getsockname()[1]}"
    url = f"{origin}/v1/sse"
    mcp = MCPServer("old notes")

    @mcp.tool()
    def greet(name: str) -> str:
        return f"Hello, {name}."

    inner = mcp.sse_app(sse_path="/v1/sse", message_path="/v1/messages/")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        token = oauth.access.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if request.url.path == PRM_PATH:
            document = {"resource": url, "authorization_servers": [oauth.issuer]}
            await JSONResponse(document)(scope, receive, send)
        elif token is None or token["resource"] != url:
            challenge = {"WWW-Authenticate": f'Bearer resource_metadata="{origin}{PRM_PATH}"'}
            await PlainTextResponse("", 401, challenge)(scope, receive, send)
        else:
            await inner(scope, receive, send)

    with serving(app, bound):
        yield url
