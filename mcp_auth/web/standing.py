"""The pages that say how things stand: that it ended, that it is being finished, or that something was not taken."""

from __future__ import annotations

from mcp_auth.errors import AlreadyFinished, McpAuthError, OtherBrowser, SignInExpired
from mcp_auth.kinds import again_for
from mcp_auth.records import Linked, SignIn
from mcp_auth.web import page_texts as texts
from mcp_auth.web import pages
from mcp_auth.web.kinds import pages_of
from mcp_auth.web.pages import Page


def result_page(record: Linked, error: str | None = None) -> Page:
    """How it ended, for the browser in which it was done."""
    names, end = {"server": record.server}, record.result
    if record.status == "done":
        return pages.message_page(pages_of(record).done(record))
    heading, tone, status = {
        "expired": (texts.EXPIRED_HEADING, "note", 410),
        "cancelled": (texts.CANCELLED_HEADING, "note", 410),
        "refused": (texts.REFUSED_HEADING, "bad", 200),
    }.get(record.status, (texts.FAILED_HEADING, "bad", 200))
    lines, step = (error or "", end.sentence if end else ""), end.next_step if end else None
    return pages.message_page(pages.Message(heading, lines, tone, status=status, names=names, command=step))


def how_it_stands(sign_in: SignIn) -> Page:
    return working_page(sign_in) if sign_in.status == "exchanging" else result_page(sign_in)


def used_page(record: Linked) -> Page:
    """For a browser that is not the one: that it is over, and nothing else."""
    heading, line = {
        "expired": (texts.EXPIRED_HEADING, texts.EXPIRED_LINE),
        "cancelled": (texts.CANCELLED_HEADING, texts.CANCELLED_LINE),
    }.get(record.status, (texts.USED_HEADING, texts.USED_LINE))
    return pages.message_page(pages.Message(heading, (line,), "note", status=410, command=again_for(record)))


def working_page(record: Linked) -> Page:
    return pages.message_page(pages.Message(pages_of(record).working, (), "note", refresh=2))


def unknown_link() -> Page:
    return pages.message_page(
        pages.Message(texts.NOTHING_HEADING, (texts.UNKNOWN_LINK_LINE,), "note", status=404, command=texts.ASK_ANEW)
    )


def refused_page(error: McpAuthError) -> Page:
    return pages.message_page(pages.Message("Not signed in", (error.text,), "bad", command=error.next_step))


def rejected_page(error: McpAuthError) -> Page:
    heading, tone, status = "Not signed in", "bad", 400
    if isinstance(error, AlreadyFinished):
        heading, tone, status = texts.USED_HEADING, "note", 409
    elif isinstance(error, SignInExpired):
        heading, tone, status = texts.EXPIRED_HEADING, "note", 410
    elif isinstance(error, OtherBrowser):
        heading, tone, status = texts.OTHER_BROWSER_HEADING, "note", 403
    return pages.message_page(pages.Message(heading, (error.text,), tone, status=status, command=error.next_step))
