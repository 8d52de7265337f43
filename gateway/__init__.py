"""The `/mcp` grammar, who may do what, and how one invocation becomes replies. Knows no platform.

The names below are imported when they are first used: `import gateway` itself costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.gateway import Gateway
    from gateway.invocations import LOCAL, Abilities, ChatRef, Invocation, MessageRef, Principal
    from gateway.replies import Notice, Reply

__all__ = [
    "LOCAL",
    "Abilities",
    "ChatRef",
    "Gateway",
    "Invocation",
    "MessageRef",
    "Notice",
    "Principal",
    "Reply",
]

_HOME = {
    "Gateway": "gateway.gateway",
    "Notice": "gateway.replies",
    "Reply": "gateway.replies",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gateway' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME.get(name, "gateway.invocations")), name)
