"""A FastAPI application with its own users: whoever is logged in there needs no code.

    uvicorn examples.host_application:app --host 127.0.0.1 --port 8000

The configuration joins each user with their chat account:

    gateway:
      public_url: https://app.example.com/mcp
      verify: browser
      allow: [telegram:123456789]
      people: {ada: [telegram:123456789, app:ada]}
"""

from __future__ import annotations

import secrets
from typing import Annotated

from fastapi import Body, FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway import Gateway, Principal

PASSWORDS = {"ada": "correct horse", "bob": "battery staple"}  # yours are hashed and elsewhere


def create_app(gateway: Gateway) -> FastAPI:
    sessions: dict[str, str] = {}
    app = FastAPI()

    @app.post("/login")
    def log_in(user: Annotated[str, Body()], password: Annotated[str, Body()]) -> Response:
        if not secrets.compare_digest(PASSWORDS.get(user, "").encode(), password.encode()) or user not in PASSWORDS:
            return Response("no", 403)
        session = secrets.token_urlsafe(32)
        sessions[session] = user
        answer = RedirectResponse("/", 303)
        answer.set_cookie("session", session, secure=True, httponly=True, samesite="lax")
        return answer

    async def who_is_there(request: Request) -> Principal | None:
        """The user of this application's own session, or nobody: then the page asks to log in first."""
        user = sessions.get(request.cookies.get("session", ""))
        return Principal("app", user) if user is not None else None

    gateway.verify_browser(who_is_there)
    app.mount("/mcp", gateway.asgi_app())
    return app


def __getattr__(name: str) -> FastAPI:
    # Made when a server asks for it, so that importing this module opens no configuration.
    if name != "app":
        raise AttributeError(name)
    return create_app(Gateway.from_config())
