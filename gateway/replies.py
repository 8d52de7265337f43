"""What the dispatcher answers: data, never markup. Every adapter renders these and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from gateway import sentences
from gateway.invocations import ChatRef, MessageRef, Principal
from gateway.surfaces import Words, write
from mcp_auth.outcome import Outcome, Step
from mcp_auth.status import ServerStatus

if TYPE_CHECKING:
    from mcp_auth.errors import McpAuthError
    from mcp_auth.keys import KeyTrial
    from mcp_auth.oauth.sign_in import StartedSignIn

    Data = ServerStatus | StartedSignIn | KeyTrial | Outcome | McpAuthError | TimeoutError
    """What a text says, for a program: the server as it is now, the link, what became of a key, what went wrong."""


Tone = Literal["plain", "good", "warning", "bad"]


class Audience(StrEnum):
    """`CALLER`: only the person who asked may see it (links, prompts, details). `CHAT`: everybody there."""

    CALLER = "caller"
    CHAT = "chat"


@dataclass(frozen=True, slots=True)
class Button:
    """Either opens a URL, or sends a command (`auth github`, without `/mcp`) as the person who presses it."""

    label: str
    url: str | None = field(default=None, repr=False)
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A sentence or paragraph. `tone`: how it should look where looks exist. `next_step`: said behind it."""

    # Some hold a code to be let in with.
    words: Words = field(repr=False)
    tone: Tone = "plain"
    next_step: Step | None = None

    @property
    def text(self) -> str:
        """As it is read in a chat whose command is `/mcp`."""
        return write(self.words, self.next_step)


@dataclass(frozen=True, slots=True)
class ServerList:
    """`/mcp`: every server, and one closing hint."""

    servers: tuple[ServerStatus, ...]
    hint: Words | None = None


@dataclass(frozen=True, slots=True)
class ServerDetail:
    """`/mcp SERVER`: label and value, top to bottom."""

    server: ServerStatus
    facts: tuple[tuple[str, Words], ...]


class ItemState(StrEnum):
    PREPARING = "preparing"
    LINK = "link"
    KEY = "key"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ChecklistItem:
    """One server's line of `/mcp auth`: `sentence`, and what to do next.

    `link` is the authorization URL and present in state LINK only.
    """

    server: str
    state: ItemState
    sentence: str
    link: str | None = field(default=None, repr=False)
    command: str | None = None
    expires_at: float | None = None
    next_step: Step | None = None
    data: Data | None = field(default=None, repr=False)

    @classmethod
    def failed(cls, server: str, why: Outcome, command: str | None = None, data: Data | None = None) -> ChecklistItem:
        return cls(server, ItemState.FAILED, why.sentence, command=command, next_step=why.next_step, data=data or why)

    @property
    def text(self) -> str:
        """As it is read in a chat whose command is `/mcp`."""
        return write(self.sentence, self.next_step)


@dataclass(frozen=True, slots=True)
class Checklist:
    """`/mcp auth`: a line and a button per server; edited as they finish."""

    items: tuple[ChecklistItem, ...]
    note: Words | None = None


@dataclass(frozen=True, slots=True)
class SecretPrompt:
    """Asks for one API key. The answer goes to `Gateway.submit_secret(principal, id, value)` and nowhere else."""

    id: str
    server: str
    variable: str
    text: str
    expires_at: float
    # The header or environment variable that it fills.
    where: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """`/mcp help` and the like: two columns."""

    rows: tuple[tuple[Words, str], ...]


Block = Text | ServerList | ServerDetail | Checklist | SecretPrompt | Table


@dataclass(frozen=True, slots=True)
class Reply:
    """One message. `final`: nothing will replace it within this invocation.

    `summary` is the line that may stand in public when `audience` is CALLER and the chat is shared. `data`: the same as
    the text, for the operator's program; chats get none.
    """

    blocks: tuple[Block, ...]
    buttons: tuple[Button, ...] = ()
    audience: Audience = Audience.CHAT
    final: bool = True
    summary: str | None = None
    title: Words | None = None
    ok: bool = True
    data: Data | None = field(default=None, repr=False)

    @property
    def prompt(self) -> SecretPrompt | None:
        """The key that it asks for."""
        return next((block for block in self.blocks if isinstance(block, SecretPrompt)), None)


Said = Words | Outcome


def text(said: Said, tone: Tone = "plain") -> Text:
    return Text(said.text, tone, said.next_step) if isinstance(said, Outcome) else Text(said, tone)


def say(
    *said: Said,
    audience: Audience = Audience.CHAT,
    ok: bool = True,
    final: bool = True,
    data: Data | None = None,
) -> Reply:
    """A sentence or several."""
    summary = sentences.PRIVATE_ANSWER if audience is Audience.CALLER else None
    blocks = tuple(text(one, "plain" if ok else "warning") for one in said)
    return Reply(blocks, audience=audience, final=final, summary=summary, ok=ok, data=data)


def done(said: Said, data: Data | None = None) -> Reply:
    """What the person wanted has happened."""
    return Reply((text(said, "good"),), audience=Audience.CALLER, summary=sentences.PRIVATE_ANSWER, data=data)


@dataclass(frozen=True, slots=True)
class Notice:
    """A message that nobody asked for at this moment: a sign-in ended, a grant died.

    `message` given: replace that message by `reply`, silently; when that fails, nothing is lost, because
    everything worth knowing also comes as a notice of its own. `message` None: a new message: `reply.audience`
    CALLER goes to `principal` in private (via `chat`), CHAT goes to `chat`.
    """

    principal: Principal
    chat: ChatRef
    reply: Reply
    message: MessageRef | None = None


@dataclass(frozen=True, slots=True)
class Immediate:
    """The answer comes from memory or local files: no acknowledgement is needed before it."""

    audience: Audience = Audience.CHAT


@dataclass(frozen=True, slots=True)
class Deferred:
    """The answer needs the network: acknowledge now, visible to `audience`."""

    audience: Audience = Audience.CALLER


@dataclass(frozen=True, slots=True)
class Modal:
    """The first reply carries a `SecretPrompt` for this server, or says why not; a modal has to be the first answer."""

    server: str


@dataclass(frozen=True, slots=True)
class TextModal:
    """Open a form: for the address of a sign-in's last page, or for the code that a page of ours shows.

    What is entered comes back as the invocation `<verb> <entered>`.
    """

    verb: Literal["paste", "confirm"]


@dataclass(frozen=True, slots=True)
class Ignored:
    """No answer: a duplicate event, or a stranger who has been told already."""


Decision = Immediate | Deferred | Modal | TextModal | Ignored
