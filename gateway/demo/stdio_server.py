"""The demo's open MCP server over stdio: `python -m gateway.demo.stdio_server`."""

from __future__ import annotations

import time

from mcp.server.mcpserver import MCPServer

server: MCPServer[object] = MCPServer("clock", log_level="CRITICAL")


@server.tool()
def now() -> str:
    """The time on this machine."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


if __name__ == "__main__":
    server.run()
