"""A person is removed in the middle: at whichever step, nothing of theirs is finished."""

from __future__ import annotations

from pathlib import Path

from tests.attacks.scene import KEY, api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, allow, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


async def test_removed_before_continue(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        start = await browser.open(await link_of(Chat(gateway, ANN)))
        allow(gateway, BOB)

        page = await browser.press(start)

        assert "may no longer do this" in page.text
        assert (await browser.open(start.url)).heading == "This link was used before"
        assert oauth.requests("/authorize") == []


async def test_removed_while_the_code_is_shown(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        allow(gateway, BOB)

        (refused,) = await chat.say(f"confirm {page.code}")

        assert "does not serve you" in words(refused)
        assert (await browser.open(page.url)).next is None
        assert oauth.requests("/authorize") == []


async def test_removed_while_at_the_authorization_server(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        await chat.say(f"confirm {page.code}")
        redirect = await browser.authorize(await browser.open(page.url))
        allow(gateway, BOB)

        page = await browser.open(redirect)

        assert page.heading == "notes is not connected"
        assert oauth.requests("/token") == []
        assert await gateway.auth.store.grants.list() == []


async def test_removed_while_the_key_is_typed(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), identity="per_user") as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        allow(gateway, BOB)

        page = await browser.press(form, "key", key0=KEY)

        assert "may no longer do this" in page.text
        assert oauth.requests("/mcp") == []
        assert await gateway.auth.store.grants.list() == []


async def test_the_second_person_allowed_while_the_key_is_typed(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), identity="per_user") as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        allow(gateway, ANN, BOB)

        page = await browser.press(form, "key", key0=KEY)

        assert "More than one person is allowed by now" in page.text
        assert oauth.requests("/mcp") == []
