"""The demo: MCP servers to try everything on, on loopback, with a real OAuth authorization server."""
