"""Telegram from end to end: `slash-mcp serve`, a person at a chat, a scripted browser at the demo's servers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.demo.browser import answer_consent, press
from gateway.demo.run import Demo
from mcp_auth import McpAuth
from tests.e2e.processes import Running
from tests.platforms.telegram import TOKEN, BotApi, Message, Person

pytestmark = pytest.mark.service


@dataclass
class World:
    """Ada's chat, and the home of her gateway."""

    home: Path
    api: BotApi
    ada: Person

    def serve(self) -> Running:
        return Running(self.home, "--debug", "serve", TELEGRAM_BOT_TOKEN=TOKEN)

    async def link(self) -> tuple[Message, str]:
        """`/mcp auth` typed: the checklist and the link on its button."""
        self.ada.say("/mcp auth")
        checklist = await self.ada.message("open this link within 10 minutes")
        return checklist, checklist.urls[0]

    async def is_signed_in(self, checklist: Message) -> None:
        """The chat was told, the message with the link says so too, and the token works."""
        await self.ada.message("notes: signed in")
        await self.api.until(lambda: "✓ notes: signed in" in checklist.text, 30, lambda: checklist.text)
        assert checklist.urls == []
        async with McpAuth.open(home=self.home) as auth, auth.session("notes") as client:
            answer = await client.call_tool("whoami", {})
        assert answer.content[0].text == "ada@example.com"  # type: ignore[union-attr]

    def is_silent(self, process: Running, *secrets: str) -> None:
        """Nothing secret stands in the log, not even at DEBUG."""
        log = "\n".join(process.errors)
        assert "callback endpoint on" in log
        for secret in (TOKEN.partition(":")[2], *secrets):
            assert secret not in log


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with _world(tmp_path) as world:
        yield world


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(BotApi().running())
        async with Demo() as demo:
            home = demo.write_home(folder / "home")
            with (home / "config.yaml").open("a") as config:
                config.write("  allow: [telegram:1]\n")
                config.write(f'  telegram: {{token: "${{TELEGRAM_BOT_TOKEN}}", base_url: {api.base_url}}}\n')
            yield World(home, api, api.person(1, "Ada"))


async def test_a_redirect_that_is_pasted(world: World) -> None:
    with world.serve() as process:
        checklist, link = await world.link()
        redirect = await answer_consent(link, "allow")
        world.ada.say(redirect)

        await world.is_signed_in(checklist)

        world.is_silent(process, link, redirect)
    assert world.api.refused == []


async def test_a_redirect_that_is_received(world: World) -> None:
    with world.serve() as process:
        checklist, link = await world.link()
        page = await press(link, "allow")

        await world.is_signed_in(checklist)

        assert "notes is signed in" in page
        world.is_silent(process, link)


@pytest.mark.parametrize("pasted", [True, False], ids=["pasted", "received"])
async def test_the_gateway_is_killed_between_link_and_redirect(world: World, pasted: bool) -> None:
    with world.serve() as first:
        checklist, link = await world.link()
        first.process.kill()
        first.end()
    with world.serve() as second:
        second.wait_for_error("callback endpoint on")
        if pasted:
            world.ada.say(await answer_consent(link, "allow"))
        else:
            await press(link, "allow")

        await world.is_signed_in(checklist)


async def test_a_refusal_is_told_and_the_message_offers_another_try(world: World) -> None:
    with world.serve():
        checklist, link = await world.link()
        await press(link, "deny")

        await world.ada.message("denied")
        await world.api.until(lambda: checklist.buttons and not checklist.urls)

    assert checklist.button("Try notes again")
