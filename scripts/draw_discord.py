"""Plays a sign-in on Discord against loopback servers, and draws what was sent: docs/images/discord.svg.

    .venv/bin/python scripts/draw_discord.py [FILE]

Every bubble is a message that the adapter sent and the loopback Discord took. Only addresses of this machine are
replaced by ones that a reader recognises.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adapters.discord.adapter import DiscordAdapter, DiscordOptions  # noqa: E402
from gateway.demo.browser import answer_consent  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402
from gateway.gateway import Gateway  # noqa: E402
from scripts.pictures import DISCORD, Bubble, Button, Caption, Span, draw, with_names, write_home  # noqa: E402
from tests.platforms.discord import DiscordServer, Message, User  # noqa: E402
from tests.platforms.discord_markdown import runs  # noqa: E402

_SECRET = "Only you can see this"


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with DiscordServer().running() as server, Demo() as demo:
            ada = server.user("ada")
            lines = f"allow: [discord:{ada.id}]\n  discord: {{token: unused, secrets_in_chat: true}}"
            items = await _conversation(server, ada, demo, write_home(demo, Path(folder) / "home", lines))
    target.write_text(draw("# general", items, look=DISCORD), encoding="utf-8")


async def _conversation(server: DiscordServer, ada: User, demo: Demo, home: Path) -> list[Bubble | Caption]:
    options = DiscordOptions(token=server.token, base_url=server.api_base, gateway_url=server.gateway_url)
    items: list[Bubble | Caption] = []

    def typed(text: str) -> None:
        items.append(Bubble([[Span(text)]], mine=True))

    def show(message: Message) -> None:
        items.append(bubble(message, _readable(demo)))

    async with Gateway.from_config(home=home) as gateway:
        running = asyncio.create_task(DiscordAdapter(gateway, options=options).run())
        await server.connected()
        typed("/mcp auth")
        asked = await server.slash(ada, "auth")
        checklist = await server.reading(asked, "open this link")
        await server.until(lambda: "needs a key" in checklist.text)
        show(checklist)
        items.append(Caption("Ada allows it in her browser, and enters the address of the last page."))
        redirect = await answer_consent(checklist.links()[0], "allow")
        form = await server.answered(await server.press(ada, checklist, "Enter the address"))
        show(await server.reading(await server.submit(form, redirect), "notes: signed in"))
        await server.until(lambda: checklist.links() == [])
        items.append(Caption("She presses “Enter the key for weather”, and a form takes the key."))
        opened = await server.answered(await server.press(ada, checklist, "Enter the key for weather"))
        show(await server.reading(await server.submit(opened, demo.weather_key), "the key works"))
        await server.until(lambda: "key stored" in checklist.text)
        items.append(Caption("The checklist says so too:"))
        show(checklist)
        typed("/mcp status")
        show(await server.reading(await server.slash(ada, "status"), "tools,"))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return items


def bubble(message: Message, readable: Callable[[str], str] = str) -> Bubble:
    """A captured message as a bubble."""
    lines: list[list[Span]] = [[]]
    for text, style in runs(message.content):
        first, *more = readable(text).split("\n")
        lines[-1].append(Span(first, style))
        lines += [[Span(line, style)] for line in more]
    return Bubble(
        lines=lines,
        author="slash-mcp",
        note=_SECRET if message.ephemeral_to is not None else "",
        buttons=[Button(one["label"], link="url" in one) for one in message.buttons],
    )


def _readable(demo: Demo) -> Callable[[str], str]:
    def replace(text: str) -> str:
        text = with_names(text, {demo.notes_url: "notes.example", demo.weather_url: "weather.example"})
        return re.sub(r"\d+ ms", "12 ms", text.replace("DEMO_WEATHER_API_KEY", "WEATHER_API_KEY"))

    return replace


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "discord.svg"))
