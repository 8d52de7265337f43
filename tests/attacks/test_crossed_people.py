"""Two allowed people with credentials of their own: nothing of one is seen, used or ended by the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.attacks.scene import KEY, api, notes, stored
from tests.browser import Browser
from tests.gateway.chat import Chat, words
from tests.public import ANN, BOB, key_link_of, link_of, public_gateway, team
from tests.servers.oauth import OAuthServer


async def prove(chat: Chat, browser: Browser, link: str) -> Any:
    """Up to the page behind the proof."""
    page = await browser.press(await browser.open(link))
    await chat.say(f"confirm {page.code}")
    return await browser.open(page.url)


@pytest.mark.parametrize("typed", ["", "notes", "test notes", "logout notes", "cancel", "cancel notes", "key notes"])
async def test_nothing_that_one_types_shows_or_touches_what_the_other_has(
    tmp_path: Path, oauth: OAuthServer, typed: str
) -> None:
    oauth.knobs.id_token_claims = {"email": "ada@example.com"}
    async with public_gateway(tmp_path, notes(oauth), notes(oauth, "mail"), **team()) as gateway, Browser() as browser:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        await browser.open(await browser.authorize(await prove(ann, browser, await link_of(ann))))
        await link_of(ann, "mail")
        await ann.notice("notes: signed in as ada@example.com")
        before, asked = await stored(gateway), len(oauth.requests("/mcp"))

        said = "\n".join(words(reply) for reply in await bob.say(typed))

        assert "ada" not in said
        assert await stored(gateway) == before
        tokens = [seen.headers.get("authorization") for seen in oauth.requests("/mcp")[asked:]]
        assert set(tokens) <= {None}
        assert oauth.requests("/revoke") == []
        assert [notice for notice in bob.notices if notice.principal == BOB] == []


async def test_each_keys_own_form_and_each_browser_stores_for_its_own_person(
    tmp_path: Path, oauth: OAuthServer
) -> None:
    async with (
        public_gateway(tmp_path, api(oauth), **team()) as gateway,
        Browser() as anns,
        Browser() as bobs,
    ):
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        form_of_ann = await prove(ann, anns, await key_link_of(ann))
        form_of_bob = await prove(bob, bobs, await key_link_of(bob))

        for browser, form in ((bobs, form_of_ann), (anns, form_of_bob)):
            page = await browser.press(form, "key", key0="sk-planted-0123456789")
            assert page.status == 403
        assert await gateway.auth.store.grants.list() == []

        assert (await anns.press(form_of_ann, "key", key0=KEY)).heading == "The key for my-api is stored"
        grants = await gateway.auth.store.grants.list()
        assert [(one.owner, one.keys) for one in grants] == [(f"principal:{ANN}", {"MY_API_KEY": KEY})]


async def test_one_browser_that_both_people_use_keeps_their_sign_ins_apart(tmp_path: Path, oauth: OAuthServer) -> None:
    """One computer in the office: the cookie is the same, so only the proof tells them apart."""
    async with public_gateway(tmp_path, notes(oauth), **team()) as gateway, Browser() as shared:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        page_of_ann = await shared.press(await shared.open(await link_of(ann)))
        page_of_bob = await shared.press(await shared.open(await link_of(bob)))
        assert page_of_ann.code != page_of_bob.code
        await ann.say(f"confirm {page_of_ann.code}")
        assert (await shared.open(page_of_bob.url)).next is None
        redirect = await shared.authorize(await shared.open(page_of_ann.url))

        assert (await shared.open(redirect)).heading == "notes is connected"

        assert [one.owner for one in await gateway.auth.store.grants.list()] == [f"principal:{ANN}"]
        assert (await shared.open(page_of_bob.url)).heading == "Is it you?"


async def test_only_admins_get_a_link_to_what_a_team_shares(tmp_path: Path, oauth: OAuthServer) -> None:
    people = {"allow": (str(ANN), str(BOB)), "admins": (str(ANN),), "identity": "shared"}
    async with public_gateway(tmp_path, notes(oauth), api(oauth), **people) as gateway, Browser() as browser:
        ann, bob = Chat(gateway, ANN), Chat(gateway, BOB)
        link = await link_of(ann)
        before = await stored(gateway)

        for typed in ("auth notes", "auth", "key my-api", "cancel notes", "cancel", "logout notes", "logout my-api"):
            reply = (await bob.say(typed))[-1]
            assert not reply.ok, typed
            assert not [button for button in reply.buttons if button.url], typed
            assert "/a/" not in repr(reply) + words(reply)

        assert await stored(gateway) == before
        # Bob, who was handed the admin's link: the code that his page shows is the admin's to send.
        page = await browser.press(await browser.open(link))
        (warned,) = await bob.say(f"confirm {page.code}")
        assert "whoever sent you that link" in words(warned)
        assert await gateway.auth.store.grants.list() == []


async def test_an_admin_who_is_none_any_more_finishes_nothing_shared(tmp_path: Path, oauth: OAuthServer) -> None:
    """Let in later, a second person turns the first into somebody who changes nothing that is shared."""
    from tests.public import allow

    people = {"allow": (str(BOB),), "admins": (str(ANN),), "identity": "shared"}
    async with public_gateway(tmp_path, notes(oauth), **people) as gateway, Browser() as browser:
        bob = Chat(gateway, BOB)
        redirect = await browser.authorize(await prove(bob, browser, await link_of(bob)))
        await allow(gateway, ANN, BOB)

        page = await browser.open(redirect)

        assert page.heading == "notes is not connected"
        assert "may no longer do this" in page.text
        assert oauth.requests("/token") == []
