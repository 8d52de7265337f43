"""The terminal: `slash-mcp` and its chat."""
