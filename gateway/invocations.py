"""What comes in: who asked what, where. Frozen data, filled by an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.grammar import Command


@dataclass(frozen=True, slots=True, order=True)
class Principal:
    """Who the platform vouches for: `platform:tenant/user`, e.g. `telegram:123`, `slack:T024/U01`, `cli:local`."""

    platform: str
    user: str

    def __str__(self) -> str:
        return f"{self.platform}:{self.user}"

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Raises ValueError unless it is `platform:user` without white space or control characters."""
        platform, colon, user = text.partition(":")
        # Of all white space the space alone is printable.
        if not (colon and user and platform.isidentifier() and user.isprintable()) or " " in user:
            raise ValueError("a principal is 'platform:user', for example telegram:123456789")
        return cls(platform, user)


LOCAL = Principal("cli", "local")


@dataclass(frozen=True, slots=True)
class ChatRef:
    """Where to answer. `data` is the adapter's own and JSON-serialisable, so that a later notice can reach it.

    Neither this nor `MessageRef` shows its data: a response URL or an interaction token is a credential.
    """

    platform: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class MessageRef:
    """One message that we sent, in the adapter's own JSON-serialisable words."""

    platform: str
    data: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One `/mcp ...`, typed or tapped.

    `text` is what stood after `/mcp`; it may be a redirect or a key, so `repr` leaves it out.
    `private`: only this principal reads the chat.
    `event_id` is the platform's own id of the event, for deduplication.
    """

    principal: Principal
    chat: ChatRef
    text: str = field(repr=False)
    private: bool
    event_id: str
    display_name: str = ""
    # `--as PERSON` of the command line: act with this person's credentials. Only for cli:local.
    acting_for: str | None = None
    # What a program asks, in place of a text. It is gone when it has its answer, so later news has no place.
    command: Command | None = None
    # On `time.monotonic()`: servers get no longer than that to answer.
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the place that asked can do with an answer; the gateway and the driver ask, never guess.

    Without any: one final reply, and no secret is asked for. `edit_window`: seconds during which a message can be
    replaced, so that live results may follow; None: for ever, by a later process too, and what it needs for that is
    no credential; 0: never. `ephemeral`: every answer is seen by one person alone. `modal`: a form that takes a pasted
    address or a code too, and what the person writes next to the answer may be read by others. `secret_input`: an
    input of the platform's own that shows the secret to nobody (hidden terminal input, modal). Lengths are in
    characters.
    """

    edit_window: float | None = 0
    ephemeral: bool = False
    modal: bool = False
    secret_input: bool = False
    text_max: int = 4096
    button_url_max: int = 2048

    @property
    def edits(self) -> bool:
        return self.edit_window is None or self.edit_window > 0

    @property
    def lasting_edits(self) -> bool:
        return self.edit_window is None
