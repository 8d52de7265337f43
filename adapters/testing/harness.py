"""What a platform is to the contract: on loopback, with the hands and eyes of three people."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal

ANN, BOB, EVE = "ann", "bob", "eve"
"""The people of the scenarios: Ann asks, Bob reads along in the group, nobody has allowed Eve."""

_URL = re.compile(r"https?://[^\s<>()\"']+")


@dataclass(frozen=True, slots=True)
class SeenButton:
    """`url` None: pressing it sends a command."""

    label: str
    url: str | None = None


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """One message as it stands now, in the eyes of one person.

    `text` is what they read: markup resolved, escapes undone. `public`: others in that chat see it too.
    `pings`: whom the platform notifies because of its text.
    """

    text: str
    buttons: tuple[SeenButton, ...] = ()
    public: bool = False
    pings: tuple[str, ...] = ()

    @property
    def links(self) -> tuple[str, ...]:
        return (*(button.url for button in self.buttons if button.url), *_URL.findall(self.text))


class Harness(ABC):
    """A platform on loopback, with the adapter under test in it, and the hands and eyes of three people.

    People are named by `ANN`, `BOB` and `EVE`. All three are in one group, and each may write to the bot in private.
    """

    platform: str
    """The platform's name, as in principals and in `gateway.<platform>`."""
    prefix: str = "/mcp"
    """How commands are named here when they are to be typed."""
    has_groups: bool = True
    has_buttons: bool = True
    """Whether buttons that send a command exist."""
    reads_along = True
    """Whether the others in a group read what is typed to the bot there."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Those of the running adapter."""

    @abstractmethod
    def principal(self, person: str) -> Principal: ...

    @abstractmethod
    def section(self) -> dict[str, Any]:
        """What stands in `gateway.<platform>`: token, loopback addresses."""

    @abstractmethod
    async def start(self, gateway: Gateway) -> None:
        """Install and run the adapter on `gateway`. Called again after `stop`: the chat's history is still there."""

    @abstractmethod
    async def stop(self) -> None:
        """The adapter ends, the platform stays. Safe to call twice."""

    async def close(self) -> None:
        """The platform ends too."""
        return

    @abstractmethod
    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        """Type `text` (`/mcp ...`, or the bare address of a redirect). In a group where the bot hears only what
        mentions it, mention it. Returns when the platform has taken it, not when it is answered.

        Args:
            times: the platform delivers the same event so often.
        """

    async def press(self, person: str, label: str, *, whose: str | None = None) -> None:
        """Press the newest button with this label that `whose` (default: the same person) sees."""
        raise NotImplementedError

    async def enter_secret(self, person: str, value: str) -> None:
        """Fill in the platform's own secret input that is open for this person."""
        raise NotImplementedError

    @abstractmethod
    def seen(self, person: str) -> Sequence[SeenMessage]:
        """Everything that the bot has shown to this person, oldest first, as it stands now."""

    def close_private(self, person: str) -> bool:
        """From now on the platform refuses private messages to this person. False: that cannot happen here."""
        return False

    def close_edits(self) -> bool:
        """Let so much time pass that nothing shown so far can be edited. False: that cannot happen here."""
        return self.capabilities.edit_window == 0
