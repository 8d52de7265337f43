"""From `/mcp auth` in WhatsApp to a tool call: `slash-mcp serve` in a process of its own, pywa, a real sign-in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote

import pytest

from adapters.whatsapp.adapter import WEBHOOK
from mcp_auth import McpAuth
from tests.browser import Browser
from tests.e2e.processes import Running
from tests.homes import write_home
from tests.platforms.whatsapp import cloud_api
from tests.ports import free_port
from tests.servers.oauth import OAuthServer


@pytest.mark.service
async def test_a_sign_in_from_whatsapp_ends_in_a_tool_call(tmp_path: Path, oauth: OAuthServer) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    async with cloud_api() as api, Browser() as browser:
        port = free_port()
        api.webhook = f"http://127.0.0.1:{port}{WEBHOOK}"
        api.statuses = True
        section = {
            "token": "${WHATSAPP_TOKEN}",
            "phone_id": api.phone_id,
            "app_secret": "${WHATSAPP_APP_SECRET}",
            "verify_token": "${WHATSAPP_VERIFY_TOKEN}",
            "base_url": api.base_url,
        }
        home = write_home(
            tmp_path,
            {"notes": {"url": oauth.url, "auth": "oauth"}},
            {
                "allow": [f"whatsapp:{api.ada.user_id}"],
                "callback": {"port": port},
                "public_url": f"http://127.0.0.1:{port}",
                "whatsapp": section,
            },
        )
        (home / ".env").write_text(
            f"WHATSAPP_TOKEN={api.token}\n"
            f"WHATSAPP_APP_SECRET={api.app_secret}\n"
            f"WHATSAPP_VERIFY_TOKEN={api.verify_token}\n"
        )
        with Running(home, "serve") as serving:
            await asyncio.to_thread(serving.wait_for_error, "Lucky Shrub")
            assert (await api.verify()).text == "1158201444"

            await api.say("/mcp")
            listed = await api.message("sign-in needed")
            await api.tap(listed, "Sign in")
            asked = await api.message("open this link within")
            assert asked.url is not None
            assert asked.url not in asked.text

            page = await browser.press(await browser.open(asked.url))
            assert page.link is not None
            await api.say(unquote(page.link.partition("text=")[2]))
            await api.tap(await api.message("the page was opened just now"), "Yes, that is me")
            await api.message("notes: that is you")
            page = await browser.open(await browser.authorize(await browser.open(page.url)))

            assert "ada@example.com" in page.text
            await api.message("notes: signed in as ada@example.com, 3 tools")
            said = "\n".join(serving.errors)
            assert asked.url not in said
            assert api.token not in said

        async with McpAuth.open(home=home) as auth, auth.session("notes") as session:
            assert (await session.call_tool("add", {})).is_error is not True
