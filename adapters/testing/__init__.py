"""The contract of an adapter as a test suite: the same scenarios over every platform, ours and anybody's.

Write a `Harness` for your platform (its real client library against a loopback server that you control), then:

    class TestMyChat(AdapterContract):
        def make_harness(self) -> Harness:
            return MyChatHarness()

and run pytest with pytest-asyncio in auto mode. Everything behind the adapter is real: the gateway, the files, an
MCP server behind an OAuth authorization server on loopback, and a scripted browser. `docs/write-an-adapter.md` walks
through it.
"""

from mcp_auth.lazy import public_names

# `__init__.pyi` says the same to type checkers.
__all__, __getattr__ = public_names(
    __name__,
    {
        "contract": "AdapterContract",
        "harness": "ANN BOB EVE Harness SeenButton SeenMessage",
        "ports": "free_port",
        "scenarios": "unreadable_address",
        "world": "WAIT World",
    },
)
