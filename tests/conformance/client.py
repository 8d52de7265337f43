"""The client that the official conformance suite drives: nothing but our public API and a plain browser.

Called as `python client.py SERVER_URL` with `MCP_CONFORMANCE_SCENARIO` and `MCP_CONFORMANCE_CONTEXT` set.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import yaml

from mcp_auth import McpAuth, Requester
from mcp_auth.errors import CredentialsNeeded

ME = Requester(principal="cli:local")
SIGN_INS = 3
METADATA_DOCUMENT = "https://conformance-test.local/client-metadata.json"


async def main(url: str) -> None:
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context: dict[str, Any] = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    options: dict[str, Any] = {"client_metadata_url": METADATA_DOCUMENT}
    options |= {name: context[name] for name in ("client_id", "client_secret") if name in context}
    if "2025-03-26" in scenario:
        options["legacy"] = True
    with tempfile.TemporaryDirectory() as home:
        entry = {"url": url, "auth": "oauth", "oauth": options}
        (Path(home) / "config.yaml").write_text(yaml.safe_dump({"mcp_servers": {"under-test": entry}}))
        async with McpAuth.open(home=home) as auth:
            for _ in range(SIGN_INS):
                try:
                    await use(auth, scenario)
                except CredentialsNeeded:
                    await sign_in(auth)
                else:
                    return
            await use(auth, scenario)


async def use(auth: McpAuth, scenario: str) -> None:
    """What an agent does: list the tools, and call them."""
    async with auth.session("under-test") as client:
        tools = (await client.list_tools()).tools
        for tool in tools:
            await client.call_tool(tool.name, {})
        if scenario.endswith("authorization-server-migration"):
            # The server moves to another authorization server after the first answer.
            await client.list_tools()


async def sign_in(auth: McpAuth) -> None:
    """The person: opens the link, and the browser brings the answer back."""
    started = await auth.sign_in("under-test", "shared", ME, listen=False)
    async with httpx2.AsyncClient(timeout=120) as browser:
        answer = await browser.get(started.link, follow_redirects=False)
    await auth.paste(answer.headers["location"], ME.principal)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
