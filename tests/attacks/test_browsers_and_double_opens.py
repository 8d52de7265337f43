"""One link, many browsers and tabs: one is bound, one exchange happens."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_a_browser_that_lost_what_it_kept_is_another_browser(
    tmp_path: Path, oauth: OAuthServer, script: bool
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser(script=script) as browser:
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        redirect = await browser.authorize(page)
        browser.client.cookies.clear()
        browser.storage.clear()

        page = await browser.open(redirect)

        assert (page.status, page.heading) == (403, "This goes on in another browser")
        assert oauth.requests("/token") == []


async def test_with_script_no_cookie_is_needed_once_continue_was_pressed(tmp_path: Path, oauth: OAuthServer) -> None:
    """A neighbour who fills the cookie jar until ours falls out of it ends no sign-in."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        browser.client.cookies.clear()
        await chat.say(f"confirm {page.code}")
        redirect = await browser.authorize(await browser.open(page.url))

        assert (await browser.open(redirect)).heading == "notes is connected"


@pytest.mark.parametrize("value", ["A" * 43, "", "A" * 5000, "'; DROP TABLE", "%00"])
async def test_a_secret_that_somebody_made_up_opens_nothing(tmp_path: Path, oauth: OAuthServer, value: str) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser, Browser(script=False) as plain:
        chat = Chat(gateway, ANN)
        link = await link_of(chat)
        redirect = await browser.authorize(await browser.press(await browser.open(link)))
        query = redirect.partition("?")[2]
        name = next(cookie.name for cookie in browser.client.cookies.jar).removesuffix("-form")
        for headers in ({}, {"Cookie": f"{name}={value}"}):
            posted = {"answer": query, "secret": value}
            address = redirect.partition("?")[0]
            assert (await browser.request("POST", address, data=posted, headers=headers)).status == 403
            state = await browser.request("POST", f"{link}/state", data={"secret": value}, headers=headers)
            assert state.status == 403
        await chat.say("cancel notes")

        redirect = await plain.authorize(await plain.press(await plain.open(await link_of(chat))))
        names = [cookie.name for cookie in plain.client.cookies.jar]
        plain.client.cookies.clear()
        for name in names:
            assert (await plain.request("GET", redirect, headers={"Cookie": f"{name}={value}"})).status == 403
        assert oauth.requests("/token") == []


async def test_continue_on_a_second_link_while_the_first_one_finishes_says_so(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser, Browser() as other:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        start = await other.open(await link_of(chat))
        gate = oauth.knobs.token_gate = threading.Event()
        finishing = asyncio.create_task(browser.open(await browser.authorize(page)))
        while not oauth.requests("/token"):
            await asyncio.sleep(0.01)

        second = await other.press(start)
        gate.set()
        await finishing

        assert (second.status, second.heading) == (200, "Finishing the sign-in")
        assert len(oauth.requests("/token")) == 1
