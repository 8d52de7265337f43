"""The scenarios of every adapter, over WhatsApp: pywa against the loopback Cloud API."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette

from adapters.testing import ANN, BOB, EVE, AdapterContract, Harness, SeenButton, SeenMessage
from adapters.whatsapp.adapter import WEBHOOK, WhatsAppAdapter
from gateway.gateway import Gateway
from gateway.invocations import Capabilities, Principal
from tests.platforms.whatsapp import CloudApi, Person, Sent, as_read, listening, serving
from tests.ports import free_port


class WhatsAppHarness(Harness):
    platform = "whatsapp"
    # One-to-one only.
    has_groups = False

    def __init__(self) -> None:
        self._running = contextlib.AsyncExitStack()
        self._api_port, self._app_port = free_port(), free_port()
        self._api = CloudApi(f"http://127.0.0.1:{self._api_port}")
        self._people = {
            name: self._api.person(f"1650555000{at}", f"US.1000{at}", name=name)
            for at, name in enumerate((ANN, BOB, EVE))
        }
        self._app = Starlette()
        self._served = False

    @property
    def capabilities(self) -> Capabilities:
        return self._adapter.capabilities

    def principal(self, person: str) -> Principal:
        return Principal("whatsapp", self._people[person].user_id)

    def section(self) -> dict[str, Any]:
        return {
            "token": self._api.token,
            "phone_id": self._api.phone_id,
            "app_secret": self._api.app_secret,
            "verify_token": self._api.verify_token,
            "base_url": self._api.base_url,
        }

    async def start(self, gateway: Gateway) -> None:
        if not self._served:
            self._served = True
            self._api.webhook = f"http://127.0.0.1:{self._app_port}{WEBHOOK}"
            await self._running.enter_async_context(serving(self._api.app(), listening(self._api_port)))
            await self._running.enter_async_context(serving(self._webhook, listening(self._app_port)))
        self._app = Starlette()
        self._adapter = WhatsAppAdapter(gateway)
        self._adapter.install(self._app)

    async def stop(self) -> None:
        await self._adapter.stop()

    async def close(self) -> None:
        await self._running.aclose()

    async def say(self, person: str, text: str, *, group: bool = False, times: int = 1) -> None:
        message = self._api.text(text, self._people[person])
        for _ in range(times):
            assert (await self._api.deliver(message)).status_code == 200

    async def press(self, person: str, label: str, *, whose: str | None = None) -> None:
        shown = [one for one in self._messages(whose or person) if label in one.choices]
        await self._api.tap(shown[-1], label, self._people[person])

    def seen(self, person: str) -> Sequence[SeenMessage]:
        return tuple(_seen(one) for one in self._messages(person))

    def _messages(self, person: str) -> list[Sent]:
        who: Person = self._people[person]
        return [one for one in self._api.sent if one.to is who]

    async def _webhook(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)


def _seen(sent: Sent) -> SeenMessage:
    buttons = [SeenButton(title) for title in sent.choices]
    if sent.url:
        title = sent.payload["interactive"]["action"]["parameters"]["display_text"]
        buttons.append(SeenButton(title, sent.url))
    return SeenMessage(as_read(sent.text), tuple(buttons))


@pytest.mark.service
class TestWhatsApp(AdapterContract):
    def make_harness(self) -> Harness:
        return WhatsAppHarness()
