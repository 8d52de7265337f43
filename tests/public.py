"""A gateway with a public endpoint on loopback, and the people who use it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request

from gateway.gateway import Gateway
from gateway.invocations import LOCAL, Principal
from gateway.people import People
from gateway.replies import Reply
from mcp_auth.config.models import CallbackOptions, Server
from mcp_auth.stores.base import Store
from tests.browser import Browser, Page
from tests.gateway.chat import Chat, configure, item, open_gateway
from tests.ports import free_port

ANN = Principal("telegram", "100001")
BOB = Principal("telegram", "200002")


@dataclass
class Session:
    """For `verify_browser`: whom the application itself has signed in at the browser."""

    principal: Principal | None

    async def __call__(self, request: Request) -> Principal | None:
        return self.principal


@asynccontextmanager
async def public_gateway(
    home: Path,
    *servers: Server,
    clock: Callable[[], float] = time.time,
    store: Store | None = None,
    **gateway: Any,
) -> AsyncIterator[Gateway]:
    """Its pages are served on a port of its own. Without `allow`: Ann alone.

    Without `verify` she is asked for no proof, which is somebody else's subject in most tests; several people are.
    """
    port = free_port()
    options = {
        "allow": (str(ANN),),
        "public_url": f"http://127.0.0.1:{port}",
        "callback": CallbackOptions(port=port),
        **({} if "allow" in gateway else {"verify": "none"}),
        **gateway,
    }
    async with open_gateway(configure(home, *servers, **options), store, clock=clock) as opened:
        yield opened


async def allow(gateway: Gateway, *people: Principal) -> None:
    """As the operator does: who is allowed changes while the gateway runs."""
    operator, wanted = another_process(gateway), {str(one) for one in people}
    served = set(operator.config.gateway.allow)
    for one in sorted(wanted - served):
        await operator.allow(one, LOCAL)
    for one in sorted(served - wanted):
        await operator.deny(one, LOCAL)


def team(**more: Any) -> dict[str, Any]:
    """Two allowed people, each with their own credentials."""
    return {"allow": (str(ANN), str(BOB)), "identity": "per_user", **more}


def another_process(gateway: Gateway) -> People:
    """The people as another process of this home sees them, whose configuration says `verify: auto` by now."""
    config = gateway.auth.config
    config = msgspec.structs.replace(config, gateway=msgspec.structs.replace(config.gateway, verify="auto"))
    return People(config, backend=gateway.backend)


async def proven(chat: Chat, browser: Browser, link: str) -> Page:
    """From the link to the page behind the proof."""
    page = await browser.press(await browser.open(link))
    assert (await chat.say(f"confirm {page.code}"))[0].ok
    return await browser.open(page.url)


async def link_of(chat: Chat, server: str = "notes") -> str:
    """The link that `/mcp auth` hands out."""
    link = item((await chat.say(f"auth {server}"))[-1], server).link
    assert link is not None
    return link


async def key_link_of(chat: Chat, server: str = "my-api") -> str:
    """The link that `/mcp key` hands out."""
    return url_of((await chat.say(f"key {server}"))[-1])


def url_of(reply: Reply) -> str:
    url = next((button.url for button in reply.buttons if button.url is not None), None)
    assert url is not None, reply
    return url
