"""The program `slash-mcp`: its commands, as text or JSON."""
