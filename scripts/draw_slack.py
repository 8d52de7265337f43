"""Plays a sign-in in Slack against loopback servers, and draws what was sent: docs/images/slack.svg.

    .venv/bin/python scripts/draw_slack.py [FILE]

Every bubble is a message that the adapter sent and the loopback Slack took. Only addresses of this machine are replaced
by ones that a reader recognises.
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

from adapters.slack.adapter import SlackAdapter, SlackOptions  # noqa: E402
from gateway.demo.browser import answer_consent  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402
from gateway.gateway import Gateway  # noqa: E402
from scripts.pictures import SLACK, Bubble, Button, Caption, Span, draw, with_names, write_home  # noqa: E402
from tests.platforms.slack import Message, Slack, User  # noqa: E402


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Slack() as slack, Demo() as demo:
            acme = slack.workspace("acme")
            ada = slack.user("ada", acme)
            home = write_home(demo, Path(folder) / "home", f"allow: [slack:{acme.id}/{ada.id}]")
            items = await _conversation(slack, ada, demo, home)
            assert (slack.refused, slack.faults) == ([], [])
    target.write_text(draw("#general", items, look=SLACK), encoding="utf-8")


async def _conversation(slack: Slack, ada: User, demo: Demo, home: Path) -> list[Bubble | Caption]:
    general = slack.channel("general", ada.workspace, ada)
    options = SlackOptions(bot_token=ada.workspace.token, app_token=slack.app_token, base_url=slack.base_url)
    items: list[Bubble | Caption] = []

    async def sees(words: str) -> Message:
        found: list[Message] = await slack.until(lambda: [one for one in slack.seen_by(ada) if words in one.shown], 30)
        return found[-1]

    async with Gateway.from_config(home=home) as gateway:
        running = asyncio.create_task(SlackAdapter(gateway, options=options).run())
        await slack.connected()
        items.append(_typed("/mcp"))
        await slack.types(ada, "/mcp", general)
        listed = await sees("MCP Servers")
        items += [bubble(listed, _readable(demo)), Caption("Ada presses Sign in.")]
        await slack.presses(ada, listed, "Sign in")
        checklist = await sees("open this link")
        items.append(bubble(checklist, _readable(demo)))
        await slack.presses(ada, checklist, "Sign in to notes")
        redirect = await answer_consent(checklist.button("Sign in to notes")["url"], "allow")
        await slack.presses(ada, checklist, "Enter the address")
        await slack.submits(ada, await slack.until(lambda: slack.view_of(ada)), redirect)
        items.append(Caption("She allows it in her browser, and enters the address of the last page:"))
        await slack.until(lambda: "signed in" in checklist.shown)
        items.append(bubble(checklist, _readable(demo)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return items


def _typed(text: str) -> Bubble:
    return Bubble(lines=[[Span(text)]], mine=True)


def bubble(message: Message, readable: Callable[[str], str] = str) -> Bubble:
    """A captured message as a bubble."""
    rows = [
        Button(one["text"]["text"], link="url" in one)
        for block in message.payload["blocks"]
        if block["type"] == "actions"
        for one in block["elements"]
    ]
    lines = _lines(message.payload["blocks"], readable)
    note = "Only visible to you" if message.only_for is not None else ""
    return Bubble(lines=lines, author="slash-mcp", note=note, buttons=rows)


def _lines(blocks: list[dict[str, Any]], readable: Callable[[str], str]) -> list[list[Span]]:
    lines: list[list[Span]] = [[]]
    for block in blocks:
        if block["type"] != "rich_text":
            continue
        for element in block["elements"][0]["elements"]:
            style: Any = "link" if element["type"] == "link" else next(iter(element.get("style", {})), "plain")
            first, *more = readable(element.get("url") or element["text"]).split("\n")
            lines[-1].append(Span(first, style))
            lines += [[Span(text, style)] for text in more]
    return lines


def _readable(demo: Demo) -> Callable[[str], str]:
    def replace(text: str) -> str:
        text = with_names(text, {demo.notes_url: "notes.example", demo.weather_url: "weather.example"})
        text = text.replace("DEMO_WEATHER_API_KEY", "WEATHER_API_KEY")
        return re.sub(r"\d+ ms", "12 ms", text)

    return replace


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "slack.svg"))
