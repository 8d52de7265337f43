"""The `/mcp` grammar, who may do what, and how one invocation becomes replies. Knows no platform.

The names of `__all__` are the public ones; every other module is private and may change. They are imported when first
used, so that `import gateway` costs nothing.
"""

from mcp_auth.lazy import public_names

# Other distributions have a package of this name too: `mcp_auth.start` looks for this line.
__distribution__ = "slash-mcp"

# `__init__.pyi` says the same to type checkers.
__all__, __getattr__ = public_names(
    __name__,
    {
        "gateway": "Gateway",
        "invocations": "Capabilities ChatRef Invocation LOCAL MessageRef Principal",
        "replies": (
            "Audience Block Button Checklist ChecklistItem Decision Deferred Ignored Immediate ItemState Modal Notice "
            "Reply SecretPrompt ServerDetail ServerList Table Text TextModal"
        ),
        "serve": "Platform",
    },
)
