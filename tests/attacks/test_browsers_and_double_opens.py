"""One link, many browsers and tabs: one is bound, one exchange happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.attacks.scene import notes
from tests.browser import Browser
from tests.gateway.chat import Chat
from tests.public import ANN, link_of, public_gateway
from tests.servers.oauth import OAuthServer


async def test_double_open_in_one_browser_ends_in_one_sign_in(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        link = await link_of(Chat(gateway, ANN))
        first, second = await browser.open(link), await browser.open(link)
        one, two = await browser.press(first), await browser.press(second)
        assert one.next == two.next

        pages = await asyncio.gather(*(browser.open(url) for url in [await browser.authorize(one)] * 5))

        assert len(oauth.requests("/token")) == 1
        assert {page.heading for page in pages} <= {"notes is connected", "Finishing the sign-in"}
        assert (await browser.open(pages[0].url)).heading == "notes is connected"


async def test_two_browsers_that_continue_in_the_same_moment(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway:
        link = await link_of(Chat(gateway, ANN))
        browsers = [Browser() for _ in range(6)]
        starts = [await browser.open(link) for browser in browsers]

        pages = await asyncio.gather(*(b.press(p) for b, p in zip(browsers, starts, strict=True)))

        assert [page.next is not None for page in pages].count(True) == 1
        assert {page.heading for page in pages if page.next is None} == {"This goes on in another browser"}
        for browser in browsers:
            await browser.client.aclose()


async def test_a_browser_without_its_cookie_is_another_browser(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        redirect = await browser.authorize(page)
        browser.client.cookies.clear()

        assert (await browser.open(redirect)).heading == "This goes on in another browser"
        assert oauth.requests("/token") == []


async def test_a_cookie_that_somebody_made_up_opens_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        redirect = await browser.authorize(page)
        for value in ("A" * 43, "", "A" * 5000, "'; DROP TABLE", "%00"):
            browser.client.cookies.clear()
            headers = {"Cookie": f"slash-mcp={value}"}
            assert (await browser.request("GET", redirect, headers=headers)).status == 403
        assert oauth.requests("/token") == []
