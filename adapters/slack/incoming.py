"""What Slack sends, read: who it is from, what was typed, which button was pressed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.invocations import Principal

Body = Mapping[str, Any]

PLATFORM = "slack"
_SLACKBOT = "USLACKBOT"
_TYPED = (None, "thread_broadcast", "file_share")
_ANGLED = re.compile(r"<([^<>|]+)(?:\|[^<>]*)?>")
_COMMAND = re.compile(r"\s*[/!]?([\w-]+)(?:\s+(.*))?\s*$", re.DOTALL)
_MENTION = re.compile(r"\s*<@([A-Z0-9]+)(?:\|[^>]*)?>\s*")


@dataclass(frozen=True, slots=True)
class Installation:
    """The workspace, or the whole organisation, whose bot received something: it answers with that one's token."""

    team: str | None
    enterprise: str | None
    org_wide: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """As it stands in references to chats and messages."""
        return {"team": self.team, "enterprise": self.enterprise, "org_wide": self.org_wide}


def installation_of(data: Body) -> Installation:
    return Installation(data.get("team"), data.get("enterprise"), data.get("org_wide") is True)


def home_of(principal: Principal) -> Installation:
    tenant = principal.user.partition("/")[0]
    return Installation(None, tenant, True) if tenant.startswith("E") else Installation(tenant, None)


def user_of(principal: Principal) -> str:
    return principal.user.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Trigger:
    """The interaction that may open a modal, for three seconds and once."""

    id: str
    installation: Installation


@dataclass(frozen=True, slots=True)
class Submission:
    """A modal that was sent. `metadata`: what we put into it; `typed`: what was entered."""

    view: str
    kind: str
    metadata: Mapping[str, str]
    typed: str
    trigger: Trigger
    principal: Principal


def read_submission(body: Body, installation: Installation) -> Submission | None:
    """None: it is nobody's."""
    view, principal = body["view"], principal_of_action(body)
    if principal is None:
        return None
    entered = [one.get("value") or "" for block in view["state"]["values"].values() for one in block.values()]
    found = json.loads(view.get("private_metadata") or "{}")
    return Submission(
        view["id"],
        view["callback_id"],
        found if isinstance(found, dict) else {},
        entered[0] if entered else "",
        Trigger(body["trigger_id"], installation),
        principal,
    )


@dataclass(frozen=True, slots=True)
class Press:
    """A button of ours that somebody pressed. `data`: what it carries; None: it opens a link. `message`: its id.

    `ephemeral`: only this person sees the message with the button.
    """

    data: str | None
    block: str
    channel: str
    thread: str | None
    ephemeral: bool
    response_url: str
    name: str


def presses_of(body: Body, prefix: str) -> Iterator[Press]:
    container, user = body.get("container") or {}, body.get("user") or {}
    channel = str((body.get("channel") or {}).get("id") or container.get("channel_id", ""))
    thread = container.get("thread_ts")
    if not channel.startswith("D"):
        thread = thread or container.get("message_ts")
    for action in body.get("actions") or ():
        if str(action.get("action_id", "")).startswith(f"{prefix}:"):
            yield Press(
                None if "url" in action else action.get("value", ""),
                action.get("block_id", ""),
                channel,
                thread,
                bool(container.get("is_ephemeral")),
                body.get("response_url") or "",
                user.get("username", ""),
            )


@dataclass(frozen=True, slots=True)
class Message:
    """One message event of a person or a bot, as far as it matters here. `text`: what was typed, markup undone."""

    text: str
    mentions_bot: bool
    direct: bool
    channel: str
    ts: str
    thread: str | None
    fresh: bool


def principal_of_command(body: Body) -> Principal | None:
    """Who typed a slash command. Slack only takes it from members of the workspaces where the app is installed."""
    return _principal(body.get("enterprise_id") or body.get("team_id"), body.get("user_id"))


def principal_of_action(body: Body) -> Principal | None:
    """Who pressed a button or submitted a modal.

    In a shared channel (Slack Connect) the person's own team is another one than that of the app.
    """
    user = body.get("user") or {}
    own, app_team = user.get("team_id"), (body.get("team") or {}).get("id")
    enterprise = (body.get("enterprise") or {}).get("id")
    tenant = own if own and app_team and own != app_team else enterprise or own or app_team
    return _principal(tenant, user.get("id"))


def principal_of_event(body: Body, installation: Installation) -> Principal | None:
    """Who wrote. None: a bot, a workflow, or somebody whose team Slack does not tell."""
    event = body["event"]
    if is_bot(event):
        return None
    home = installation.enterprise or installation.team
    if not body.get("is_ext_shared_channel"):
        return _principal(home, event.get("user"))
    own = event.get("user_team") or event.get("team")
    if own is None:
        return None
    ours = own in (installation.team, installation.enterprise)
    return _principal(home if ours else own, event.get("user"))


def is_bot(event: Body) -> bool:
    return bool(event.get("bot_id") or event.get("bot_profile")) or event.get("subtype") == "bot_message"


def message_of(event: Body, bot_user: str | None) -> Message | None:
    """The message in a `message` or `app_mention` event. None: there is no text in it.

    Edited and deleted messages carry their text as well, and are not `fresh`: they are nobody's command, but what
    stands in them is as secret as before.
    """
    inner = _with_text(event)
    if inner is None:
        return None
    raw = inner["text"]
    mention = _MENTION.match(raw)
    mentioned = mention is not None and mention[1] == bot_user
    return Message(
        text=plain(raw[mention.end() :] if mention is not None and mentioned else raw).strip(),
        mentions_bot=mentioned,
        direct=event.get("channel_type") == "im",
        channel=str(event.get("channel", "")),
        ts=str(inner.get("ts", "")),
        thread=inner.get("thread_ts"),
        fresh=inner is event and event.get("subtype") in _TYPED,
    )


def mentioned(event: Body) -> str | None:
    """The user id that a message begins with."""
    found = _MENTION.match(str(event.get("text") or ""))
    return found[1] if found is not None else None


def command_in(text: str, names: frozenset[str]) -> str | None:
    """What stands after `mcp`, `/mcp` or another of `names`, when the text begins with one."""
    found = _COMMAND.match(text)
    return (found[2] or "").strip() if found is not None and found[1].lower() in names else None


def plain(text: str) -> str:
    """Slack's transport form undone: `<https://x|x>` is the address, `&amp;` is `&`."""
    bare = _ANGLED.sub(lambda found: found[1], text)
    return bare.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _with_text(event: Body) -> Body | None:
    for inner in (event, event.get("message"), event.get("previous_message")):
        if isinstance(inner, Mapping) and inner.get("text"):
            return inner
    return None


def _principal(tenant: Any, user: Any) -> Principal | None:
    if not isinstance(tenant, str) or not isinstance(user, str) or not tenant or not user or user == _SLACKBOT:
        return None
    return Principal(PLATFORM, f"{tenant}/{user}")
