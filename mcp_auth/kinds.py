"""The kinds of links, a row each: what is reached by a link, and in what one kind differs from another.

Whoever handles links asks the row and not which class a record is of. A kind has beside its row a record
(`mcp_auth.records`), a view of the store (`mcp_auth.stores.base`) and a page (`mcp_auth.web.kinds`). This stands beside
the wings because states and changes ask it too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from mcp_auth.outcome import Next
from mcp_auth.records import ChangeKind, KeptIn, KeyForm, Linked, SignIn


class LinkKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of link.

    Args:
        record: what is stored of one.
        verb: the command that makes a new one, `auth` of `/mcp auth notes`.
        letter: begins the path of its pages (`/a/TICKET`), and the names under which browsers keep what belongs to it.
        view: the attribute of `mcp_auth.stores.base.Store` that keeps its records.
        leads_out: its browser goes on to somebody else's site and comes back, so without script a cookie has to know it
            again; else its secret goes from form to form of our own pages.
        asks: its page asks for something, and asks once more when that turns out to be of no use.
        about: what news of one is about; the name of the field of `mcp_auth.records.Untold` that holds it.
        spent: the fields that are emptied when it ends, since nothing may be exchanged with them any more.
        expired: code and sentence of an end by its link's time; `interrupted`: by the death of who finished it.
        done: what is told when it ended well, and `ended`: when it ended otherwise.
    """

    record: type[Linked]
    verb: Literal["auth", "key"]
    letter: str
    view: Literal["sign_ins", "key_forms"]
    leads_out: bool
    asks: bool
    about: Literal["sign_in", "key_form"]
    spent: tuple[str, ...]
    expired: tuple[str, str]
    interrupted: tuple[str, str]
    done: ChangeKind
    ended: ChangeKind

    @property
    def kept_without_script(self) -> KeptIn:
        """Where a browser without script has the secret by which it is known."""
        return "cookie" if self.leads_out else "forms"


SIGN_IN = LinkKind(
    record=SignIn,
    verb="auth",
    letter="a",
    view="sign_ins",
    leads_out=True,
    asks=False,
    about="sign_in",
    spent=("code_verifier", "authorization_url"),
    expired=("sign_in_expired", "The link for {} has expired."),
    interrupted=("sign_in_failed", "The sign-in to {} was interrupted before it was finished."),
    done="signed_in",
    ended="sign_in_ended",
)
KEY_FORM = LinkKind(
    record=KeyForm,
    verb="key",
    letter="k",
    view="key_forms",
    leads_out=False,
    asks=True,
    about="key_form",
    spent=(),
    expired=("expired", "The link for the key of {} has expired."),
    interrupted=("failed", "Storing the key for {} was interrupted; it may be stored or not."),
    done="key_form_ended",
    ended="key_form_ended",
)
KINDS = (SIGN_IN, KEY_FORM)
_BY_RECORD = {kind.record: kind for kind in KINDS}


def kind_of(record: Linked) -> LinkKind:
    """The row of what this record is of."""
    return _BY_RECORD[type(record)]


def again_for(record: Linked) -> Next:
    """The command that makes a new link."""
    return Next(kind_of(record).verb, record.server)
