"""What an adapter is, and the driver that all of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.invocations import ChatRef, MessageRef, Principal
from gateway.replies import Reply, SecretPrompt


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a platform can do; the gateway and the driver ask, never guess.

    `edit_window`: seconds during which a message can be edited; None: for ever; 0: never.
    Lengths are in characters.
    """

    platform: str
    edit_window: float | None = 0
    ephemeral: bool = False
    modal: bool = False
    secret_input: bool = False
    text_max: int = 4096
    button_url_max: int = 2048
    columns: int | None = None


class PrivateDeliveryUnavailable(Exception):
    """The person cannot be reached in private. Nothing was sent."""


class EditWindowClosed(Exception):
    """The message can no longer be edited."""


class NotSupported(Exception):
    """The platform has no such ability."""


class Adapter(Protocol):
    @property
    def capabilities(self) -> Capabilities: ...

    async def reply(self, chat: ChatRef, reply: Reply) -> MessageRef: ...

    async def deliver_private(self, principal: Principal, reply: Reply, via: ChatRef | None) -> MessageRef:
        """Show `reply` to this principal and nobody else.

        Raises:
            PrivateDeliveryUnavailable: it cannot be done; nothing was posted anywhere.
        """
        ...

    async def update(self, message: MessageRef, reply: Reply) -> MessageRef:
        """Replace a message.

        Raises:
            EditWindowClosed: too late; the caller delivers anew.
        """
        ...

    async def ask_secret(self, prompt: SecretPrompt, trigger: object) -> None:
        """Open the platform's own secret input. `trigger` is the live interaction and never stored.

        Raises:
            NotSupported: there is none.
        """
        ...

    async def run(self) -> None: ...
