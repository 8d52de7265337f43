"""The chats that `/mcp` is typed in, and what one more chat is made of.

The names of `__all__`, `adapters.buttons`, each `adapters.<chat>` and `adapters.testing` are the public ones; every
other module is private and may change. They are imported when first used, so that `import adapters` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_auth.lazy import attribute

if TYPE_CHECKING:
    from adapters.base import Adapter, Finding, remark
    from adapters.driver import Driver, nobody_served
    from adapters.layout import (
        Layout,
        Line,
        Span,
        fit,
        lay_out,
    )
    from adapters.log_filters import (
        hide_payloads,
        mask_tokens,
    )
    from adapters.refusals import (
        EditWindowClosed,
        Elsewhere,
        Later,
        Misconfigured,
        NotSupported,
        PrivateDeliveryUnavailable,
        Refused,
        TooLong,
    )
    from adapters.symbols import (
        BAD,
        GOOD,
        WARN,
    )

# Other distributions have a package of this name too: `mcp_auth.start` looks for this line.
__distribution__ = "slash-mcp"
__all__ = [
    "BAD",
    "GOOD",
    "WARN",
    "Adapter",
    "Driver",
    "EditWindowClosed",
    "Elsewhere",
    "Finding",
    "Later",
    "Layout",
    "Line",
    "Misconfigured",
    "NotSupported",
    "PrivateDeliveryUnavailable",
    "Refused",
    "Span",
    "TooLong",
    "fit",
    "hide_payloads",
    "lay_out",
    "mask_tokens",
    "nobody_served",
    "remark",
]

_HOMES = {
    **dict.fromkeys(("EditWindowClosed", "Elsewhere", "Later", "Misconfigured"), "adapters.refusals"),
    **dict.fromkeys(("NotSupported", "PrivateDeliveryUnavailable", "Refused", "TooLong"), "adapters.refusals"),
    **dict.fromkeys(("Driver", "nobody_served"), "adapters.driver"),
    "Layout": "adapters.layout",
    "Line": "adapters.layout",
    "Span": "adapters.layout",
    "fit": "adapters.layout",
    "lay_out": "adapters.layout",
    "hide_payloads": "adapters.log_filters",
    "mask_tokens": "adapters.log_filters",
    "BAD": "adapters.symbols",
    "GOOD": "adapters.symbols",
    "WARN": "adapters.symbols",
}


def __getattr__(name: str) -> object:
    return attribute(__name__, name, __all__, _HOMES, "adapters.base")
