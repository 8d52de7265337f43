"""A workspace with people in it, and the adapter in a real slack-bolt app that is connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.web.async_client import AsyncWebClient

from adapters.slack.adapter import SlackAdapter
from adapters.slack.options import SlackOptions
from gateway.gateway import Gateway
from tests.homes import write_home
from tests.patience import PATIENCE
from tests.platforms.slack import Channel, Message, Slack, User, View, Workspace


@dataclass
class Scene:
    """A workspace with Ada (who is allowed), Bob (who is not), a channel with both and the bot; Zoe is of elsewhere."""

    slack: Slack
    acme: Workspace
    ada: User
    bob: User
    general: Channel
    home: Path
    guest: User
    gateway: Gateway = field(init=False)
    adapter: SlackAdapter = field(init=False)
    app: AsyncApp = field(init=False)

    async def sees(self, words: str, user: User | None = None) -> Message:
        """The newest message with these words, waited for."""
        person = user or self.ada
        await self.slack.until(lambda: [one for one in self.slack.seen_by(person) if words in one.shown])
        return [one for one in self.slack.seen_by(person) if words in one.shown][-1]

    async def form(self, words: str = "", user: User | None = None) -> View:
        """The open modal, once these words stand in it."""
        person = user or self.ada

        def look() -> View | None:
            view = self.slack.view_of(person)
            return view if view is not None and words in view.shown else None

        found: View = await self.slack.until(look)
        return found

    async def quiet(self) -> None:
        """Until the adapter has nothing left to do."""
        await self.adapter.idle()


@asynccontextmanager
async def scene(
    folder: Path,
    servers: dict[str, Any],
    *,
    gateway: dict[str, Any] | None = None,
    options: SlackOptions | None = None,
    prepare: Callable[[AsyncApp], None] = lambda app: None,
    hold: float = 0.3,
    wait: float = PATIENCE,
    enterprise: str | None = None,
    connect: bool = True,
    make_app: Callable[[Scene], AsyncApp] | None = None,
    strict: bool = True,
    allow: Literal["ada", "guest", "both"] = "ada",
    guest_installed: bool = False,
) -> AsyncIterator[Scene]:
    """Everything running. At the end nothing may have been refused by Slack, unless not `strict`.

    Args:
        prepare: what the host puts into its app after ours was installed.
        allow: whom the configuration allows.
        guest_installed: the guest's workspace has the app too.
    """
    async with Slack() as slack:
        acme = slack.workspace("acme", enterprise=enterprise)
        ada, bob = slack.user("ada", acme), slack.user("bob", acme)
        general = slack.channel("general", acme, ada, bob)
        zeta = slack.workspace("zeta", installed=guest_installed)
        guest = slack.user("zoe", zeta)
        people = {"ada": f"slack:{enterprise or acme.id}/{ada.id}", "guest": f"slack:{zeta.id}/{guest.id}"}
        allowed = [who for name, who in people.items() if allow in (name, "both")]
        home = write_home(folder, servers, {"allow": allowed, **(gateway or {})})
        world = Scene(slack, acme, ada, bob, general, home, guest)
        async with Gateway.from_config(home=world.home) as world.gateway:
            make = make_app or bolt_app
            world.app = make(world)
            world.adapter = SlackAdapter(world.gateway, options=options, clock=lambda: slack.now, hold=hold, wait=wait)
            world.adapter.install(world.app)
            prepare(world.app)
            async with connected(world) if connect else nothing():
                yield world
            await world.adapter.stop()
        if strict:
            assert (slack.refused, slack.faults, slack.mentions, slack.unfurled) == ([], [], [], [])


def bolt_app(world: Scene) -> AsyncApp:
    client = AsyncWebClient(token=world.acme.token, base_url=world.slack.base_url)
    return AsyncApp(name="tests", client=client, signing_secret=world.slack.signing_secret)


@asynccontextmanager
async def connected(world: Scene) -> AsyncIterator[None]:
    handler = AsyncSocketModeHandler(world.app, world.slack.app_token, ping_interval=10)
    await handler.connect_async()  # type: ignore[no-untyped-call]
    await world.slack.connected()
    try:
        yield
    finally:
        await handler.close_async()  # type: ignore[no-untyped-call]


@asynccontextmanager
async def nothing() -> AsyncIterator[None]:
    yield
