"""What the dispatcher answers: data, never markup. Every adapter renders these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from mcp_auth.status import ServerStatus


class Audience(StrEnum):
    """`CALLER`: only the person who asked may see it (links, prompts, details). `CHAT`: everybody there."""

    CALLER = "caller"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Button:
    """Either opens a URL, or sends a command (`auth github`, without `/mcp`) as the person who presses it."""

    label: str
    url: str | None = None
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence or paragraph. `tone`: how it should look where looks exist."""

    text: str
    tone: Literal["plain", "good", "warning", "bad"] = "plain"


@dataclass(frozen=True, slots=True)
class ServerList:
    """`/mcp`: every server, and one closing hint."""

    servers: tuple[ServerStatus, ...]
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ServerDetail:
    """`/mcp SERVER`: label and value, top to bottom."""

    server: ServerStatus
    facts: tuple[tuple[str, str], ...]


class ItemState(StrEnum):
    PREPARING = "preparing"
    LINK = "link"
    KEY = "key"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ChecklistItem:
    """One server's line of `/mcp auth`. `link` is the authorization URL and present in state LINK only."""

    server: str
    state: ItemState
    text: str
    link: str | None = None
    command: str | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class Checklist:
    """`/mcp auth`: a line and a button per server; edited as they finish."""

    items: tuple[ChecklistItem, ...]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SecretPrompt:
    """Asks for one API key. The answer goes to `Gateway.submit_secret(principal, id, value)` and nowhere else."""

    id: str
    server: str
    variable: str
    text: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class Table:
    """`/mcp help` and the like: two columns."""

    rows: tuple[tuple[str, str], ...]


Block = Text | ServerList | ServerDetail | Checklist | SecretPrompt | Table


@dataclass(frozen=True, slots=True)
class Reply:
    """One message. `final`: nothing will replace it within this invocation.

    `summary` is the line that may stand in public when `audience` is CALLER and the chat is shared.
    """

    blocks: tuple[Block, ...]
    buttons: tuple[Button, ...] = ()
    audience: Audience = Audience.CHAT
    final: bool = True
    summary: str | None = None
    title: str | None = None
    ok: bool = True
