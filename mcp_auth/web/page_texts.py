"""Every text of our own pages. `{server}` and the like are filled in by `mcp_auth.web.pages`, escaped and isolated."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from mcp_auth.requester import platform_name

BRAND = "sign-ins for your chat"
CONTINUE = "Continue"
GO_ON = "Go on"
NOT_YOU = "Somebody sent you this link? Then close the page: going on would give them access to your account."
IN_THE_CHAT = "Next, type in the chat:"
CLOSE = "You can close this page and go back to the chat."
STILL_WORKING = "Just a moment…"
SHELL_HEADING = "Just a moment"
SHELL_NO_SCRIPT = "This page goes on in the browser in which it was begun, and there with JavaScript."
OFFLINE = "This page cannot be reached right now. It tries again by itself."

# -- starting --------------------------------------------------------------------------------

SIGN_IN_HEADING = "Sign in to {server}"
SIGN_IN_LEAD = "You asked for this in a chat. Continue to go to {host}, and sign in there."
KEY_HEADING = "Enter a key for {server}"
KEY_START_LEAD = "You asked for this in a chat. Continue to type the key on the next page."
WHO = "Asked by"
WHERE = "Server"
ISSUER = "You sign in at"
UNTIL = "Valid for"
SCOPES = "Access"
NEW_SCOPE = "new"
MORE_SCOPES = "and {count} more"
FORM_STALE = "This page was open for too long, or was not opened by you. Check it once more, then continue."
NO_COOKIE = (
    "This browser sent no cookie back: it keeps none for this site, or you came here from another page. Check it once "
    "more, then continue; if that does not help, allow cookies, or open the link in another browser."
)
NO_COOKIES = "This browser keeps no cookies for this site. Allow them, or open the link in another browser."
NEEDS_SCRIPT = "In this browser it cannot be proven who you are: that needs JavaScript, and storage for this site."

# -- the code --------------------------------------------------------------------------------

CODE_HEADING = "Is it you?"
CODE_LEAD = "Send this code to the bot from the account that asked: {who}. This page then goes on by itself."
CODE_LEAD_FORM = "Send this code to the bot from the account that asked: {who}. Then go on here."
TYPE_IT = "In your private chat with the bot, type:"
OR_TYPE = "Or type in your private chat with the bot:"
CODE_WARNING_SHORT = "Never give this code to anybody."
CODE_WARNING = "Whoever asks you for it wants access to your account."
LOGIN_LEAD = "Show that you are the one who asked: {who}. This page then goes on by itself."
LOGIN_HEADING = "Almost there"
LOGIN_BACK = "Go on to show that the account you chose is the one that asked in the chat."
LAST_HEADING = "Finish the sign-in?"
LAST_LEAD = "{who} will get access to {server}, with the account that you have just chosen."
LAST_CODE = "Is that you? Then send this code to the bot from that account, and finish here."
LAST_FINISH = "Finish"
LAST_PENDING = "The code has not been sent in the chat yet. Send it, then finish here."
LAST_NOT_YOU = "Somebody else sent you here? Then close the page: finishing would give them access to your account."
LOGIN_NO_SCRIPT = "This step needs JavaScript. Without it, go back and send the code."
LOGIN_EMPTY = "Nothing came back from the login. Go back and try again, or send the code."
CODE_OVER = "The code on this page is older than five minutes and no longer counts."
NEW_CODE = "Show a new code"
GO_HEADING = "On to {host}"
GO_LEAD = "If nothing happens, tap the button."

# -- the key ---------------------------------------------------------------------------------

KEY_LEAD = "It is tried at the server before it is stored, and it never appears in a chat."
STORE_KEY = "Try and store"
STORE_UNTRIED = "Store it although it cannot be tried now."
GET_A_KEY = "Get a key at"
KEY_WHERE = "goes into {where}"
KEY_SAFE = "The page works once and only in this browser."

# -- results ---------------------------------------------------------------------------------

DONE_HEADING = "{server} is connected"
KEY_DONE_HEADING = "The key for {server} is stored"
REFUSED_HEADING = "{server} is not connected"
FAILED_HEADING = "{server} is not connected"
EXPIRED_HEADING = "This link has expired"
EXPIRED_LINE = "A link lives for a few minutes only. A new one takes a moment."
CANCELLED_HEADING = "This was cancelled"
CANCELLED_LINE = "The link no longer works. You can begin again at any time."
USED_HEADING = "This link was used before"
USED_LINE = "A link works once, and in one browser."
OTHER_BROWSER_HEADING = "This goes on in another browser"
NOTHING_HEADING = "Nothing is here"
NOTHING_LINE = "This address belongs to no open sign-in. It may be old, or was not copied whole."
UNKNOWN_LINK_LINE = "This link is not known: it may be old, replaced by a newer one, or was not copied whole."
ASK_ANEW = "ask for a new link in the chat"
WORKING_HEADING = "Finishing the sign-in"
KEY_WORKING_HEADING = "Storing the key"
METHOD_HEADING = "This cannot be done here"
TROUBLE_HEADING = "Something went wrong"
TROUBLE_LINE = "Nothing was changed on purpose. Try again in a moment."
LATER_LINE = "It cannot be read or written right now. Try again in a moment."
REFUSALS = {
    400: "What was sent cannot be read.",
    404: NOTHING_LINE,
    408: "What was sent did not arrive in time.",
    413: "What was sent is far too large for this form.",
    415: "Only the form of this page can be sent here.",
    425: "This page is for a person's own visit, not for fetching ahead.",
}
ACCOUNT = "Connected as"
TOOLS = "Tools"
CONNECTION = "Connection"


def confirm_in(principal: str) -> str:
    """The button that carries the code into the chat."""
    return f"Confirm in {platform_name(principal.partition(':')[0])}"


def signed_in(server: str, account: str | None) -> str:
    return f"Signed in to {server} as {account}." if account else f"Signed in to {server}."


def issued_by(hosts: Sequence[str]) -> str:
    """Below the host that the browser goes to, where the access comes from other sites."""
    return f"access is issued by {' and '.join(hosts)}"


def until(at: float, now: float) -> tuple[str, str]:
    """`9 minutes` and the time in UTC: the server does not know the reader's clock."""
    minutes = max(1, math.ceil((at - now) / 60))
    left = "1 minute" if minutes == 1 else f"{minutes} minutes"
    return left, time.strftime("until %H:%M UTC", time.gmtime(at))


def waiting(at: float, now: float) -> str:
    """Below the code."""
    return f"Waiting for you: {until(at, now)[0]} left."


def connection(state: str, detail: str | None) -> str:
    word = state.replace("_", " ")
    return f"{word} ({detail})" if detail else word
