"""Pre-registered clients: what the configuration says of one by now, and how it authenticates. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mcp_auth.config.models import Server
from mcp_auth.config.variables import Variables
from mcp_auth.errors import KeyInvalid, KeyMissing, StoreError
from mcp_auth.records import Grant


def method_for(secret: str | None, supported: Sequence[str] | None) -> str:
    """How a client with this secret authenticates where nothing says so."""
    if not secret:
        return "none"
    if supported and "client_secret_post" not in supported and "client_secret_basic" in supported:
        return "client_secret_basic"
    return "client_secret_post"


def corrected(server: Server, grant: Grant, secret: str | None) -> dict[str, Any]:
    """What changes in a grant whose client the configuration describes otherwise by now; empty: nothing does.

    A grant keeps the secret that it was made with. The operator may have rotated it, or corrected how it is sent: that
    is the same client, so its grant goes on.

    Args:
        secret: `oauth.client_secret`, resolved.
    """
    known = grant.registration
    if known is None or known.source != "configured" or known.client_id != server.oauth.client_id:
        return {}
    supported = grant.metadata.token_endpoint_auth_methods_supported if grant.metadata is not None else None
    now = msgspec.structs.replace(
        known,
        client_secret=secret,
        token_endpoint_auth_method=server.oauth.token_endpoint_auth_method or method_for(secret, supported),
    )
    if now == known:
        return {}
    # Its owner has been told that the client is not known, and is told again if this one is not either.
    changes: dict[str, Any] = {"registration": now, "registration_dead": False, "refresh_not_before": None}
    return changes | ({"reauthorization_told": False} if grant.registration_dead else {})


def client_correction(variables: Variables, server: Server, grant: Grant) -> dict[str, Any]:
    """As `corrected`, by the `oauth.client_secret` of this moment; a missing one says nothing."""
    template = server.oauth.client_secret
    try:
        secret = variables.resolve(template) if template is not None else None
    except (KeyMissing, KeyInvalid, StoreError):
        return {}
    return corrected(server, grant, secret)
