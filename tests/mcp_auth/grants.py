"""A grant of one server, notes, and time that a test moves on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp_auth import McpAuth
from mcp_auth.records import Grant, Tokens
from tests.homes import Clock, open_auth, signed_in
from tests.servers.oauth import OAuthServer


def opened(tmp_path: Path, oauth: OAuthServer, clock: Clock, **options: Any) -> McpAuth:
    return open_auth(tmp_path, {"notes": {"url": oauth.url, "auth": "oauth"}}, clock=clock, **options)


@asynccontextmanager
async def granted(tmp_path: Path, oauth: OAuthServer, clock: Clock, **options: Any) -> AsyncIterator[McpAuth]:
    """Opened, and signed in."""
    async with opened(tmp_path, oauth, clock, **options) as auth:
        await signed_in(auth)
        yield auth


async def grant_of(auth: McpAuth) -> Grant:
    grant = await auth.store.grants.get("shared", "notes", auth.config.servers["notes"].url or "")
    assert grant is not None
    return grant


async def tokens_of(auth: McpAuth) -> Tokens:
    tokens = (await grant_of(auth)).tokens
    assert tokens is not None
    return tokens


def told_of(auth: McpAuth) -> list[str]:
    """The kinds of all changes from now on."""
    told: list[str] = []
    auth.on_change(lambda change: told.append(change.kind))
    return told
