"""Plays a sign-in on Matrix against a real Synapse (scripts/services), and draws what was sent: docs/images/matrix.svg.

    .venv/bin/python scripts/draw_matrix.py [FILE]

Every bubble is a message as it stands in the room. Only addresses of this machine are replaced by ones that a reader
recognises.
"""

from __future__ import annotations

import asyncio
import html
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from adapters.matrix.adapter import MatrixAdapter, MatrixOptions  # noqa: E402
from gateway.demo.browser import press  # noqa: E402
from gateway.demo.run import Demo  # noqa: E402
from gateway.gateway import Gateway  # noqa: E402
from scripts.pictures import MATRIX, Bubble, Caption, Span, draw, with_names, write_home  # noqa: E402
from tests.platforms.synapse import Homeserver, Member, Message, homeserver  # noqa: E402

_TAG = re.compile(r"<(strong|code|a)(?: [^>]*)?>(.*?)</\1>")
_STYLES: dict[str, Any] = {"strong": "bold", "code": "code", "a": "link"}


async def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder) / "synapse"
        served.mkdir()
        with homeserver(served) as synapse:
            async with Demo() as demo:
                ada = await synapse.register("ada")
                home = write_home(demo, Path(folder) / "home", f"allow: ['matrix:{ada.user_id}']")
                _publish(home / "config.yaml")
                items = await _conversation(synapse, ada, demo, home)
    target.write_text(draw("Project room", items, look=MATRIX), encoding="utf-8")


def _publish(config: Path) -> None:
    """With an address of its own for the last page, which loads then."""
    text = config.read_text(encoding="utf-8")
    port = re.findall(r"callback: {port: (\d+)}", text)[0]
    config.write_text(f"{text}  public_url: http://127.0.0.1:{port}\n  verify: none\n", encoding="utf-8")


async def _conversation(synapse: Homeserver, ada: Member, demo: Demo, home: Path) -> list[Bubble | Caption]:
    account = await synapse.register("mcp")
    options = MatrixOptions(homeserver=synapse.url, token=account.token)
    items: list[Bubble | Caption] = []
    readable = _readable(demo)
    async with Gateway.from_config(home=home) as gateway, ada.listening():
        await gateway.auth.listen()
        running = asyncio.create_task(MatrixAdapter(gateway, options=options).run())
        bob = await synapse.register("bob")
        room = await ada.create_room(bob, account)
        await bob.join(room)
        await ada.until(lambda: ada.members.get(room, {}).get(account.user_id) == "join")

        items.append(Bubble([[Span("!mcp auth notes")]], mine=True))
        await ada.say(room, "!mcp auth notes")
        asked = await ada.sees("open this link")
        items.append(bubble(await ada.sees("in private"), readable))
        items.append(Caption("In the room of two that the bot made and invited Ada to:"))
        items.append(bubble(asked, readable))
        link = re.findall(r"https?://\S+", asked.text)[0]
        await press(link, "allow")
        items.append(Caption("Ada allows it in her browser. The message becomes:"))
        await ada.until(lambda: "signed in" in ada.messages[asked.event_id].text)
        items.append(bubble(ada.messages[asked.event_id], readable))
        items.append(Caption("And everybody in the project room reads:"))
        items.append(bubble(await ada.sees("notes: signed in."), readable))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return items


def bubble(message: Message, readable: Callable[[str], str] = str) -> Bubble:
    """A message as a client with HTML shows it."""
    lines = []
    for line in message.html.replace("&nbsp;", "\u00a0").split("<br>"):
        spans, at = [], 0
        for tag in _TAG.finditer(line):
            spans += [Span(_plain(line[at : tag.start()], readable))]
            spans += [Span(_plain(tag.group(2), readable), _STYLES[tag.group(1)])]
            at = tag.end()
        lines.append([*spans, Span(_plain(line[at:], readable))])
    return Bubble(lines=lines, author="mcp")


def _plain(text: str, readable: Callable[[str], str]) -> str:
    return readable(html.unescape(text))


def _readable(demo: Demo) -> Callable[[str], str]:
    def replace(text: str) -> str:
        return re.sub(r"\d+ ms", "12 ms", with_names(text, {demo.notes_url: "notes.example"}))

    return replace


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images" / "matrix.svg"))
