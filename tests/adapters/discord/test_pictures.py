"""What `docs/` draws of Discord: the payloads of one conversation, as the loopback received them.

`docs/pictures/discord.json` is a list of steps: `{"person", "text"}` for what somebody typed or pressed, and
`{"payload", "ephemeral"}` or `{"modal"}` for what came back, in Discord's own JSON. Addresses, times and ids, which
differ from run to run, are replaced. To write it anew: WRITE_PICTURES=1 .venv/bin/pytest tests/adapters/discord
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

from mcp_auth.config import Server
from tests.adapters.discord.conftest import running_bot
from tests.adapters.discord.test_adapter import IN_CHAT, KEY, sign_in_at, weather
from tests.platforms.discord import DiscordServer
from tests.servers.oauth import OAuthServer

STORED = Path(__file__).parents[3] / "docs" / "pictures" / "discord.json"


async def test_the_stored_conversation_is_what_discord_receives(
    server: DiscordServer, tmp_path: Path, oauth: OAuthServer
) -> None:
    steps: list[dict[str, Any]] = []

    def typed(text: str) -> None:
        steps.append({"person": "ada", "text": text})

    keyed = OAuthServer()
    with keyed.running():
        signed = Server(name="notes", url=oauth.url, auth="oauth")
        async with running_bot(server, tmp_path, signed, weather(keyed), platforms=IN_CHAT) as bot:
            typed("/mcp status")
            asked = await server.slash(bot.ada, "status")
            steps.append(shown(await server.reading(asked, "key missing")))
            typed("/mcp auth")
            asked = await server.slash(bot.ada, "auth")
            board = await server.reading(asked, "open this link")
            await server.until(lambda: "needs a key" in board.text)
            steps.append(shown(board))
            await sign_in_at(board.links()[0])
            steps.append(shown(await server.reading(asked, "notes: signed in, 3 tools")))
            await server.until(lambda: board.links() == [])
            typed("[Enter the key for weather]")
            opened = await server.answered(await server.press(bot.ada, board, "Enter the key for weather"))
            steps.append({"modal": opened.modal})
            sent = await server.submit(opened, KEY)
            steps.append(shown(await server.reading(sent, "the key works")))
            await server.until(lambda: "key stored" in board.text)
            steps.append(shown(board))

    text = same_in_every_run(json.dumps(steps, indent=1, ensure_ascii=False), oauth.origin, keyed.origin) + "\n"
    if os.environ.get("WRITE_PICTURES"):
        await asyncio.to_thread(STORED.write_text, text)
    assert text == STORED.read_text()
    assert KEY not in text


def shown(message: Any) -> dict[str, Any]:
    payload = {"content": message.content, "components": message.components}
    return {"payload": payload, "ephemeral": message.ephemeral_to is not None}


def same_in_every_run(text: str, notes: str, weather: str) -> str:
    text = text.replace(weather, "https://weather.example.com")
    text = re.sub(rf"{re.escape(notes)}/authorize[^\"> ]*", "https://as.example.com/authorize?...", text)
    text = text.replace(notes, "https://notes.example.com")
    text = re.sub(r"\d+ ms", "84 ms", text)
    return re.sub(r'("custom_id": )"[^"]*"', r'\1"..."', text)
