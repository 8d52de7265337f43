"""The webhook as an ASGI application: Meta's verification, its signature, and one update at a time for pywa.

pywa reads the first message of a delivery only (its issue 229), and takes a contact without `user_id` or a failed
status without contacts for broken. So a delivery is checked as it came, then taken apart.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from pywa_async import WhatsApp
from pywa_async.utils import HUB_CH, HUB_SIG, HUB_VT
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from adapters.bodies import plain, read_body

_log = logging.getLogger(__name__)

# Meta's largest delivery.
BODY_MAX = 3 * 1024 * 1024
_SIGNATURE = re.compile(r"sha256=[0-9a-f]{64}")


class Webhook:
    """Answers Meta at whatever path it is mounted. Handlers must be quick: Meta waits for the answer.

    `is_open`: False turns every delivery away, to be tried again.
    """

    def __init__(self, client: WhatsApp) -> None:
        self._client = client
        self.is_open = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        answer = plain("closed", 503)
        if self.is_open:
            answer = await _answers.get(request.method, _not_allowed)(self._client, request)
        await answer(scope, receive, send)


async def _challenge(client: WhatsApp, request: Request) -> Response:
    query = request.query_params
    if query.get("hub.mode") != "subscribe" or not query.get(HUB_VT):
        return plain("this address is for Meta's webhooks", 400)
    content, status = await client.webhook_challenge_handler(query[HUB_VT], query.get(HUB_CH, ""))
    return plain(content or "", status)


async def _delivery(client: WhatsApp, request: Request) -> Response:
    signature = request.headers.get(HUB_SIG, "")
    if not _SIGNATURE.fullmatch(signature):
        return plain("unsigned", 401)
    body = await read_body(request, BODY_MAX)
    if isinstance(body, Response):
        return body
    refusal = await client.webhook_update_validator(body, signature)
    if refusal is not None:
        return plain(*refusal)
    try:
        updates = list(single_updates(json.loads(body)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("a signed delivery has an unknown form (%s)", type(error).__name__)
        return plain("unknown form", 400)
    for update in updates:
        await client.webhook_update_handler(json.dumps(update).encode())
    return plain("ok", 200)


async def _not_allowed(client: WhatsApp, request: Request) -> Response:
    return plain("", 405, Allow="GET, POST")


_answers = {"GET": _challenge, "POST": _delivery}


def single_updates(delivery: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every message and status of a delivery as a delivery of its own, completed as pywa wants it.

    Raises:
        KeyError, TypeError, AttributeError: it has not the form of a delivery.
    """
    for entry in delivery["entry"]:
        for change in entry["changes"]:
            for value in _single_values(change["value"]):
                yield {**delivery, "entry": [{**entry, "changes": [{**change, "value": value}]}]}


def _single_values(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "messages" not in value and "statuses" not in value:
        yield value
        return
    rest = {name: part for name, part in value.items() if name not in ("messages", "statuses", "contacts")}
    contacts = value.get("contacts") or []
    for message in value.get("messages") or []:
        contact = _contact(contacts, message.get("from_user_id"), message.get("from"))
        yield {**rest, "contacts": [contact], "messages": [message]}
    for status in value.get("statuses") or []:
        contact = _contact(contacts, status.get("recipient_user_id"), status.get("recipient_id"))
        yield {**rest, "contacts": [contact], "statuses": [status]}


def _contact(contacts: list[dict[str, Any]], user_id: str | None, wa_id: str | None) -> dict[str, Any]:
    for contact in contacts:
        if (user_id and contact.get("user_id") == user_id) or (wa_id and contact.get("wa_id") == wa_id):
            return {"user_id": user_id, **contact}
    if len(contacts) == 1 and user_id is None and wa_id is None:
        return {"user_id": None, **contacts[0]}
    return {"user_id": user_id, "wa_id": wa_id}
