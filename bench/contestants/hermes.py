"""Hermes Agent's OAuth for MCP servers, in a home of its own."""

from __future__ import annotations

import os
from typing import Any

import httpx
from common import main
from provider import Works


def make(url: str, name: str, folder: str) -> Any:
    os.environ["HERMES_HOME"] = folder
    from tools import mcp_oauth

    # A person sits there; the bench presses Allow.
    with mcp_oauth.force_interactive_oauth():
        return mcp_oauth.build_oauth_auth(name, url, {"redirect_port": 8765})


def answer(code: str, state: str) -> tuple[str, str]:
    return code, state


if __name__ == "__main__":
    main(Works(make, httpx, answer).all())
