"""Slack from end to end: `slash-mcp serve` in a process, a real browser at a real authorization server, a tool call."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.async_api import async_playwright

from gateway.demo.run import Demo
from mcp_auth import McpAuth
from tests.e2e.processes import Running, slash_mcp
from tests.patience import PATIENCE
from tests.platforms.slack import Slack

pytestmark = pytest.mark.service


async def test_from_the_command_to_the_tool_call(tmp_path: Path) -> None:
    async with Slack() as slack, Demo() as demo:
        acme = slack.workspace("acme")
        ada = slack.user("ada", acme)
        general = slack.channel("general", acme, ada, with_bot=False)
        home = configured(demo, tmp_path, slack, f"slack:{acme.id}/{ada.id}")
        doctor = await asyncio.to_thread(slash_mcp, home, "doctor")
        assert "✓ slack: the bot is @slash-mcp in acme" in doctor.stdout
        with Running(home, "serve") as serve:
            await slack.connected()

            # The app is no member of this channel: a slash command works all the same.
            await slack.types(ada, "/mcp", general)
            listed = await slack.until(lambda: [one for one in slack.seen_by(ada) if "MCP Servers" in one.shown])
            assert "notes" in listed[-1].shown
            await slack.presses(ada, listed[-1], "Sign in")
            link = await slack.until(lambda: links(slack, ada))
            checklist = link[-1]
            await slack.presses(ada, checklist, "Sign in to notes")
            heading, page = await allow(checklist.button("Sign in to notes")["url"])
            assert heading == "notes is signed in", page

            direct = slack.direct(ada)
            await slack.until(lambda: "notes: signed in" in str(direct.texts))
            await slack.until(lambda: "signed in" in checklist.shown)
            async with McpAuth.open(home=home) as auth, auth.session("notes") as session:
                result: Any = await session.call_tool("whoami", {})
            assert result.content[0].text == "ada@example.com"
        assert (slack.refused, slack.faults, slack.mentions, slack.unfurled) == ([], [], [], [])
        assert slack.public(general) == []
        logged = "\n".join(serve.errors)
        assert "response_type=code" not in logged
        assert "canary" not in logged


def links(slack: Slack, user: Any) -> list[Any]:
    return [one for one in slack.seen_by(user) if any("url" in button for button in one.buttons())]


def configured(demo: Demo, folder: Path, slack: Slack, person: str) -> Path:
    home = demo.write_home(folder / "home")
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["gateway"] |= {
        "allow": [person],
        "slack": {
            "bot_token": "${SLACK_BOT_TOKEN}",
            "app_token": "${SLACK_APP_TOKEN}",
            "base_url": slack.base_url,
        },
    }
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    (token,) = (one.token for one in slack.workspaces.values())
    (home / ".env").write_text(f"SLACK_BOT_TOKEN={token}\nSLACK_APP_TOKEN={slack.app_token}\n")
    (home / ".env").chmod(0o600)
    return home


async def allow(link: str) -> tuple[str, str]:
    """A person in a browser: reads who asks, allows it, and sees the last page, its heading and all of it."""
    program = shutil.which("chromium")
    assert program is not None, "chromium is not installed; run scripts/services"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
            timeout=PATIENCE * 1000,
        )
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        await page.goto(link)
        await page.get_by_role("button", name="Allow").click()
        await page.wait_for_url("**/callback?**")
        seen = await page.get_by_role("heading").inner_text(), await page.inner_text("body")
        await browser.close()
        return seen
