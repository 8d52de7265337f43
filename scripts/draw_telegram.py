"""Plays a sign-in on Telegram against loopback servers, and draws what was sent: docs/images/telegram.svg.

    .venv/bin/python scripts/draw_telegram.py [FILE]

Every bubble is a message that the adapter sent and the loopback Bot API took. Only addresses of this machine are
replaced by ones that a reader recognises.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adapters.telegram.adapter import TelegramAdapter, TelegramOptions  # noqa: E402
from gateway.demo.browser import answer_consent  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402
from gateway.gateway import Gateway  # noqa: E402
from scripts.pictures import TELEGRAM, Bubble, Button, Caption, Span, draw, with_names, write_home  # noqa: E402
from tests.platforms.telegram import BotApi, Message  # noqa: E402

_STYLES: dict[str, Any] = {"bold": "bold", "code": "code", "url": "link"}


async def main(target: Path) -> None:
    with BotApi().running() as api, tempfile.TemporaryDirectory() as folder:
        async with Demo() as demo:
            home = write_home(demo, Path(folder) / "home", "allow: [telegram:1]")
            items = await _conversation(api, demo, home)
    target.write_text(draw("Slash MCP", items, look=TELEGRAM), encoding="utf-8")


async def _conversation(api: BotApi, demo: Demo, home: Path) -> list[Bubble | Caption]:
    ada = api.person(1, "Ada")
    options = TelegramOptions(token=api.token, base_url=api.base_url)
    items: list[Bubble | Caption] = []

    def show(message: Message) -> None:
        items.append(bubble(message, _readable(demo)))

    async with Gateway.from_config(home=home) as gateway:
        running = asyncio.create_task(TelegramAdapter(gateway, options=options).run())
        show(ada.say("/mcp"))
        show(await ada.message("MCP Servers"))
        show(ada.say("/mcp auth"))
        checklist = await ada.message("open this link")
        show(checklist)
        redirect = await answer_consent(checklist.urls[0], "allow")
        items.append(Caption("Ada allows it in her browser. The last page does not load on her phone."))
        show(ada.say(redirect))
        show(await ada.message("notes: signed in"))
        await api.until(lambda: "✓ notes" in checklist.text)
        items.append(Caption("The message with the link says so too:"))
        show(checklist)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return items


def bubble(message: Message, readable: Callable[[str], str] = str) -> Bubble:
    """A captured message as a bubble."""
    rows = (message.markup or {}).get("inline_keyboard", [])
    return Bubble(
        lines=[[Span(readable(span.text), span.style) for span in line] for line in _lines(message)],
        mine=not message.from_bot,
        buttons=[Button(one["text"], link="url" in one) for row in rows for one in row],
    )


def _lines(message: Message) -> list[list[Span]]:
    """The text cut at its entities and line breaks."""
    data = message.text.encode("utf-16-le")
    spans: list[Span] = []
    end = 0
    for entity in message.entities:
        style = _STYLES.get(entity["type"], "plain")
        start, stop = entity["offset"] * 2, (entity["offset"] + entity["length"]) * 2
        spans += [Span(data[end:start].decode("utf-16-le")), Span(data[start:stop].decode("utf-16-le"), style)]
        end = stop
    spans.append(Span(data[end:].decode("utf-16-le")))
    lines: list[list[Span]] = [[]]
    for span in spans:
        first, *more = span.text.split("\n")
        lines[-1].append(Span(first, span.style))
        lines += [[Span(text, span.style)] for text in more]
    return lines


def _readable(demo: Demo) -> Callable[[str], str]:
    def replace(text: str) -> str:
        text = with_names(text, {demo.notes_url: "notes.example", demo.weather_url: "weather.example"})
        text = text.replace("DEMO_WEATHER_API_KEY", "WEATHER_API_KEY")
        text = re.sub(r"http://127\.0\.0\.1:\d+/callback\?\S*", "http://127.0.0.1:8765/callback?code=…&state=…", text)
        return re.sub(r"\d+ ms", "12 ms", text)

    return replace


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "telegram.svg"))
