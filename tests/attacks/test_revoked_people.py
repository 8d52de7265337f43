"""A person is removed in the middle: at whichever step, nothing of theirs is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcp_auth.config.models import Server
from mcp_auth.keys import KeyTrial
from tests.attacks.scene import KEY, api, notes
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, open_gateway, prompt_of, words
from tests.ports import free_port
from tests.public import ANN, BOB, allow, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


async def test_removed_before_continue(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), identity="per_user") as gateway, Browser() as browser:
        start = await browser.open(await link_of(Chat(gateway, ANN)))
        await allow(gateway, BOB)

        page = await browser.press(start)

        assert "may no longer do this" in page.text
        assert (await browser.open(start.url)).heading == "This link was used before"
        assert oauth.requests("/authorize") == []


async def test_removed_while_the_code_is_shown(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        page = await browser.press(await browser.open(await link_of(chat)))
        await allow(gateway, BOB)

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
        await allow(gateway, BOB)

        page = await browser.open(redirect)

        assert page.heading == "notes is not connected"
        assert oauth.requests("/token") == []
        assert await gateway.auth.store.grants.list() == []


async def test_removed_while_the_key_is_typed(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), identity="per_user") as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        await allow(gateway, BOB)

        page = await browser.press(form, "key", key0=KEY)

        assert "may no longer do this" in page.text
        assert oauth.requests("/mcp") == []
        assert await gateway.auth.store.grants.list() == []


async def test_the_second_person_allowed_while_the_key_is_typed(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, api(oauth), identity="per_user") as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        await allow(gateway, ANN, BOB)

        page = await browser.press(form, "key", key0=KEY)

        assert "By now it has to be proven" in page.text
        assert oauth.requests("/mcp") == []


async def test_removed_while_the_server_is_asked_about_the_key(tmp_path: Path, oauth: OAuthServer) -> None:
    """The last decision is right before the key is stored."""
    async with public_gateway(tmp_path, api(oauth), identity="per_user") as gateway, Browser() as browser:
        form = await browser.press(await browser.open(await key_link_of(Chat(gateway, ANN))))
        asked = gateway.auth.parts.keys.attempt

        async def slow(*arguments: Any, **options: Any) -> KeyTrial:
            trial = await asked(*arguments, **options)
            await allow(gateway, BOB)
            return trial

        gateway.auth.parts.keys.attempt = slow  # type: ignore[method-assign]
        page = await browser.press(form, "key", key0=KEY)

        assert "may no longer do this" in page.text
        assert await gateway.auth.store.grants.list() == []


@pytest.mark.parametrize("kind", ["telegram chat", "its button"])
async def test_a_question_for_a_key_is_judged_again_when_it_is_answered(
    tmp_path: Path, oauth: OAuthServer, kind: str
) -> None:
    """Still allowed, but by now somebody else is in charge of what is shared."""
    options: dict[str, Any] = {
        "allow": (str(BOB),),
        "admins": (str(ANN),),
        "platforms": {"telegram": {"secrets_in_chat": True}},
    }
    dead = Server(name="my-api", url=f"http://127.0.0.1:{free_port()}/mcp", headers={"A": "Bearer ${MY_API_KEY}"})
    async with open_gateway(configure(tmp_path, dead if kind == "its button" else api(oauth), **options)) as gateway:
        bob = Chat(gateway, BOB)
        prompt = prompt_of((await bob.say("key my-api"))[-1])
        if kind == "its button":
            asked = await gateway.submit_secret(BOB, prompt.id, KEY)
            await allow(gateway, ANN, BOB)
            reply = (await bob.say(asked.buttons[0].command or ""))[-1]
        else:
            await allow(gateway, ANN, BOB)
            reply = await gateway.submit_secret(BOB, prompt.id, KEY)

        assert not reply.ok
        assert "may no longer" in words(reply)
        assert oauth.requests("/mcp") == []
        assert not gateway.config.env_file.exists()
