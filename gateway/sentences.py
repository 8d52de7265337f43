"""Every text that the gateway says. Names of servers and commands go in; secrets, links and typed words never do."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mcp_auth.errors import McpAuthError
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus

TITLE = "MCP Servers"
HELP_TITLE = "What /mcp can do"
HELP: tuple[tuple[str, str], ...] = (
    ("/mcp", "every server and its status"),
    ("/mcp SERVER", "one server in detail"),
    ("/mcp auth", "sign in wherever it is needed"),
    ("/mcp auth SERVER", "sign in to one server, or do it again"),
    ("/mcp key SERVER", "enter an API key"),
    ("/mcp paste ADDRESS", "finish a sign-in with the address of its last page"),
    ("/mcp cancel [SERVER]", "end open sign-ins"),
    ("/mcp logout SERVER", "revoke and delete a sign-in"),
    ("/mcp test SERVER", "connect and list the tools"),
    ("/mcp help", "this list"),
)

NO_SERVERS = (
    "No MCP servers are configured. Add one under mcp_servers in the configuration, or with: slash-mcp add NAME URL"
)
HINT_AUTH = "Use /mcp auth to authenticate servers"
NOTHING_TO_SIGN_IN = "Every server that needs a sign-in or a key has one. /mcp auth SERVER signs in again."
NOT_SERVED = "This assistant does not serve you: its operator has not put your account on the list."
ONLY_ADMINS = "This server is shared, and only an admin changes its sign-in or key. Ask one of them."
PASTE_OFF_TEAM = (
    "Pasting an address is off while more than one person is allowed, because an address can be talked out of "
    "somebody. The operator can sign in on the host, or set gateway.allow_paste: true."
)
PASTE_PRIVATE = (
    "That address can finish a sign-in, so it was not used here where others read along. Send it to me in a private "
    "chat, and delete the message above."
)
PASTE_NOTHING = "Send the whole address of the last page after it: /mcp paste ADDRESS"
CONFIRM_NOT_NEEDED = (
    "Codes are asked for by the public endpoint only (gateway.public_url); in this mode no sign-in needs one."
)
CANCELLED_NONE = "No sign-in is open."
TOO_LONG = "That took too long and was stopped."
PROMPT_OVER = "This question is over. Ask again with /mcp key SERVER."
PROMPT_NOT_YOURS = "This question was asked of somebody else."
PROMPT_BUSY = "The key is being tried right now."
NO_ANSWER = "no answer within 15 s"
BUTTON_AUTH = "Sign in"
BUTTONS = {"auth": "Sign in", "key": "Enter the key", "test": "Test"}
KEY_NONE_MISSING = "No server lacks a key. /mcp key SERVER replaces one."
PREPARING = "preparing the link…"
CANCELLED = "cancelled"
SIGNED_IN = "signed in"
PRIVATE_ANSWER = "Sent you the answer in private."
NO_PERSON = (
    "I answer people only, and cannot see who wrote this. Write as yourself, not as the group or a channel: /mcp"
)
BUTTON_NOT_YOURS = "This button was made for somebody else. Ask for your own: /mcp"
BUTTON_OVER = "This button leads nowhere any more. Ask again: /mcp"
BUTTON_PRIVATE_CHAT = "Open a private chat"
COMMAND_DESCRIPTION = "MCP servers: status and sign-in"
SECRET_REPLY = "Reply to this message with the value. Your message is deleted at once."
SECRET_STAYS = "Your message with the value could not be deleted. Delete it yourself."
KEY_STORED = "key stored"
KEY_EMPTY = "Nothing was entered."
STORE_ANYWAY = "Store it anyway"
REPLACED = "replaced by a newer link"
NO_LINK = "there is no link any more"
NOTE_LOCAL = (
    "Open a link in a browser on this computer. On another one, copy the address of the last page and paste it here."
)
NOTE_CHAT = (
    "After you have allowed it, the last page will not load, and that is right: copy its address from the browser "
    "and send it to me here."
)
NOTE_CHAT_SHARED = (
    "After you have allowed it, the last page will not load, and that is right: copy its address from the browser "
    "and send it to me in a private chat."
)
NOTE_NO_LISTENER = "Nothing on this machine receives the answer; finish with: /mcp paste ADDRESS"


def minutes(seconds: float) -> str:
    """`10 minutes`, rounded up, so that a link is never called dead while it works."""
    count = max(1, math.ceil(seconds / 60))
    return "1 minute" if count == 1 else f"{count} minutes"


def clock(at: float, now: float | None = None) -> str:
    """`14:05` in local time; with the date when it is not within a day from `now`."""
    now = time.time() if now is None else now
    local = time.localtime(at)
    return time.strftime("%H:%M" if abs(at - now) < 86400 else "%Y-%m-%d %H:%M", local)


def command(text: str) -> str:
    return f"/mcp {text}" if text else "/mcp"


def error(problem: McpAuthError) -> str:
    """One sentence and what to do next."""
    return f"{problem.message} Next: {problem.next_step}" if problem.next_step else problem.message


def unexpected(reference: str) -> str:
    return f"Something went wrong inside; nothing was changed on purpose. The log has it under {reference}."


def suggestion(commands: Sequence[str]) -> str:
    if not commands:
        return "I do not know that one. /mcp help shows what there is."
    return f"I do not know that one. Did you mean {_any_of(commands)}?"


def ambiguous(commands: Sequence[str]) -> str:
    return f"More than one server begins like that. Which one: {_any_of(commands)}?"


def whole_name(commands: Sequence[str]) -> str:
    return f"This one wants the whole name: {_any_of(commands)}"


def argument_missing(verb: str, commands: Sequence[str]) -> str:
    if verb == "paste":
        return PASTE_NOTHING
    if verb == "confirm":
        return CONFIRM_NOT_NEEDED
    if not commands:
        return "No MCP servers are configured."
    return f"Which server? {_any_of(commands)}"


# -- status ----------------------------------------------------------------------------------


def auth_state(status: ServerStatus, now: float) -> str:
    """The auth axis in the design's words, with its evidence."""
    detail = f" ({status.detail})" if status.detail else ""
    match status.auth:
        case AuthState.NONE_NEEDED:
            return "none needed"
        case AuthState.SIGNED_IN:
            until = f" until {clock(status.expires_at, now)}" if status.expires_at and not status.refreshable else ""
            return f"signed in{f' as {status.account}' if status.account else ''}{until}"
        case AuthState.SIGN_IN_OPEN:
            left = f", {minutes(status.expires_at - now)} left" if status.expires_at else ""
            return f"sign-in open{left}"
        case AuthState.KEY_MISSING:
            return f"key missing: {', '.join(status.variables)}" if status.variables else f"key missing{detail}"
        case _:
            return f"{status.auth.value.replace('_', ' ').replace('sign in', 'sign-in')}{detail}"


def connection_state(connection: ConnectionStatus) -> str:
    if connection.state is ConnectionState.READY:
        count = len(connection.tools or ())
        took = f", {connection.ms} ms" if connection.ms is not None else ""
        return f"ready ({tools(count)}{took})"
    word = connection.state.value.replace("_", " ")
    return f"{word} ({connection.detail})" if connection.detail else word


def facts(status: ServerStatus, now: float) -> tuple[tuple[str, str], ...]:
    """`/mcp SERVER` as label and value."""
    rows: list[tuple[str, str | None]] = [
        ("Address" if status.transport != "stdio" else "Command", status.target),
        ("Transport", status.transport),
        ("Tools", status.tools),
        ("Auth", auth_state(status, now)),
        ("Connection", connection_state(status.connection)),
        ("Account", status.account),
        ("Scopes", status.scopes),
        ("Issuer", status.issuer),
        ("Access until", _until(status, now)),
        ("Variables", ", ".join(status.variables) or None),
        ("Last error", status.last_error),
        ("Next", command(status.next) if status.next else None),
    ]
    return tuple((label, value) for label, value in rows if value)


def tools(count: int) -> str:
    return "1 tool" if count == 1 else f"{count} tools"


def testing(server: str) -> str:
    return f"{server}: connecting…"


def tested(status: ServerStatus, connection: ConnectionStatus) -> str:
    server = status.name
    if connection.state is ConnectionState.READY:
        names = connection.tools or ()
        took = f" in {connection.ms} ms" if connection.ms is not None else ""
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        return f"{server}: connected{took}, {tools(len(names))}{f': {shown}' if shown else ''}"
    why = f" ({_bare(server, connection.detail)})" if connection.detail else ""
    # Without a sign-in or a key, testing again would not help.
    act = f". Next: {command(status.next)}" if status.next and not status.next.startswith("test ") else ""
    if status.auth in (AuthState.DISABLED, AuthState.MISCONFIGURED):
        return f"{server} {nothing_to_do(status)}"
    return f"{server}: {connection.state.value.replace('_', ' ')}{why}{act}"


# -- signing in ------------------------------------------------------------------------------


def team_sign_in(server: str) -> str:
    """Why, and the next step: the same-person proof comes with the public endpoint."""
    return (
        "signing in from a chat is off while more than one person is allowed: whoever opens a forwarded link would "
        "hand their own account to the one who sent it, and only a public endpoint can prove that both are the same "
        f"person. Next: the operator runs `slash-mcp auth {server}` on the host."
    )


def link_ready(expires_at: float, now: float) -> str:
    return f"open this link within {minutes(expires_at - now)}"


def links_note(*, local: bool, private: bool, listening: bool) -> str:
    if not local:
        return NOTE_CHAT if private else NOTE_CHAT_SHARED
    return NOTE_LOCAL if listening else NOTE_NO_LISTENER


def links_summary(links: int) -> str:
    """The public line in a shared chat."""
    if not links:
        return PRIVATE_ANSWER
    return f"Sent you {links} link{'s' if links != 1 else ''} in private."


def button_open(server: str) -> str:
    return f"Sign in to {server}"


def button_key(server: str) -> str:
    return f"Enter the key for {server}"


def button_again(server: str) -> str:
    return f"Try {server} again"


def more_servers(count: int) -> str:
    return f"… and {count} more. /mcp SERVER shows one."


def checklist_key(variables: Sequence[str]) -> str:
    return f"needs a key: {', '.join(variables)}" if variables else "needs a key"


def nothing_to_do(status: ServerStatus) -> str:
    match status.auth:
        case AuthState.DISABLED:
            return "is disabled in the configuration (enabled: false)"
        case AuthState.MISCONFIGURED:
            return f"is misconfigured: {status.detail}" if status.detail else "is misconfigured"
        case _:
            return "needs no sign-in"


def signed_in(server: str, status: ServerStatus, connection: ConnectionStatus, now: float) -> str:
    """`notes: signed in as ada, 5 tools`, and how long when it ends for good."""
    who = f" as {status.account}" if status.account else ""
    if connection.state is not ConnectionState.READY:
        why = f" ({_bare(server, connection.detail)})" if connection.detail else ""
        return f"{server}: signed in{who}, but the server is {connection.state.value.replace('_', ' ')}{why}"
    return f"{server}: signed in{who}, {tools(len(connection.tools or ()))}"


def no_refresh_token(server: str, expires_at: float, now: float) -> str:
    return f"This grant has no refresh token and ends at {clock(expires_at, now)}; after that: /mcp auth {server}"


def refused_after_sign_in(server: str, connection: ConnectionStatus) -> str:
    why = f" ({_bare(server, connection.detail)})" if connection.detail else ""
    return f"{server}: the sign-in was finished, but the server refuses it{why}. Next: /mcp auth {server}"


def sign_in_ended(server: str, outcome: str | None, next_step: str | None) -> str:
    sentence = outcome or f"The sign-in to {server} failed."
    named = sentence if server in sentence else f"{server}: {sentence}"
    return f"{named} Next: {next_step}" if next_step else named


def public_end(server: str, *, ok: bool, cancelled: bool = False) -> str:
    """What a shared chat may read: server and outcome only."""
    if cancelled:
        return f"{server}: sign-in cancelled."
    return f"{server}: signed in." if ok else f"{server}: the sign-in did not succeed."


def grant_dead(server: str, status: ServerStatus, now: float) -> str:
    """A refresh token died. What is left of the access may still serve for a while."""
    if status.auth is AuthState.SIGNED_IN and status.expires_at is not None:
        why = f" (its access cannot be renewed and ends at {clock(status.expires_at, now)})"
    else:
        why = f" ({status.detail})" if status.detail else ""
    return f"{server}: sign in again{why}. Next: /mcp auth {server}"


def grant_dead_public(server: str) -> str:
    return f"{server}: sign in again."


def cancelled(servers: Sequence[str]) -> str:
    return f"Cancelled: {', '.join(servers)}."


# -- keys ------------------------------------------------------------------------------------


def key_prompt(server: str, variable: str, where: str) -> str:
    return f"{server} needs {variable} ({where}). The value is tried before it is stored."


def key_not_needed(server: str) -> str:
    return f"{server} needs no key."


def key_ways(server: str, platform: str) -> str:
    """Where nothing safe is available: the three ways (design, section 7)."""
    return (
        f"A key does not go through this chat, where it would stay in the history. Three ways: on the host, "
        f"`slash-mcp key {server}`; a one-time form, once gateway.public_url is set; or, if you accept it, "
        f"gateway.{platform}.secrets_in_chat: true."
    )


def key_exposed(server: str | None) -> str:
    name = server or "SERVER"
    return (
        "If that was a key: it was not used and not stored, but it stands in this chat's history now. Replace it "
        f"with a new one at its issuer, delete the message, and then use /mcp key {name} without the key, or "
        f"`slash-mcp key {name}` on the host."
    )


def key_which(servers: Sequence[str]) -> str:
    return f"Which server? {_any_of([f'key {name}' for name in servers])}"


def key_stored(server: str, verified: bool) -> str:
    return f"{server}: the key works and is stored." if verified else f"{server}: stored, not verified."


def key_no_difference(server: str) -> str:
    return f"{server}: stored, not verified: the server answers the same without a key."


def key_not_tried(server: str, detail: str) -> str:
    return f"{server}: stored. {detail} Next: /mcp test {server}"


def key_refused(server: str) -> str:
    return f"{server}: the server refuses this key; nothing was stored."


def key_ask_again(server: str) -> str:
    return f"Next: /mcp key {server}"


def key_unreachable(server: str, detail: str) -> str:
    return f"{server}: the key could not be tried ({_bare(server, detail)}). Nothing is stored yet. Store it anyway?"


def _bare(server: str, detail: str) -> str:
    """A sentence as a part of another one, which names the server already."""
    return detail.removeprefix(f"{server}: ").rstrip(".")


def _until(status: ServerStatus, now: float) -> str | None:
    if status.auth is not AuthState.SIGNED_IN or status.expires_at is None:
        return None
    if status.refreshable:
        return "renewed by itself"
    return f"{clock(status.expires_at, now)} (no refresh token)"


def _any_of(commands: Sequence[str]) -> str:
    shown = [command(text) for text in commands[:8]]
    more = ", …" if len(commands) > 8 else ""
    if len(shown) == 1:
        return shown[0]
    return f"{', '.join(shown[:-1])} or {shown[-1]}{more}"
