"""Telegram's login as the proof of who sits at the browser."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest

from adapters.telegram.login import TelegramLogin
from tests.attacks.scene import KEY, api, notes
from tests.browser import Browser, Page
from tests.gateway.chat import Chat
from tests.homes import query_of
from tests.public import ANN, BOB, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer

TOKEN = "7000000001:AAE-canary-token-of-the-bot"


def signed(user: str, token: str = TOKEN, age: float = 0, **more: str) -> dict[str, str]:
    """What Telegram sends back for a person who logged in."""
    given = {"id": user, "first_name": "Ann ✓", "auth_date": str(int(time.time() - age)), **more}
    lines = "\n".join(f"{name}={given[name]}" for name in sorted(given))
    return {**given, "hash": hmac.new(hashlib.sha256(token.encode()).digest(), lines.encode(), "sha256").hexdigest()}


def test_telegram_signs_who_somebody_is() -> None:
    login = TelegramLogin(TOKEN)
    assert login.principal(signed("100001", username="ann", photo_url="https://t.me/i/x.jpg")) == "telegram:100001"


@pytest.mark.parametrize(
    "answer",
    [
        # Signed when the test runs: how long all tests have been collected is the machine's affair.
        lambda: {},
        lambda: {"id": "100001"},
        lambda: {**signed("200002"), "id": "100001"},
        lambda: {**signed("100001"), "first_name": "Bob"},
        lambda: {**signed("100001"), "username": "added"},
        lambda: {**signed("100001"), "hash": ""},
        lambda: {**signed("100001"), "hash": "ä"},
        lambda: signed("100001", token="7000000001:another"),
        lambda: signed("100001", age=301),
        lambda: signed("100001", age=-600),
        lambda: signed("1٠0001"),
        lambda: signed("-100001"),
        lambda: signed("100001", first_name="x" * 5000),
        lambda: {**signed("100001"), "auth_date": "9" * 50},
    ],
    ids=range(14),
)
def test_forged_old_and_odd_answers_are_nobody(answer: Callable[[], dict[str, str]]) -> None:
    assert TelegramLogin(TOKEN).principal(answer()) is None


def test_the_token_is_in_no_address_and_no_repr() -> None:
    login = TelegramLogin(TOKEN)
    address = login.start("https://bot.example.com/mcp/a/t/login/r")
    assert TOKEN.partition(":")[2] not in address + repr(login) + repr(vars(login))
    assert query_of(address) == {
        "bot_id": "7000000001",
        "origin": "https://bot.example.com",
        "return_to": "https://bot.example.com/mcp/a/t/login/r",
    }


async def come_back(browser: Browser, page: Page, answer: dict[str, str]) -> Page:
    """Press the login's button, log in there, and be sent back."""
    return await browser.open(way_back(page, answer))


def way_back(page: Page, answer: dict[str, str]) -> str:
    link = next(url for url in links_of(page) if url.startswith("https://oauth.telegram.org/auth?"))
    return f"{query_of(link)['return_to']}?{urlencode(answer)}"


def links_of(page: Page) -> list[str]:
    import html
    import re

    return [html.unescape(url) for url in re.findall(r'href="([^"]+)"', page.source)]


async def test_a_login_releases_the_page_without_a_code(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        assert page.code
        back = await come_back(browser, page, signed(ANN.user))
        assert back.heading == "Almost there"
        assert (await browser.open(page.url)).heading == "Is it you?"

        go = await browser.press(back, "")

        assert (await browser.open(await browser.authorize(go))).heading == "notes is connected"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_the_way_back_comes_from_telegrams_site_and_its_form_from_our_own(
    tmp_path: Path, oauth: OAuthServer, site: str
) -> None:
    """Browsers name the site that sends them: `oauth.telegram.org`."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        url = way_back(page, signed(ANN.user))
        headers = {"Sec-Fetch-Site": site}
        back = await browser.request("GET", url, headers=headers)
        assert (back.status, back.heading) == (200, "Almost there")
        given = {**back.fields, "secret": browser.kept(page.url, page.kept or "") or ""}

        assert (await browser.request("POST", url, data=given, headers=headers)).status == 404
        assert (await browser.open(page.url)).heading == "Is it you?"
        await browser.request("POST", url, data=given, headers={"Sec-Fetch-Site": "same-origin"})

        assert (await browser.open(page.url)).next is not None


async def test_the_key_form_takes_the_same_proof(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), verify="browser") as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        page = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        assert 'class="code"' not in page.source
        page = await browser.press(await come_back(browser, page, signed(ANN.user)), "")
        assert (await browser.press(page, "key", key0=KEY)).heading == "The key for my-api is stored"


@pytest.mark.parametrize("name", ["notes", "my-api"])
async def test_under_verify_browser_no_form_asks_a_page_for_a_code(
    tmp_path: Path, oauth: OAuthServer, name: str
) -> None:
    async with public_gateway(tmp_path, notes(oauth), api(oauth), verify="browser") as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await (link_of if name == "notes" else key_link_of)(chat)))

        asked = await browser.press(page, "code")

        assert (asked.heading, asked.has_code) == ("Is it you?", False)
        records = [*await gateway.auth.store.sign_ins.list(), *await gateway.auth.store.key_forms.list()]
        assert [one.binding.code for one in records if one.binding is not None] == [None]


async def test_another_account_ends_it_and_warns_both(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as victim:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        chat = Chat(gateway, ANN)
        page = await victim.press(await victim.open(await link_of(chat)))

        refused = await victim.press(await come_back(victim, page, signed(BOB.user)), "")

        assert "whoever sent you that link" in refused.text
        await chat.notice("Somebody else opened the link for notes")
        assert (await victim.open(page.url)).next is None


async def test_the_senders_own_login_cannot_be_planted_in_the_victims_browser(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Telegram signs no word about the browser: the way back is what only the bound browser can know."""
    async with (
        public_gateway(tmp_path, notes(oauth), notes(oauth, "mail"), **team()) as gateway,
        Browser() as victim,
        Browser() as sender,
    ):
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        link = await link_of(Chat(gateway, ANN))
        page = await victim.press(await victim.open(link))
        mine = urlencode(signed(ANN.user))
        own_page = await sender.press(await sender.open(await link_of(Chat(gateway, ANN), "mail")))
        assert own_page.heading == "Is it you?"
        own_return = query_of(next(url for url in links_of(own_page) if "oauth.telegram" in url))["return_to"]

        for planted in (f"{link}/login/{'A' * 43}", own_return):
            # An address cannot say in which browser it is opened: its form can.
            answer = await victim.press(await victim.open(f"{planted}?{mine}"), "")
            assert (answer.status, answer.heading) == (403, "This goes on in another browser"), planted
        for planted in (f"{link}?{mine}", f"{link}/login/?{mine}"):
            answer = await victim.open(planted)
            assert answer.status in (200, 404), planted
            assert answer.heading != "Almost there"
        assert (await victim.open(page.url)).heading == "Is it you?"


async def test_an_answer_that_cannot_be_verified_leaves_the_code(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))

        refused = await browser.press(await come_back(browser, page, signed(ANN.user, age=900)), "")

        assert "cannot be verified" in refused.text
        await chat.say(f"confirm {page.code}")
        assert (await browser.open(page.url)).next is not None


async def test_csrf_on_the_way_back(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        gateway.verify_by_login("telegram", TelegramLogin(TOKEN))
        page = await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
        back = await come_back(browser, page, signed(ANN.user))
        given = {**back.fields, "form": "0" * 64}
        assert (await browser.request("POST", back.url, data=given)).status == 403
        assert (await browser.open(page.url)).next is None


async def test_verify_browser_with_nothing_that_could_tell_says_so_at_once(tmp_path: Path, oauth: OAuthServer) -> None:
    from tests.gateway.chat import words

    async with public_gateway(tmp_path, notes(oauth), verify="browser") as gateway:
        last = (await Chat(gateway, ANN).say("auth notes"))[-1]
        assert "nothing here can tell who sits at a browser" in words(last)
