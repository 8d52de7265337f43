"""The `/mcp` grammar, who may do what, and how one invocation becomes replies. Knows no platform.

The names of `__all__` are the public ones; every other module is private and may change. They are imported when first
used, so that `import gateway` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_auth.lazy import attribute

if TYPE_CHECKING:
    from gateway.gateway import Gateway
    from gateway.invocations import (
        LOCAL,
        Capabilities,
        ChatRef,
        Invocation,
        MessageRef,
        Principal,
    )
    from gateway.replies import (
        Audience,
        Block,
        Button,
        Checklist,
        ChecklistItem,
        Decision,
        Deferred,
        Ignored,
        Immediate,
        ItemState,
        Modal,
        Notice,
        Reply,
        SecretPrompt,
        ServerDetail,
        ServerList,
        Table,
        Text,
        TextModal,
    )
    from gateway.serve import Platform

# Other distributions have a package of this name too: `mcp_auth.start` looks for this line.
__distribution__ = "slash-mcp"
__all__ = [
    "LOCAL",
    "Audience",
    "Block",
    "Button",
    "Capabilities",
    "ChatRef",
    "Checklist",
    "ChecklistItem",
    "Decision",
    "Deferred",
    "Gateway",
    "Ignored",
    "Immediate",
    "Invocation",
    "ItemState",
    "MessageRef",
    "Modal",
    "Notice",
    "Platform",
    "Principal",
    "Reply",
    "SecretPrompt",
    "ServerDetail",
    "ServerList",
    "Table",
    "Text",
    "TextModal",
]

_HOMES = {
    "Platform": "gateway.serve",
    "Gateway": "gateway.gateway",
    "LOCAL": "gateway.invocations",
    "Capabilities": "gateway.invocations",
    "ChatRef": "gateway.invocations",
    "Invocation": "gateway.invocations",
    "MessageRef": "gateway.invocations",
    "Principal": "gateway.invocations",
}


def __getattr__(name: str) -> object:
    return attribute(__name__, name, __all__, _HOMES, "gateway.replies")
