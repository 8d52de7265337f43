"""How long a test waits before it gives up."""

from __future__ import annotations

# Seconds. On a quiet machine, what is waited for is there in a fraction of one; no test judges how long it took.
PATIENCE = 120.0
