"""What WhatsApp says no with, and our buttons as pywa's."""

from __future__ import annotations

from typing import Any

import httpx
from pywa_async.errors import AuthorizationError, ReEngagementMessage, ThrottlingError, WhatsAppError
from pywa_async.types import Button, Section, SectionList, SectionRow, URLButton

from adapters.refusals import Elsewhere, Later, Misconfigured, Refused
from adapters.whatsapp.render import Outgoing

FAILURES = (WhatsAppError, httpx.HTTPError)
# https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes. What it calls temporary is overloaded,
# unavailable, or an upgrade or maintenance.
_CODES: dict[int, type[Refused]] = {
    **dict.fromkeys((1, 2, 131000, 131016, 131057, 133004), Later),
    131026: Elsewhere,  # undeliverable
}


def refusal_of(error: Exception | None) -> Refused:
    """None: a status that gives no reason."""
    match error:
        case None:
            return Elsewhere("WhatsApp gives no reason")
        case ReEngagementMessage():
            return Elsewhere("the person has not written for 24 hours (131047)")
        case AuthorizationError():
            return Misconfigured(
                "WhatsApp refuses the access token.",
                key="gateway.whatsapp.token",
                next_step="set a valid gateway.whatsapp.token",
            )
        case ThrottlingError():
            return Later(f"WhatsApp's rate limit ({error.code}) did not pass")
        case WhatsAppError():
            is_down = error.status_code is not None and error.status_code >= 500
            kind = Later if is_down else _CODES.get(error.code, Refused)
            return kind(f"WhatsApp answers {error.code} {type(error).__name__}")
    # A message that arrives twice is better than one that never does.
    return Later(f"WhatsApp cannot be reached ({type(error).__name__})")


def tappable(message: Outgoing) -> Any:
    if message.link:
        return URLButton(message.link.title, message.link.url)
    if message.buttons:
        return [Button(one.title, one.data) for one in message.buttons]
    if message.rows:
        rows = [SectionRow(one.title, one.data, one.description) for one in message.rows]
        menu = message.menu or ""
        return SectionList(menu, [Section(menu, rows)])
    return None
