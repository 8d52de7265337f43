"""From `!mcp auth` in a Matrix room to a tool call: `slash-mcp serve` in a process of its own, a real Synapse."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from gateway.demo.browser import press
from gateway.demo.run import Demo
from mcp_auth import McpAuth
from tests.e2e.processes import Running
from tests.homes import write_home
from tests.platforms.synapse import homeserver


@pytest.mark.service
async def test_a_sign_in_from_a_matrix_room_ends_in_a_tool_call(tmp_path: Path) -> None:
    folder = tmp_path / "synapse"
    folder.mkdir()
    with homeserver(folder) as synapse:
        ann, bob, account = [await synapse.register(name) for name in ("ann", "bob", "bot")]
        async with Demo() as demo, ann.listening(), bob.listening():
            home = write_home(
                tmp_path,
                {"notes": {"url": demo.notes_url, "auth": "oauth"}},
                {
                    "allow": [f"matrix:{ann.user_id}"],
                    "matrix": {"homeserver": synapse.url, "token": "${MATRIX_TOKEN}"},
                },
            )
            (home / ".env").write_text(f"MATRIX_TOKEN={account.token}\n")
            with Running(home, "serve") as serving:
                await asyncio.to_thread(serving.wait_for_error, account.user_id)
                group = await ann.create_room(bob, account)
                await ann.until(lambda: ann.members.get(group, {}).get(account.user_id) == "join")
                await ann.until(lambda: ann.members[group].get(bob.user_id) == "join")

                await ann.say(group, "!mcp auth notes")
                asked = await ann.sees("open this link within")
                links = re.findall(r"https?://\S+", asked.text)
                assert asked.room != group

                await press(links[0], "allow")

                done = await ann.sees("notes: signed in.")
                assert done.room == group
                edited = await ann.until(lambda: [m for m in ann.from_others() if m.event_id == asked.event_id])
                await ann.until(lambda: "signed in" in ann.messages[edited[0].event_id].text)
                assert not [one for one in bob.from_others() if links[0] in one.text or "ada@" in one.text]
                assert links[0] not in "\n".join(serving.errors)

            async with McpAuth.open(home=home) as auth, auth.session("notes") as session:
                result = await session.call_tool("whoami", {})
            assert result.content[0].text == "ada@example.com"  # type: ignore[union-attr]
