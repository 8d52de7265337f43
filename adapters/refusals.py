"""How a platform says no, as one tree. Each adapter maps its library's errors to it, in one table."""

from __future__ import annotations

from gateway.replies import Button
from gateway.surfaces import Words
from mcp_auth.errors import ConfigError, McpAuthError, Unreachable
from mcp_auth.outcome import Step


class Refused(McpAuthError):
    """The platform did not take something, and no table says why: the person is told that there was an answer.

    Texts hold nothing of the message, and no token.
    """

    code = "refused"


class Later(Refused, Unreachable):
    """The same may go through later: a rate limit, an outage, a lost network.

    Args:
        wait: seconds after which the platform wants to be asked again; None: it does not say. `math.inf`: nobody waits
            so long, or the library has tried already.
    """

    def __init__(self, message: str, *, wait: float | None = None, next_step: Step | None = None) -> None:
        super().__init__(message, next_step=next_step)
        self.wait = wait


class Elsewhere(Refused):
    """Not there, however often it is tried; another place may take it."""


class PrivateDeliveryUnavailable(Elsewhere):
    """The person cannot be reached in private. Nothing was sent.

    `way`: a button to press so that it works the next time (a deep link to the bot). `how`: a sentence that says how
    the person is reached instead, where the usual one would not help.
    """

    def __init__(self, way: Button | None = None, *, how: Words | None = None, why: str = "it is closed") -> None:
        super().__init__(f"the way to the person in private: {why}")
        self.way = way
        self.how = how


class EditWindowClosed(Elsewhere):
    """The message can no longer be edited."""

    def __init__(self, why: str = "it can no longer be edited") -> None:
        super().__init__(f"the message: {why}")


class TooLong(Refused):
    """The message is longer than the platform takes it."""


class Misconfigured(Refused, ConfigError):
    """Only the operator can mend it: a token is refused, a right is missing."""


class NotSupported(Exception):
    """The platform has no such ability."""
