"""What the attacks have in common: the servers, and what is stored."""

from __future__ import annotations

from typing import Any

from gateway.gateway import Gateway
from mcp_auth.config.models import OAuthOptions, Server
from mcp_auth.records import encode
from tests.servers.oauth import OAuthServer

KEY = "sk-canary-0123456789"


def notes(oauth: OAuthServer, name: str = "notes", **options: Any) -> Server:
    return Server(name=name, url=oauth.url, auth="oauth", oauth=OAuthOptions(**options))


def api(oauth: OAuthServer, name: str = "my-api") -> Server:
    """A server that takes `KEY`."""
    oauth.knobs.api_key = KEY
    return Server(name=name, url=oauth.url, headers={"Authorization": "Bearer ${MY_API_KEY}"})


async def stored(gateway: Gateway) -> list[bytes]:
    """Every sign-in, key form and grant as it is stored: equal before and after means that nothing happened."""
    store = gateway.auth.store
    records = [*await store.sign_ins.list(), *await store.key_forms.list(), *await store.grants.list()]
    return sorted(encode(record) for record in records)
