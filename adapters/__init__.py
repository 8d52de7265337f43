"""The chats that `/mcp` is typed in, and what one more chat is made of.

The names of `__all__`, `adapters.buttons`, each `adapters.<chat>` and `adapters.testing` are the public ones; every
other module is private and may change. They are imported when first used, so that `import adapters` costs nothing.
"""

from mcp_auth.lazy import public_names

# Other distributions have a package of this name too: `mcp_auth.start` looks for this line.
__distribution__ = "slash-mcp"

# `__init__.pyi` says the same to type checkers.
__all__, __getattr__ = public_names(
    __name__,
    {
        "base": "Adapter Finding",
        "driver": "remark",
        "layout": "Layout Line Span fit lay_out",
        "log_filters": "hide_payloads mask_tokens",
        "refusals": (
            "EditWindowClosed Elsewhere Later Misconfigured NotSupported PrivateDeliveryUnavailable Refused TooLong"
        ),
        "symbols": "BAD GOOD WARN",
    },
)
