"""The example as it stands, connected to Slack on loopback."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path

import pytest

from tests.homes import write_home
from tests.platforms.slack import Slack

EXAMPLE = Path(__file__).parents[2] / "examples" / "slack_app.py"


def test_three_lines_are_added() -> None:
    assert sum(line.endswith("# /mcp") for line in EXAMPLE.read_text().splitlines()) == 3


async def test_the_agent_answers_messages_and_mcp_answers_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Slack() as slack:
        acme = slack.workspace("acme")
        ada = slack.user("ada", acme)
        allowed = {"allow": [f"slack:{acme.id}/{ada.id}"]}
        home = write_home(tmp_path, {"notes": {"url": "http://127.0.0.1:9/mcp", "auth": "oauth"}}, allowed)
        monkeypatch.setenv("SLASH_MCP_HOME", str(home))
        monkeypatch.setenv("SLACK_BOT_TOKEN", acme.token or "")
        monkeypatch.setenv("SLACK_APP_TOKEN", slack.app_token)
        example = runpy.run_path(str(EXAMPLE))
        # The only thing that a real run does not do: Slack is on loopback.
        example["app"].client.base_url = slack.base_url
        running = asyncio.create_task(example["main"]())
        try:
            await slack.connected()
            await slack.says(ada, "hello")
            await slack.types(ada, "/mcp")
            await slack.says(ada, "mcp key notes sk-oops")
            await slack.until(lambda: len(slack.seen_by(ada)) == 3)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        agent, listed, warned = (message.shown for message in slack.seen_by(ada))
        assert agent == "You said: hello"
        assert "notes" in listed
        assert "not used and not stored" in warned
        assert (slack.refused, slack.faults) == ([], [])
