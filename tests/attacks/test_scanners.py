"""Link scanners, previews and prefetchers: whatever they fetch, nothing changes and nothing is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.scene import api, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.public import ANN, key_link_of, link_of, public_gateway
from tests.servers.oauth import OAuthServer

PREVIEWS = [
    {"User-Agent": "TelegramBot (like TwitterBot)"},
    {"User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"},
    {"Purpose": "prefetch"},
    {"Sec-Purpose": "prefetch;prerender"},
    {"X-Moz": "prefetch"},
    {"X-Purpose": "preview"},
    {"Range": "bytes=0-10"},
    {"Accept": "image/*"},
]
METHODS = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"]


async def test_a_scanner_on_the_links_spends_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth)) as gateway, Browser() as person:
        chat = Chat(gateway, ANN)
        oauth.knobs.api_key = None
        links = [await link_of(chat), await key_link_of(chat)]
        before = await stored(gateway)
        for link in links:
            for method in METHODS:
                for headers in PREVIEWS:
                    async with Browser() as scanner:
                        answer = await scanner.request(method, link, headers=headers)
                        await scanner.request(method, f"{link}/state", headers=headers)
                    assert answer.status == (200 if method in ("GET", "HEAD") else 405)
        assert await stored(gateway) == before
        assert oauth.requests("/authorize") == []
        assert (await person.sign_in(links[0])).heading == "notes is connected"


@pytest.mark.parametrize("headers", PREVIEWS[2:6], ids=lambda one: next(iter(one)))
async def test_a_browser_that_fetches_the_callback_ahead_of_time_does_not_spend_it(
    tmp_path: Path, oauth: OAuthServer, headers: dict[str, str]
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        redirect = await browser.authorize(page)
        before = await stored(gateway)

        assert (await browser.request("GET", redirect, headers=headers)).status == 425

        assert await stored(gateway) == before
        assert (await browser.open(redirect)).heading == "notes is connected"


@pytest.mark.parametrize("method", METHODS[1:])
async def test_only_a_get_carries_an_answer(tmp_path: Path, oauth: OAuthServer, method: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        redirect = await browser.authorize(page)
        before = await stored(gateway)

        assert (await browser.request(method, redirect)).status == 405

        assert await stored(gateway) == before
        assert oauth.requests("/token") == []


async def test_loading_the_page_of_an_open_sign_in_again_changes_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        before = await stored(gateway)
        assert [(await browser.open(page.url)).code for _ in range(3)] == [page.code] * 3
        assert await stored(gateway) == before

        await chat.say(f"confirm {page.code}")
        before = await stored(gateway)
        assert len({(await browser.open(page.url)).next for _ in range(3)}) == 1
        assert await stored(gateway) == before
