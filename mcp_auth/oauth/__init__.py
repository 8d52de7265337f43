"""OAuth 2.1 as MCP asks for it: discovery, registration, signing in, tokens, refresh and refusals."""
