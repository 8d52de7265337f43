"""The one character that stands before a state, the same in every chat."""

from __future__ import annotations

from mcp_auth.status import AuthState, ServerStatus

GOOD, WARN, BAD, WAIT, PLAIN = "✓", "!", "✗", "⋯", "·"
STATE_MARK = {
    AuthState.NONE_NEEDED: GOOD,
    AuthState.SIGNED_IN: GOOD,
    AuthState.KEY_SET: GOOD,
    AuthState.SIGN_IN_NEEDED: WARN,
    AuthState.SIGN_IN_OPEN: WAIT,
    AuthState.REAUTHORIZATION_NEEDED: WARN,
    AuthState.KEY_MISSING: BAD,
    AuthState.CLIENT_REGISTRATION_NEEDED: WARN,
    AuthState.DISABLED: PLAIN,
    AuthState.MISCONFIGURED: BAD,
}


def mark_of(status: ServerStatus) -> str:
    """The mark of a server's state. A grant that cannot be renewed is not all right, whether or not it still works."""
    return WARN if status.not_renewable else STATE_MARK[status.auth]


# By the values of `gateway.replies.ItemState`.
ITEM_MARK: dict[str, str] = {
    "preparing": WAIT,
    "link": WARN,
    "key": WARN,
    "done": GOOD,
    "failed": BAD,
    "cancelled": PLAIN,
}
TONE_MARK = {"plain": "", "good": f"{GOOD} ", "warning": f"{WARN} ", "bad": f"{BAD} "}
