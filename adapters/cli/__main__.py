"""`python -m adapters.cli` is `slash-mcp`."""

from __future__ import annotations

from mcp_auth.start import main

if __name__ == "__main__":
    main()
