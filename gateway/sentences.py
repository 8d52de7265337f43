"""Every text that the gateway says. Names of servers and commands go in; secrets, links and typed words never do."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gateway.surfaces import Part, Typed, Words
from mcp_auth.errors import McpAuthError, StoreError
from mcp_auth.outcome import Next, Outcome
from mcp_auth.records import Grant, Visit
from mcp_auth.status import AuthState, ConnectionState, ConnectionStatus, ServerStatus

if TYPE_CHECKING:
    from gateway.people import Listed, Paired
    from mcp_auth.audit import AuditLine

TITLE = "MCP Servers"
HELP_TITLE = ("What ", Typed(""), " can do")

NO_SERVERS = Next(
    "add",
    arguments=("NAME", "URL"),
    around="No MCP servers are configured. Add one under mcp_servers in the configuration, or with: {}",
)
HINT_AUTH = Next("auth", around="Use {} to authenticate servers")
NOTHING_TO_SIGN_IN = (
    "No server is known to lack a sign-in or a key. ",
    Next("list", around="{} shows them all; "),
    Next("auth", arguments=("SERVER",), around="{} signs in again."),
)
STORE_TROUBLE = "What is stored on the host cannot be read or written right now."
NOT_SERVED = "This assistant does not serve you: its operator has not put your account on the list."
STRANGER_IN_PUBLIC = Next("list", around="I do not know you yet. Write to me in private: {}")
STRANGERS_WAITING = (
    "I do not know you yet, and as many people as I keep in mind are waiting to be let in. Try again in an hour."
)
STRANGER_LATER = "I do not know you yet, and cannot make you a code right now. Try again in a few minutes."
LET_IN = Next("list", around="You have been let in. {} shows the servers.")
PEOPLE_TITLE = "People"
PEOPLE_PRIVATE = "Who is served is decided in private. Write to me there."
PEOPLE_ONLY_ADMINS = Next(
    "people",
    on_host=True,
    around="Only an admin decides who is served. Ask one of gateway.admins, or the operator: {}",
)
NOBODY = "Nobody but the operator at the terminal is served."
ONLY_ADMINS = "This server is shared, and only an admin changes its sign-in or key. Ask one of them."
PASTE_OFF_TEAM = (
    "Pasting an address is off while more than one person is allowed, because an address can be talked out of "
    "somebody. The operator can sign in on the host, or set gateway.allow_paste: true."
)
PASTE_PRIVATE = (
    "That address can finish a sign-in, so it was not used here where others read along. Send it to me in a private "
    "chat, and delete the message above."
)
PASTE_NOTHING = Next("paste", arguments=("ADDRESS",), around="Send the whole address of the last page after it: {}")
CONFIRM_NOT_NEEDED = (
    "Codes are asked for by the public endpoint only (gateway.public_url); in this mode no sign-in needs one."
)
CONFIRM_NOTHING = Next("confirm", arguments=("CODE",), around="Send the code from the page after it: {}")
CANCELLED_NONE = "No sign-in is open."
TOO_LONG = "That took too long and was stopped."
PROMPT_OVER = Next("key", arguments=("SERVER",), around="This question is over. Ask again with {}.")
PROMPT_NOT_YOURS = "This question was asked of somebody else."
PROMPT_BUSY = "The key is being tried right now."
NO_ANSWER = "no answer within 15 s"
BUTTON_AUTH = "Sign in"
BUTTON_CONFIRM = "Yes, that is me"
BUTTON_FORMS = {"paste": "Enter the address", "confirm": "Enter the code"}
BUTTON_NOT_YOURS = Next("list", around="This button was made for somebody else. Ask for your own: {}")
BUTTONS = {"auth": "Sign in", "key": "Enter the key", "test": "Test"}
KEY_NONE_MISSING = Next("key", arguments=("SERVER",), around="No server lacks a key. {} replaces one.")
PREPARING = "preparing the link…"
CANCELLED = "cancelled"
SIGNED_IN = "signed in"
PRIVATE_ANSWER = "Sent you the answer in private."
ROOM_CLOSED = "I may not write where you asked, so the answer is here:"
NOT_IN_PRIVATE = Next(
    "list", around="The answer is for you alone, and I cannot reach you in private. Write to me directly: {}"
)
NO_PERSON = Next(
    "list",
    around="I answer people only, and cannot see who wrote this. Write as yourself, not as the group or a channel: {}",
)
BUTTON_OVER = Next("list", around="This button leads nowhere any more. Ask again: {}")
BUTTON_PRIVATE_CHAT = "Open a private chat"
COMMAND_DESCRIPTION = "MCP servers: status and sign-in"
SECRET_REPLY = "Reply to this message with the value. Your message is deleted at once."
SECRET_STAYS = "Your message with the value could not be deleted. Delete it yourself."
KEY_STORED = "key stored"
OPEN_IN_BROWSER = "Opens in your browser, not inside another app."
CHOOSE = "Choose one:"
MENU = "Choose"
ROOM_NAME = "/mcp"
ROOM_REFUSED = Next(
    "list",
    around="The answer is for you alone, and my invitation to a private room is refused. Invite me to one yourself, "
    "and ask there: {}",
)
ROOM_READABLE = Next("list", around="This room is for you and me alone, and I can read it: {}")
ROOM_ENCRYPTED = Next(
    "list",
    around="This room is encrypted, and I cannot read what is written here. I have invited you to a room that is not "
    "encrypted: accept the invitation and write to me there, {}.",
)
SENT_LATE = "Earlier, this could not be sent to you:"
KEY_MODAL_NOTE = "The value is tried before it is stored."
# Title, label and note of a form, by the command that takes what is entered.
FORMS = {
    "paste": (
        "Finish a sign-in",
        "Address of the last page",
        "The whole address, as the browser shows it. The page itself need not have loaded.",
    ),
    "confirm": ("Confirm that it is you", "Code", "As the page in your own browser shows it."),
}
DISCORD_PRIVATE = Next(
    "auth",
    around="The answer is for you alone, and I cannot reach you in private: your direct messages are closed. Use {} "
    "here, where only you see what it answers.",
)
KEY_EMPTY = "Nothing was entered."
STORE_ANYWAY = "Store it anyway"
REPLACED = "replaced by a newer link"
NO_LINK = "there is no link any more"
NOTE_LOCAL = (
    "Open a link in a browser on this computer. On another one, copy the address of the last page and paste it here."
)
_LAST_PAGE = (
    "After you have allowed it, the last page will not load, and that is right: copy its address from the browser and"
)
NOTE_CHAT = f"{_LAST_PAGE} send it to me here."
NOTE_CHAT_SHARED = f"{_LAST_PAGE} send it to me in a private chat."
NOTE_FORM = Next("paste", around=f"{_LAST_PAGE} enter it with the button below, or with {{}}.")
NOTE_PROOF = (
    "The page shows a code: send it to me in a private chat, and the page goes on. Give it to nobody else, and do not "
    "pass the link on."
)
NOTE_PROOF_FORM = Next(
    "confirm",
    around="The page shows a code: enter it with the button below, or with {}, and the page goes on. Give it to "
    "nobody else, and do not pass the link on.",
)
KEY_FORM_NOTE = "The key is typed into that page and never into this chat."
BUTTON_KEY_FORM = "Open the form"
FORM_KEY = "Enter a key"
FORM_SAVE = "Save"
FORM_SEND = "Send"
FORM_CANCEL = "Cancel"
FORM_CLOSE = "Close"
FORM_WORKING = "One moment…"
NOTE_NO_LISTENER = Next(
    "paste", arguments=("ADDRESS",), around="Nothing on this machine receives the answer; finish with: {}"
)


def minutes(seconds: float) -> str:
    """`10 minutes`, rounded up, so that a link is never called dead while it works."""
    count = max(1, math.ceil(seconds / 60))
    return "1 minute" if count == 1 else f"{count} minutes"


def clock(at: float, now: float | None = None) -> str:
    """`14:05` in local time; with the date when it is not within a day from `now`."""
    now = time.time() if now is None else now
    local = time.localtime(at)
    return time.strftime("%H:%M" if abs(at - now) < 86400 else "%Y-%m-%d %H:%M", local)


def error(problem: McpAuthError) -> Outcome:
    """What happened and what to do next. Which file it was is the operator's to know."""
    if not isinstance(problem, StoreError):
        return problem.outcome
    doctor = Next("doctor", on_host=True, around="the operator runs `{}` there")
    return Outcome(problem.code, STORE_TROUBLE, next_step=doctor)


def unexpected(reference: str) -> Outcome:
    text = f"Something went wrong inside; nothing was changed on purpose. The log has it under {reference}."
    return Outcome("internal", text)


def suggestion(commands: Sequence[str]) -> Words:
    if not commands:
        return Next("help", around="I do not know that one. {} shows what there is.")
    return ("I do not know that one. Did you mean ", *_any_of(commands), "?")


def ambiguous(commands: Sequence[str]) -> Words:
    return ("More than one server begins like that. Which one: ", *_any_of(commands), "?")


def whole_name(commands: Sequence[str]) -> Words:
    return ("This one wants the whole name: ", *_any_of(commands))


def argument_missing(verb: str, commands: Sequence[str]) -> Words:
    if verb == "paste":
        return PASTE_NOTHING
    if verb == "confirm":
        return CONFIRM_NOTHING
    if verb == "allow":
        return Next("allow", arguments=("CODE",), around="Send the code that the person was given after it: {}")
    if verb == "deny":
        people = Next("people", around="Send the account after it, as {} shows it: ")
        return (people, Next("deny", arguments=("telegram:123456789",)))
    if not commands:
        return "No MCP servers are configured."
    return ("Which server? ", *_any_of(commands))


# -- status ----------------------------------------------------------------------------------


def auth_state(status: ServerStatus, now: float) -> str:
    """The auth axis in the design's words, with its evidence."""
    detail = f" ({status.detail.rstrip('.')})" if status.detail else ""
    match status.auth:
        case AuthState.NONE_NEEDED:
            return "none needed"
        case AuthState.SIGNED_IN:
            until = f" until {clock(status.expires_at, now)}" if status.expires_at and not status.refreshable else ""
            who = f" as {status.account}" if status.account else ""
            trouble = f", {not_renewable(status, now)}" if status.not_renewable else ""
            return f"signed in{who}{until}{trouble}"
        case AuthState.SIGN_IN_OPEN:
            left = f", {minutes(status.expires_at - now)} left" if status.expires_at else ""
            return f"sign-in open{left}"
        case AuthState.KEY_MISSING:
            return f"key missing: {', '.join(status.variables)}" if status.variables else f"key missing{detail}"
        case _:
            return f"{status.auth.value.replace('_', ' ').replace('sign in', 'sign-in')}{detail}"


def not_renewable(status: ServerStatus, now: float) -> str:
    """`not renewable since 14:05: HTTP 503`"""
    since = f" since {clock(status.not_renewable_since, now)}" if status.not_renewable_since else ""
    return f"not renewable{since}: {status.not_renewable}"


def in_trouble(statuses: Sequence[ServerStatus], now: float) -> list[Outcome]:
    """Signed in, and nothing that a new sign-in would help."""
    troubled = (one for one in statuses if one.not_renewable)
    return [Outcome(one.auth, auth_state(one, now), one.name, one.next) for one in troubled]


def connection_state(connection: ConnectionStatus) -> str:
    if connection.state is ConnectionState.READY:
        count = len(connection.tools or ())
        took = f", {connection.ms} ms" if connection.ms is not None else ""
        return f"ready ({tools(count)}{took})"
    word = connection.state.value.replace("_", " ")
    return f"{word} ({connection.detail.rstrip('.')})" if connection.detail else word


def facts(status: ServerStatus, now: float) -> tuple[tuple[str, Words], ...]:
    """`/mcp SERVER` as label and value."""
    rows: list[tuple[str, Words | None]] = [
        ("Address" if status.transport != "stdio" else "Command", status.address or status.target),
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
        ("Next", status.next),
    ]
    return tuple((label, value) for label, value in rows if value)


def tools(count: int) -> str:
    return "1 tool" if count == 1 else f"{count} tools"


def testing(server: str) -> str:
    return f"{server}: connecting…"


def tested(status: ServerStatus, connection: ConnectionStatus, now: float) -> Outcome:
    server, code = status.name, connection.state.value
    if connection.state is ConnectionState.READY:
        names = connection.tools or ()
        took = f" in {connection.ms} ms" if connection.ms is not None else ""
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        text = f"connected{took}, {tools(len(names))}{f': {shown}' if shown else ''}"
        if not status.not_renewable:
            return Outcome(code, text, server)
        # It works, and will not for ever.
        return Outcome(code, f"{text}. It is {auth_state(status, now)}", server, status.next)
    if status.auth in (AuthState.DISABLED, AuthState.MISCONFIGURED):
        return Outcome(status.auth, f"{server} {nothing_to_do(status)}")
    # Without a sign-in or a key, testing again would not help; where the access cannot be renewed for now, it may.
    helps = status.next and (status.next.verb != "test" or status.not_renewable)
    return Outcome(code, connection_state(connection), server, status.next if helps else None)


# -- signing in ------------------------------------------------------------------------------


def team_sign_in(server: str) -> Outcome:
    return Outcome(
        "not_allowed",
        "signing in from a chat is off while more than one person is allowed: whoever opens a forwarded link would "
        "hand their own account to the one who sent it, and only a public endpoint can prove that both are the same "
        "person.",
        server,
        _by_the_operator(server),
    )


def link_ready(expires_at: float, now: float, host: str, issued_elsewhere: Sequence[str] = ()) -> str:
    """`host`: where the browser really goes. `issued_elsewhere`: hosts of other sites that the access comes from."""
    others = f" (access is issued by {' and '.join(issued_elsewhere)})" if issued_elsewhere else ""
    return f"open this link within {minutes(expires_at - now)} and sign in at {host}{others}"


def link_again(expires_at: float, now: float) -> str:
    """After a restart, in place of a link that we no longer know ourselves."""
    return f"open for {minutes(expires_at - now)}; a page you have open goes on, or take a new link"


def link_too_long(server: str) -> Outcome:
    return Outcome("link_too_long", "its link is too long for this chat.", server, _by_the_operator(server))


def _by_the_operator(server: str) -> Next:
    way = "the operator sets gateway.public_url, or runs `{}` on the host."
    return Next("auth", server, on_host=True, around=way)


def links_note(
    *, local: bool, private: bool, listening: bool, public: bool, needs_proof: bool, form: bool = False
) -> Words | None:
    """What to do with a link. `form`: the chat has one, and what is written beside it may be read by others."""
    if public and needs_proof:
        return NOTE_PROOF_FORM if form else NOTE_PROOF
    if public:
        return None
    if not local and form:
        return NOTE_FORM
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


def more_servers(count: int) -> Words:
    """The closing line of a list that was cut."""
    return Next("list", arguments=("SERVER",), around=f"… and {count} more. {{}} shows one.")


def more_links(count: int) -> Words:
    """`count` links found no room in this answer."""
    return Next("auth", arguments=("SERVER",), around=f"… and {count} more. {{}} gives one link at a time.")


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


def signed_in(status: ServerStatus, connection: ConnectionStatus) -> str:
    """`signed in as ada, 5 tools`"""
    who = f" as {status.account}" if status.account else ""
    if connection.state is not ConnectionState.READY:
        return f"signed in{who}, but the server is {connection_state(connection)}"
    return f"signed in{who}, {tools(len(connection.tools or ()))}"


def no_refresh_token(server: str, expires_at: float, now: float) -> tuple[Part, ...]:
    ends = f"This grant has no refresh token and ends at {clock(expires_at, now)}; after that: "
    return (ends, Next("auth", server))


def refused_after_sign_in(server: str, connection: ConnectionStatus) -> Outcome:
    why = f" ({connection.detail.rstrip('.')})" if connection.detail else ""
    sentence = f"the sign-in was finished, but the server refuses it{why}."
    return Outcome("refused", sentence, server, Next("auth", server))


def sign_in_ended(server: str, end: Outcome | None) -> Outcome:
    return end or Outcome("failed", f"The sign-in to {server} failed.")


def public_end(server: str, *, ok: bool, cancelled: bool = False) -> str:
    """What a shared chat may read: server and outcome only."""
    if cancelled:
        return f"{server}: sign-in cancelled."
    return f"{server}: signed in." if ok else f"{server}: the sign-in did not succeed."


def grant_dead(server: str, status: ServerStatus, now: float) -> Outcome:
    """A refresh token died. What is left of the access may still serve for a while."""
    if status.auth is AuthState.SIGNED_IN and status.expires_at is not None:
        why = f" (its access cannot be renewed and ends at {clock(status.expires_at, now)})"
    else:
        why = f" ({status.detail})" if status.detail else ""
    return Outcome("reauthorization_needed", f"sign in again{why}", server, Next("auth", server))


def grant_dead_public(server: str) -> str:
    return f"{server}: sign in again."


def new_connection(text: tuple[Part, ...], *, by_other: bool) -> Words:
    """For an owner who did not see the sign-in's own chat."""
    wrong = Next("logout", around=". Somebody else who may do so signed in. If that is wrong: {}")
    return (*text, wrong) if by_other else text


def review(server: str, is_key: bool, visit: Visit | None, now: float) -> str:
    """What the button below confirms."""
    what = f"Enter a key for {server}" if is_key else f"Sign in to {server}"
    if visit is None:
        return f"{what}: is that you, at the page with this code?"
    ago = max(0, round((now - visit.at) / 60))
    when = "just now" if ago == 0 else "a minute ago" if ago == 1 else f"{ago} minutes ago"
    where = f", from {visit.address}" if visit.address is not None else ""
    return (
        f"{what}: the page was opened {when} in {visit.browser}{where}. Press the button only if that is you, and the "
        "page is in front of you. Somebody sent you a link? Then do not press it."
    )


def reused(grant: Grant) -> Outcome:
    """For the operator: a name of `people:` was given to somebody else."""
    name = grant.owner.removeprefix("person:")
    return Outcome(
        "reused_name",
        f"what is stored for {name} was made by {', '.join(grant.accounts)}, and none of these is {name} in "
        "gateway.people any more, so it is not used.",
        grant.server,
        Next("logout", grant.server, ("--as", name), on_host=True, around="{}, or correct gateway.people"),
    )


def confirmed(server: str, *, by_itself: bool = True) -> str:
    """`by_itself` False: the last page of a browser without script, which has a button."""
    return f"{server}: that is you. " + ("The page goes on by itself." if by_itself else "Now finish it on the page.")


def cancelled(servers: Sequence[str]) -> str:
    return f"Cancelled: {', '.join(servers)}."


# -- keys ------------------------------------------------------------------------------------


def key_prompt(server: str, variable: str, where: str, *, is_tried: bool) -> str:
    """`is_tried`: not a command's, which would have to be started for it."""
    return f"{server} needs {variable} ({where}).{f' {KEY_MODAL_NOTE}' if is_tried else ''}"


def key_form(server: str, expires_at: float, now: float) -> str:
    return f"{server}: open this page within {minutes(expires_at - now)} and type the key there. {KEY_FORM_NOTE}"


def public_key(server: str) -> str:
    return f"{server}: {KEY_STORED}."


def key_modal(server: str) -> str:
    return f"Key for {server}"


def key_not_needed(server: str, variables: Sequence[str] = ()) -> str:
    known = ", ".join(variables)
    return f"{server} needs {f'only {known}' if known else 'no key'}."


def key_ways(server: str, platform: str, *, in_chat: bool) -> Words:
    """Where nothing safe is available: the ways that are left (design, section 7).

    Args:
        in_chat: the platform has an input of its own that the operator can allow.
    """
    count = "Three" if in_chat else "Two"
    third = f"; or, if you accept it, gateway.{platform}.secrets_in_chat: true" if in_chat else ""
    return (
        f"A key does not go through this chat, where it would stay in the history. {count} ways: ",
        Next("key", server, on_host=True, around="on the host, `{}`"),
        f"; a one-time form, once gateway.public_url is set{third}.",
    )


def key_exposed(server: str | None) -> Words:
    name = server or "SERVER"
    return (
        "If that was a key: it was not used and not stored, but it stands in this chat's history now. Replace it "
        "with a new one at its issuer, delete the message, and then use ",
        Next("key", name, around="{} without the key, or "),
        Next("key", name, on_host=True, around="`{}` on the host."),
    )


def key_stored(server: str, verified: bool) -> str:
    return f"{server}: the key works and is stored." if verified else f"{server}: stored, not verified."


def key_no_difference(server: str) -> str:
    return f"{server}: stored, not verified: the server answers the same without a key."


def key_not_tried(server: str, detail: str) -> Outcome:
    return Outcome("key_not_tried", f"stored. {detail}", server, Next("test", server))


def key_refused(server: str) -> str:
    return f"{server}: the server refuses this key; nothing was stored."


def key_unreachable(server: str, detail: str) -> str:
    return f"{server}: the key could not be tried ({detail.rstrip('.')}). Nothing is stored yet. Store it anyway?"


# -- people ----------------------------------------------------------------------------------


def pairing_code(code: str) -> Words:
    """For the one who asked, and for nobody else."""
    return (
        f"I do not know you yet. To be let in, give this code to whoever runs this assistant: {code}. It works once "
        "and for an hour. They let you in with ",
        Next("allow", arguments=(code,), is_secret=True, on_host=True, around="`{}`, or an admin with "),
        Next("allow", arguments=(code,), is_secret=True, around="{} in private."),
    )


def let_in(paired: Paired) -> Outcome:
    name = f" ({paired.display_name})" if paired.display_name else ""
    return Outcome("allowed", f"{paired.principal}{name} is served from now on.", next_step=Next("people"))


def shut_out(principal: str) -> Words:
    kept = f"{principal} is not served any more. What they signed in for themselves is kept; to end it: "
    return (kept, Next("logout", "SERVER", ("--as", principal), on_host=True))


def person_line(one: Listed, now: float) -> str:
    """What `people` says behind a principal."""
    words = [one.standing.value]
    if one.person:
        words.append(f"person {one.person}")
    if one.admin:
        words.append("admin")
    if one.display_name:
        words.append(f"calls themselves {one.display_name}")
    if one.until is not None:
        words.append(f"{minutes(one.until - now)} left")
    if one.since is not None:
        words.append(f"since {clock(one.since, now)} by {one.by}")
    return ", ".join(words)


# -- the audit log ---------------------------------------------------------------------------

# By the values of `mcp_auth.audit.Event`: the list starts without that module.
_HAPPENED = {
    "sign_in_begun": "sign-in begun",
    "sign_in_ended": "sign-in ended",
    "link_continued": "link continued",
    "sign_in_burned": "sign-in ended: somebody else typed its code",
    "refreshed": "access renewed",
    "reauthorization_needed": "reauthorization needed",
    "signed_out": "signed out",
    "key_set": "key set",
    "key_refused": "key refused by the server",
    "pairing_asked": "asked to be let in",
    "allowed": "let in",
    "denied": "shut out",
    "wrong_code": "wrong code",
    "command_refused": "refused",
}


def happened(line: AuditLine) -> str:
    """What one line of the audit log says, without who and where: `sign-in done`, `refused: logout`."""
    return f"{_happened(line)} (and {line.more} more)" if line.more else _happened(line)


def _happened(line: AuditLine) -> str:
    words = f"{_HAPPENED[line.what]} {line.whom or ''}".rstrip()
    match line.what.value:
        case "sign_in_ended":
            begun = f", begun by {line.whom}" if line.whom else ""
            return f"sign-in {line.outcome or 'ended'}{begun}"
        case "sign_in_begun" if line.hosts:
            return f"{words} at {line.hosts[0]}, access from {' and '.join(line.hosts[1:])}"
        case "link_continued" if line.browser:
            return f"{words} in {line.browser}, from {line.address or 'an unknown address'}"
        case "command_refused" | "wrong_code":
            return f"{words}: /mcp {line.outcome}" if line.outcome else words
        case _:
            return words


def _until(status: ServerStatus, now: float) -> str | None:
    if status.auth is not AuthState.SIGNED_IN or (status.not_renewable and status.refreshable):
        return None
    if status.refreshable:
        return "renewed by itself"
    if status.expires_at is None:
        return None
    return f"{clock(status.expires_at, now)} ({status.not_renewable or 'no refresh token'})"


def _any_of(commands: Sequence[str]) -> Iterator[Part]:
    """`/mcp a, /mcp b or /mcp c`"""
    shown = commands[:8]
    for at, text in enumerate(shown):
        yield "" if at == 0 else " or " if at == len(shown) - 1 else ", "
        yield Typed(text)
    if len(commands) > 8:
        yield ", …"
