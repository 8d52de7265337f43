"""Two sign-ins crossed: an answer, a code, a button or a cookie of one is used for another."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.invocations import Principal
from mcp_auth.config.models import CallbackOptions, Server
from mcp_auth.stores.memory import MemoryStore
from tests.attacks.scene import KEY, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat, configure, open_gateway, prompt_of, words
from tests.ports import free_port
from tests.public import ANN, BOB, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer, authorize, visit

ANN_DISCORD = Principal("discord", "42")


async def test_the_answer_of_a_cancelled_sign_in_does_not_finish_the_one_begun_since(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as browser:
        chat = Chat(gateway, ANN)
        old = await browser.authorize(await browser.press(await browser.open(await link_of(chat))))
        await chat.say("cancel notes")
        link = await link_of(chat)
        before = await stored(gateway)

        page = await browser.open(old)

        assert (page.status, page.heading) == (400, "Not signed in")
        assert oauth.requests("/token") == []
        assert await stored(gateway) == before
        assert (await browser.sign_in(link)).heading == "notes is connected"


async def test_two_links_of_one_sign_in_continued_in_the_same_moment(tmp_path: Path, oauth: OAuthServer) -> None:
    """The sender keeps one and forwards the other: one browser ends up bound, and what the other holds is dead."""
    async with public_gateway(tmp_path, notes(oauth)) as gateway, Browser() as mine, Browser() as other:
        chat = Chat(gateway, ANN)
        starts = [await browser.open(await link_of(chat)) for browser in (mine, other)]
        pages = await asyncio.gather(*(b.press(p) for b, p in zip((mine, other), starts, strict=True)))
        answers = [
            await browser.open(await browser.authorize(page))
            for browser, page in zip((mine, other), pages, strict=True)
            if page.next is not None
        ]

        assert len(oauth.requests("/token")) == 1
        assert [page.heading for page in answers].count("notes is connected") == 1


async def test_a_sign_in_that_moved_to_another_browser_takes_nothing_from_the_first(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """Proven here, then handed to the victim's browser by a second link: neither proof nor address goes along."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as sender, Browser() as victim:
        attacker = Chat(gateway, ANN)
        page = await sender.press(await sender.open(await link_of(attacker)))
        await attacker.say(f"confirm {page.code}")
        first = await sender.open(page.url)
        moved = await victim.press(await victim.open(await link_of(attacker)))

        assert moved.heading == "Is it you?"
        assert not (await attacker.say(f"confirm {page.code}"))[0].ok
        approved = await sender.authorize(first)
        for browser in (sender, victim):
            assert (await browser.open(approved)).status in (400, 403)
        assert (await sender.open(page.url)).next is None
        assert oauth.requests("/token") == []


@pytest.mark.parametrize("script", [True, False], ids=["script", "no script"])
async def test_one_browser_that_sends_continue_again_and_again_stays_one_browser(
    tmp_path: Path, oauth: OAuthServer, script: bool
) -> None:
    """A double tap: the first answer, and the cookie in it, may never arrive."""
    async with public_gateway(tmp_path, notes(oauth), verify="code") as gateway, Browser(script=script) as browser:
        chat = Chat(gateway, ANN)
        start = await browser.open(await link_of(chat))
        kept = dict(browser.client.cookies)
        form = {**start.fields, "action": "continue"}
        if script:
            browser.storage["http://" + start.url.split("/")[2], start.task["data-name"]] = "K" * 43
            form |= {"secret": "K" * 43, "kept": "storage"}
        tapped = [browser.client.request("POST", start.url, data=form) for _ in range(4)]
        assert {answer.status_code for answer in await asyncio.gather(*tapped)} == {303}
        browser.client.cookies.clear()
        browser.client.cookies.update(kept)

        page = await browser.press(start)

        if script:
            assert (await chat.say(f"confirm {page.code}"))[0].ok
        assert (await browser.open(start.url)).next is not None


async def test_a_double_tap_on_a_key_forms_continue_without_script_shows_one_code(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    server = Server(name="my-api", url=oauth.url, headers={"Authorization": "Bearer ${MY_API_KEY}"})
    async with (
        public_gateway(tmp_path, server, verify="code") as gateway,
        Browser(script=False) as browser,
    ):
        oauth.knobs.api_key = KEY
        chat = Chat(gateway, ANN)
        start = await browser.open(await key_link_of(chat))
        pages = await asyncio.gather(*(browser.press(start) for _ in range(4)))
        assert len({page.code for page in pages}) == 1
        await chat.say(f"confirm {pages[0].code}")
        form = await browser.press(pages[-1], "look")

        assert (await browser.press(form, "key", key0=KEY)).heading == "The key for my-api is stored"


@pytest.mark.parametrize("change", ["joined", "split", "shared"])
async def test_whose_credentials_they_are_changes_in_the_middle(
    tmp_path: Path, oauth: OAuthServer, change: str
) -> None:
    """A restart with other `people` or `identity`: a grant must not land with whom it was not meant for."""
    store, port = MemoryStore(), free_port()
    people = {"ann": (str(ANN), str(ANN_DISCORD))}
    common: dict[str, Any] = {
        "allow": (str(ANN), str(ANN_DISCORD)),
        "admins": (str(ANN),),
        "public_url": f"http://127.0.0.1:{port}",
    }
    before: dict[str, Any] = {"identity": "per_user", "people": people if change == "split" else {}}
    after: dict[str, Any] = {"identity": "per_user", "people": people if change == "joined" else {}}
    if change == "shared":
        after["identity"] = "shared"

    def config(**options: Any) -> Any:
        return configure(tmp_path, notes(oauth), callback=CallbackOptions(port=port), **common, **options)

    async with Browser() as browser:
        async with open_gateway(config(**before), store) as gateway:
            chat = Chat(gateway, ANN)
            page = await browser.press(await browser.open(await link_of(chat)))
            if page.next is None:
                await chat.say(f"confirm {page.code}")
                page = await browser.open(page.url)
            redirect = await browser.authorize(page)
        async with open_gateway(config(**after), store) as gateway:
            await gateway.auth.listen()
            page = await browser.open(redirect)

    assert "may no longer do this" in page.text
    assert oauth.requests("/token") == []
    assert await store.grants.list() == []


async def test_the_server_behind_the_name_changes_in_the_middle(tmp_path: Path, oauth: OAuthServer) -> None:
    """The code was given for one server; nothing of it reaches the one that has its name now."""
    store, port = MemoryStore(), free_port()
    options: dict[str, Any] = {"allow": (str(ANN),), "public_url": f"http://127.0.0.1:{port}", "verify": "none"}

    def config(server: Server) -> Any:
        return configure(tmp_path, server, callback=CallbackOptions(port=port), **options)

    async with Browser() as browser:
        async with open_gateway(config(notes(oauth)), store) as gateway:
            redirect = await browser.authorize(
                await browser.press(await browser.open(await link_of(Chat(gateway, ANN))))
            )
        other = Server(name="notes", url=f"{oauth.url}/other", auth="oauth")
        async with open_gateway(config(other), store) as gateway:
            await gateway.auth.listen()
            page = await browser.open(redirect)

    assert page.heading == "notes is not connected"
    assert oauth.requests("/token") == []
    assert await store.grants.list() == []


async def test_another_persons_buttons_store_and_confirm_nothing(tmp_path: Path, oauth: OAuthServer) -> None:
    """A message with buttons can be forwarded, and a button's data be sent by hand."""
    dead = Server(name="my-api", url=f"http://127.0.0.1:{free_port()}/mcp", headers={"A": "Bearer ${MY_API_KEY}"})
    options = {**team(), "platforms": {"telegram": {"secrets_in_chat": True}}}
    async with open_gateway(configure(tmp_path, dead, **options)) as gateway:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        prompt = prompt_of((await ann.say("key my-api"))[-1])

        stolen = await gateway.submit_secret(BOB, prompt.id, "sk-bobs-own-0123456789")
        asked = await gateway.submit_secret(ANN, prompt.id, KEY)
        replayed = (await bob.say(asked.buttons[0].command or ""))[-1]

        assert not stolen.ok and not replayed.ok
        assert await gateway.auth.store.grants.list() == []
        assert (await ann.say(asked.buttons[0].command or ""))[-1].ok
        assert not (await ann.say(asked.buttons[0].command or ""))[-1].ok
        assert [(one.owner, one.keys) for one in await gateway.auth.store.grants.list()] == [
            (f"principal:{ANN}", {"MY_API_KEY": KEY})
        ]


async def test_nobody_in_a_chat_acts_for_somebody_else(tmp_path: Path, oauth: OAuthServer) -> None:
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway:
        bob = Chat(gateway, BOB)
        for typed in (f"auth notes --as {ANN}", f"--as {ANN} auth notes", f"auth --as={ANN} notes"):
            await bob.say(typed)
        (*_, refused) = await bob.say("auth notes", acting_for=str(ANN))

        assert "Only the operator" in words(refused)
        assert {one.owner for one in await gateway.auth.store.sign_ins.list()} <= {f"principal:{BOB}"}


async def test_a_page_that_reached_loopback_by_another_name_brings_no_answer(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    """DNS rebinding: a foreign site's name points at this machine, and its page asks our listener."""
    async with open_gateway(configure(tmp_path, notes(oauth))) as gateway:
        redirect = authorize(await link_of(Chat(gateway)))
        host, _, rest = redirect.removeprefix("http://").partition("/")
        async with Browser() as browser:
            for name in ("evil.example.com", f"evil.example.com:{host.partition(':')[2]}", "[::1]", "localhost"):
                page = await browser.request("GET", redirect, headers={"Host": name})
                assert page.status == 400, name
        assert oauth.requests("/token") == []
        assert (await asyncio.to_thread(visit, redirect)).status_code == 200
        assert rest.startswith("callback?")
