"""Plays a sign-in on WhatsApp against loopback servers, and draws what was sent: docs/images/whatsapp.svg.

    .venv/bin/python scripts/draw_whatsapp.py [FILE]

Every bubble is a message that the adapter sent and the loopback Cloud API took. Only addresses of this machine are
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

from starlette.applications import Starlette  # noqa: E402

from adapters.whatsapp.adapter import WEBHOOK, WhatsAppAdapter, WhatsAppOptions  # noqa: E402
from gateway.demo.browser import answer_consent  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402
from gateway.gateway import Gateway  # noqa: E402
from scripts.pictures import WHATSAPP, Bubble, Button, Caption, Span, draw, with_names, write_home  # noqa: E402
from tests.platforms.whatsapp import CloudApi, Sent, cloud_api, listening, runs, serving  # noqa: E402

_STYLES: dict[str, Any] = {"bold": "bold", "code": "code"}


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with cloud_api() as api, Demo() as demo:
            home = write_home(demo, Path(folder) / "home", f"allow: [whatsapp:{api.ada.user_id}]")
            items = await _conversation(api, demo, home)
    target.write_text(draw("Slash MCP", items, look=WHATSAPP), encoding="utf-8")


async def _conversation(api: CloudApi, demo: Demo, home: Path) -> list[Bubble | Caption]:
    options = WhatsAppOptions(
        token=api.token,
        phone_id=api.phone_id,
        app_secret=api.app_secret,
        verify_token=api.verify_token,
        base_url=api.base_url,
    )
    app, bound = Starlette(), listening()
    api.webhook = f"http://127.0.0.1:{bound.getsockname()[1]}{WEBHOOK}"
    readable = _readable(demo)
    items: list[Bubble | Caption] = []

    async def say(text: str) -> None:
        items.append(Bubble([[Span(readable(text))]], mine=True))
        await api.say(text)

    async def tap(sent: Sent, title: str) -> None:
        items.append(Bubble([[Span(title)]], mine=True))
        await api.tap(sent, title)

    async def show(words: str) -> Sent:
        sent = await api.message(words)
        items.append(bubble(sent, readable))
        return sent

    adapter = WhatsAppAdapter(Gateway.from_config(home=home), options=options)
    async with adapter.gateway, serving(app, bound):
        adapter.install(app)
        await say("/mcp")
        listed = await show("MCP Servers")
        items.append(Caption(f"“{listed.payload['interactive']['action']['button']}” shows what can be tapped."))
        await tap(listed, "Sign in")
        await show("needs a key")
        link = await api.link()
        items.append(bubble(link, readable))
        redirect = await answer_consent(link.url or "", "allow")
        items.append(Caption("Ada allows it in her browser. The last page does not load on her phone."))
        await say(redirect)
        await show("notes: signed in")
        await adapter.stop()
    return items


def bubble(sent: Sent, readable: Callable[[str], str] = str) -> Bubble:
    """A captured message as a bubble."""
    lines: list[list[Span]] = [[]]
    for text, style in runs(sent.text):
        first, *more = readable(text).split("\n")
        lines[-1].append(Span(first, _STYLES.get(style, "plain")))
        lines += [[Span(line, _STYLES.get(style, "plain"))] for line in more]
    action = sent.payload.get("interactive", {}).get("action", {})
    if "sections" in action:
        buttons = [Button(f"☰  {action['button']}")]
    elif sent.url:
        buttons = [Button(action["parameters"]["display_text"], link=True)]
    else:
        buttons = [Button(title) for title in sent.choices]
    return Bubble(lines=lines, buttons=buttons)


def _readable(demo: Demo) -> Callable[[str], str]:
    def replace(text: str) -> str:
        text = with_names(text, {demo.notes_url: "notes.example", demo.weather_url: "weather.example"})
        text = text.replace("DEMO_WEATHER_API_KEY", "WEATHER_API_KEY")
        return re.sub(r"http://127\.0\.0\.1:\d+/callback\?\S*", "http://127.0.0.1:8765/callback?code=…&state=…", text)

    return replace


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "whatsapp.svg"))
