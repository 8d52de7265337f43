"""Credentials for MCP servers: OAuth sign-ins in two halves, refreshes, API keys, sessions.

The names below are imported when first used, so that `import mcp_auth` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_auth.changes import Change as Change
    from mcp_auth.config import Config as Config
    from mcp_auth.config import load as load
    from mcp_auth.core import LogoutResult as LogoutResult
    from mcp_auth.core import McpAuth as McpAuth
    from mcp_auth.errors import McpAuthError as McpAuthError
    from mcp_auth.records import Origin as Origin

_HOMES = {
    "Change": "mcp_auth.changes",
    "Config": "mcp_auth.config",
    "LogoutResult": "mcp_auth.core",
    "McpAuth": "mcp_auth.core",
    "McpAuthError": "mcp_auth.errors",
    "Origin": "mcp_auth.records",
    "load": "mcp_auth.config",
}
__all__ = ["Change", "Config", "LogoutResult", "McpAuth", "McpAuthError", "Origin", "load"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(home), name)
