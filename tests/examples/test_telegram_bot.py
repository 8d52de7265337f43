"""The example bot, run as it stands."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.demo.browser import answer_consent
from gateway.demo.run import Demo
from tests.e2e.processes import ROOT, environment
from tests.patience import PATIENCE
from tests.platforms.telegram import TOKEN, BotApi

pytestmark = pytest.mark.service


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_three_lines_bring_mcp_and_the_agent_hears_none_of_it(tmp_path: Path, number: signal.Signals) -> None:
    with BotApi().running() as api:
        async with Demo() as demo:
            home = demo.write_home(tmp_path / "home")
            with (home / "config.yaml").open("a") as config:
                config.write("  allow: [telegram:1]\n")
            ada = api.person(1, "Ada")
            process = subprocess.Popen(
                [sys.executable, ROOT / "examples" / "telegram_bot.py"],
                env=environment(SLASH_MCP_HOME=str(home), TELEGRAM_BOT_TOKEN=TOKEN, TELEGRAM_BASE_URL=api.base_url),
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                ada.say("hello")
                await ada.message("You said: hello")
                ada.say("/mcp auth notes")
                link = (await ada.message("open this link")).urls[0]
                ada.say(await answer_consent(link, "allow"))
                await ada.message("notes: signed in")
                ada.say("goodbye")
                await ada.message("You said: goodbye")
                process.send_signal(number)
                _, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
            finally:
                process.kill()

    assert [one.text for one in ada.sent if one.text.startswith("You said")] == ["You said: hello", "You said: goodbye"]
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert "destroyed" not in errors
