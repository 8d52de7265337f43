"""The contract of an adapter, whole."""

from __future__ import annotations

from adapters.testing.conversations import Conversations
from adapters.testing.pages import Pages


class AdapterContract(Conversations, Pages):
    """The scenarios. Subclass it, give `make_harness`, and every `test_...` runs over your platform."""
